//! The half that sends requests.

use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, GrantRef};
use pv_abi::io::ring::{self, RingIndex, RingShape};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{RingFault, RingFull, fence};
use crate::platform::{Access, Platform, SharedMemory};
use crate::share::Shared;

/// The front half of a ring, and the pages it lives in.
pub struct FrontRing<P: Platform> {
    pages: Shared<P>,
    shape: RingShape,
    /// Where the next request goes; ahead of what is published between `push` and `publish`.
    req_prod: RingIndex,
    /// What the back end may see.
    published: RingIndex,
    /// The next response to take.
    rsp_cons: RingIndex,
}

impl<P: Platform> FrontRing<P> {
    /// Allocates a ring of `pages` pages, grants it to `peer`, and sets its indices to the start.
    ///
    /// # Errors
    /// `EINVAL` when no slot fits, or what allocation and granting say.
    pub fn new(platform: &P, peer: DomainId, pages: usize, slot_size: usize) -> Result<Self, Errno> {
        let shape = RingShape::new(pages, slot_size).ok_or(Errno::EINVAL)?;
        let pages = Shared::new(platform, peer, pages, Access::ReadWrite)?;
        // SHARED_RING_INIT of `io/ring.h`: the pages are zero already.
        pages.memory().write_u32(ring::REQ_EVENT, 1);
        pages.memory().write_u32(ring::RSP_EVENT, 1);
        Ok(Self {
            pages,
            shape,
            req_prod: RingIndex::ZERO,
            published: RingIndex::ZERO,
            rsp_cons: RingIndex::ZERO,
        })
    }

    /// The grants of the ring's pages, in order.
    #[must_use]
    pub fn grants(&self) -> &[GrantRef] {
        self.pages.grants()
    }

    /// The number of slots.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.shape.slots()
    }

    /// Requests without a response.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.req_prod.ahead_of(self.rsp_cons)
    }

    /// Slots that a request may take now.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.shape.slots().saturating_sub(self.outstanding())
    }

    /// Puts a request into the next slot, not yet visible to the back end, and returns where.
    ///
    /// # Errors
    /// [`RingFull`].
    pub fn push<T: IntoBytes + Immutable>(&mut self, request: &T) -> Result<RingIndex, RingFull> {
        if self.free() == 0 || size_of::<T>() > self.shape.slot_size() {
            return Err(RingFull);
        }
        let at = self.req_prod;
        self.pages.memory().copy_in(self.shape.offset(at), request.as_bytes());
        self.req_prod = at.advance(1);
        Ok(at)
    }

    /// Shows all pushed requests to the back end. `true`: it wants an event.
    #[must_use]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.req_prod);
        if old == new {
            return false;
        }
        let memory = self.pages.memory();
        memory.write_u32(ring::REQ_PROD, new.raw());
        self.published = new;
        // The back end must see the requests before we look whether it sleeps.
        fence();
        ring::is_notification_due(old, new, RingIndex::new(memory.read_u32(ring::REQ_EVENT)))
    }

    /// How many responses wait.
    ///
    /// # Errors
    /// The back end claims more than there are requests.
    pub fn pending(&self) -> Result<u32, RingFault> {
        let produced = RingIndex::new(self.pages.memory().read_u32(ring::RSP_PROD));
        let claimed = produced.ahead_of(self.rsp_cons);
        let possible = self.published.ahead_of(self.rsp_cons);
        if claimed > possible {
            return Err(RingFault::ProducerRunaway { claimed, possible });
        }
        Ok(claimed)
    }

    /// Takes the next response, and where it lay.
    ///
    /// # Errors
    /// As [`Self::pending`].
    pub fn pop<T: FromBytes + IntoBytes>(&mut self) -> Result<Option<(RingIndex, T)>, RingFault> {
        if self.pending()? == 0 {
            return Ok(None);
        }
        let at = self.rsp_cons;
        Ok(Some((at, self.take())))
    }

    /// Takes the next response when [`Self::pending`] has just said that there is one.
    #[must_use]
    #[inline]
    pub fn take<T: FromBytes + IntoBytes>(&mut self) -> T {
        let at = self.rsp_cons;
        let mut response = T::new_zeroed();
        self.pages.memory().copy_out(self.shape.offset(at), response.as_mut_bytes());
        self.rsp_cons = at.advance(1);
        response
    }

    /// Where the next response lies, or will lie.
    #[must_use]
    pub fn next_response(&self) -> RingIndex {
        self.rsp_cons
    }

    /// Where the next request goes.
    #[must_use]
    pub fn next_request(&self) -> RingIndex {
        self.req_prod
    }

    /// Asks for an event after `after` more responses (at least one, and never more than are owed, so that the event
    /// is sure to come). `true`: responses wait already, and the event may not come.
    ///
    /// # Errors
    /// As [`Self::pending`].
    pub fn arm(&mut self, after: u32) -> Result<bool, RingFault> {
        let owed = self.published.ahead_of(self.rsp_cons);
        let after = after.min(owed).max(1);
        let memory = self.pages.memory();
        memory.write_u32(ring::RSP_EVENT, self.rsp_cons.advance(after).raw());
        fence();
        Ok(self.pending()? >= after)
    }
}
