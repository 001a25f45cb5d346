//! Where a virtual CPU's `vcpu_info` is.

use super::two_level::Width;
use crate::hw::{HostPhys, PhysMemory};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};
use pv_abi::ia32;
use pv_abi::shared_info::VcpuInfo;

/// Where a virtual CPU's `vcpu_info` is: in the shared page, in a place that the guest registered, or nowhere yet.
///
/// The place changes at most once, under the lock of the domain's [`EventTable`](super::EventTable); it is read
/// without lock.
#[derive(Debug, Default)]
pub struct InfoPlace(AtomicU64);

impl InfoPlace {
    /// No place yet: virtual CPUs above the 32 of the shared page.
    pub const fn nowhere() -> Self {
        Self(AtomicU64::new(0))
    }

    /// A place, aligned to 8 bytes and within one page.
    pub const fn at(place: HostPhys) -> Self {
        Self(AtomicU64::new(place.raw()))
    }

    /// The address, if there is one.
    #[inline]
    pub fn get(&self) -> Option<HostPhys> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            raw => Some(HostPhys::new(raw)),
        }
    }

    pub(super) fn set(&self, place: HostPhys) {
        self.0.store(place.raw(), Ordering::Release);
    }

    pub(super) fn forget(&self) {
        self.0.store(0, Ordering::Release);
    }

    #[inline]
    fn field(&self, offset: usize) -> Option<HostPhys> {
        self.get()?.checked_add(offset as u64)
    }

    /// Where the clock is.
    pub fn time(&self) -> Option<HostPhys> {
        self.field(offset_of!(VcpuInfo, time))
    }

    /// Whether the guest has events to look for.
    #[inline]
    pub fn has_upcall<M: PhysMemory>(&self, memory: &M) -> bool {
        match self.field(offset_of!(VcpuInfo, evtchn_upcall_pending)) {
            Some(at) => memory.u8_at(at).load(Ordering::SeqCst) != 0,
            None => false,
        }
    }

    /// Tells the guest that it has events to look for; whether that is news to it.
    #[inline]
    pub(super) fn mark<M: PhysMemory>(&self, memory: &M) -> bool {
        match self.field(offset_of!(VcpuInfo, evtchn_upcall_pending)) {
            Some(at) => memory.u8_at(at).swap(1, Ordering::SeqCst) == 0,
            None => false,
        }
    }

    /// 2-level ABI: sets bits of the selector; returns those that were set before.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // a selector of 32 bits has no others
    pub(super) fn select<M: PhysMemory>(&self, memory: &M, width: Width, bits: u64) -> Option<u64> {
        match width {
            Width::Bits64 => {
                let at = self.field(offset_of!(VcpuInfo, evtchn_pending_sel))?;
                Some(memory.u64_at(at).fetch_or(bits, Ordering::SeqCst))
            }
            Width::Bits32 => {
                let at = self.field(ia32::shared_info::EVTCHN_PENDING_SEL)?;
                Some(u64::from(memory.u32_at(at).fetch_or(bits as u32, Ordering::SeqCst)))
            }
        }
    }
}
