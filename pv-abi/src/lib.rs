//! The stable public Xen guest ABI (PVH, x86-64).

#![no_std]

pub mod errno;
pub mod ids;
pub mod io;
