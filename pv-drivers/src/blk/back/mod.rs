//! The end that serves a disk to a guest.
//!
//! [`BlkBack::poll`] moves requests and answers, and is called when the port or the device fires; [`BlkBack::on_store`]
//! follows the states in XenStore. Nothing waits.
//!
//! # Invariants
//!
//! * Every request that was taken is answered once, unless the connection is closed first.
//! * Memory of the guest stays mapped as long as the device may use it, whatever the guest does.
//! * The guest is told to send no event while we are sure to look at the ring again anyway.

mod dialect;
mod intake;
mod jobs;
mod link;
mod memory;

use alloc::string::String;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, Port};
use pv_abi::io::blkif::{self, key};

use super::device::{BlockDevice, Geometry};
use crate::platform::Platform;
use crate::xenbus::{Backend, XenbusState};
use crate::xs::{Store, TransactionId, read_number, write_display};
use intake::Offer;
use link::Link;

/// How the front end's data is reached.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum DataPath {
    /// By persistent grants if the front end uses them, else by copying if the disk is memory, else by mapping.
    #[default]
    Auto,
    /// By mapping for each request.
    Map,
    /// By copying, in the hypervisor.
    Copy,
}

/// What a back end offers and allows itself.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How data moves.
    pub data_path: DataPath,
    /// The most segments of an indirect request; zero to offer none.
    pub max_indirect: usize,
    /// The largest ring, as a power of two of pages.
    pub max_ring_order: u32,
    /// Pages that stay mapped.
    pub max_persistent: usize,
    /// Requests that one poll takes.
    pub budget: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data_path: DataPath::Auto,
            max_indirect: 256,
            max_ring_order: 4,
            max_persistent: 2048,
            budget: 512,
        }
    }
}

/// What happened so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Requests taken from the ring.
    pub requests: u64,
    /// Of these, refused or failed.
    pub errors: u64,
    /// Sectors read for the guest.
    pub sectors_read: u64,
    /// Sectors written for the guest.
    pub sectors_written: u64,
    /// Requests that became part of another one's.
    pub merged: u64,
    /// Requests submitted to the device.
    pub device_requests: u64,
    /// Copies by the hypervisor.
    pub copies: u64,
    /// Bytes in them.
    pub copied_bytes: u64,
    /// Grants mapped.
    pub maps: u64,
    /// Grants unmapped.
    pub unmaps: u64,
    /// Events sent to the guest.
    pub notifications: u64,
    /// Polls that found something to do.
    pub busy_polls: u64,
}

/// What a poll did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Nothing more to do until the port or the device fires.
    Idle,
    /// The budget is used up: poll again soon.
    More,
    /// [`BlkBack::on_store`] has something to write.
    Store,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The front end has not published its ring.
    Waiting,
    Connected,
    /// Waits for the device before it lets go of the guest's memory.
    Draining,
    Closed,
    /// Given up for a reason; stays so until the front end starts over.
    Failed,
}

/// The back end of one disk of one guest.
pub struct BlkBack<P: Platform, D: BlockDevice<P::Memory>> {
    platform: P,
    ends: Backend,
    device: D,
    geometry: Geometry,
    options: Options,
    phase: Phase,
    link: Option<Link<P>>,
    counters: Counters,
    failure: Option<String>,
}

impl<P: Platform, D: BlockDevice<P::Memory>> BlkBack<P, D> {
    /// Publishes what the device can do, and waits for the front end.
    ///
    /// # Errors
    /// What the store says.
    pub fn new(
        platform: &P,
        store: &mut dyn Store,
        ends: Backend,
        device: D,
        options: Options,
    ) -> Result<Self, Errno> {
        let mut geometry = device.geometry();
        let mode = crate::xs::read_text(store, TransactionId::NONE, &ends.key(key::MODE));
        geometry.is_read_only |= mode.is_some_and(|mode| !mode.contains('w'));
        let is_enabled = read_number(store, TransactionId::NONE, &ends.key(key::DISCARD_ENABLE)) != Some(0);
        geometry.discard = geometry.discard.filter(|_| is_enabled && !geometry.is_read_only);
        let back = Self {
            platform: platform.clone(),
            ends,
            device,
            geometry,
            options,
            phase: Phase::Waiting,
            link: None,
            counters: Counters::default(),
            failure: None,
        };
        back.publish_features(store)?;
        back.ends.set_state(store, XenbusState::InitWait)?;
        Ok(back)
    }

    /// The two ends in XenStore.
    #[must_use]
    pub fn ends(&self) -> &Backend {
        &self.ends
    }

    /// The guest.
    #[must_use]
    pub fn domain(&self) -> DomainId {
        self.ends.peer()
    }

    /// Our end of the event channel, while connected.
    #[must_use]
    pub fn port(&self) -> Option<Port> {
        self.link.as_ref().map(Link::port)
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Why the connection was given up, if it was.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Whether a front end is connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.phase == Phase::Connected
    }

    /// Whether this end is closed and holds nothing of the guest any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.link.is_none() && matches!(self.phase, Phase::Closed | Phase::Failed)
    }

    /// The device.
    pub fn device(&mut self) -> &mut D {
        &mut self.device
    }

    fn publish_features(&self, store: &mut dyn Store) -> Result<(), Errno> {
        let persistent = self.options.data_path == DataPath::Auto;
        let mut keys = alloc::vec![
            (key::FEATURE_BARRIER, u64::from(!self.geometry.is_read_only)),
            (key::FEATURE_FLUSH_CACHE, 1),
            (key::FEATURE_PERSISTENT, u64::from(persistent)),
            (key::MAX_RING_PAGE_ORDER, self.options.max_ring_order.into()),
            (key::MAX_RING_PAGES, 1 << self.options.max_ring_order),
        ];
        if self.options.max_indirect > 0 {
            keys.push((key::FEATURE_MAX_INDIRECT_SEGMENTS, self.options.max_indirect as u64));
        }
        if let Some(discard) = self.geometry.discard {
            keys.push((key::FEATURE_DISCARD, 1));
            keys.push((key::DISCARD_GRANULARITY, discard.granularity.into()));
            keys.push((key::DISCARD_ALIGNMENT, discard.alignment.into()));
            keys.push((key::DISCARD_SECURE, discard.is_secure.into()));
        }
        for (name, value) in keys {
            write_display(store, TransactionId::NONE, &self.ends.key(name), value)?;
        }
        Ok(())
    }

    fn publish_disk(&self, store: &mut dyn Store) -> Result<(), Errno> {
        let info = if self.geometry.is_read_only { blkif::VDISK_READONLY } else { 0 };
        let keys = [
            (key::SECTORS, self.geometry.sectors),
            (key::SECTOR_SIZE, blkif::SECTOR_SIZE as u64),
            (key::PHYSICAL_SECTOR_SIZE, self.geometry.block_size.into()),
            (key::INFO, info.into()),
        ];
        for (name, value) in keys {
            write_display(store, TransactionId::NONE, &self.ends.key(name), value)?;
        }
        Ok(())
    }

    /// Follows the states in XenStore; call it when the front end's state may have changed, and when
    /// [`Self::poll`] asks for it.
    pub fn on_store(&mut self, store: &mut dyn Store) {
        let front = self.ends.peer_state(store);
        match self.phase {
            Phase::Waiting => match front {
                XenbusState::Initialised | XenbusState::Connected => self.connect(store),
                XenbusState::Closing | XenbusState::Closed => {
                    self.phase = Phase::Closed;
                    self.say(store, XenbusState::Closed);
                }
                _ => {}
            },
            Phase::Connected => {
                if let Some(reason) = self.link.as_ref().and_then(Link::fault) {
                    self.fail(store, reason);
                } else if matches!(front, XenbusState::Closing | XenbusState::Closed | XenbusState::Unknown) {
                    self.phase = Phase::Draining;
                    self.drain(store, front);
                }
            }
            Phase::Draining => self.drain(store, front),
            Phase::Closed | Phase::Failed => {
                self.drop_link_if_idle();
                if self.link.is_none() && matches!(front, XenbusState::Closed | XenbusState::Unknown) {
                    self.say(store, XenbusState::Closed);
                }
                // The front end may start over.
                if front == XenbusState::Initialising && self.link.is_none() {
                    self.phase = Phase::Waiting;
                    self.failure = None;
                    self.say(store, XenbusState::InitWait);
                }
            }
        }
    }

    fn say(&self, store: &mut dyn Store, state: XenbusState) {
        // A directory that has gone needs no state.
        if let Err(error) = self.ends.set_state(store, state) {
            log::debug!("{}: state {state:?} not written: {error}", self.ends.dir());
        }
    }

    fn connect(&mut self, store: &mut dyn Store) {
        let offer = Offer { geometry: self.geometry, max_indirect: self.options.max_indirect };
        let has_memory = self.device.location(0, 1).is_some();
        let result = Link::connect(&self.platform, store, &self.ends, offer, &self.options, has_memory)
            .and_then(|link| self.publish_disk(store).map(|()| link).map_err(|e| alloc::format!("{e}")));
        match result {
            Ok(link) => {
                log::info!("{}: connected, {}", self.ends.dir(), link.summary());
                self.link = Some(link);
                self.phase = Phase::Connected;
                self.say(store, XenbusState::Connected);
            }
            Err(reason) => self.fail(store, reason),
        }
    }

    fn fail(&mut self, store: &mut dyn Store, reason: String) {
        self.ends.report(store, &reason);
        self.failure = Some(reason);
        self.phase = Phase::Failed;
        self.drop_link_if_idle();
        self.say(store, XenbusState::Closing);
    }

    /// Closes once the device is done. A front end that is closing is told `Closing` first, and `Closed` when it has
    /// closed itself: Linux waits for the former before it powers off.
    fn drain(&mut self, store: &mut dyn Store, front: XenbusState) {
        self.drop_link_if_idle();
        if self.link.is_some() {
            return;
        }
        if front == XenbusState::Closing {
            self.say(store, XenbusState::Closing);
        } else {
            self.phase = Phase::Closed;
            self.say(store, XenbusState::Closed);
        }
    }

    /// Lets go of the guest's memory, unless the device may still use it.
    fn drop_link_if_idle(&mut self) {
        if let Some(link) = &mut self.link {
            link.stop(&mut self.device, &mut self.counters);
            if !link.is_running() {
                self.link = None;
            }
        }
    }

    /// Moves requests and answers; call it when the port fires and when the device does.
    pub fn poll(&mut self) -> Progress {
        let Some(link) = &mut self.link else { return Progress::Idle };
        match self.phase {
            Phase::Connected => {}
            Phase::Draining | Phase::Failed => {
                link.stop(&mut self.device, &mut self.counters);
                return if link.is_running() { Progress::Idle } else { Progress::Store };
            }
            Phase::Waiting | Phase::Closed => return Progress::Idle,
        }
        match link.poll(&mut self.device, &self.options, &mut self.counters) {
            Ok(true) => Progress::More,
            Ok(false) => Progress::Idle,
            Err(()) => Progress::Store,
        }
    }
}

impl<P: Platform, D: BlockDevice<P::Memory>> Drop for BlkBack<P, D> {
    fn drop(&mut self) {
        if let Some(link) = &mut self.link {
            link.stop(&mut self.device, &mut self.counters);
        }
    }
}
