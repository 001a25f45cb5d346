//! Xenolith's own control interface, in slot `__HYPERVISOR_arch_7`.
//!
//! Only domains with the role `control` may use it; every other caller gets `EPERM`. The interface is versioned as a
//! whole: [`VERSION`] changes when a structure or the meaning of a call does.

use crate::ids::{DomainId, Gfn, Port};
use bitflags::bitflags;
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of this interface.
pub const VERSION: u32 = 1;

/// Sub-operations.
pub mod op {
    /// The interface's version.
    pub const VERSION: u64 = 0;
    /// Creates a domain.
    pub const CREATE: u64 = 1;
    /// Loads its kernel again.
    pub const BUILD: u64 = 2;
    /// Stops its vCPUs.
    pub const PAUSE: u64 = 3;
    /// Lets them run.
    pub const UNPAUSE: u64 = 4;
    /// Ends a domain.
    pub const DESTROY: u64 = 5;
    /// Describes a domain.
    pub const INFO: u64 = 6;
    /// Describes a vCPU.
    pub const VCPU_INFO: u64 = 7;
    /// Copies its counters.
    pub const STATISTICS: u64 = 8;
    /// Ends the machine.
    pub const POWER: u64 = 9;
    /// Sets its share of the CPUs.
    pub const SCHEDULE: u64 = 10;
    /// Reads the trace.
    pub const TRACE: u64 = 11;
    /// Maps a page of counters.
    pub const COUNTERS: u64 = 12;
    /// Emulates a domain's ports.
    pub const EMULATE: u64 = 13;
    /// Says that an access is emulated.
    pub const EMULATED: u64 = 14;
}

/// Action of `power`: off.
pub const POWER_OFF: u32 = 0;
/// Action of `power`: restart.
pub const POWER_REBOOT: u32 = 1;

/// I/O ports, both ends included. No ports, if the first is above the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl PortRange {
    /// No port.
    pub const NONE: Self = Self { first: 1, last: 0 };

    /// Whether a port is one of them.
    pub const fn contains(&self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl Default for PortRange {
    fn default() -> Self {
        Self::NONE
    }
}

/// Argument of `emulate`: which ports of a domain the caller emulates, and how it is told.
///
/// A vCPU of the domain that touches one of the ports stops, its access is put into its record of the page (see
/// [`crate::ioreq`]), and the port is raised. When the caller has answered in the record it says so by `emulated`, and
/// the vCPU goes on. An access that nobody answers any more reads ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Emulate {
    /// The domain, which is not the caller.
    pub domid: DomainId,
    /// Unused.
    pub pad: u16,
    /// A port of the caller's, bound by `bind_ipi`; 0 ends the emulation.
    pub port: Port,
    /// A page of the caller's, for the records. It stays in use until the emulation ends.
    pub page: Gfn,
    /// The ports: accesses that begin in a range.
    pub ranges: [PortRange; 2],
}
const_assert_eq!(size_of::<Emulate>(), 24);

/// Longest name of a domain.
pub const NAME_MAX: usize = 31;

/// What `create` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Created {
    /// The new domain.
    pub domid: DomainId,
    /// Unused.
    pub pad: u16,
    /// The new domain's console port, unbound, for its creator to bind; grant reference 0 shares the ring.
    pub console_port: Port,
    /// The new domain's XenStore port, unbound, for its creator to bind; grant reference 1 shares the ring.
    pub store_port: Port,
}
const_assert_eq!(size_of::<Created>(), 12);

bitflags! {
    /// Permissions of a domain.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Roles: u32 {
        /// May use the control interface.
        const CONTROL = 1 << 0;
        /// Owns devices and their interrupts.
        const DRIVER = 1 << 1;
        /// Serves XenStore.
        const STORE = 1 << 2;
    }
}

/// States of a domain in [`DomainInfo::state`].
pub mod state {
    /// Created, never run.
    pub const CREATED: u32 = 0;
    /// Running, or would run if it were not paused.
    pub const ALIVE: u32 = 1;
    /// Shut down, see the reason.
    pub const SHUT_DOWN: u32 = 2;
    /// Being taken apart.
    pub const DYING: u32 = 3;
    /// Gone but for pages that others still map.
    pub const DEAD: u32 = 4;
}

/// Value of [`DomainInfo::reason`] while the domain has not shut down.
pub const NO_REASON: u32 = u32::MAX;

/// What `info` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DomainInfo {
    /// The domain.
    pub domid: DomainId,
    /// Its creator.
    pub parent: DomainId,
    /// Its state: see [`state`].
    pub state: u32,
    /// Why it shut down (see [`crate::sched::reason`]), or [`NO_REASON`].
    pub reason: u32,
    /// Its permissions: bits of [`Roles`].
    pub roles: u32,
    /// How often it is paused.
    pub pauses: u32,
    /// Number of its vCPUs.
    pub vcpus: u32,
    /// How many of them are up.
    pub vcpus_up: u32,
    /// Relative share of the CPUs.
    pub weight: u32,
    /// Most it may use, in percent of one CPU; 0 for no limit.
    pub cap: u32,
    /// Unused.
    pub pad: u32,
    /// Pages that it has.
    pub pages: u64,
    /// Pages that it may have.
    pub max_pages: u64,
    /// Nanoseconds that its vCPUs ran.
    pub cpu_ns: u64,
    /// CPUs on which it may run, a bit each.
    pub affinity: u64,
    /// Its name, ended by a zero byte.
    pub name: [u8; 32],
}
const_assert_eq!(size_of::<DomainInfo>(), 104);

impl DomainInfo {
    /// The name up to its zero byte, or as much of it as is text.
    pub fn name(&self) -> &str {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        match core::str::from_utf8(&self.name[..end]) {
            Ok(name) => name,
            Err(error) => core::str::from_utf8(&self.name[..error.valid_up_to()]).unwrap_or(""),
        }
    }

    /// Takes a name, cut to its field.
    pub fn set_name(&mut self, name: &str) {
        let length = name.len().min(NAME_MAX);
        self.name = [0; 32];
        self.name[..length].copy_from_slice(&name.as_bytes()[..length]);
    }
}

/// What `vcpu_info` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuState {
    /// Its state: see [`crate::vcpu::runstate`].
    pub state: u32,
    /// CPU on which it runs or ran.
    pub cpu: u32,
    /// Nanoseconds that it spent in each state.
    pub time: [u64; 4],
    /// Times that it left guest mode.
    pub exits: u64,
    /// Instruction pointer when it last left.
    pub rip: u64,
}
const_assert_eq!(size_of::<VcpuState>(), 56);

/// Argument of `schedule`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Schedule {
    /// The domain.
    pub domid: DomainId,
    /// Unused.
    pub pad: u16,
    /// Relative share of the CPUs, 1 to 65535.
    pub weight: u32,
    /// Most it may use, in percent of one CPU; 0 for no limit.
    pub cap: u32,
    /// Unused.
    pub pad1: u32,
    /// CPUs on which it may run, a bit each; not 0.
    pub affinity: u64,
}
const_assert_eq!(size_of::<Schedule>(), 24);

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Causes for which a vCPU leaves guest mode, as [`Statistics::exits`] counts them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ExitCause {
            $($(#[$doc])* $name,)*
        }

        impl ExitCause {
            /// All of them, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name in listings.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

causes! {
    /// A hypercall.
    Hypercall = "hypercall",
    /// CPUID.
    Cpuid = "cpuid",
    /// Read of a model-specific register.
    MsrRead = "msr-read",
    /// Write of a model-specific register.
    MsrWrite = "msr-write",
    /// An I/O port.
    Io = "io",
    /// An access to guest-physical memory that nested paging refused.
    NestedFault = "nested-fault",
    /// A control register.
    ControlRegister = "control-register",
    /// XSETBV.
    Xsetbv = "xsetbv",
    /// HLT.
    Halt = "halt",
    /// PAUSE in a loop.
    Pause = "pause",
    /// RDTSC or RDTSCP.
    Tsc = "tsc",
    /// An exception that is intercepted.
    Exception = "exception",
    /// The guest can take an interrupt now.
    Window = "window",
    /// The guest triple-faulted.
    TripleFault = "triple-fault",
    /// An interrupt for the hypervisor.
    HostEvent = "host-event",
    /// The end of the time slice.
    Preempted = "preempted",
    /// An instruction that is refused.
    Refused = "refused",
    /// An access to the local APIC.
    Apic = "apic",
    /// Anything else.
    Other = "other",
    /// The processor's own timer, where it stands in for the machine's.
    Deadline = "deadline",
}

/// Room for causes in [`Statistics::exits`].
pub const EXIT_SLOTS: usize = 32;
/// Room for calls in [`Statistics::hypercalls`].
pub const CALL_SLOTS: usize = 128;

const _: () = assert!(ExitCause::ALL.len() <= EXIT_SLOTS);
const _: () = assert!(crate::Call::COUNT <= CALL_SLOTS);

/// Counters of a domain since its creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Statistics {
    /// Exits by [`ExitCause`].
    pub exits: [u64; EXIT_SLOTS],
    /// Calls by their place in [`crate::ROWS`].
    pub hypercalls: [u64; CALL_SLOTS],
    /// Calls that the table does not have.
    pub unknown_calls: u64,
    /// Notifications sent.
    pub events_sent: u64,
    /// Notifications that made a port pending and interrupted or woke a vCPU.
    pub events_delivered: u64,
    /// Notifications to ports that were pending or masked already.
    pub events_suppressed: u64,
    /// Bytes moved by grant copies.
    pub copied_bytes: u64,
    /// Grant copies.
    pub copies: u64,
    /// Pages mapped by grants.
    pub maps: u64,
    /// Grant mappings ended.
    pub unmaps: u64,
    /// Flushes of translations.
    pub flushes: u64,
    /// Interrupts injected.
    pub injections: u64,
    /// TSC ticks spent in guest mode.
    pub guest_ticks: u64,
    /// TSC ticks spent in the hypervisor on the domain's behalf.
    pub host_ticks: u64,
}
const_assert_eq!(size_of::<Statistics>(), 8 * (EXIT_SLOTS + CALL_SLOTS + 12));

impl Default for Statistics {
    fn default() -> Self {
        <Self as zerocopy::FromZeros>::new_zeroed()
    }
}

/// Kinds of trace record in [`TraceRecord::kind`].
pub mod trace {
    /// An exit: `a` is the [`super::ExitCause`], `b` the instruction pointer.
    pub const EXIT: u16 = 1;
    /// A call: `a` is its place in the table, `b` its result.
    pub const CALL: u16 = 2;
    /// An event: `a` is the port, `b` the receiving domain.
    pub const EVENT: u16 = 3;
    /// A switch to another vCPU: `a` is the domain left, `b` the vCPU left.
    pub const SWITCH: u16 = 4;
    /// An interrupt injected: `a` is its vector.
    pub const INJECT: u16 = 5;
}

/// One record of the trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TraceRecord {
    /// TSC.
    pub tsc: u64,
    /// Kind: see [`trace`].
    pub kind: u16,
    /// The domain.
    pub domid: DomainId,
    /// Its vCPU.
    pub vcpu: u32,
    /// First datum.
    pub a: u64,
    /// Second datum.
    pub b: u64,
}
const_assert_eq!(size_of::<TraceRecord>(), 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_their_field() {
        let mut info = DomainInfo::default();
        info.set_name("guest-1");
        assert_eq!(info.name(), "guest-1");
        info.set_name(&"x".repeat(40));
        assert_eq!(info.name().len(), NAME_MAX);
        info.name = [0xff; 32];
        assert_eq!(info.name(), "");
    }
}
