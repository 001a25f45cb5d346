//! One event channel.

use pv_abi::ids::{DomainId, Pirq, Port, VcpuId, Virq};

/// The queue of a new port; the ABI's constant in the record's width.
const PRIORITY_DEFAULT: u8 = 7;
static_assertions::const_assert_eq!(PRIORITY_DEFAULT as u32, pv_abi::event::fifo::PRIORITY_DEFAULT);

/// What a port is bound to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ChannelState {
    /// Nothing: the port can be allocated.
    #[default]
    Free,
    /// Nothing yet: it waits for `remote` to bind it.
    Unbound {
        /// The domain that may bind it.
        remote: DomainId,
    },
    /// A port of another domain, or of the same one.
    Interdomain {
        /// The domain at the other end.
        remote: DomainId,
        /// Its port.
        port: Port,
    },
    /// A physical interrupt.
    Pirq(Pirq),
    /// A virtual interrupt line.
    Virq(Virq),
    /// Sends from the domain's own virtual CPUs.
    Ipi,
}

/// What `EVTCHNOP_status` tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// What the port is bound to.
    pub state: ChannelState,
    /// The virtual CPU that is told of its events.
    pub vcpu: VcpuId,
}

/// A port's record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    pub state: ChannelState,
    /// Index of the virtual CPU that is told.
    pub vcpu: u8,
    /// FIFO ABI: the queue that the next event goes to.
    pub priority: u8,
    /// FIFO ABI: the queue that the last event went to.
    pub last_vcpu: u8,
    pub last_priority: u8,
    /// FIFO ABI: an event came before the guest gave the memory for its word.
    pub pending: bool,
}

impl Channel {
    pub const FREE: Self = Self {
        state: ChannelState::Free,
        vcpu: 0,
        priority: PRIORITY_DEFAULT,
        last_vcpu: 0,
        last_priority: PRIORITY_DEFAULT,
        pending: false,
    };
}
