//! The kernel: an application guest or a driver domain, as `role=` on the command line says.
#![no_std]
#![no_main]

extern crate alloc;

pv_guest_kernel::main!(pv_guest_kernel::role::run);
