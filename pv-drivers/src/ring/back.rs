//! The half that answers requests.

use pv_abi::errno::Errno;
use pv_abi::io::ring::{self, RingIndex, RingShape};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{RingFault, RingFull, fence};
use crate::platform::SharedMemory;

/// The back half of a ring over a mapping of the front end's pages.
pub struct BackRing<M: SharedMemory> {
    pages: M,
    shape: RingShape,
    /// The next request to take.
    req_cons: RingIndex,
    /// Where the next response goes; ahead of what is published between `push` and `publish`.
    rsp_prod: RingIndex,
    /// What the front end may see.
    published: RingIndex,
}

impl<M: SharedMemory> BackRing<M> {
    /// Attaches to a fresh ring.
    ///
    /// # Errors
    /// `EINVAL` when no slot fits.
    pub fn new(pages: M, slot_size: usize) -> Result<Self, Errno> {
        let shape = RingShape::new(pages.pages(), slot_size).ok_or(Errno::EINVAL)?;
        Ok(Self {
            pages,
            shape,
            req_cons: RingIndex::ZERO,
            rsp_prod: RingIndex::ZERO,
            published: RingIndex::ZERO,
        })
    }

    /// The number of slots.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.shape.slots()
    }

    /// Requests taken and not answered.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.req_cons.ahead_of(self.rsp_prod)
    }

    /// How many requests wait.
    ///
    /// # Errors
    /// The front end claims more than the ring holds.
    pub fn pending(&self) -> Result<u32, RingFault> {
        let produced = RingIndex::new(self.pages.read_u32(ring::REQ_PROD));
        let claimed = produced.ahead_of(self.req_cons);
        // Every slot that holds an unanswered request is not the front end's to fill.
        let possible = self.shape.slots().saturating_sub(self.outstanding());
        if claimed > possible {
            return Err(RingFault::ProducerRunaway { claimed, possible });
        }
        Ok(claimed)
    }

    /// Takes the next request.
    ///
    /// # Errors
    /// As [`Self::pending`].
    pub fn pop<T: FromBytes + IntoBytes>(&mut self) -> Result<Option<T>, RingFault> {
        if self.pending()? == 0 {
            return Ok(None);
        }
        Ok(Some(self.take()))
    }

    /// Takes the next request when [`Self::pending`] has just said that there is one.
    #[must_use]
    pub fn take<T: FromBytes + IntoBytes>(&mut self) -> T {
        let mut request = T::new_zeroed();
        self.pages.copy_out(self.shape.offset(self.req_cons), request.as_mut_bytes());
        self.req_cons = self.req_cons.advance(1);
        request
    }

    /// Copies the request `ahead` places after the next one, without taking it. The caller has checked with
    /// [`Self::pending`] that it is there, and will take what it decides upon from this copy.
    #[must_use]
    pub fn peek<T: FromBytes + IntoBytes>(&self, ahead: u32) -> T {
        let mut request = T::new_zeroed();
        self.pages.copy_out(self.shape.offset(self.req_cons.advance(ahead)), request.as_mut_bytes());
        request
    }

    /// Takes `count` requests that were [peeked](Self::peek) at.
    pub fn skip(&mut self, count: u32) {
        self.req_cons = self.req_cons.advance(count);
    }

    /// Puts a response into the next slot, not yet visible to the front end.
    ///
    /// # Errors
    /// [`RingFull`]: no request is without a response.
    pub fn push<T: IntoBytes + Immutable>(&mut self, response: &T) -> Result<(), RingFull> {
        if self.outstanding() == 0 || size_of::<T>() > self.shape.slot_size() {
            return Err(RingFull);
        }
        self.pages.copy_in(self.shape.offset(self.rsp_prod), response.as_bytes());
        self.rsp_prod = self.rsp_prod.advance(1);
        Ok(())
    }

    /// Responses pushed and not published.
    #[must_use]
    pub fn unpublished(&self) -> u32 {
        self.rsp_prod.ahead_of(self.published)
    }

    /// Shows all pushed responses to the front end. `true`: it wants an event.
    #[must_use]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.rsp_prod);
        if old == new {
            return false;
        }
        self.pages.write_u32(ring::RSP_PROD, new.raw());
        self.published = new;
        // The front end must see the responses before we look whether it sleeps.
        fence();
        ring::is_notification_due(old, new, RingIndex::new(self.pages.read_u32(ring::RSP_EVENT)))
    }

    /// Asks for an event after `after` more requests, at least one. More than one is sound only while something else
    /// is sure to make the owner look at the ring again. `true`: so many requests wait already.
    ///
    /// # Errors
    /// As [`Self::pending`].
    pub fn arm(&mut self, after: u32) -> Result<bool, RingFault> {
        let after = after.max(1);
        self.pages.write_u32(ring::REQ_EVENT, self.req_cons.advance(after).raw());
        fence();
        Ok(self.pending()? >= after)
    }

    /// Gives the pages back, to be unmapped.
    #[must_use]
    pub fn into_pages(self) -> M {
        self.pages
    }
}
