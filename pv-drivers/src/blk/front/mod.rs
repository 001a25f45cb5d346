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

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::Port;
use pv_abi::io::blkif::{self, DiscardRequest, IndirectRequest, Request, Response, Segment};
use zerocopy::{Immutable, IntoBytes};

use super::device::{BlockError, Geometry, SECTOR_SIZE};
use crate::platform::{PAGE_SIZE, Platform};
use crate::xenbus::{Frontend, XenbusState};
use crate::xs::Store;
pub use buffer::Buffer;
use buffer::{Page, PoolHandle};
use link::{Link, read_geometry};

/// What a front end asks for.
#[derive(Clone, Copy, Debug)]
pub struct FrontOptions {
    /// The largest ring, as a power of two of pages.
    pub max_ring_order: u32,
    /// The most segments of an indirect request; zero to use none.
    pub max_indirect: usize,
    /// The most pages of the pool.
    pub pool_pages: usize,
    /// Keep unanswered requests when the back end goes away, and send them to the next.
    pub reconnect: bool,
}

impl Default for FrontOptions {
    fn default() -> Self {
        Self { max_ring_order: 2, max_indirect: 256, pool_pages: 2048, reconnect: false }
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
    in_ring: bool,
    descriptors: Vec<Page<P>>,
}

/// The front end of a disk.
pub struct BlkFront<P: Platform> {
    platform: P,
    ends: Frontend,
    options: FrontOptions,
    state: FrontState,
    link: Option<Link<P>>,
    geometry: Option<Geometry>,
    pool: PoolHandle<P>,
    jobs: Vec<Option<Job<P>>>,
    parts: Vec<Option<Part<P>>>,
    generation: u32,
    next_id: u64,
    /// Parts that are not in the ring yet.
    queue: VecDeque<usize>,
    completions: VecDeque<Completion<P>>,
    counters: FrontCounters,
    failure: Option<String>,
}

fn insert<T>(slots: &mut Vec<Option<T>>, value: T) -> usize {
    match slots.iter().position(Option::is_none) {
        Some(at) => {
            if let Some(slot) = slots.get_mut(at) {
                *slot = Some(value);
            }
            at
        }
        None => {
            slots.push(Some(value));
            slots.len() - 1
        }
    }
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
            link: None,
            geometry: None,
            pool,
            jobs: Vec::new(),
            parts: Vec::new(),
            generation: 0,
            next_id: 0,
            queue: VecDeque::new(),
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

    /// The event channel, once there is one.
    #[must_use]
    pub fn port(&self) -> Option<Port> {
        self.link.as_ref().map(|link| link.port)
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
        match &self.link {
            None => "not connected".into(),
            Some(link) => alloc::format!(
                "{} slots, {} segments, {}{}{}",
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
        self.jobs.iter().flatten().count()
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
    /// [`SubmitError`]; [`BlockError::NotSupported`] when the back end has no barriers or the buffer is too large.
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
        let features = self.link.as_ref().map(|link| link.features);
        match command {
            Command::Barrier => {
                let fits = len.div_ceil(PAGE_SIZE) <= blkif::MAX_SEGMENTS_PER_REQUEST;
                let has_barrier = features.is_some_and(|features| features.has_barrier);
                if fits && has_barrier { Ok(()) } else { Err(BlockError::NotSupported) }
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
        let slots = self.link.as_ref().map_or(32, |link| link.ring.slots() as usize);
        if self.queue.len() >= slots {
            return Err(SubmitError { error: None, buffer });
        }
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.counters.requests += 1;
        let job = Job { id, command, sector, buffer, parts_left: 0, error: None };
        let at = insert(&mut self.jobs, job);
        self.enqueue(at);
        self.fill();
        Ok(id)
    }

    /// Cuts a job into requests of the ring.
    fn enqueue(&mut self, at: usize) {
        let Some(Some(job)) = self.jobs.get_mut(at) else { return };
        let Some(link) = &self.link else { return };
        if job.command == Command::Flush && !link.features.has_flush && !link.features.has_barrier {
            // Without a cache to flush, writes are durable when they are done.
            self.finish(at);
            return;
        }
        let pages = job.buffer.as_ref().map_or(0, |buffer| buffer.pages.len());
        let step = link.features.max_segments.max(1);
        let parts = pages.div_ceil(step).max(1);
        job.parts_left = parts;
        for number in 0..parts {
            let first_page = number * step;
            let part = Part {
                job: at,
                first_page,
                pages: step.min(pages - first_page),
                generation: self.generation,
                in_ring: false,
                descriptors: Vec::new(),
            };
            self.generation = self.generation.wrapping_add(1);
            let slot = insert(&mut self.parts, part);
            self.queue.push_back(slot);
        }
    }

    /// Puts waiting parts into the ring, as long as there is room.
    fn fill(&mut self) {
        while let Some(&at) = self.queue.front() {
            if !self.put(at) {
                break;
            }
            self.queue.pop_front();
        }
    }

    /// Puts one part into the ring. `false`: no room.
    fn put(&mut self, at: usize) -> bool {
        let Some(link) = self.link.as_mut().filter(|link| link.ring.free() > 0) else { return false };
        let Some(Some(part)) = self.parts.get_mut(at) else { return true };
        let Some(Some(job)) = self.jobs.get(part.job) else { return true };
        let id = (at as u64) | u64::from(part.generation) << 32;
        let sector = job.sector + (part.first_page * (PAGE_SIZE / SECTOR_SIZE)) as u64;
        let segments = segments(job, part);
        let operation = match job.command {
            Command::Read => blkif::OP_READ,
            Command::Write => blkif::OP_WRITE,
            Command::Barrier => blkif::OP_WRITE_BARRIER,
            Command::Flush if link.features.has_flush => blkif::OP_FLUSH_DISKCACHE,
            Command::Flush => blkif::OP_WRITE_BARRIER,
            Command::Discard { count, is_secure } => {
                let request = DiscardRequest {
                    operation: blkif::OP_DISCARD,
                    flag: if is_secure { blkif::DISCARD_SECURE } else { 0 },
                    id,
                    sector_number: sector,
                    nr_sectors: count,
                    ..DiscardRequest::default()
                };
                return push(&mut link.ring, &request, part, &mut self.counters);
            }
        };
        if segments.len() <= blkif::MAX_SEGMENTS_PER_REQUEST {
            let mut request = Request { operation, id, sector_number: sector, ..Request::default() };
            request.nr_segments = u8::try_from(segments.len()).unwrap_or(0);
            for (to, from) in request.seg.iter_mut().zip(segments) {
                *to = from;
            }
            return push(&mut link.ring, &request, part, &mut self.counters);
        }
        let needed = segments.len().div_ceil(blkif::SEGMENTS_PER_INDIRECT_PAGE);
        let Ok(descriptors) = self.pool.take_own(needed) else { return false };
        let mut request = IndirectRequest {
            operation: blkif::OP_INDIRECT,
            indirect_op: operation,
            nr_segments: u16::try_from(segments.len()).unwrap_or(0),
            id,
            sector_number: sector,
            ..IndirectRequest::default()
        };
        let chunks = segments.chunks(blkif::SEGMENTS_PER_INDIRECT_PAGE);
        for ((page, chunk), gref) in descriptors.iter().zip(chunks).zip(&mut request.indirect_grefs) {
            page.copy_in(0, chunk.as_bytes());
            *gref = page.grant().raw();
        }
        part.descriptors = descriptors;
        push(&mut link.ring, &request, part, &mut self.counters)
    }

    /// Shows submitted requests to the back end.
    pub fn kick(&mut self) {
        self.fill();
        if let Some(link) = &mut self.link
            && self.state == FrontState::Connected
            && link.ring.publish()
        {
            self.counters.notifications += 1;
            self.platform.notify(link.port);
        }
    }

    /// Takes answers, and sends what waited for room; call it when the port fires. `true`: there are completions.
    pub fn poll(&mut self) -> bool {
        if matches!(self.state, FrontState::Connected | FrontState::Closing) {
            if let Err(reason) = self.take_responses() {
                self.give_up(reason);
            }
            self.kick();
        }
        !self.completions.is_empty()
    }

    fn take_responses(&mut self) -> Result<(), String> {
        let mut found = false;
        loop {
            while let Some(response) = self.next_response()? {
                found = true;
                self.on_response(&response)?;
            }
            // What waits for room goes first, so that the event below is asked for with it in mind.
            self.kick();
            let Some(link) = &mut self.link else { break };
            // An event for every fourth of what is outstanding: all of it will be answered, so it will come.
            let after = link.ring.outstanding() / 4;
            if !link.ring.arm(after).map_err(|fault| alloc::format!("{fault}"))? {
                break;
            }
        }
        self.counters.busy_polls += u64::from(found);
        Ok(())
    }

    fn next_response(&mut self) -> Result<Option<Response>, String> {
        let Some(link) = &mut self.link else { return Ok(None) };
        let next = link.ring.pop().map_err(|fault| alloc::format!("{fault}"))?;
        Ok(next.map(|(_, response)| response))
    }

    fn on_response(&mut self, response: &Response) -> Result<(), String> {
        let slot = usize::try_from(response.id & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        let entry = self.parts.get_mut(slot);
        let is_ours = |part: &Part<P>| part.in_ring && u64::from(part.generation) == response.id >> 32;
        let Some(part) = entry.filter(|part| part.as_ref().is_some_and(is_ours)).and_then(Option::take)
        else {
            return Err(alloc::format!("a response to no request, {:#x}", response.id));
        };
        self.pool.give(part.descriptors.into_iter());
        let error = match response.status {
            blkif::RSP_OKAY => None,
            blkif::RSP_EOPNOTSUPP => Some(BlockError::NotSupported),
            _ => Some(BlockError::Io),
        };
        if let Some(Some(job)) = self.jobs.get_mut(part.job) {
            job.error = job.error.or(error);
            job.parts_left = job.parts_left.saturating_sub(1);
            if job.parts_left == 0 {
                self.finish(part.job);
            }
        }
        Ok(())
    }

    fn finish(&mut self, at: usize) {
        if let Some(job) = self.jobs.get_mut(at).and_then(Option::take) {
            let result = job.error.map_or(Ok(()), Err);
            self.completions.push_back(Completion { id: job.id, result, buffer: job.buffer });
        }
    }

    /// Takes a request that is done.
    pub fn next_completion(&mut self) -> Option<Completion<P>> {
        self.completions.pop_front()
    }

    fn give_up(&mut self, reason: String) {
        log::error!("{}: the back end broke the protocol: {reason}", self.ends.dir());
        self.failure = Some(reason);
        self.state = FrontState::Failed;
        self.fail_all();
    }

    fn fail_all(&mut self) {
        self.queue.clear();
        self.parts.clear();
        for at in 0..self.jobs.len() {
            if let Some(Some(job)) = self.jobs.get_mut(at) {
                job.error = Some(BlockError::Disconnected);
                self.finish(at);
            }
        }
    }

    /// Whether [`Self::on_store`] has something to write.
    #[must_use]
    pub fn wants_store(&self) -> bool {
        (self.state == FrontState::Failed && self.link.is_some())
            || (self.state == FrontState::Closing && self.outstanding() == 0)
    }

    fn say(&self, store: &mut dyn Store, state: XenbusState) {
        // A directory that has gone needs no state.
        if let Err(error) = self.ends.set_state(store, state) {
            log::debug!("{}: state {state:?} not written: {error}", self.ends.dir());
        }
    }

    /// Follows the states in XenStore.
    pub fn on_store(&mut self, store: &mut dyn Store) {
        let back = self.ends.peer_state(store);
        match self.state {
            FrontState::Connecting => self.on_store_connecting(store, back),
            FrontState::Connected => match back {
                XenbusState::Closing => {
                    self.poll();
                    self.state = FrontState::Closing;
                    self.close_if_idle(store, back);
                }
                XenbusState::Closed | XenbusState::Unknown | XenbusState::Initialising => self.lose(store),
                XenbusState::InitWait => self.lose(store),
                _ => {}
            },
            FrontState::Closing => {
                self.poll();
                if matches!(back, XenbusState::Closed | XenbusState::Unknown) {
                    self.fail_all();
                }
                self.close_if_idle(store, back);
            }
            FrontState::Failed => {
                if self.link.take().is_some() {
                    let reason = self.failure.clone().unwrap_or_default();
                    self.ends.report(store, &reason);
                    self.say(store, XenbusState::Closing);
                }
                if matches!(back, XenbusState::Closed | XenbusState::Unknown) {
                    self.say(store, XenbusState::Closed);
                }
            }
            FrontState::Closed => {}
        }
    }

    fn on_store_connecting(&mut self, store: &mut dyn Store, back: XenbusState) {
        match back {
            XenbusState::InitWait | XenbusState::Initialised | XenbusState::Connected => {}
            // A closed one may start over when it sees that we have.
            XenbusState::Closing if !self.options.reconnect => {
                self.state = FrontState::Closed;
                self.say(store, XenbusState::Closed);
                return;
            }
            _ => return,
        }
        if self.link.is_none() {
            Link::<P>::unpublish(store, &self.ends);
            match Link::publish(&self.platform, store, &self.ends, &self.options) {
                Ok(link) => {
                    self.link = Some(link);
                    self.say(store, XenbusState::Initialised);
                }
                Err(reason) => {
                    self.ends.report(store, &reason);
                    self.failure = Some(reason);
                    self.state = FrontState::Failed;
                    self.say(store, XenbusState::Closing);
                    return;
                }
            }
        }
        if back == XenbusState::Connected {
            self.connected(store);
        }
    }

    fn connected(&mut self, store: &mut dyn Store) {
        let Some(link) = &self.link else { return };
        match read_geometry(store, &self.ends, &link.features) {
            Ok(geometry) => {
                self.geometry = Some(geometry);
                self.state = FrontState::Connected;
                self.say(store, XenbusState::Connected);
                self.requeue();
                self.kick();
            }
            Err(reason) => self.give_up(reason),
        }
    }

    /// Sends what an earlier back end did not answer, in the order in which it was submitted.
    fn requeue(&mut self) {
        let mut order: Vec<(RequestId, usize)> = Vec::new();
        for (at, job) in self.jobs.iter().enumerate() {
            order.extend(job.as_ref().map(|job| (job.id, at)));
        }
        order.sort_unstable();
        for (_, at) in order {
            self.enqueue(at);
        }
    }

    /// The back end has gone without a word.
    fn lose(&mut self, store: &mut dyn Store) {
        self.poll();
        if self.state != FrontState::Connected {
            return;
        }
        // The ring dies with the back end; its pages are kept away until nobody maps them.
        self.link = None;
        self.queue.clear();
        for part in self.parts.drain(..).flatten() {
            self.pool.give(part.descriptors.into_iter());
        }
        if self.options.reconnect && self.pool.peer() == self.ends.peer() {
            log::warn!("{}: the back end has gone; waiting for another", self.ends.dir());
            for job in self.jobs.iter_mut().flatten() {
                job.parts_left = 0;
                job.error = None;
            }
            self.state = FrontState::Connecting;
            self.say(store, XenbusState::Closed);
            self.say(store, XenbusState::Initialising);
            self.on_store(store);
        } else {
            self.fail_all();
            self.state = FrontState::Closed;
            self.say(store, XenbusState::Closed);
        }
    }

    /// Starts to close: no new requests; those submitted are still answered. Call [`Self::on_store`] until the state
    /// is [`FrontState::Closed`].
    pub fn close(&mut self, store: &mut dyn Store) {
        match self.state {
            FrontState::Connected => {
                self.kick();
                self.state = FrontState::Closing;
                self.close_if_idle(store, XenbusState::Connected);
            }
            FrontState::Connecting => {
                self.link = None;
                self.fail_all();
                self.state = FrontState::Closed;
                self.say(store, XenbusState::Closed);
            }
            FrontState::Closing | FrontState::Closed | FrontState::Failed => {}
        }
    }

    /// Says `Closing` when all is answered, and `Closed` when the back end has let go of the ring, or wants us to be
    /// first.
    fn close_if_idle(&mut self, store: &mut dyn Store, back: XenbusState) {
        if self.outstanding() > 0 {
            return;
        }
        if matches!(back, XenbusState::Closing | XenbusState::Closed | XenbusState::Unknown) {
            self.link = None;
            self.state = FrontState::Closed;
            self.say(store, XenbusState::Closed);
        } else {
            self.say(store, XenbusState::Closing);
        }
    }
}

/// The segments of a part, as the ring wants them.
fn segments<P: Platform>(job: &Job<P>, part: &Part<P>) -> Vec<Segment> {
    let Some(buffer) = &job.buffer else { return Vec::new() };
    let pages = buffer.pages.iter().enumerate().skip(part.first_page).take(part.pages);
    pages
        .map(|(number, page)| {
            let bytes = PAGE_SIZE.min(buffer.len().saturating_sub(number * PAGE_SIZE));
            let last = u8::try_from((bytes / SECTOR_SIZE).saturating_sub(1)).unwrap_or(0);
            Segment { gref: page.grant().raw(), first_sect: 0, last_sect: last, pad: 0 }
        })
        .collect()
}

fn push<P: Platform, T: IntoBytes + Immutable>(
    ring: &mut crate::ring::FrontRing<P>,
    request: &T,
    part: &mut Part<P>,
    counters: &mut FrontCounters,
) -> bool {
    let is_pushed = ring.push(request).is_ok();
    part.in_ring |= is_pushed;
    counters.ring_requests += u64::from(is_pushed);
    is_pushed
}
