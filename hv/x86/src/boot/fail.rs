//! The two ends that are nobody's choice: the hypervisor cannot start, or has found itself to be wrong.

#[cfg(target_os = "none")]
use core::fmt;

/// Status with which the machine ends when the hypervisor cannot start.
pub const STATUS_CANNOT_START: u8 = 2;

/// Status with which the machine ends when the hypervisor panicked.
pub const STATUS_PANIC: u8 = 3;

/// Says in one sentence why the hypervisor cannot start, and ends the machine.
#[cfg(target_os = "none")]
pub fn cannot_start(reason: fmt::Arguments<'_>) -> ! {
    crate::dev::uart::write(format_args!("(hv) cannot start: {reason}\n"));
    crate::dev::uart::write(format_args!("(hv) power off, status {STATUS_CANNOT_START}\n"));
    crate::dev::power::off(STATUS_CANNOT_START)
}
