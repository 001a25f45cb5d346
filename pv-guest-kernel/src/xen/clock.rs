//! System time and wall-clock time from the paravirtual clock.

use crate::arch::{cpu, instr};

/// System time: nanoseconds since the hypervisor's start.
#[inline]
pub fn now() -> u64 {
    let cpu = cpu::this();
    if cpu.vcpu_info.load(core::sync::atomic::Ordering::Relaxed) == 0 {
        return 0;
    }
    super::shared::vcpu_info(cpu).time.system_time(instr::rdtsc)
}

/// Nanoseconds since 1970.
pub fn wall() -> u128 {
    super::shared::info().wall_clock_base() + u128::from(now())
}

/// Ticks of the time stamp counter in a second, from the clock's parameters.
pub fn tsc_hz() -> u64 {
    let t = super::shared::vcpu_info(cpu::this()).time.read();
    if t.tsc_to_system_mul == 0 {
        return 0;
    }
    let hz = (1_000_000_000u128 << 32) / u128::from(t.tsc_to_system_mul);
    let hz = if t.tsc_shift < 0 { hz << t.tsc_shift.unsigned_abs() } else { hz >> t.tsc_shift };
    hz as u64
}
