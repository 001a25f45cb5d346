//! The policies and state machines of the Xenolith hypervisor.
//!
//! No unsafe code, no instruction, no vendor's name: everything here runs on the host under tests. The machine is
//! reached through the traits of [`hw`].

#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation))]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod apic;
pub mod boot;
pub mod build;
pub mod call;
pub mod domain;
pub mod event;
pub mod exit;
pub mod grant;
pub mod hw;
pub mod ioreq;
pub mod mem;
pub mod pci;
pub mod run;
pub mod sched;
pub mod stats;
pub mod system;
#[cfg(test)]
pub mod testing;
pub mod time;
pub mod trace;
pub mod vcpu;
