//! Joins the interfaces of guests with each other and with an uplink.
//!
//! A packet is taken from its sender's ring, its first bytes are copied into private memory and looked at, and all of
//! it is then copied by the hypervisor straight into the receiver's buffers (or the uplink's). What decided about the
//! packet is what arrives: the looked-at bytes come from the private copy.
//!
//! # Rules
//!
//! * Nothing is dropped for want of room: the packet stays with its sender, whose ring fills up. Only a receiver that
//!   shows no life for a while, and copies for everybody (broadcasts), lose packets.
//! * Senders take turns, packet by packet, so that a flood takes no more than its share.
//! * Whoever breaks the rules of a ring is disabled alone.
//!
//! A bridge has one owner; put a lock around it if several processors serve it.

mod execute;
mod guest;
mod place;
mod plan;
mod route;
mod slow;
mod table;
mod take;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::Port;
use smallvec::SmallVec;

use super::back::{Held, NetBack, Packet};
use super::uplink::{Uplink, UplinkBuffer};
use super::{Mac, Offload};
use crate::platform::{GrantCopy, Nanos, Platform};
use plan::Delivery;
pub use table::MacTable;

/// An interface of a bridge.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortId(u32);

/// The uplink's place among the interfaces.
const UPLINK: PortId = PortId(0);

/// A place of the bridge that is no guest: the uplink, or an address of this domain's own.
struct Card<M, U> {
    uplink: U,
    /// The only address behind it, if that is known.
    mac: Option<Mac>,
    /// Packets from it that wait for their turn.
    received: VecDeque<(UplinkBuffer<M>, Packet)>,
    /// Since when packets wait for its buffers.
    blocked_since: Option<Nanos>,
}

impl<M, U> Card<M, U> {
    fn new(uplink: U, mac: Option<Mac>) -> Self {
        Self { uplink, mac, received: VecDeque::new(), blocked_since: None }
    }
}

/// Packets of a queue that are taken before the earlier ones are gone.
const BACKLOG: usize = 64;
/// Packets that are planned before they are copied.
const PLAN_PACKETS: usize = 128;
/// Copies that are planned before they are done.
const PLAN_COPIES: usize = 1024;
/// How long packets for a card are kept back when it has no room.
const CARD_STALL: u64 = 1_000_000_000;
/// Bytes for the slow path: one packet.
const STAGE_PAGES: usize = 17;

/// What a poll did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Nothing more to do until an event channel or the uplink fires.
    Idle,
    /// The same, but at this time at the latest there is something to do.
    Wake(Nanos),
    /// The budget is used up: poll again soon.
    More,
}

/// What happened so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BridgeCounters {
    /// Packets that went to one interface.
    pub forwarded: u64,
    /// Packets that went to all.
    pub flooded: u64,
    /// Packets that went nowhere.
    pub dropped: u64,
    /// Packets and segments sent to the uplink, or to this domain.
    pub to_uplink: u64,
    /// Packets received from the uplink, or sent by this domain.
    pub from_uplink: u64,
    /// Copies by the hypervisor.
    pub copies: u64,
    /// Bytes in them.
    pub copied_bytes: u64,
}

/// Where a packet came from.
enum Source<M> {
    Vif(PortId, usize, Held),
    Card(PortId, UplinkBuffer<M>, Packet),
}

impl<M> Source<M> {
    fn packet(&self) -> &Packet {
        match self {
            Self::Vif(_, _, held) => &held.packet,
            Self::Card(_, _, packet) => packet,
        }
    }

    fn port(&self) -> PortId {
        match self {
            Self::Vif(port, ..) | Self::Card(port, ..) => *port,
        }
    }
}

/// A packet for the uplink, or another card, whose bytes are being copied.
struct CardSend<M> {
    card: PortId,
    offload: Offload,
    buffer: UplinkBuffer<M>,
    len: usize,
    /// To fill in the checksum, the headers.
    checksum: Option<Vec<u8>>,
    copies: usize,
}

/// A packet and all that is being done with it.
struct Planned<M> {
    source: Source<M>,
    deliveries: SmallVec<[Delivery; 1]>,
    sends: SmallVec<[CardSend<M>; 1]>,
}

struct Plan<M> {
    copies: Vec<GrantCopy>,
    packets: Vec<Planned<M>>,
}

/// Whether a packet can go on its way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Planned,
    Dropped,
    /// Its receiver has no room.
    Blocked,
}

/// A learning bridge.
pub struct Bridge<P: Platform, U: Uplink<P::Memory>> {
    platform: P,
    cards: BTreeMap<PortId, Card<P::Memory, U>>,
    vifs: BTreeMap<PortId, NetBack<P>>,
    next_port: u32,
    /// Whose turn it is to be first.
    turn: usize,
    table: MacTable,
    /// Our own memory for what has to be made ready before it goes on.
    stage: P::Memory,
    counters: BridgeCounters,
}

impl<P: Platform, U: Uplink<P::Memory>> Bridge<P, U> {
    /// A bridge without guests.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(platform: &P, uplink: U) -> Result<Self, Errno> {
        Ok(Self {
            platform: platform.clone(),
            cards: BTreeMap::from([(UPLINK, Card::new(uplink, None))]),
            vifs: BTreeMap::new(),
            next_port: 1,
            turn: 0,
            table: MacTable::new(64, 1024),
            stage: platform.allocate(STAGE_PAGES)?,
            counters: BridgeCounters::default(),
        })
    }

    /// Adds an interface.
    ///
    /// # Errors
    /// `EEXIST` when another one has its address.
    pub fn add(&mut self, vif: NetBack<P>) -> Result<PortId, Errno> {
        let port = PortId(self.next_port);
        if !self.table.add_static(vif.mac(), port) {
            return Err(Errno::EEXIST);
        }
        self.next_port += 1;
        self.vifs.insert(port, vif);
        Ok(port)
    }

    /// Adds a place with one address that is no guest's: this domain's own, for one.
    ///
    /// # Errors
    /// `EEXIST` when an interface has the address.
    pub fn add_card(&mut self, mac: Mac, card: U) -> Result<PortId, Errno> {
        let port = PortId(self.next_port);
        if !self.table.add_static(mac, port) {
            return Err(Errno::EEXIST);
        }
        self.next_port += 1;
        self.cards.insert(port, Card::new(card, Some(mac)));
        Ok(port)
    }

    /// Takes an interface out.
    pub fn remove(&mut self, port: PortId) -> Option<NetBack<P>> {
        self.table.remove(port);
        self.vifs.remove(&port)
    }

    /// An interface.
    pub fn vif(&mut self, port: PortId) -> Option<&mut NetBack<P>> {
        self.vifs.get_mut(&port)
    }

    /// All interfaces.
    pub fn vifs(&mut self) -> impl Iterator<Item = (PortId, &mut NetBack<P>)> {
        self.vifs.iter_mut().map(|(port, vif)| (*port, vif))
    }

    /// The event channels of all interfaces.
    pub fn ports(&self) -> impl Iterator<Item = Port> {
        self.vifs.values().flat_map(NetBack::ports)
    }

    /// The table of addresses.
    #[must_use]
    pub fn table(&self) -> &MacTable {
        &self.table
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> BridgeCounters {
        self.counters
    }

    /// Whether [`NetBack::on_store`] of an interface has something to write.
    #[must_use]
    pub fn wants_store(&self) -> bool {
        self.vifs.values().any(NetBack::wants_store)
    }

    /// The way out.
    pub fn uplink(&mut self) -> Option<&mut U> {
        self.cards.get_mut(&UPLINK).map(|card| &mut card.uplink)
    }

    /// Moves packets, about `budget` of them; call it when an event channel or the uplink fires.
    pub fn poll(&mut self, budget: usize) -> Progress {
        let mut moved = 0;
        let progress = loop {
            let mut wake = None;
            let now = self.round(&mut wake);
            moved += now;
            if moved >= budget {
                break Progress::More;
            }
            if now == 0 && !self.arm() {
                break wake.map_or(Progress::Idle, Progress::Wake);
            }
        };
        // Answers are shown once for each poll, and so are events.
        for vif in self.vifs.values_mut() {
            vif.publish();
        }
        progress
    }

    /// Asks for events of queues from which all was taken. `true`: there is more already.
    fn arm(&mut self) -> bool {
        let mut found = false;
        for vif in self.vifs.values_mut().filter(|vif| vif.is_connected()) {
            found |= vif.arm_control();
            let mut fault = None;
            if vif.allowance().is_err() {
                continue;
            }
            for queue in vif.queues.iter_mut().filter(|queue| queue.backlog.is_empty()) {
                match queue.tx.arm(1) {
                    Ok(more) => found |= more,
                    Err(reason) => fault = Some(reason),
                }
            }
            if let Some(reason) = fault {
                vif.disable(format!("{reason}"));
            }
        }
        found
    }

    fn round(&mut self, wake: &mut Option<Nanos>) -> usize {
        let asked: usize = self.vifs.values_mut().map(NetBack::serve_control).sum();
        let taken = asked + self.take(wake) + self.receive();
        let forwarded = self.forward(wake);
        taken + forwarded
    }

    fn copy(&mut self, copies: &mut [GrantCopy]) {
        if !copies.is_empty() {
            self.counters.copies += copies.len() as u64;
            self.counters.copied_bytes += copies.iter().map(|copy| u64::from(copy.len)).sum::<u64>();
            self.platform.grant_copy(copies);
        }
    }
}

fn sooner(wake: &mut Option<Nanos>, at: Nanos) {
    *wake = Some(wake.map_or(at, |other| other.min(at)));
}
