//! The local interrupt controller of each virtual CPU, as far as PVH guests use it.
//!
//! [`LocalApic`] is the state that only the CPU that runs the virtual CPU touches (it stands with the hardware state);
//! [`Posted`] is the mailbox that others put interrupts into, and [`Address`] what senders need to know to find out
//! whether a message is for it.
//!
//! The registers lie in a page ([`crate::hw::RegisterPage`]), of which hardware that has it serves the guest's reads, and
//! delivers interrupts from. [`LocalApic`] stays the one who decides: see there which registers hardware may change.
//!
//! Sources: Intel SDM volume 3, chapter 11 ("Advanced Programmable Interrupt Controller"), of which section 11.12 is
//! the x2APIC mode; AMD64 manual volume 2, chapter 16.

mod access;
mod address;
mod effect;
mod local;
mod msr;
mod posted;
mod registers;
mod timer;
mod vectors;

#[cfg(test)]
mod tests;

pub use address::{Address, Destination};
pub use effect::{Effect, Fault, Ipi, IpiKind, Moment};
pub use local::LocalApic;
pub use msr::{MSR_BASE, MSR_DEADLINE, MSR_FIRST, MSR_LAST};
pub use posted::{Message, Posted};
pub use vectors::Vectors;

use pv_abi::ids::VcpuId;

/// The guest-physical address of the registers' page.
pub const PAGE: u64 = 0xfee0_0000;

/// The identifier of a virtual CPU's local APIC: the number of the virtual CPU.
pub const fn apic_id(vcpu: VcpuId) -> u32 {
    vcpu.raw()
}
