//! Structures in guest memory that the hypervisor keeps up to date.

use super::clock::Clock;
use crate::event::Width;
use crate::hw::{HostPhys, Nanos, PAGE_BYTES, PhysMemory, TscTicks};
use crate::mem::PageRef;
use crate::sched::RunTimes;
use core::mem::offset_of;
use core::sync::atomic::Ordering::{Relaxed, Release};
use core::sync::atomic::fence;
use pv_abi::ia32;
use pv_abi::shared_info::{SharedInfo, VcpuTimeInfo};
use pv_abi::vcpu::RunstateInfo;

/// A structure in one or two pages of a guest, which stay its own as long as this exists.
#[derive(Debug)]
pub struct GuestArea {
    pages: [Option<PageRef>; 2],
    offset: u64,
}

impl GuestArea {
    /// A structure that begins `offset` bytes into the first page and goes on at the start of the second, if it is
    /// longer. The offset must be a multiple of 8: no word is in two pages.
    pub fn new(first: PageRef, second: Option<PageRef>, offset: u64) -> Result<Self, [Option<PageRef>; 2]> {
        if !offset.is_multiple_of(8) || offset >= PAGE_BYTES {
            return Err([Some(first), second]);
        }
        Ok(Self { pages: [Some(first), second], offset })
    }

    /// The references to its pages, to be put back.
    pub fn into_pages(self) -> [Option<PageRef>; 2] {
        self.pages
    }

    /// Where the byte at `offset` of the structure is.
    pub fn at(&self, offset: u64) -> Option<HostPhys> {
        let [first, second] = &self.pages;
        let place = self.offset + offset;
        let page = if place < PAGE_BYTES { first } else { second };
        Some(page.as_ref()?.mfn().at(place))
    }
}

/// Writes the clock at a place that is aligned to 8 bytes and within its page.
pub fn publish_clock<M: PhysMemory>(memory: &M, at: HostPhys, clock: &Clock, now: TscTicks) {
    let info = clock.info(now);
    let field = |offset: usize| memory.u64_at(HostPhys::new(at.raw() + offset as u64));
    let version = memory.u32_at(at);
    // The guest may have written the count: it is made odd and even, whatever it was.
    let odd = version.load(Relaxed) | 1;
    version.store(odd, Relaxed);
    fence(Release);
    field(offset_of!(VcpuTimeInfo, tsc_timestamp)).store(info.tsc_timestamp, Relaxed);
    field(offset_of!(VcpuTimeInfo, system_time)).store(info.system_time, Relaxed);
    let [shift] = info.tsc_shift.to_ne_bytes();
    let scale = u64::from(info.tsc_to_system_mul) | u64::from(shift) << 32 | u64::from(info.flags) << 40;
    field(offset_of!(VcpuTimeInfo, tsc_to_system_mul)).store(scale, Relaxed);
    version.store(odd.wrapping_add(1), Release);
}

/// Writes the time of day at system time zero into a shared page, where a guest of this width looks for it.
pub fn publish_wall_clock<M: PhysMemory>(memory: &M, shared: HostPhys, width: Width, base: Nanos) {
    let field = |offset: usize| memory.u32_at(HostPhys::new(shared.raw() + offset as u64));
    let narrow = ia32::shared_info::WC_VERSION;
    let (version, sec, nsec, sec_hi) = match width {
        Width::Bits32 => (narrow, narrow + 4, narrow + 8, ia32::shared_info::WC_SEC_HI),
        Width::Bits64 => (
            offset_of!(SharedInfo, wc_version),
            offset_of!(SharedInfo, wc_sec),
            offset_of!(SharedInfo, wc_nsec),
            offset_of!(SharedInfo, wc_sec_hi),
        ),
    };
    let seconds = base.raw() / 1_000_000_000;
    let version = field(version);
    let odd = version.load(Relaxed) | 1;
    version.store(odd, Relaxed);
    fence(Release);
    #[allow(clippy::cast_possible_truncation)] // taken apart
    {
        field(sec).store(seconds as u32, Relaxed);
        field(sec_hi).store((seconds >> 32) as u32, Relaxed);
        field(nsec).store((base.raw() % 1_000_000_000) as u32, Relaxed);
    }
    version.store(odd.wrapping_add(1), Release);
}

/// A run state as the ABI shows it.
pub fn runstate_info(clock: &Clock, times: &RunTimes) -> RunstateInfo {
    RunstateInfo {
        state: times.state.raw(),
        pad: 0,
        state_entry_time: clock.nanos(times.since).raw(),
        time: times.spent.map(|ticks| clock.nanos(TscTicks::new(ticks)).raw()),
    }
}

/// Writes a run state into the area that the guest registered; the time of entry last, by which a reader on another
/// CPU can tell that it was changed.
pub fn publish_runstate<M: PhysMemory>(memory: &M, area: &GuestArea, clock: &Clock, times: &RunTimes) {
    let info = runstate_info(clock, times);
    let store = |offset: usize, value: u64| {
        if let Some(at) = area.at(offset as u64) {
            memory.u64_at(at).store(value, Relaxed);
        }
    };
    store(offset_of!(RunstateInfo, state), u64::from(info.state));
    for (index, nanos) in info.time.into_iter().enumerate() {
        store(offset_of!(RunstateInfo, time) + index * 8, nanos);
    }
    fence(Release);
    store(offset_of!(RunstateInfo, state_entry_time), info.state_entry_time);
}
