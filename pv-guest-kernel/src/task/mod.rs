//! Cooperative tasks on all vCPUs.

pub mod deadlines;
pub mod executor;
pub mod signal;
mod state;
pub mod timer;

pub use executor::{JoinHandle, spawn, yield_now};
pub use timer::{sleep, sleep_until, timeout};
