//! Ticks to nanoseconds and back.

use crate::hw::{Nanos, TscTicks};
use pv_abi::shared_info::{TSC_STABLE, VcpuTimeInfo};

/// The relation of the time-stamp counter to system time; both are zero together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    hz: u64,
    mul: u32,
    shift: i8,
}

impl Clock {
    /// The clock of a machine whose time-stamp counters run at `hz`.
    pub fn new(hz: u64) -> Self {
        let hz = hz.max(1_000);
        // Computed from Hz, not kHz: the fraction shall use all its bits.
        let (mut scaled, mut shift) = (u128::from(hz), 0i8);
        while scaled > 2_000_000_000 {
            scaled >>= 1;
            shift -= 1;
        }
        while scaled <= 1_000_000_000 {
            scaled <<= 1;
            shift += 1;
        }
        let mul = if shift < 0 {
            (1_000_000_000u128 << (32 + u32::from(shift.unsigned_abs()))) / u128::from(hz)
        } else {
            (1_000_000_000u128 << 32) / (u128::from(hz) << u32::from(shift.unsigned_abs()))
        };
        Self { hz, mul: u32::try_from(mul).unwrap_or(u32::MAX), shift }
    }

    /// The frequency of the time-stamp counters, in Hz.
    pub const fn hz(&self) -> u64 {
        self.hz
    }

    /// The multiplier and the shift that guests are told.
    pub const fn scale(&self) -> (u32, i8) {
        (self.mul, self.shift)
    }

    /// System time at a reading; also a span of ticks as a span of time.
    #[inline]
    pub const fn nanos(&self, ticks: TscTicks) -> Nanos {
        Nanos::new(pv_abi::shared_info::scale_ticks(ticks.raw(), self.mul, self.shift))
    }

    /// The first reading at which system time is `nanos` or later; also a span of time as a span of ticks.
    pub fn ticks(&self, nanos: Nanos) -> TscTicks {
        let wide = u128::from(nanos.raw()) << 32;
        let scaled = wide.div_ceil(u128::from(self.mul));
        let ticks = match self.shift {
            shift if shift < 0 => scaled.checked_shl(u32::from(shift.unsigned_abs())).unwrap_or(u128::MAX),
            shift => {
                let by = u32::from(shift.unsigned_abs());
                scaled.checked_shr(by).unwrap_or(0) + u128::from(scaled & ((1 << by) - 1) != 0)
            }
        };
        TscTicks::new(u64::try_from(ticks).unwrap_or(u64::MAX))
    }

    /// The clock as a guest is told at `now`; the sequence count is the writer's.
    pub fn info(&self, now: TscTicks) -> VcpuTimeInfo {
        VcpuTimeInfo {
            tsc_timestamp: now.raw(),
            system_time: self.nanos(now).raw(),
            tsc_to_system_mul: self.mul,
            tsc_shift: self.shift,
            flags: TSC_STABLE,
            ..VcpuTimeInfo::default()
        }
    }
}
