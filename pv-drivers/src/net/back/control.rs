//! The control ring of a guest's interface: it says how packets for it are hashed, to which queue each hash goes, and
//! which pages are to stay mapped (`io/netif.h`, "Control messages").
//!
//! # Invariants
//!
//! * What a request points to is copied into our own page, and used only from there.
//! * A request that is not understood, or says what cannot be, is refused and changes nothing. Only an index that
//!   cannot be true disables the interface.
//! * Pages are added all or none; those that are taken out are unmapped before that is answered.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::ids::{DomainId, GrantRef, Port};
use pv_abi::io::netif::{self, CtrlGref, CtrlRequest, CtrlResponse};
use zerocopy::IntoBytes;

use super::super::steer::{HASH_TYPES, KEY_MAX, MAPPING_MAX, Steering};
use super::queue::Queue;
use crate::platform::{Access, CopyEnd, GrantCopy, PAGE_SIZE, Platform, SharedMemory};
use crate::ring::{BackRing, RingFault};

/// Requests served before packets get their turn.
const BUDGET: u32 = 16;

/// Entries of a list of pages.
const LIST_MAX: usize = PAGE_SIZE / size_of::<CtrlGref>();
const INVALID: u32 = netif::CTRL_STATUS_INVALID_PARAMETER;

/// A status, and what a successful request brings.
type Answer = Result<u32, u32>;

pub(in super::super) struct Control<P: Platform> {
    platform: P,
    peer: DomainId,
    ring: BackRing<P::Memory>,
    port: Port,
    /// Where keys, mappings and lists are copied to.
    page: P::Memory,
    /// An event was asked for, and nothing was taken since.
    is_armed: bool,
}

impl<P: Platform> Control<P> {
    pub fn connect(platform: &P, peer: DomainId, grant: GrantRef, port: Port) -> Result<Self, String> {
        let pages = platform.map(peer, &[grant], Access::ReadWrite);
        let pages = pages.map_err(|error| format!("the control ring cannot be mapped: {error}"))?;
        let ring = BackRing::new(pages, netif::CTRL_SLOT_SIZE).map_err(|error| format!("{error}"))?;
        let page = platform.allocate(1).map_err(|error| format!("{error}"))?;
        let port = platform
            .bind_interdomain(peer, port)
            .map_err(|error| format!("the control ring's event channel cannot be bound: {error}"))?;
        Ok(Self { platform: platform.clone(), peer, ring, port, page, is_armed: false })
    }

    pub fn port(&self) -> Port {
        self.port
    }

    /// Serves what is in the ring, and returns how many requests that were. There may be more after that.
    pub fn serve(&mut self, queues: &mut [Queue<P>], steering: &mut Steering) -> Result<usize, RingFault> {
        let waiting = self.ring.pending()?.min(BUDGET);
        if waiting == 0 {
            return Ok(0);
        }
        self.is_armed = false;
        for _ in 0..waiting {
            let request: CtrlRequest = self.ring.take();
            let (status, data) = match self.answer(&request, queues, steering) {
                Ok(data) => (netif::CTRL_STATUS_SUCCESS, data),
                Err(status) => (status, 0),
            };
            // There is room: it answers a request that was taken.
            let _ = self.ring.push(&CtrlResponse { id: request.id, kind: request.kind, status, data });
        }
        if self.ring.publish() {
            self.platform.notify(self.port);
        }
        Ok(usize::try_from(waiting).unwrap_or(0))
    }

    /// Asks for an event. `true`: there is more already.
    pub fn arm(&mut self) -> Result<bool, RingFault> {
        if self.is_armed {
            return Ok(false);
        }
        let more = self.ring.arm(1)?;
        self.is_armed = !more;
        Ok(more)
    }

    fn answer(&self, request: &CtrlRequest, queues: &mut [Queue<P>], steering: &mut Steering) -> Answer {
        const UNSUPPORTED: u32 = netif::CTRL_STATUS_NOT_SUPPORTED;
        let [first, count, offset] = request.data;
        let most = u32::try_from(MAPPING_MAX).unwrap_or(0);
        match request.kind {
            netif::CTRL_TYPE_SET_HASH_ALGORITHM => {
                steering.is_hashing = match first {
                    netif::CTRL_HASH_ALGORITHM_NONE => false,
                    netif::CTRL_HASH_ALGORITHM_TOEPLITZ => true,
                    _ => return Err(INVALID),
                };
                Ok(0)
            }
            netif::CTRL_TYPE_GET_HASH_FLAGS if steering.is_hashing => Ok(HASH_TYPES),
            netif::CTRL_TYPE_GET_HASH_FLAGS => Err(UNSUPPORTED),
            netif::CTRL_TYPE_SET_HASH_FLAGS => {
                if !steering.is_hashing || first & !HASH_TYPES != 0 {
                    return Err(INVALID);
                }
                steering.types = first;
                Ok(0)
            }
            netif::CTRL_TYPE_SET_HASH_KEY => {
                let len = usize::try_from(count).unwrap_or(usize::MAX);
                if len > KEY_MAX {
                    return Err(netif::CTRL_STATUS_BUFFER_OVERFLOW);
                }
                let mut key = alloc::vec![0; len];
                self.fetch(first, &mut key)?;
                steering.key = key;
                Ok(0)
            }
            netif::CTRL_TYPE_GET_HASH_MAPPING_SIZE => Ok(most),
            netif::CTRL_TYPE_SET_HASH_MAPPING_SIZE => {
                let len = usize::try_from(first).ok().filter(|len| *len <= MAPPING_MAX).ok_or(INVALID)?;
                steering.mapping = alloc::vec![0; len];
                Ok(0)
            }
            netif::CTRL_TYPE_SET_HASH_MAPPING => {
                if count > most {
                    return Err(netif::CTRL_STATUS_BUFFER_OVERFLOW);
                }
                let [from, len] = [offset, count].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
                let place = steering.mapping.get_mut(from..from.saturating_add(len)).ok_or(INVALID)?;
                let mut bytes = alloc::vec![0; 4 * len];
                self.fetch(first, &mut bytes)?;
                let mut entries: Vec<u16> = Vec::with_capacity(len);
                for entry in bytes.as_chunks().0 {
                    let queue = u16::try_from(u32::from_le_bytes(*entry)).map_err(|_| INVALID)?;
                    entries
                        .push(Some(queue).filter(|queue| usize::from(*queue) < queues.len()).ok_or(INVALID)?);
                }
                place.copy_from_slice(&entries);
                Ok(0)
            }
            netif::CTRL_TYPE_GET_GREF_MAPPING_SIZE => {
                Ok(u32::try_from(queue_of(queues, first)?.mapped.most()).unwrap_or(0))
            }
            netif::CTRL_TYPE_ADD_GREF_MAPPING => self.keep_mapped(queue_of(queues, first)?, count, offset),
            netif::CTRL_TYPE_DEL_GREF_MAPPING => self.let_go(queue_of(queues, first)?, count, offset),
            _ => Err(UNSUPPORTED),
        }
    }

    /// Copies a list of pages, once.
    fn list(&self, grant: u32, entries: u32) -> Result<Vec<CtrlGref>, u32> {
        let count = usize::try_from(entries).ok().filter(|count| *count <= LIST_MAX).ok_or(INVALID)?;
        let mut list = alloc::vec![CtrlGref::default(); count];
        self.fetch(grant, list.as_mut_bytes())?;
        Ok(list)
    }

    /// Maps the pages of a list: all or none.
    fn keep_mapped(&self, queue: &mut Queue<P>, grant: u32, entries: u32) -> Answer {
        let mut wanted = Vec::new();
        for entry in self.list(grant, entries)? {
            let access = match entry.flags {
                0 => Access::ReadWrite,
                netif::CTRLF_GREF_READONLY => Access::ReadOnly,
                _ => return Err(INVALID),
            };
            wanted.push((GrantRef::new(entry.gref), access));
        }
        if queue.mapped.add(&self.platform, self.peer, &wanted) { Ok(0) } else { Err(INVALID) }
    }

    /// Unmaps the pages of a list, says in it which were mapped, and returns their number. If it cannot be said in it,
    /// all stay.
    fn let_go(&self, queue: &mut Queue<P>, grant: u32, entries: u32) -> Answer {
        let mut list = self.list(grant, entries)?;
        let mut gone = Vec::new();
        for entry in &mut list {
            let grant = GrantRef::new(entry.gref);
            let removed = queue.mapped.remove(grant);
            let status = if removed.is_some() { netif::CTRL_STATUS_SUCCESS } else { INVALID };
            entry.status = u16::try_from(status).unwrap_or(u16::MAX);
            gone.extend(removed.map(|(is_writable, memory)| (grant, is_writable, memory)));
        }
        if let Err(status) = self.write_back(grant, list.as_bytes()) {
            for (grant, is_writable, memory) in gone {
                queue.mapped.put_back(grant, is_writable, memory);
            }
            return Err(status);
        }
        let count = u32::try_from(gone.len()).unwrap_or(0);
        self.platform.unmap(gone.into_iter().map(|(.., memory)| memory).collect());
        Ok(count)
    }

    /// Copies to the start of a page of the guest.
    fn write_back(&self, grant: u32, from: &[u8]) -> Result<(), u32> {
        self.page.copy_in(0, from);
        self.copy(grant, from.len(), true)
    }

    /// Copies the start of a page of the guest.
    fn fetch(&self, grant: u32, to: &mut [u8]) -> Result<(), u32> {
        if to.is_empty() {
            return Ok(());
        }
        self.copy(grant, to.len(), false)?;
        self.page.copy_out(0, to);
        Ok(())
    }

    /// Copies between the start of a page of the guest and our own page.
    fn copy(&self, grant: u32, len: usize, is_back: bool) -> Result<(), u32> {
        if len == 0 {
            return Ok(());
        }
        let theirs = CopyEnd::Foreign { domain: self.peer, grant: GrantRef::new(grant), offset: 0 };
        let ours = CopyEnd::Local { gfn: self.page.gfn(0), offset: 0 };
        let (from, to) = if is_back { (ours, theirs) } else { (theirs, ours) };
        let len = u16::try_from(len).map_err(|_| INVALID)?;
        let mut copies = [GrantCopy { from, to, len, result: Ok(()) }];
        self.platform.grant_copy(&mut copies);
        let [copy] = copies;
        copy.result.map_err(|_| INVALID)
    }
}

/// The queue with this index.
fn queue_of<P: Platform>(queues: &mut [Queue<P>], index: u32) -> Result<&mut Queue<P>, u32> {
    usize::try_from(index).ok().and_then(|index| queues.get_mut(index)).ok_or(INVALID)
}

impl<P: Platform> Drop for Control<P> {
    fn drop(&mut self) {
        self.platform.close(self.port);
    }
}
