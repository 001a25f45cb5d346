//! A disk for the guest, served by another domain.
//!
//! Requests are submitted with a [`Buffer`] from the front end's own pool, whose pages are granted once for all time;
//! [`BlkFront::kick`] shows them to the back end, [`BlkFront::poll`] takes its answers, and each request comes back as
//! one [`Completion`]. Nothing waits; an async task waits for the port, calls `poll`, and looks whose request is done.
//!
//! # Invariants
//!
//! * Every submitted request comes back once, with its buffer, also when the back end dies or breaks the protocol.
//! * A response counts only for a request that is in the ring, once.
//! * With [`FrontOptions::reconnect`], requests without an answer are sent again to the next back end: a write is
//!   either answered or done again.

mod buffer;
mod link;
mod states;
mod transfer;

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::Port;
use pv_abi::io::blkif;

use super::device::{BlockError, Geometry, SECTOR_SIZE};
use super::slots::Slots;
use crate::platform::{PAGE_SIZE, Platform};
use crate::xenbus::Frontend;
pub use buffer::Buffer;
use buffer::{Page, PoolHandle};
use link::Link;

/// What a front end asks for.
#[derive(Clone, Copy, Debug)]
pub struct FrontOptions {
    /// The largest ring, as a power of two of pages.
    pub max_ring_order: u32,
    /// The most segments of an indirect request; zero to use none.
    pub max_indirect: usize,
    /// The most queues, each with a ring and a port; at least one.
    pub max_queues: u32,
    /// The most pages of the pool.
    pub pool_pages: usize,
    /// Keep unanswered requests when the back end goes away, and send them to the next.
    pub reconnect: bool,
}

impl Default for FrontOptions {
    fn default() -> Self {
        Self { max_ring_order: 2, max_indirect: 256, max_queues: 1, pool_pages: 2048, reconnect: false }
    }
}

/// Where a front end stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrontState {
    /// The back end is not ready.
    Connecting,
    /// In use.
    Connected,
    /// Closing; takes no new requests.
    Closing,
    /// Closed.
    Closed,
    /// Given up; see [`BlkFront::failure`].
    Failed,
}

/// The number of a submitted request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(u64);

impl RequestId {
    /// How many requests of this front end were taken before this one.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// A request that is done.
pub struct Completion<P: Platform> {
    /// Which.
    pub id: RequestId,
    /// What became of it.
    pub result: Result<(), BlockError>,
    /// Its buffer.
    pub buffer: Option<Buffer<P>>,
}

/// A request that was not taken.
pub struct SubmitError<P: Platform> {
    /// Why; `None` when the queue is full: try again after a completion.
    pub error: Option<BlockError>,
    /// The buffer, back.
    pub buffer: Option<Buffer<P>>,
}

impl<P: Platform> core::fmt::Debug for SubmitError<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SubmitError").field("error", &self.error).finish_non_exhaustive()
    }
}

/// What happened so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FrontCounters {
    /// Requests of the user.
    pub requests: u64,
    /// Requests in the ring.
    pub ring_requests: u64,
    /// Events sent to the back end.
    pub notifications: u64,
    /// Polls that found answers.
    pub busy_polls: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Command {
    Read,
    Write,
    Barrier,
    Flush,
    Discard { count: u64, is_secure: bool },
}

/// A request of the user.
struct Job<P: Platform> {
    id: RequestId,
    command: Command,
    sector: u64,
    buffer: Option<Buffer<P>>,
    parts_left: usize,
    error: Option<BlockError>,
}

/// A request of the ring.
struct Part<P: Platform> {
    job: usize,
    /// Which pages of the job's buffer.
    first_page: usize,
    pages: usize,
    /// Tells this use of the slot from earlier ones.
    generation: u32,
    /// In whose ring it is or will be.
    queue: usize,
    in_ring: bool,
    descriptors: Vec<Page<P>>,
}

/// The front end of a disk.
pub struct BlkFront<P: Platform> {
    platform: P,
    ends: Frontend,
    options: FrontOptions,
    state: FrontState,
    /// A connection for each queue; none while there is no back end.
    links: Vec<Link<P>>,
    /// The queue of the next request, before it is brought into range.
    turn: usize,
    geometry: Option<Geometry>,
    pool: PoolHandle<P>,
    jobs: Slots<Job<P>>,
    parts: Slots<Part<P>>,
    generation: u32,
    next_id: u64,
    completions: VecDeque<Completion<P>>,
    counters: FrontCounters,
    failure: Option<String>,
}

impl<P: Platform> BlkFront<P> {
    /// Starts a front end; call [`Self::on_store`] now and whenever the back end's state may have changed.
    pub fn new(platform: &P, ends: Frontend, options: FrontOptions) -> Self {
        let pool = PoolHandle::new(platform, ends.peer(), options.pool_pages);
        Self {
            platform: platform.clone(),
            ends,
            options,
            state: FrontState::Connecting,
            links: Vec::new(),
            turn: 0,
            geometry: None,
            pool,
            jobs: Slots::new(),
            parts: Slots::new(),
            generation: 0,
            next_id: 0,
            completions: VecDeque::new(),
            counters: FrontCounters::default(),
            failure: None,
        }
    }

    /// The two ends in XenStore.
    #[must_use]
    pub fn ends(&self) -> &Frontend {
        &self.ends
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> FrontState {
        self.state
    }

    /// Why it was given up, if it was.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The event channels, one for each queue, once they are there.
    pub fn ports(&self) -> impl Iterator<Item = Port> {
        self.links.iter().map(|link| link.port)
    }

    /// Chooses the queue of the requests that follow: the number of the processor that submits them, say. It is brought
    /// into range.
    pub fn choose_queue(&mut self, queue: usize) {
        self.turn = queue;
    }

    /// What the disk is like, once connected.
    #[must_use]
    pub fn geometry(&self) -> Option<Geometry> {
        self.geometry
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> FrontCounters {
        self.counters
    }

    /// A line about the connection: ring size and features.
    #[must_use]
    pub fn summary(&self) -> String {
        match self.links.first() {
            None => "not connected".into(),
            Some(link) => alloc::format!(
                "{}{} slots, {} segments, {}{}{}",
                match self.links.len() {
                    1 => String::new(),
                    count => alloc::format!("{count} queues of "),
                },
                link.ring.slots(),
                link.features.max_segments,
                if link.features.has_persistent { "persistent" } else { "not persistent" },
                if link.features.has_flush { ", flush" } else { "" },
                if link.features.discard.is_some() { ", discard" } else { "" },
            ),
        }
    }

    /// Requests that are not done.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.jobs.len()
    }

    /// Memory for the data of a request: whole sectors.
    ///
    /// # Errors
    /// `ENOMEM` when the pool is used up.
    pub fn buffer(&self, len: usize) -> Result<Buffer<P>, Errno> {
        self.pool.buffer(len)
    }

    /// Reads sectors into the whole buffer.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub fn read(&mut self, sector: u64, buffer: Buffer<P>) -> Result<RequestId, SubmitError<P>> {
        self.submit(Command::Read, sector, Some(buffer))
    }

    /// Writes the whole buffer.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub fn write(&mut self, sector: u64, buffer: Buffer<P>) -> Result<RequestId, SubmitError<P>> {
        self.submit(Command::Write, sector, Some(buffer))
    }

    /// Writes the whole buffer, after all writes before and before all writes after.
    ///
    /// # Errors
    /// [`SubmitError`]; [`BlockError::NotSupported`] when the back end has no barriers, the buffer is too large, or there
    /// is more than one queue.
    pub fn write_barrier(&mut self, sector: u64, buffer: Buffer<P>) -> Result<RequestId, SubmitError<P>> {
        self.submit(Command::Barrier, sector, Some(buffer))
    }

    /// Makes completed writes durable.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub fn flush(&mut self) -> Result<RequestId, SubmitError<P>> {
        self.submit(Command::Flush, 0, None)
    }

    /// Forgets sectors.
    ///
    /// # Errors
    /// [`SubmitError`]; [`BlockError::NotSupported`].
    pub fn discard(&mut self, sector: u64, count: u64, is_secure: bool) -> Result<RequestId, SubmitError<P>> {
        self.submit(Command::Discard { count, is_secure }, sector, None)
    }

    /// Why a request cannot be taken.
    fn check(&self, command: Command, sector: u64, len: usize) -> Result<(), BlockError> {
        let geometry = match (self.state, &self.geometry) {
            (FrontState::Connected, Some(geometry)) => geometry,
            // A front end that reconnects knows its disk and queues.
            (FrontState::Connecting, Some(geometry)) if self.options.reconnect => geometry,
            _ => return Err(BlockError::Disconnected),
        };
        let count = match command {
            Command::Flush => return Ok(()),
            Command::Discard { count, .. } => count,
            _ if len == 0 || !len.is_multiple_of(SECTOR_SIZE) => return Err(BlockError::OutOfRange),
            _ => (len / SECTOR_SIZE) as u64,
        };
        if command != Command::Read && geometry.is_read_only {
            return Err(BlockError::ReadOnly);
        }
        if !geometry.contains(sector, count) {
            return Err(BlockError::OutOfRange);
        }
        let features = self.links.first().map(|link| link.features);
        match command {
            Command::Barrier => {
                let fits = len.div_ceil(PAGE_SIZE) <= blkif::MAX_SEGMENTS_PER_REQUEST;
                let has_barrier = features.is_some_and(|features| features.has_barrier);
                // Nothing is ordered between queues.
                if fits && has_barrier && self.links.len() == 1 {
                    Ok(())
                } else {
                    Err(BlockError::NotSupported)
                }
            }
            Command::Discard { is_secure, .. } => match geometry.discard {
                Some(discard) if discard.is_secure || !is_secure => Ok(()),
                _ => Err(BlockError::NotSupported),
            },
            _ => Ok(()),
        }
    }

    fn submit(
        &mut self,
        command: Command,
        sector: u64,
        buffer: Option<Buffer<P>>,
    ) -> Result<RequestId, SubmitError<P>> {
        if let Err(error) = self.check(command, sector, buffer.as_ref().map_or(0, Buffer::len)) {
            return Err(SubmitError { error: Some(error), buffer });
        }
        // As many may wait as are in the ring.
        let link = self.links.get(self.turn % self.links.len().max(1));
        if link.is_some_and(|link| link.waiting.len() >= link.ring.slots() as usize) {
            return Err(SubmitError { error: None, buffer });
        }
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.counters.requests += 1;
        let job = Job { id, command, sector, buffer, parts_left: 0, error: None };
        let at = self.jobs.insert(job);
        let queue = self.turn % self.links.len().max(1);
        self.enqueue(at);
        self.fill(queue);
        Ok(id)
    }

    /// Shows submitted requests to the back end.
    pub fn kick(&mut self) {
        for queue in 0..self.links.len() {
            self.kick_queue(queue);
        }
    }

    fn kick_queue(&mut self, queue: usize) {
        self.fill(queue);
        if let Some(link) = self.links.get_mut(queue)
            && self.state == FrontState::Connected
            && link.ring.publish()
        {
            self.counters.notifications += 1;
            self.platform.notify(link.port);
        }
    }

    /// Takes answers, and sends what waited for room; call it when a port fires. `true`: there are completions.
    pub fn poll(&mut self) -> bool {
        if matches!(self.state, FrontState::Connected | FrontState::Closing) {
            if let Err(reason) = self.take_responses() {
                self.give_up(reason);
            }
            self.kick();
        }
        !self.completions.is_empty()
    }

    /// Takes a request that is done.
    pub fn next_completion(&mut self) -> Option<Completion<P>> {
        self.completions.pop_front()
    }
}
