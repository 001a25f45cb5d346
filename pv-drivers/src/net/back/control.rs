//! The control ring of a guest's interface: it says how packets for it are hashed, and to which queue each hash goes
//! (`io/netif.h`, "Control messages").
//!
//! # Invariants
//!
//! * What a request points to is copied into our own page, and used only from there.
//! * A request that is not understood, or says what cannot be, is refused and changes nothing. Only an index that
//!   cannot be true disables the interface.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::ids::{DomainId, GrantRef, Port};
use pv_abi::io::netif::{self, CtrlRequest, CtrlResponse};

use super::super::steer::{HASH_TYPES, KEY_MAX, MAPPING_MAX, Steering};
use crate::platform::{Access, CopyEnd, GrantCopy, Platform, SharedMemory};
use crate::ring::{BackRing, RingFault};

/// Requests served before packets get their turn.
const BUDGET: u32 = 16;

/// A status, and what a successful request brings.
type Answer = Result<u32, u32>;

pub(in super::super) struct Control<P: Platform> {
    platform: P,
    peer: DomainId,
    ring: BackRing<P::Memory>,
    port: Port,
    /// Where keys and mappings are copied to.
    page: P::Memory,
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
        Ok(Self { platform: platform.clone(), peer, ring, port, page })
    }

    pub fn port(&self) -> Port {
        self.port
    }

    /// Serves what is in the ring, and returns how many requests that were. There may be more after that.
    pub fn serve(&mut self, queues: usize, steering: &mut Steering) -> Result<usize, RingFault> {
        let waiting = self.ring.pending()?.min(BUDGET);
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
        self.ring.arm(1)
    }

    fn answer(&self, request: &CtrlRequest, queues: usize, steering: &mut Steering) -> Answer {
        const INVALID: u32 = netif::CTRL_STATUS_INVALID_PARAMETER;
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
                    entries.push(Some(queue).filter(|queue| usize::from(*queue) < queues).ok_or(INVALID)?);
                }
                place.copy_from_slice(&entries);
                Ok(0)
            }
            _ => Err(UNSUPPORTED),
        }
    }

    /// Copies the start of a page of the guest.
    fn fetch(&self, grant: u32, to: &mut [u8]) -> Result<(), u32> {
        if to.is_empty() {
            return Ok(());
        }
        let grant = GrantRef::new(grant);
        let mut copies = [GrantCopy {
            from: CopyEnd::Foreign { domain: self.peer, grant, offset: 0 },
            to: CopyEnd::Local { gfn: self.page.gfn(0), offset: 0 },
            len: u16::try_from(to.len()).unwrap_or(0),
            result: Ok(()),
        }];
        self.platform.grant_copy(&mut copies);
        let [copy] = copies;
        copy.result.map_err(|_| netif::CTRL_STATUS_INVALID_PARAMETER)?;
        self.page.copy_out(0, to);
        Ok(())
    }
}

impl<P: Platform> Drop for Control<P> {
    fn drop(&mut self) {
        self.platform.close(self.port);
    }
}
