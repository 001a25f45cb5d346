//! Cooperative tasks on all vCPUs.

pub mod executor;
pub mod signal;
pub mod timer;

pub use executor::{JoinHandle, spawn, yield_now};
pub use timer::{sleep, sleep_until, timeout};
