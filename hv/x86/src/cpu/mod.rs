//! The CPUs: descriptors, traps, data of each, features, start-up.

pub mod features;
#[cfg(target_os = "none")]
pub mod fpu;
#[cfg(target_os = "none")]
pub mod gdt;
#[cfg(target_os = "none")]
pub mod io;
pub mod machine_check;
#[cfg(target_os = "none")]
pub mod percpu;
#[cfg(target_os = "none")]
pub mod smp;
pub mod tags;
#[cfg(target_os = "none")]
pub mod traps;

/// Stops this CPU for good.
#[cfg(target_os = "none")]
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: nothing is lost: this CPU has nothing more to do.
        unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
