//! Time: the clock that guests see, and the timers that wake them.
//!
//! System time is the time-stamp counter in nanoseconds, by the very formula that guests use (`struct vcpu_time_info`
//! of `xen/xen.h`): what the hypervisor and a guest compute from the same reading is the same number.

mod area;
mod clock;
mod queue;
mod slots;

#[cfg(test)]
mod tests;

pub use area::{GuestArea, publish_clock, publish_runstate, publish_wall_clock, runstate_info};
pub use clock::Clock;
pub use queue::{Timed, TimerQueues};
pub use slots::{Due, Slot, TimerSlots};
