//! The 2-level ABI: a pending and a mask bit for each port in the shared page, and a selector word for each vCPU.

use super::place::InfoPlace;
use crate::hw::{HostPhys, PhysMemory};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};
use pv_abi::ids::Port;
use pv_abi::shared_info::SharedInfo;

/// How many ports the bitmaps hold.
pub(super) const PORTS: u32 = 4096;

/// The bitmaps in the shared page at this address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bitmaps {
    pub shared: HostPhys,
}

/// What became of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Raised {
    /// It was not pending before.
    pub fresh: bool,
    /// The virtual CPU's upcall became due.
    pub upcall: bool,
}

impl Raised {
    pub const NOTHING: Self = Self { fresh: false, upcall: false };
}

fn bit(port: Port) -> u64 {
    1 << (port.raw() % 64)
}

impl Bitmaps {
    fn word<'a, M: PhysMemory>(&self, memory: &'a M, field: usize, port: Port) -> Option<&'a AtomicU64> {
        if port.raw() >= PORTS {
            return None;
        }
        let at = self.shared.checked_add(field as u64 + u64::from(port.raw() / 64) * 8)?;
        Some(memory.u64_at(at))
    }

    fn pending<'a, M: PhysMemory>(&self, memory: &'a M, port: Port) -> Option<&'a AtomicU64> {
        self.word(memory, offset_of!(SharedInfo, evtchn_pending), port)
    }

    fn mask<'a, M: PhysMemory>(&self, memory: &'a M, port: Port) -> Option<&'a AtomicU64> {
        self.word(memory, offset_of!(SharedInfo, evtchn_mask), port)
    }

    /// Makes `port` pending, and its virtual CPU look for it unless it is masked.
    pub fn raise<M: PhysMemory>(&self, memory: &M, info: &InfoPlace, port: Port) -> Raised {
        let (Some(pending), Some(mask)) = (self.pending(memory, port), self.mask(memory, port)) else {
            return Raised::NOTHING;
        };
        if pending.fetch_or(bit(port), Ordering::SeqCst) & bit(port) != 0 {
            return Raised::NOTHING;
        }
        let upcall = mask.load(Ordering::SeqCst) & bit(port) == 0 && select(memory, info, port);
        Raised { fresh: true, upcall }
    }

    /// Unmasks `port`; whether its virtual CPU's upcall became due by that.
    pub fn unmask<M: PhysMemory>(&self, memory: &M, info: &InfoPlace, port: Port) -> bool {
        let (Some(pending), Some(mask)) = (self.pending(memory, port), self.mask(memory, port)) else {
            return false;
        };
        mask.fetch_and(!bit(port), Ordering::SeqCst) & bit(port) != 0
            && pending.load(Ordering::SeqCst) & bit(port) != 0
            && select(memory, info, port)
    }

    pub fn is_pending<M: PhysMemory>(&self, memory: &M, port: Port) -> bool {
        self.pending(memory, port).is_some_and(|word| word.load(Ordering::SeqCst) & bit(port) != 0)
    }

    pub fn clear<M: PhysMemory>(&self, memory: &M, port: Port) {
        if let Some(word) = self.pending(memory, port) {
            word.fetch_and(!bit(port), Ordering::SeqCst);
        }
    }
}

/// Sets the selector bit of `port`; whether the upcall became due by that.
fn select<M: PhysMemory>(memory: &M, info: &InfoPlace, port: Port) -> bool {
    let bit = 1 << ((port.raw() / 64) % 64);
    info.select(memory, bit).is_some_and(|before| before & bit == 0) && info.mark(memory)
}
