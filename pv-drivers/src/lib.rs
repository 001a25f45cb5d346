//! Split paravirtual drivers for the Xen ABI: XenStore, console, block and network, front ends and back ends.
//!
//! Everything here is a state machine over the small [`Platform`] trait: no executor, no assembler, no global
//! state. A kernel calls `poll` when a driver's event channel fires, and the driver reports what happened. The same
//! code runs in a guest, in a driver domain, and in `cargo test` on the developer's machine, where a mock machine
//! with grants and ports stands for the hypervisor.
//!
//! # Invariants
//!
//! * The other end of every ring is hostile. A slot is copied once, then checked into a type, and only that is used.
//!   Indices, ids, lengths and grant references are checked always, never by a debug assertion.
//! * A bad peer loses its own connection and nothing else; the reason is logged once and kept.
//! * No reference into shared memory exists: [`SharedMemory`] copies in and out.
//! * A page that a peer may still reach never returns to the allocator: see [`share`].
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod ata;
pub mod blk;
pub mod console;
#[cfg(test)]
mod mock;
pub mod net;
pub mod platform;
pub mod ring;
pub mod share;
pub mod xenbus;
pub mod xs;

pub use platform::{Platform, SharedMemory};
