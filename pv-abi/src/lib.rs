//! The stable public Xen guest ABI (PVH flavour, x86-64) for Rust.
//!
//! Layouts, hypercalls, event channels, grants, I/O rings and start-of-day structures, for both sides: a guest kernel
//! written against this crate boots on any hypervisor that speaks the ABI, and a hypervisor gets its decoding from the
//! same table ([`for_each_hypercall!`]). Facts come from the public headers (`/usr/include/xen` of Debian's
//! `libxen-dev`, 4.17); `tests/abi_probe.rs` compiles a C program against them and compares every number and offset.
//!
//! `no_std`, no allocation. Every structure that crosses the boundary has explicit padding and zerocopy's derives, so
//! that its bytes can be copied without `unsafe`.
#![no_std]
#![warn(clippy::cast_possible_truncation)]

#[cfg(not(target_arch = "x86_64"))]
compile_error!("pv-abi describes the x86-64 flavour of the ABI");

#[cfg(test)]
extern crate std;

pub mod call;
pub mod control;
pub mod counters;
pub mod cpuid;
pub mod elfnote;
pub mod errno;
pub mod event;
pub mod grant;
pub mod guest;
pub mod hvm;
pub mod ia32;
pub mod ids;
pub mod io;
pub mod ioreq;
pub mod manifest;
pub mod memory;
pub mod physdev;
pub mod sched;
pub mod shared_info;
pub mod start_info;
pub mod transport;
pub mod vcpu;
pub mod version;

pub use call::{Call, Privilege, ROWS, Row, stub};
pub use errno::{Errno, Result};
pub use ids::{DomainId, Gfn, GrantHandle, GrantRef, GuestPhys, GuestVirt, Pirq, Port, VcpuId, Virq};

/// Bytes in a page of the ABI: frames, grants and rings are counted in these.
pub const PAGE_SIZE: usize = 4096;
/// Binary logarithm of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
