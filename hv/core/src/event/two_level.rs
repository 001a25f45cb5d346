//! The 2-level ABI: a pending and a mask bit for each port in the shared page, and a selector word for each vCPU.

use super::place::InfoPlace;
use crate::hw::{HostPhys, PhysMemory};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};
use pv_abi::ia32;
use pv_abi::ids::Port;
use pv_abi::shared_info::SharedInfo;

/// How wide the words of the shared page are to the guest: its longs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Width {
    /// 32 words of 32 bits: 1,024 ports.
    Bits32,
    /// 64 words of 64 bits: 4,096 ports.
    #[default]
    Bits64,
}

impl Width {
    /// How many ports the bitmaps hold.
    pub(super) const fn ports(self) -> u32 {
        match self {
            Self::Bits32 => ia32::shared_info::PORTS,
            Self::Bits64 => 4096,
        }
    }

    /// The bit of the selector that stands for the word with `port`.
    const fn selector(self, port: Port) -> u64 {
        match self {
            Self::Bits32 => 1 << (port.raw() / 32 % 32),
            Self::Bits64 => 1 << (port.raw() / 64 % 64),
        }
    }
}

/// The bitmaps in the shared page at this address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bitmaps {
    pub shared: HostPhys,
    pub width: Width,
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

/// A bit of a bitmap is where it is whatever the width of its words: the machine is little-endian.
fn bit(port: Port) -> u32 {
    1 << (port.raw() % 32)
}

impl Bitmaps {
    fn word<'a, M: PhysMemory>(&self, memory: &'a M, field: usize, port: Port) -> Option<&'a AtomicU32> {
        if port.raw() >= self.width.ports() {
            return None;
        }
        let at = self.shared.checked_add(field as u64 + u64::from(port.raw() / 32) * 4)?;
        Some(memory.u32_at(at))
    }

    fn pending<'a, M: PhysMemory>(&self, memory: &'a M, port: Port) -> Option<&'a AtomicU32> {
        self.word(memory, offset_of!(SharedInfo, evtchn_pending), port)
    }

    fn mask<'a, M: PhysMemory>(&self, memory: &'a M, port: Port) -> Option<&'a AtomicU32> {
        let field = match self.width {
            Width::Bits32 => ia32::shared_info::EVTCHN_MASK,
            Width::Bits64 => offset_of!(SharedInfo, evtchn_mask),
        };
        self.word(memory, field, port)
    }

    /// Makes `port` pending, and its virtual CPU look for it unless it is masked.
    pub fn raise<M: PhysMemory>(&self, memory: &M, info: &InfoPlace, port: Port) -> Raised {
        let (Some(pending), Some(mask)) = (self.pending(memory, port), self.mask(memory, port)) else {
            return Raised::NOTHING;
        };
        if pending.fetch_or(bit(port), Ordering::SeqCst) & bit(port) != 0 {
            return Raised::NOTHING;
        }
        let upcall = mask.load(Ordering::SeqCst) & bit(port) == 0 && self.select(memory, info, port);
        Raised { fresh: true, upcall }
    }

    /// Unmasks `port`; whether its virtual CPU's upcall became due by that.
    pub fn unmask<M: PhysMemory>(&self, memory: &M, info: &InfoPlace, port: Port) -> bool {
        let (Some(pending), Some(mask)) = (self.pending(memory, port), self.mask(memory, port)) else {
            return false;
        };
        mask.fetch_and(!bit(port), Ordering::SeqCst) & bit(port) != 0
            && pending.load(Ordering::SeqCst) & bit(port) != 0
            && self.select(memory, info, port)
    }

    pub fn is_pending<M: PhysMemory>(&self, memory: &M, port: Port) -> bool {
        self.pending(memory, port).is_some_and(|word| word.load(Ordering::SeqCst) & bit(port) != 0)
    }

    pub fn clear<M: PhysMemory>(&self, memory: &M, port: Port) {
        if let Some(word) = self.pending(memory, port) {
            word.fetch_and(!bit(port), Ordering::SeqCst);
        }
    }

    /// Sets the selector bit of `port`; whether the upcall became due by that.
    fn select<M: PhysMemory>(&self, memory: &M, info: &InfoPlace, port: Port) -> bool {
        let bit = self.width.selector(port);
        info.select(memory, self.width, bit).is_some_and(|before| before & bit == 0) && info.mark(memory)
    }
}
