//! The machine's own devices: interrupt controllers, clocks, the serial port, power. No other device is
//! driven here.

#[cfg(target_os = "none")]
pub mod acpi;
#[cfg(target_os = "none")]
pub mod clock;
#[cfg(target_os = "none")]
pub mod ioapic;
#[cfg(target_os = "none")]
pub mod lapic;
#[cfg(target_os = "none")]
pub mod lines;
#[cfg(target_os = "none")]
pub mod log;
#[cfg(target_os = "none")]
pub mod pic;
#[cfg(target_os = "none")]
pub mod power;
pub mod rtc;
pub mod s5;
#[cfg(target_os = "none")]
pub mod uart;
