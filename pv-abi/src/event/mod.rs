//! Event channels (`xen/event_channel.h`): the calls' structures, and the guest's side of both delivery ABIs.

pub mod fifo;
pub mod two_level;

use crate::ids::{DomainId, Gfn, Port, VcpuId};
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Sub-operations of `event_channel_op` (`EVTCHNOP_*`).
pub mod op {
    /// Binds to another domain's port.
    pub const BIND_INTERDOMAIN: u64 = 0;
    /// Binds to a virtual interrupt line.
    pub const BIND_VIRQ: u64 = 1;
    /// Binds to a physical interrupt.
    pub const BIND_PIRQ: u64 = 2;
    /// Closes a port.
    pub const CLOSE: u64 = 3;
    /// Notifies the far end.
    pub const SEND: u64 = 4;
    /// Tells a port's state.
    pub const STATUS: u64 = 5;
    /// Allocates a port for another domain to bind to.
    pub const ALLOC_UNBOUND: u64 = 6;
    /// Allocates a port between vCPUs.
    pub const BIND_IPI: u64 = 7;
    /// Chooses the vCPU that is told.
    pub const BIND_VCPU: u64 = 8;
    /// Clears a port's mask.
    pub const UNMASK: u64 = 9;
    /// Closes all ports.
    pub const RESET: u64 = 10;
    /// Gives a vCPU its control block.
    pub const INIT_CONTROL: u64 = 11;
    /// Adds a page to the event array.
    pub const EXPAND_ARRAY: u64 = 12;
    /// Chooses a port's queue.
    pub const SET_PRIORITY: u64 = 13;
}

/// States of a port in [`Status::status`] (`EVTCHNSTAT_*`).
pub mod status {
    /// Not in use.
    pub const CLOSED: u32 = 0;
    /// Waits for its far end.
    pub const UNBOUND: u32 = 1;
    /// Connected with another port.
    pub const INTERDOMAIN: u32 = 2;
    /// Bound to a physical interrupt.
    pub const PIRQ: u32 = 3;
    /// Bound to a virtual interrupt line.
    pub const VIRQ: u32 = 4;
    /// Between the domain's vCPUs.
    pub const IPI: u32 = 5;
}

/// Flag of [`BindPirq`]: others may have the interrupt too (`BIND_PIRQ__WILL_SHARE`).
pub const BIND_PIRQ_WILL_SHARE: u32 = 1;

/// Argument of `alloc_unbound` (`struct evtchn_alloc_unbound`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AllocUnbound {
    /// Domain that gets the port.
    pub dom: DomainId,
    /// Domain that may bind to it.
    pub remote_dom: DomainId,
    /// Out: the port.
    pub port: Port,
}
const_assert_eq!(size_of::<AllocUnbound>(), 8);

/// Argument of `bind_interdomain` (`struct evtchn_bind_interdomain`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindInterdomain {
    /// The other domain.
    pub remote_dom: DomainId,
    /// Unused.
    pub pad: u16,
    /// Its port.
    pub remote_port: Port,
    /// Out: the caller's port.
    pub local_port: Port,
}
const_assert_eq!(size_of::<BindInterdomain>(), 12);

/// Argument of `bind_virq` (`struct evtchn_bind_virq`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindVirq {
    /// The line.
    pub virq: crate::Virq,
    /// The vCPU that is told; 0 for lines that exist once in a domain.
    pub vcpu: VcpuId,
    /// Out: the port.
    pub port: Port,
}
const_assert_eq!(size_of::<BindVirq>(), 12);

/// Argument of `bind_pirq` (`struct evtchn_bind_pirq`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindPirq {
    /// The interrupt.
    pub pirq: crate::Pirq,
    /// [`BIND_PIRQ_WILL_SHARE`].
    pub flags: u32,
    /// Out: the port.
    pub port: Port,
}
const_assert_eq!(size_of::<BindPirq>(), 12);

/// Argument of `bind_ipi` (`struct evtchn_bind_ipi`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindIpi {
    /// The vCPU that is told.
    pub vcpu: VcpuId,
    /// Out: the port.
    pub port: Port,
}
const_assert_eq!(size_of::<BindIpi>(), 8);

/// Argument of `close` (`struct evtchn_close`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Close {
    /// The port.
    pub port: Port,
}

/// Argument of `send` (`struct evtchn_send`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Send {
    /// The port.
    pub port: Port,
}

/// Argument of `status` (`struct evtchn_status`); the header's union is its two words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Status {
    /// Domain whose port it is.
    pub dom: DomainId,
    /// Unused.
    pub pad: u16,
    /// The port.
    pub port: Port,
    /// Out: its state, see [`status`].
    pub status: u32,
    /// Out: the vCPU that is told.
    pub vcpu: VcpuId,
    /// Out: the domain at the far end (low half), the pirq or the virq.
    pub detail: u32,
    /// Out: the port at the far end.
    pub remote_port: Port,
}
const_assert_eq!(size_of::<Status>(), 24);

/// Argument of `bind_vcpu` (`struct evtchn_bind_vcpu`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindVcpu {
    /// The port.
    pub port: Port,
    /// The vCPU that is told from now on.
    pub vcpu: VcpuId,
}
const_assert_eq!(size_of::<BindVcpu>(), 8);

/// Argument of `unmask` (`struct evtchn_unmask`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Unmask {
    /// The port.
    pub port: Port,
}

/// Argument of `reset` (`struct evtchn_reset`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reset {
    /// Domain whose ports are closed.
    pub dom: DomainId,
}

/// Argument of `init_control` (`struct evtchn_init_control`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitControl {
    /// Frame of the control block.
    pub control_gfn: Gfn,
    /// Its place within the frame.
    pub offset: u32,
    /// The vCPU.
    pub vcpu: VcpuId,
    /// Out: bits of a link.
    pub link_bits: u8,
    /// Unused.
    pub pad: [u8; 7],
}
const_assert_eq!(size_of::<InitControl>(), 24);

/// Argument of `expand_array` (`struct evtchn_expand_array`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExpandArray {
    /// Frame of the new page.
    pub array_gfn: Gfn,
}

/// Argument of `set_priority` (`struct evtchn_set_priority`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetPriority {
    /// The port.
    pub port: Port,
    /// Its queue: 0 is the most urgent, [`fifo::PRIORITY_MIN`] the least.
    pub priority: u32,
}
const_assert_eq!(size_of::<SetPriority>(), 8);

/// What is left to do after the guest cleared a mask itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a pending event is lost unless the hypervisor is told"]
pub enum Unmasked {
    /// Nothing.
    Done,
    /// The event is pending: make the call `evtchn_unmask`, so that it is delivered.
    Pending,
}
