//! The shared information page, per-vCPU information and the clocks in them (`xen/xen.h`, `xen/arch-x86/xen.h`).
//!
//! Two views of the same bytes: plain structures ([`SharedInfo`], [`VcpuInfo`], [`VcpuTimeInfo`]) for copying and for
//! the hypervisor's writer, and the guest's live view ([`LiveSharedInfo`], [`LiveVcpuInfo`], [`LiveTimeInfo`]) made of
//! atomics, because the other side changes the page at any time. The live clock is read under its sequence count: odd
//! while it is being written, different afterwards.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// vCPUs whose information is in the page itself (`XEN_LEGACY_MAX_VCPUS`); the others must register a place.
pub const LEGACY_MAX_VCPUS: usize = 32;

/// The TSC advances at one rate on all CPUs (`XEN_PVCLOCK_TSC_STABLE_BIT`).
pub const TSC_STABLE: u8 = 1 << 0;
/// The guest was stopped and should not blame itself (`XEN_PVCLOCK_GUEST_STOPPED`).
pub const GUEST_STOPPED: u8 = 1 << 1;

/// Parameters that turn the TSC into system time (`struct vcpu_time_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuTimeInfo {
    /// Sequence count, odd during an update.
    pub version: u32,
    /// Unused.
    pub pad0: u32,
    /// TSC at the last update.
    pub tsc_timestamp: u64,
    /// System time at that moment, in nanoseconds since the system's start.
    pub system_time: u64,
    /// Nanoseconds per tick after the shift, as a fraction of 2^32.
    pub tsc_to_system_mul: u32,
    /// Left shift of the ticks before the multiplication; negative for right.
    pub tsc_shift: i8,
    /// [`TSC_STABLE`], [`GUEST_STOPPED`].
    pub flags: u8,
    /// Unused.
    pub pad1: [u8; 2],
}
const_assert_eq!(size_of::<VcpuTimeInfo>(), 32);

impl VcpuTimeInfo {
    /// System time at TSC value `tsc`.
    #[inline]
    pub const fn system_time_at(&self, tsc: u64) -> u64 {
        let ticks = tsc.wrapping_sub(self.tsc_timestamp);
        self.system_time.wrapping_add(scale_ticks(ticks, self.tsc_to_system_mul, self.tsc_shift))
    }

    /// Multiplier and shift for a TSC of `khz`; `None` for 0.
    pub const fn scale_of_khz(khz: u64) -> Option<(u32, i8)> {
        if khz == 0 {
            return None;
        }
        // Find the shift that puts ticks per second, shifted, within (1e9, 2e9]: then the fraction uses all 32 bits.
        let mut hz = khz as u128 * 1000;
        let mut shift = 0i8;
        while hz > 2_000_000_000 {
            hz >>= 1;
            shift -= 1;
        }
        while hz <= 1_000_000_000 {
            hz <<= 1;
            shift += 1;
        }
        let exact = khz as u128 * 1000;
        // mul = 1e9 * 2^32 / (hz shifted); computed from the unshifted rate so as not to lose its low bits.
        let mul = if shift < 0 {
            (1_000_000_000u128 << (32 + (-shift) as u32)) / exact
        } else {
            (1_000_000_000u128 << 32) / (exact << shift as u32)
        };
        #[allow(clippy::cast_possible_truncation)] // below 2^32, because the shifted rate exceeds 1e9
        Some((mul as u32, shift))
    }
}

/// Turns TSC ticks into nanoseconds.
#[inline]
#[allow(clippy::cast_possible_truncation)] // a span of time that overflows 64 bits of nanoseconds wraps, as the ABI says
pub const fn scale_ticks(ticks: u64, mul: u32, shift: i8) -> u64 {
    let shifted = if shift < 0 {
        let by = shift.unsigned_abs() as u32;
        if by < 64 { ticks >> by } else { 0 }
    } else {
        let by = shift as u32;
        if by < 64 { ticks << by } else { 0 }
    };
    ((shifted as u128 * mul as u128) >> 32) as u64
}

/// Architecture's part of a vCPU's information (`struct arch_vcpu_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArchVcpuInfo {
    /// Fault address, for PV guests.
    pub cr2: u64,
    /// Unused.
    pub pad: u64,
}

/// What the hypervisor tells one vCPU (`struct vcpu_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuInfo {
    /// Not 0 when there are events to look for.
    pub evtchn_upcall_pending: u8,
    /// Not 0 when the guest wants no upcall (PV guests).
    pub evtchn_upcall_mask: u8,
    /// Unused.
    pub pad: [u8; 6],
    /// Which words of the 2-level bitmap have pending events.
    pub evtchn_pending_sel: u64,
    /// Architecture's part.
    pub arch: ArchVcpuInfo,
    /// The clock.
    pub time: VcpuTimeInfo,
}
const_assert_eq!(size_of::<VcpuInfo>(), 64);

/// Architecture's part of the shared page (`struct arch_shared_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArchSharedInfo {
    /// Frames of a PV guest.
    pub max_pfn: u64,
    /// Its frame table's directory.
    pub pfn_to_mfn_frame_list_list: u64,
    /// Why a non-maskable interrupt came.
    pub nmi_reason: u64,
    /// Page table root that maps the frame table.
    pub p2m_cr3: u64,
    /// Its address there.
    pub p2m_vaddr: u64,
    /// Its sequence count.
    pub p2m_generation: u64,
}

/// The shared information page (`struct shared_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SharedInfo {
    /// The first vCPUs' information, unless they registered another place.
    pub vcpu_info: [VcpuInfo; LEGACY_MAX_VCPUS],
    /// 2-level ABI: pending events, a bit each.
    pub evtchn_pending: [u64; 64],
    /// 2-level ABI: masked events.
    pub evtchn_mask: [u64; 64],
    /// Sequence count of the wall clock, odd during an update.
    pub wc_version: u32,
    /// Wall clock at system time 0: seconds since 1970, low half.
    pub wc_sec: u32,
    /// Nanoseconds.
    pub wc_nsec: u32,
    /// Seconds, high half.
    pub wc_sec_hi: u32,
    /// Architecture's part.
    pub arch: ArchSharedInfo,
}
const_assert_eq!(size_of::<SharedInfo>(), 3136);

/// The guest's live view of [`VcpuTimeInfo`].
#[repr(C, align(8))]
pub struct LiveTimeInfo {
    version: AtomicU32,
    pad0: u32,
    tsc_timestamp: AtomicU64,
    system_time: AtomicU64,
    scale: AtomicU64,
}
const_assert_eq!(size_of::<LiveTimeInfo>(), size_of::<VcpuTimeInfo>());
const_assert_eq!(offset_of!(LiveTimeInfo, scale), offset_of!(VcpuTimeInfo, tsc_to_system_mul));

impl LiveTimeInfo {
    /// One coherent copy, or `None` when an update is in progress.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // takes the word apart
    fn try_read(&self) -> Option<VcpuTimeInfo> {
        let version = self.version.load(Ordering::Acquire);
        if version & 1 != 0 {
            return None;
        }
        let tsc_timestamp = self.tsc_timestamp.load(Ordering::Relaxed);
        let system_time = self.system_time.load(Ordering::Relaxed);
        let scale = self.scale.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        if self.version.load(Ordering::Relaxed) != version {
            return None;
        }
        Some(VcpuTimeInfo {
            version,
            pad0: 0,
            tsc_timestamp,
            system_time,
            tsc_to_system_mul: scale as u32,
            tsc_shift: (scale >> 32) as u8 as i8,
            flags: (scale >> 40) as u8,
            pad1: [0; 2],
        })
    }

    /// A coherent copy. The hypervisor never leaves an update unfinished, so this ends.
    #[inline]
    pub fn read(&self) -> VcpuTimeInfo {
        loop {
            if let Some(time) = self.try_read() {
                return time;
            }
            core::hint::spin_loop();
        }
    }

    /// System time now, with `tsc` reading the time-stamp counter.
    ///
    /// The counter is read within the sequence, so that it belongs to the parameters.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // takes the word apart
    pub fn system_time(&self, tsc: impl Fn() -> u64) -> u64 {
        loop {
            let version = self.version.load(Ordering::Acquire);
            let since = self.tsc_timestamp.load(Ordering::Relaxed);
            let base = self.system_time.load(Ordering::Relaxed);
            let scale = self.scale.load(Ordering::Relaxed);
            let ticks = tsc().wrapping_sub(since);
            fence(Ordering::Acquire);
            if version & 1 == 0 && self.version.load(Ordering::Relaxed) == version {
                return base.wrapping_add(scale_ticks(ticks, scale as u32, (scale >> 32) as u8 as i8));
            }
            core::hint::spin_loop();
        }
    }
}

/// The guest's live view of [`VcpuInfo`].
#[repr(C, align(8))]
pub struct LiveVcpuInfo {
    /// Not 0 when there are events to look for.
    pub upcall_pending: AtomicU8,
    /// Not 0 when the guest wants no upcall.
    pub upcall_mask: AtomicU8,
    pad: [u8; 6],
    /// Which words of the 2-level bitmap have pending events.
    pub pending_sel: AtomicU64,
    arch: [u64; 2],
    /// The clock.
    pub time: LiveTimeInfo,
}
const_assert_eq!(size_of::<LiveVcpuInfo>(), size_of::<VcpuInfo>());
const_assert_eq!(offset_of!(LiveVcpuInfo, time), offset_of!(VcpuInfo, time));
const_assert_eq!(offset_of!(LiveVcpuInfo, pending_sel), offset_of!(VcpuInfo, evtchn_pending_sel));

/// The guest's live view of [`SharedInfo`], padded to a page.
#[repr(C, align(4096))]
pub struct LiveSharedInfo {
    /// The first vCPUs' information.
    pub vcpu_info: [LiveVcpuInfo; LEGACY_MAX_VCPUS],
    /// 2-level ABI: pending events.
    pub evtchn_pending: [AtomicU64; 64],
    /// 2-level ABI: masked events.
    pub evtchn_mask: [AtomicU64; 64],
    wc_version: AtomicU32,
    wc_sec: AtomicU32,
    wc_nsec: AtomicU32,
    wc_sec_hi: AtomicU32,
    rest: [u8; crate::PAGE_SIZE - offset_of!(SharedInfo, arch)],
}
const_assert_eq!(size_of::<LiveSharedInfo>(), crate::PAGE_SIZE);
const_assert_eq!(offset_of!(LiveSharedInfo, wc_version), offset_of!(SharedInfo, wc_version));
const_assert_eq!(offset_of!(LiveSharedInfo, evtchn_mask), offset_of!(SharedInfo, evtchn_mask));

impl LiveSharedInfo {
    /// Wall-clock time at system time 0, in nanoseconds since 1970: add the system time to have the time of day.
    pub fn wall_clock_base(&self) -> u128 {
        loop {
            let version = self.wc_version.load(Ordering::Acquire);
            let low = self.wc_sec.load(Ordering::Relaxed);
            let high = self.wc_sec_hi.load(Ordering::Relaxed);
            let nanos = self.wc_nsec.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            if version & 1 == 0 && self.wc_version.load(Ordering::Relaxed) == version {
                let seconds = (u64::from(high) << 32) | u64::from(low);
                return u128::from(seconds) * 1_000_000_000 + u128::from(nanos);
            }
            core::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_is_right_from_a_kilohertz_to_a_hundred_gigahertz() {
        for khz in [1, 1_000, 100_000, 999_999, 1_000_000, 1_000_001, 2_394_123, 3_000_000, 100_000_000] {
            let (mul, shift) = VcpuTimeInfo::scale_of_khz(khz).unwrap();
            // An hour of ticks.
            let nanos = scale_ticks(khz * 1000 * 3600, mul, shift);
            let error = nanos.abs_diff(3_600_000_000_000);
            assert!(error <= 3600, "{khz} kHz: off by {error} ns an hour");
        }
        assert_eq!(VcpuTimeInfo::scale_of_khz(0), None);
    }

    #[test]
    fn wild_shifts_do_not_overflow() {
        for shift in i8::MIN..=i8::MAX {
            let _ = scale_ticks(u64::MAX, u32::MAX, shift);
        }
    }

    #[test]
    fn live_clock_reads_what_was_written() {
        let written = VcpuTimeInfo {
            version: 6,
            tsc_timestamp: 1000,
            system_time: 5000,
            tsc_to_system_mul: 0x8000_0000,
            tsc_shift: -1,
            flags: TSC_STABLE,
            ..Default::default()
        };
        let live = LiveTimeInfo {
            version: AtomicU32::new(6),
            pad0: 0,
            tsc_timestamp: AtomicU64::new(1000),
            system_time: AtomicU64::new(5000),
            scale: AtomicU64::new(0x8000_0000 | (0xff << 32) | (1 << 40)),
        };
        assert_eq!(live.read(), written);
        assert_eq!(live.system_time(|| 1400), 5100);
        live.version.store(7, Ordering::Relaxed);
        assert_eq!(live.try_read(), None);
    }
}
