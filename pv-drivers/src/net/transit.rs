//! A packet on its way through the bridge, with all that is being done with it.
//!
//! # Invariants
//!
//! * Transits are boxed, passed on by pointer, and used again: nothing in them is allocated for each packet.
//! * The first bytes are private, so that nothing that was decided by them can change.

use alloc::boxed::Box;
use alloc::vec::Vec;

use pv_abi::ids::GrantRef;
use pv_abi::io::netif;
use smallvec::SmallVec;

use super::bridge::PortId;
use super::uplink::UplinkBuffer;
use super::{Offload, PEEK};

/// A run of bytes of a packet in a page of its sender's; it does not leave the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    pub grant: GrantRef,
    pub offset: u16,
    pub len: u16,
}

/// Pieces of a packet.
pub(super) type Pieces = SmallVec<[Piece; netif::NR_SLOTS_MIN]>;
/// What is to be answered: ids, and extras without one.
pub(super) type Ids = SmallVec<[Option<u16>; netif::NR_SLOTS_MIN + 2]>;

/// What a packet is.
pub(super) struct Packet {
    first: [u8; PEEK],
    /// How many of its first bytes are private.
    pub header_len: usize,
    /// All of it, if it is a guest's. What else there is lies in the buffer that it came in.
    pub pieces: Pieces,
    pub len: usize,
    pub offload: Offload,
    /// How many copies by the hypervisor fetch the header.
    pub peeks: usize,
}

impl Packet {
    /// A packet of which nobody has looked at anything.
    pub fn headless(len: usize, offload: Offload) -> Self {
        Self { first: [0; PEEK], header_len: 0, pieces: Pieces::new(), len, offload, peeks: 0 }
    }

    /// A private copy of the first bytes.
    pub fn header(&self) -> &[u8] {
        self.first.get(..self.header_len).unwrap_or_default()
    }

    /// The same, to be filled.
    pub fn header_mut(&mut self) -> &mut [u8] {
        self.first.get_mut(..self.header_len).unwrap_or_default()
    }
}

/// Where a packet came from, and what has to be given back there.
pub(super) enum Source<M> {
    /// From nowhere yet.
    None,
    /// A guest, one of its queues, and the place there where its header is kept.
    Vif(PortId, usize, u16),
    /// The uplink or another card, and its buffer.
    Card(PortId, UplinkBuffer<M>),
}

/// A piece of a packet in a guest's receive buffer, to be answered when the copies are done.
pub(super) struct RxSlot {
    pub id: u16,
    pub grant: GrantRef,
    pub len: usize,
}

/// A packet on its way into a guest.
pub(super) struct Delivery {
    pub port: PortId,
    pub queue: usize,
    pub slots: SmallVec<[RxSlot; 2]>,
    pub has_extra: bool,
    pub len: usize,
    pub offload: Offload,
    /// All of its bytes are copied, or among the copies.
    pub is_whole: bool,
    /// How many copies are its own.
    pub copies: usize,
}

/// A packet for the uplink, or another card, whose bytes are being copied.
pub(super) struct CardSend<M> {
    pub card: PortId,
    pub offload: Offload,
    pub buffer: UplinkBuffer<M>,
    pub len: usize,
    /// To fill in the checksum, the headers.
    pub checksum: Option<Vec<u8>>,
    pub copies: usize,
}

/// A packet and all that is being done with it.
pub(super) struct Transit<M> {
    pub source: Source<M>,
    pub packet: Packet,
    /// The slots that it came in, if it is a guest's.
    pub ids: Ids,
    pub deliveries: SmallVec<[Delivery; 1]>,
    pub sends: SmallVec<[CardSend<M>; 1]>,
}

impl<M> Transit<M> {
    fn new() -> Self {
        Self {
            source: Source::None,
            packet: Packet::headless(0, Offload::default()),
            ids: Ids::new(),
            deliveries: SmallVec::new(),
            sends: SmallVec::new(),
        }
    }

    /// Who sent it.
    pub fn from(&self) -> Option<PortId> {
        match &self.source {
            Source::None => None,
            Source::Vif(port, ..) | Source::Card(port, _) => Some(*port),
        }
    }
}

/// A transit as it is passed on.
pub(super) type OnTheWay<M> = Box<Transit<M>>;

/// Transits that are not in use.
pub(super) struct Pool<M>(Vec<OnTheWay<M>>);

/// Transits that are kept: as many as are on their way at a time when much is going on.
const KEPT: usize = 256;

impl<M> Pool<M> {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// A transit whose lists are empty.
    pub fn get(&mut self) -> OnTheWay<M> {
        self.0.pop().unwrap_or_else(|| Box::new(Transit::new()))
    }

    /// Takes one back.
    pub fn put(&mut self, mut transit: OnTheWay<M>) {
        if self.0.len() < KEPT {
            transit.source = Source::None;
            transit.packet.pieces.clear();
            transit.packet.peeks = 0;
            transit.ids.clear();
            transit.deliveries.clear();
            transit.sends.clear();
            self.0.push(transit);
        }
    }
}
