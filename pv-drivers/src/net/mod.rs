//! Network interfaces: the split driver's two ends, and the bridge that joins back ends with each other and with a
//! real network.
//!
//! * [`NetFront`] is an interface for the guest (`io/netif.h`).
//! * [`NetBack`] is its other end; it lives in a [`Bridge`], which moves packets between guests in one copy, straight
//!   from one guest's memory to the other's.
//! * [`Uplink`] is what a driver of a real network card implements to be the bridge's way out; [`E1000`] is one.

mod back;
mod bridge;
mod e1000;
mod front;
mod mac;
pub mod packet;
mod steer;
#[cfg(test)]
mod tests;
mod transit;
mod uplink;

pub use back::{BackCounters, BackOptions, NetBack};
pub use bridge::{Bridge, BridgeCounters, MacTable, PortId, Progress, UPLINK};
pub use e1000::{E1000, E1000Error, REGISTERS as E1000_REGISTERS, Registers};
pub use front::{Frame, NetCounters, NetFront, NetOptions, NetState, SendError};
pub use mac::Mac;
pub use steer::toeplitz;
pub use uplink::{NoUplink, Uplink, UplinkBuffer, UplinkCounters};

/// Bytes of an Ethernet header.
pub const ETHERNET_HEADER: usize = 14;
/// Bytes of a packet that are looked at: Ethernet, IP and TCP with all that they usually carry.
const PEEK: usize = 128;
/// The largest packet on a ring, Ethernet header and all.
pub const PACKET_MAX: usize = 65535;

/// A large TCP packet that somebody on the way cuts into segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gso {
    /// It is TCP over IPv6, not over IPv4.
    pub is_v6: bool,
    /// Payload in a segment.
    pub size: u16,
}

/// What is still to be done to a packet, or need not be done any more.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Offload {
    /// The transport checksum is not filled in.
    pub csum_blank: bool,
    /// The transport checksum needs no check.
    pub validated: bool,
    /// To be cut into segments.
    pub gso: Option<Gso>,
}
