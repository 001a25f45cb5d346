//! Scheduling and shutdown (`xen/sched.h`).

use crate::ids::{DomainId, GuestVirt};
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Sub-operations of `sched_op` (`SCHEDOP_*`).
pub mod op {
    /// Lets others run.
    pub const YIELD: u64 = 0;
    /// Waits for an event.
    pub const BLOCK: u64 = 1;
    /// Ends the domain.
    pub const SHUTDOWN: u64 = 2;
    /// Waits for one of some events.
    pub const POLL: u64 = 3;
    /// Tells another domain's reason of shutdown.
    pub const REMOTE_SHUTDOWN: u64 = 4;
    /// Gives a reason ahead of the shutdown.
    pub const SHUTDOWN_CODE: u64 = 5;
    /// Ends the domain unless called again in time.
    pub const WATCHDOG: u64 = 6;
    /// Overrides the affinity.
    pub const PIN_OVERRIDE: u64 = 7;
}

/// Why a domain shut down (`SHUTDOWN_*`).
pub mod reason {
    /// Ended cleanly; destroy it.
    pub const POWEROFF: u32 = 0;
    /// Wants a fresh start.
    pub const REBOOT: u32 = 1;
    /// Suspended itself.
    pub const SUSPEND: u32 = 2;
    /// Says that it crashed.
    pub const CRASH: u32 = 3;
    /// Its watchdog expired.
    pub const WATCHDOG: u32 = 4;
    /// Wants a reset that keeps its memory.
    pub const SOFT_RESET: u32 = 5;
    /// The highest reason.
    pub const MAX: u32 = 5;
}

/// Argument of `shutdown` and `shutdown_code` (`struct sched_shutdown`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Shutdown {
    /// Why: see [`reason`].
    pub reason: u32,
}

/// Argument of `poll` (`struct sched_poll`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Poll {
    /// Array of ports.
    pub ports: GuestVirt,
    /// Length of the array.
    pub nr_ports: u32,
    /// Unused.
    pub pad: u32,
    /// System time at which to return anyway; 0 for never.
    pub timeout: u64,
}
const_assert_eq!(size_of::<Poll>(), 24);

/// Argument of `remote_shutdown` (`struct sched_remote_shutdown`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RemoteShutdown {
    /// The domain that ends.
    pub domain_id: DomainId,
    /// Unused.
    pub pad: u16,
    /// Why: see [`reason`].
    pub reason: u32,
}
const_assert_eq!(size_of::<RemoteShutdown>(), 8);
