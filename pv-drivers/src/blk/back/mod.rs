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
mod fan;
mod intake;
mod jobs;
mod link;
mod memory;

use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, Port};
use pv_abi::io::blkif::{self, key};

use super::device::{BlockDevice, Geometry};
use crate::platform::Platform;
use crate::xenbus::{Backend, XenbusState};
use crate::xs::{Store, TransactionId, read_number, write_display};
use fan::{Fan, Mail};
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
    /// The most queues, each with a ring and a port; at least one.
    pub max_queues: u32,
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
            max_queues: 4,
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
    /// A connection for each queue; none while there is no front end.
    links: Vec<Link<P>>,
    mail: Mail,
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
            links: Vec::new(),
            mail: Mail::new(),
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

    /// Our ends of the event channels, one for each queue, while connected.
    pub fn ports(&self) -> impl Iterator<Item = Port> {
        self.links.iter().map(Link::port)
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
        self.links.is_empty() && matches!(self.phase, Phase::Closed | Phase::Failed)
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
            (key::MULTI_QUEUE_MAX_QUEUES, self.options.max_queues.max(1).into()),
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
                if let Some(reason) = self.links.iter().find_map(Link::fault) {
                    self.fail(store, reason);
                } else if matches!(front, XenbusState::Closing | XenbusState::Closed | XenbusState::Unknown) {
                    self.phase = Phase::Draining;
                    self.drain(store, front);
                }
            }
            Phase::Draining => self.drain(store, front),
            Phase::Closed | Phase::Failed => {
                self.drop_links_if_idle();
                if self.links.is_empty() && matches!(front, XenbusState::Closed | XenbusState::Unknown) {
                    self.say(store, XenbusState::Closed);
                }
                // The front end may start over.
                if front == XenbusState::Initialising && self.links.is_empty() {
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
        let result = self
            .open_links(store)
            .and_then(|links| self.publish_disk(store).map(|()| links).map_err(|e| alloc::format!("{e}")));
        match result {
            Ok(links) => {
                let summary = links.first().map(Link::summary).unwrap_or_default();
                match links.len() {
                    1 => log::info!("{}: connected, {summary}", self.ends.dir()),
                    count => log::info!("{}: connected, {count} queues of {summary}", self.ends.dir()),
                }
                self.mail = links.iter().map(|_| Vec::new()).collect();
                self.links = links;
                self.phase = Phase::Connected;
                self.say(store, XenbusState::Connected);
            }
            Err(reason) => self.fail(store, reason),
        }
    }

    /// Connects every queue, or none.
    fn open_links(&self, store: &mut dyn Store) -> Result<Vec<Link<P>>, String> {
        let offer = Offer { geometry: self.geometry, max_indirect: self.options.max_indirect };
        let has_memory = self.device.location(0, 1).is_some();
        let count = self.ends.peer_number(store, key::MULTI_QUEUE_NUM_QUEUES).unwrap_or(1);
        let most = self.options.max_queues.max(1);
        if !(1..=u64::from(most)).contains(&count) {
            return Err(alloc::format!("{count} queues where 1 to {most} are offered"));
        }
        let prefix = |queue| if count == 1 { String::new() } else { alloc::format!("queue-{queue}/") };
        (0..count)
            .map(|queue| {
                let (ends, options) = (&self.ends, &self.options);
                Link::connect(&self.platform, store, ends, &prefix(queue), offer, options, has_memory)
            })
            .collect()
    }

    fn fail(&mut self, store: &mut dyn Store, reason: String) {
        self.ends.report(store, &reason);
        self.failure = Some(reason);
        self.phase = Phase::Failed;
        self.drop_links_if_idle();
        self.say(store, XenbusState::Closing);
    }

    /// Closes once the device is done. A front end that is closing is told `Closing` first, and `Closed` when it has
    /// closed itself: Linux waits for the former before it powers off.
    fn drain(&mut self, store: &mut dyn Store, front: XenbusState) {
        self.drop_links_if_idle();
        if !self.links.is_empty() {
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
    fn drop_links_if_idle(&mut self) {
        if !self.stop_links() {
            self.links.clear();
        }
    }

    /// Stops all queues; whether the device is still at work for one.
    fn stop_links(&mut self) -> bool {
        let Self { links, device, mail, counters, .. } = self;
        // What one of them hears of another's may be the last thing that it waited for.
        for _ in 0..2 {
            for (queue, link) in links.iter_mut().enumerate() {
                link.stop(&mut Fan { device, queue, mail }, counters);
            }
        }
        links.iter().any(Link::is_running)
    }

    /// Moves requests and answers; call it when a port fires and when the device does.
    pub fn poll(&mut self) -> Progress {
        if self.links.is_empty() {
            return Progress::Idle;
        }
        match self.phase {
            Phase::Connected => {}
            Phase::Draining | Phase::Failed => {
                return if self.stop_links() { Progress::Idle } else { Progress::Store };
            }
            Phase::Waiting | Phase::Closed => return Progress::Idle,
        }
        let Self { links, device, mail, options, counters, .. } = self;
        let mut progress = Progress::Idle;
        for (queue, link) in links.iter_mut().enumerate() {
            match link.poll(&mut Fan { device, queue, mail }, options, counters) {
                Ok(true) => progress = Progress::More,
                Ok(false) => {}
                Err(()) => return Progress::Store,
            }
        }
        // A later queue may have heard of what an earlier one waits for.
        if mail.iter().any(|letters| !letters.is_empty()) { Progress::More } else { progress }
    }
}

impl<P: Platform, D: BlockDevice<P::Memory>> Drop for BlkBack<P, D> {
    fn drop(&mut self) {
        self.stop_links();
    }
}
