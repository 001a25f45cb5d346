//! What each CPU does: it runs virtual CPUs, and takes what happens on the host.

mod host;

pub use host::host_event;
