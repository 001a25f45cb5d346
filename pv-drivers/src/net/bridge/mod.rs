//! Joins the interfaces of guests with each other and with an uplink.
//!
//! A packet is taken from its sender's ring, its first bytes are copied into private memory and looked at, and all of
//! it is then copied straight into the receiver's buffers (or the uplink's): at once where both ends are pages that stay
//! mapped or memory of our own, by the hypervisor, many in one call, where they are not. What decided about the packet is
//! what arrives: the looked-at bytes come from the private copy.
//!
//! # Rules
//!
//! * Nothing is dropped for want of room: the packet stays with its sender, whose ring fills up. Only a receiver that
//!   shows no life for a while, and copies for everybody (broadcasts), lose packets.
//! * Senders take turns, packet by packet, so that a flood takes no more than its share.
//! * Whoever breaks the rules of a ring is disabled alone.
//!
//! Packets are boxed and passed on by pointer, and all lists are kept from one round to the next: where nothing is new,
//! nothing is allocated.
//!
//! A bridge has one owner; put a lock around it if several processors serve it.

mod copies;
mod execute;
mod guest;
mod place;
mod route;
mod slow;
mod table;
mod take;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::Port;

use super::Mac;
use super::back::NetBack;
use super::transit::{OnTheWay, Pool};
use super::uplink::Uplink;
use crate::platform::{GrantCopy, Nanos, Platform};
pub use table::MacTable;

/// An interface of a bridge. The number of one that was taken out is given again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortId(Place);

/// Where an interface is found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Place {
    Card(usize),
    Vif(usize),
}

/// The uplink's place among the interfaces.
pub const UPLINK: PortId = PortId(Place::Card(0));

/// A place of the bridge that is no guest: the uplink, which is the first, or an address of this domain's own.
struct Card<M, U> {
    uplink: U,
    /// The only address behind it, if that is known.
    mac: Option<Mac>,
    /// Packets from it that wait for their turn.
    received: VecDeque<OnTheWay<M>>,
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
    /// Bytes copied without it: between pages that stay mapped and memory of our own.
    pub mapped_bytes: u64,
}

/// What is to be done together.
struct Plan<M> {
    copies: Vec<GrantCopy>,
    packets: Vec<OnTheWay<M>>,
    /// A packet was put back because its receiver has no room.
    has_blocked: bool,
}

impl<M> Default for Plan<M> {
    fn default() -> Self {
        Self { copies: Vec::new(), packets: Vec::new(), has_blocked: false }
    }
}

/// Lists that are empty between rounds.
#[derive(Default)]
struct Lists {
    peeks: Vec<GrantCopy>,
    /// How many packets were taken from which queue of which interface.
    taken: Vec<(usize, usize, usize)>,
    senders: Vec<(PortId, usize)>,
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
    cards: Vec<Card<P::Memory, U>>,
    vifs: Vec<Option<Box<NetBack<P>>>>,
    /// Whose turn it is to be first.
    turn: usize,
    table: MacTable,
    /// Our own memory for what has to be made ready before it goes on.
    stage: P::Memory,
    counters: BridgeCounters,
    pool: Pool<P::Memory>,
    plan: Plan<P::Memory>,
    lists: Lists,
}

impl<P: Platform, U: Uplink<P::Memory>> Bridge<P, U> {
    /// A bridge without guests.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(platform: &P, uplink: U) -> Result<Self, Errno> {
        Ok(Self {
            platform: platform.clone(),
            cards: alloc::vec![Card::new(uplink, None)],
            vifs: Vec::new(),
            turn: 0,
            table: MacTable::new(64, 1024),
            stage: platform.allocate(STAGE_PAGES)?,
            counters: BridgeCounters::default(),
            pool: Pool::new(),
            plan: Plan::default(),
            lists: Lists::default(),
        })
    }

    /// Adds an interface.
    ///
    /// # Errors
    /// As [`MacTable::add_static`] of its address.
    pub fn add(&mut self, vif: NetBack<P>) -> Result<PortId, Errno> {
        let free = self.vifs.iter().position(Option::is_none);
        let number = free.unwrap_or(self.vifs.len());
        let port = PortId(Place::Vif(number));
        self.table.add_static(vif.mac(), port)?;
        let vif = Some(Box::new(vif));
        match self.vifs.get_mut(number) {
            Some(place) => *place = vif,
            None => self.vifs.push(vif),
        }
        Ok(port)
    }

    /// Adds a place with one address that is no guest's: this domain's own, for one.
    ///
    /// # Errors
    /// As [`MacTable::add_static`] of the address.
    pub fn add_card(&mut self, mac: Mac, card: U) -> Result<PortId, Errno> {
        let port = PortId(Place::Card(self.cards.len()));
        self.table.add_static(mac, port)?;
        self.cards.push(Card::new(card, Some(mac)));
        Ok(port)
    }

    /// Takes an interface out.
    pub fn remove(&mut self, port: PortId) -> Option<NetBack<P>> {
        let Place::Vif(number) = port.0 else { return None };
        let vif = self.vifs.get_mut(number)?.take()?;
        self.table.remove(port);
        Some(*vif)
    }

    /// An interface.
    pub fn vif(&mut self, port: PortId) -> Option<&mut NetBack<P>> {
        let Place::Vif(number) = port.0 else { return None };
        self.vifs.get_mut(number)?.as_deref_mut()
    }

    /// The uplink or another card.
    fn card(&mut self, port: PortId) -> Option<&mut Card<P::Memory, U>> {
        let Place::Card(number) = port.0 else { return None };
        self.cards.get_mut(number)
    }

    /// All interfaces.
    pub fn vifs(&mut self) -> impl Iterator<Item = (PortId, &mut NetBack<P>)> {
        let numbered = self.vifs.iter_mut().enumerate();
        numbered.filter_map(|(number, vif)| Some((PortId(Place::Vif(number)), vif.as_deref_mut()?)))
    }

    /// Enters an address that stays behind an interface, besides that one's own.
    ///
    /// # Errors
    /// `ENOENT` when there is no such interface; else as [`MacTable::add_static`].
    pub fn add_static(&mut self, mac: Mac, port: PortId) -> Result<(), Errno> {
        let is_there = match port.0 {
            Place::Vif(number) => self.vifs.get(number).is_some_and(Option::is_some),
            Place::Card(number) => number < self.cards.len(),
        };
        if !is_there {
            return Err(Errno::ENOENT);
        }
        self.table.add_static(mac, port)
    }

    /// Forgets an address, static or learned.
    ///
    /// # Errors
    /// `ENOENT` when nobody knows it, `EBUSY` when it is an interface's own.
    pub fn forget(&mut self, mac: Mac) -> Result<(), Errno> {
        let vifs = self.vifs.iter().flatten().map(|vif| vif.mac());
        let mut own = vifs.chain(self.cards.iter().filter_map(|card| card.mac));
        if own.any(|own| own == mac) {
            return Err(Errno::EBUSY);
        }
        if self.table.forget(mac) { Ok(()) } else { Err(Errno::ENOENT) }
    }

    /// The event channels of all interfaces.
    pub fn ports(&self) -> impl Iterator<Item = Port> {
        self.vifs.iter().flatten().flat_map(|vif| vif.ports())
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
        self.vifs.iter().flatten().any(|vif| vif.wants_store())
    }

    /// The way out.
    pub fn uplink(&mut self) -> Option<&mut U> {
        self.cards.first_mut().map(|card| &mut card.uplink)
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
            // A packet that waits may have got its room by what was moved.
            if now > 0 && self.plan.has_blocked {
                continue;
            }
            // What comes after the wish for an event is told by that; what came before is taken in another round.
            if !self.arm(&mut wake) && self.receive() == 0 {
                break wake.map_or(Progress::Idle, Progress::Wake);
            }
        };
        // Answers are shown once for each poll, and so are events.
        for vif in self.vifs.iter_mut().flatten() {
            vif.publish();
        }
        progress
    }

    /// Asks for events of queues from which all was taken. `true`: there is more already.
    fn arm(&mut self, wake: &mut Option<Nanos>) -> bool {
        let mut found = false;
        for vif in self.vifs.iter_mut().flatten().filter(|vif| vif.is_connected()) {
            found |= vif.arm_control();
            if let Err(at) = vif.allowance() {
                sooner(wake, at);
                continue;
            }
            let mut fault = None;
            for queue in &mut vif.queues {
                match queue.arm() {
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
        let now = self.platform.now();
        let asked: usize = self.vifs.iter_mut().flatten().map(|vif| vif.serve_control()).sum();
        let taken = asked + self.take(now, wake) + self.receive();
        let forwarded = self.forward(now, wake);
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

/// A guest's interface, to look at while other parts of the bridge are changed.
fn vif_of<P: Platform>(vifs: &[Option<Box<NetBack<P>>>], port: PortId) -> Option<&NetBack<P>> {
    let Place::Vif(number) = port.0 else { return None };
    vifs.get(number)?.as_deref()
}

fn sooner(wake: &mut Option<Nanos>, at: Nanos) {
    *wake = Some(wake.map_or(at, |other| other.min(at)));
}
