//! The shared rings between split drivers, and what travels in them.
//!
//! Everything here is layout and arithmetic: no memory is touched. Names in Rust style; each item cites the header
//! and the name it stands for (`/usr/include/xen/io/`).

pub mod blkif;
pub mod console;
pub mod netif;
pub mod ring;
pub mod xenbus;
pub mod xs_wire;
