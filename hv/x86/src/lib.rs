//! The privileged half of the Xenolith hypervisor: all of its unsafe code.
//!
//! * [`boot`]: from the boot loader to 64-bit mode, the memory map
//! * [`paging`], [`heap`]: the hypervisor's own memory
//! * [`cpu`]: descriptors, traps, data of each CPU, start-up of the others, vector state
//! * [`dev`]: interrupt controllers, clocks, the serial port, power
//! * [`svm`]: AMD-V; [`vmx`]: VT-x
//! * [`machine`], [`platform`]: all of it together, behind the traits of [`hv_core::hw`]
//!
//! What is arithmetic on given numbers (decoding an exit, encoding an entry, parsing a table) compiles and is
//! tested on the host; the rest only for the bare machine. UNSAFETY: this crate executes privileged
//! instructions, touches device registers and raw memory; each block says why it may.

#![no_std]
#![allow(clippy::cast_possible_truncation)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod boot;
pub mod cpu;
pub mod dev;
#[cfg(target_os = "none")]
pub mod heap;
#[cfg(target_os = "none")]
pub mod machine;
#[cfg(target_os = "none")]
pub mod paging;
#[cfg(target_os = "none")]
pub mod platform;
pub mod svm;
pub mod vmx;
