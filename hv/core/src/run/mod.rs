//! What each CPU does: it runs virtual CPUs, and takes what happens on the host.
//!
//! [`boot`] makes the domains that start with the machine; then each CPU calls [`cpu`] and never returns.

mod around;
mod boot;
mod cpu;
mod host;

pub use around::Surroundings;
pub use boot::{BootError, boot};
pub use cpu::{Cpu, Turn};
pub use host::host_event;

use crate::hw::Platform;
use crate::system::System;

/// Runs virtual CPUs on this CPU for ever.
pub fn cpu<P: Platform>(system: &System<P>) -> ! {
    let mut cpu = Cpu::new(system);
    loop {
        let _either_way_again = cpu.turn();
    }
}

#[cfg(test)]
mod tests;
