//! A connection to a front end: ring, port, the front end's memory, and the requests between.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::ids::{DomainId, GrantRef, Port};
use pv_abi::io::blkif::{self, Response, key};
use smallvec::SmallVec;

use super::super::device::{BlockDevice, Operation, Piece, Request, SECTOR_SIZE, Submitted};
use super::dialect::Dialect;
use super::intake::{Intake, Kind, Offer, Refusal, Segments, parse};
use super::jobs::{Jobs, Work, status_of};
use super::memory::{Cache, HeldPiece, Mode, do_copies};
use super::{Counters, DataPath, Options};
use crate::platform::{Access, CopyEnd, GrantCopy, Platform, SharedMemory};
use crate::ring::{BackRing, RingFault};
use crate::xenbus::Backend;
use crate::xs::{Store, TransactionId, read_text};

/// Requests taken from the ring in one go.
const BATCH: usize = 64;

pub(super) struct Link<P: Platform> {
    platform: P,
    peer: DomainId,
    ring: Option<BackRing<P::Memory>>,
    dialect: Dialect,
    port: Port,
    offer: Offer,
    mode: Mode<P::Memory>,
    jobs: Jobs<P::Memory>,
    /// The device is memory, which is waited for in vain, and takes requests of any size.
    is_prompt: bool,
    fault: Option<RingFault>,
}

impl<P: Platform> Link<P> {
    /// Reads what the front end published of a queue, whose keys begin with `prefix`, and maps its ring.
    pub fn connect(
        platform: &P,
        store: &mut dyn Store,
        ends: &Backend,
        prefix: &str,
        offer: Offer,
        options: &Options,
        has_memory: bool,
    ) -> Result<Self, String> {
        let protocol = read_text(store, TransactionId::NONE, &ends.peer_key(key::PROTOCOL));
        let dialect = Dialect::named(protocol.as_deref())
            .ok_or("the front end speaks another protocol than x86_64-abi or x86_32-abi")?;
        let order = match ends.peer_number(store, key::RING_PAGE_ORDER) {
            Some(order) => order,
            None => {
                ends.peer_number(store, key::NUM_RING_PAGES).map_or(0, |pages| pages.max(1).ilog2().into())
            }
        };
        if order > u64::from(options.max_ring_order) {
            return Err(format!("a ring of order {order} where {} is the most", options.max_ring_order));
        }
        let mut grants = Vec::new();
        for page in 0..1u32 << order {
            let single = (order == 0)
                .then(|| ends.peer_number(store, &format!("{prefix}{}", key::RING_REF)))
                .flatten();
            let number =
                single.or_else(|| ends.peer_number(store, &format!("{prefix}{}{page}", key::RING_REF)));
            let number = number.and_then(|number| u32::try_from(number).ok());
            grants.push(GrantRef::new(number.ok_or("no grant for the ring")?));
        }
        let remote = ends
            .peer_number(store, &format!("{prefix}{}", key::EVENT_CHANNEL))
            .and_then(|number| u32::try_from(number).ok());
        let remote = Port::new(remote.ok_or("no event channel")?);
        let mode = match options.data_path {
            DataPath::Auto if ends.peer_flag(store, key::FEATURE_PERSISTENT) => {
                Mode::Persistent(Cache::new(options.max_persistent))
            }
            DataPath::Auto | DataPath::Copy if has_memory => Mode::Direct,
            DataPath::Copy => Mode::Copy(Vec::new()),
            DataPath::Auto | DataPath::Map => Mode::Map,
        };
        let (peer, geometry) = (ends.peer(), &offer.geometry);
        let pages = platform
            .map(peer, &grants, Access::ReadWrite)
            .map_err(|error| format!("the ring cannot be mapped: {error}"))?;
        let ring = BackRing::new(pages, dialect.slot_size()).map_err(|error| format!("{error}"))?;
        let port = platform
            .bind_interdomain(peer, remote)
            .map_err(|error| format!("the event channel cannot be bound: {error}"))?;
        Ok(Self {
            platform: platform.clone(),
            peer,
            ring: Some(ring),
            dialect,
            port,
            offer,
            mode,
            jobs: Jobs::new(),
            is_prompt: has_memory && geometry.max_pieces == usize::MAX && geometry.max_sectors == u32::MAX,
            fault: None,
        })
    }

    pub fn port(&self) -> Port {
        self.port
    }

    pub fn fault(&self) -> Option<String> {
        self.fault.map(|fault| format!("the front end broke the ring: {fault}"))
    }

    pub fn is_running(&self) -> bool {
        self.jobs.is_running()
    }

    pub fn summary(&self) -> String {
        format!("{} slots, {}", self.ring.as_ref().map_or(0, BackRing::slots), self.mode.name())
    }

    /// Takes no more requests, and lets go of what the device does not use.
    pub fn stop<D: BlockDevice<P::Memory>>(&mut self, device: &mut D, counters: &mut Counters) {
        self.jobs.collect(device);
        self.jobs.abandon();
        self.release(counters);
    }

    fn release(&mut self, counters: &mut Counters) {
        let released = core::mem::take(&mut self.jobs.released);
        self.mode.release(&self.platform, released, counters);
    }

    /// Works until there is nothing to do (`false`) or the budget is used up (`true`).
    pub fn poll<D: BlockDevice<P::Memory>>(
        &mut self,
        device: &mut D,
        options: &Options,
        counters: &mut Counters,
    ) -> Result<bool, ()> {
        if self.fault.is_some() {
            return Err(());
        }
        let before = (counters.requests, self.jobs.in_flight());
        let result = self.work(device, options, counters);
        // Answers are shown once for each poll, and so is the event.
        if self.ring.as_mut().is_some_and(BackRing::publish) {
            counters.notifications += 1;
            self.platform.notify(self.port);
        }
        if before != (counters.requests, self.jobs.in_flight()) {
            counters.busy_polls += 1;
        }
        result.map_err(|fault| self.fault = Some(fault))
    }

    fn work<D: BlockDevice<P::Memory>>(
        &mut self,
        device: &mut D,
        options: &Options,
        counters: &mut Counters,
    ) -> Result<bool, RingFault> {
        let mut budget = options.budget;
        loop {
            self.jobs.collect(device);
            let taken =
                if self.jobs.is_blocked() { 0 } else { self.take(device, budget.min(BATCH), counters)? };
            budget = budget.saturating_sub(taken);
            self.jobs.submit(device, counters);
            self.answer(counters);
            if budget == 0 {
                return Ok(true);
            }
            if self.jobs.is_blocked() {
                // The device has no room, or something must end first: its next completion goes on from here.
                return Ok(false);
            }
            if taken == 0 {
                // While requests are under way, their completions bring us back here: events can be fewer then.
                let under_way = u32::try_from(self.jobs.in_flight()).unwrap_or(u32::MAX);
                let Some(ring) = &mut self.ring else { return Ok(false) };
                if !ring.arm(1 + under_way / 4)? {
                    return Ok(false);
                }
            }
        }
    }

    /// Takes requests from the ring and gives them to the jobs.
    fn take<D: BlockDevice<P::Memory>>(
        &mut self,
        device: &mut D,
        most: usize,
        counters: &mut Counters,
    ) -> Result<usize, RingFault> {
        let Some(ring) = &mut self.ring else { return Ok(0) };
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let count = ring.pending()?.min(most);
        let mut intakes: Vec<Intake> = Vec::new();
        let is_prompt = self.is_prompt && device.room() >= usize::try_from(count).unwrap_or(usize::MAX);
        let mut taken = 0;
        while taken < count {
            taken += 1;
            let raw = self.dialect.take(ring);
            let intake = parse(&raw, &self.offer).and_then(|head| match &head.segments {
                Segments::Direct(segments) => head.complete(segments, &self.offer),
                Segments::Indirect(count, pages) => {
                    let fetched = self.mode.segments(&self.platform, self.peer, pages, *count, counters);
                    let status = blkif::RSP_ERROR;
                    let refusal = Refusal { id: head.id, operation: head.operation, status };
                    fetched.map_err(|_| refusal).and_then(|segments| head.complete(&segments, &self.offer))
                }
            });
            match intake {
                Ok(intake) => {
                    // In their order: behind one that has to wait, all do.
                    if is_prompt && intakes.is_empty() {
                        match at_once(&self.mode, &mut self.jobs, device, &intake, counters) {
                            Soon::Now(status) => {
                                let answer = Refusal { id: intake.id, operation: intake.operation, status };
                                respond(self.dialect, ring, answer);
                                continue;
                            }
                            Soon::Later => continue,
                            Soon::LongWay => {}
                        }
                    }
                    let is_barrier = intake.kind == Kind::Barrier;
                    intakes.push(intake);
                    if is_barrier {
                        break;
                    }
                }
                Err(refusal) => {
                    counters.errors += 1;
                    respond(self.dialect, ring, refusal);
                }
            }
        }
        counters.requests += u64::from(taken);
        if let Mode::Direct = self.mode {
            self.copy_directly(device, &intakes, counters);
        } else {
            self.enqueue(intakes, counters);
        }
        Ok(usize::try_from(taken).unwrap_or(usize::MAX))
    }

    fn enqueue(&mut self, intakes: Vec<Intake>, counters: &mut Counters) {
        let wanted: Vec<_> = intakes.iter().map(|i| (i.runs.as_slice(), i.kind == Kind::Read)).collect();
        let resolved = self.mode.resolve(&self.platform, self.peer, &wanted, counters);
        for (intake, resolved) in intakes.into_iter().zip(resolved) {
            let Ok(resolved) = resolved else {
                self.refuse(&intake, counters);
                continue;
            };
            let work = work(&intake, resolved.pieces, resolved.copies_out);
            let geometry = &self.offer.geometry;
            match intake.kind {
                Kind::Read => {
                    counters.sectors_read += intake.count;
                    self.jobs.add_data(work, Operation::Read, geometry, counters);
                }
                Kind::Write => {
                    counters.sectors_written += intake.count;
                    self.jobs.add_data(work, Operation::Write, geometry, counters);
                }
                Kind::Barrier => {
                    counters.sectors_written += intake.count;
                    self.jobs.add_barrier(work, geometry);
                }
                Kind::Flush => self.jobs.add_plain(work, Operation::Flush),
                Kind::Discard { is_secure } => {
                    self.jobs.add_plain(work, Operation::Discard { is_secure });
                }
            }
        }
    }

    fn refuse(&mut self, intake: &Intake, counters: &mut Counters) {
        counters.errors += 1;
        let refusal = Refusal { id: intake.id, operation: intake.operation, status: blkif::RSP_ERROR };
        if let Some(ring) = &mut self.ring {
            respond(self.dialect, ring, refusal);
        }
    }

    /// Serves requests by copies between the front end's pages and the disk's, in the order of the ring.
    fn copy_directly<D: BlockDevice<P::Memory>>(
        &mut self,
        device: &mut D,
        intakes: &[Intake],
        counters: &mut Counters,
    ) {
        let mut copies: Vec<GrantCopy> = Vec::new();
        let mut pending: Vec<(&Intake, usize)> = Vec::new();
        for intake in intakes {
            let start = copies.len();
            if let Kind::Discard { .. } = intake.kind {
                // What was written before must be there before it is forgotten.
                self.finish_copies(&mut copies, &mut pending, counters);
                self.enqueue(alloc::vec![intake.clone()], counters);
                self.jobs.submit(device, counters);
                continue;
            }
            if intake.kind == Kind::Read {
                counters.sectors_read += intake.count;
            } else {
                counters.sectors_written += intake.count;
            }
            if direct_copies(self.peer, device, intake, &mut copies).is_some() {
                pending.push((intake, copies.len() - start));
            } else {
                copies.truncate(start);
                self.refuse(intake, counters);
            }
        }
        self.finish_copies(&mut copies, &mut pending, counters);
    }

    fn finish_copies(
        &mut self,
        copies: &mut Vec<GrantCopy>,
        pending: &mut Vec<(&Intake, usize)>,
        counters: &mut Counters,
    ) {
        if !copies.is_empty() {
            do_copies(&self.platform, copies, counters);
        }
        let mut results = copies.drain(..);
        for (intake, count) in pending.drain(..) {
            let is_good = results.by_ref().take(count).filter(|copy| copy.result.is_err()).count() == 0;
            let status = if is_good { blkif::RSP_OKAY } else { blkif::RSP_ERROR };
            counters.errors += u64::from(!is_good);
            if let Some(ring) = &mut self.ring {
                respond(self.dialect, ring, Refusal { id: intake.id, operation: intake.operation, status });
            }
        }
    }

    /// Answers what is done.
    fn answer(&mut self, counters: &mut Counters) {
        let mut finished = core::mem::take(&mut self.jobs.finished);
        let mut copies: Vec<GrantCopy> = Vec::new();
        for request in &mut finished {
            if request.status == blkif::RSP_OKAY {
                copies.extend(request.copies_out.iter().copied());
            } else {
                request.copies_out.clear();
            }
        }
        if !copies.is_empty() {
            do_copies(&self.platform, &mut copies, counters);
        }
        let mut results = copies.iter();
        for request in finished {
            let mut status = request.status;
            if results.by_ref().take(request.copies_out.len()).filter(|c| c.result.is_err()).count() > 0 {
                status = blkif::RSP_ERROR;
            }
            counters.errors += u64::from(status != blkif::RSP_OKAY);
            if let Some(ring) = &mut self.ring {
                respond(self.dialect, ring, Refusal { id: request.id, operation: request.operation, status });
            }
        }
        self.release(counters);
    }
}

impl<P: Platform> Drop for Link<P> {
    fn drop(&mut self) {
        self.jobs.leak();
        if let Mode::Persistent(cache) = &mut self.mode {
            cache.clear(&self.platform);
        }
        self.platform.close(self.port);
        if let Some(ring) = self.ring.take() {
            self.platform.unmap(alloc::vec![ring.into_pages()]);
        }
    }
}

fn work<M>(intake: &Intake, pieces: Vec<HeldPiece<M>>, copies_out: Vec<GrantCopy>) -> Work<M> {
    Work {
        id: intake.id,
        operation: intake.operation,
        sector: intake.sector,
        count: intake.count,
        pieces,
        copies_out,
    }
}

/// What became of a request that needed nothing.
enum Soon {
    /// It is done, with this status.
    Now(i16),
    /// It runs.
    Later,
    /// Nothing has happened: it is made like all others.
    LongWay,
}

/// Reads or writes what lies in pages that are mapped already.
fn at_once<M: SharedMemory, D: BlockDevice<M>>(
    mode: &Mode<M>,
    jobs: &mut Jobs<M>,
    device: &mut D,
    intake: &Intake,
    counters: &mut Counters,
) -> Soon {
    let (Mode::Persistent(cache), Kind::Read | Kind::Write) = (mode, intake.kind) else {
        return Soon::LongWay;
    };
    let is_read = intake.kind == Kind::Read;
    let mut pieces: SmallVec<[Piece<'_, M>; 4]> = SmallVec::new();
    for run in &intake.runs {
        let Some(memory) = cache.get(run.grant) else { return Soon::LongWay };
        pieces.push(Piece { memory: &**memory, offset: run.offset.into(), len: run.len.into() });
    }
    let operation = if is_read { Operation::Read } else { Operation::Write };
    let Intake { sector, count, .. } = *intake;
    let tag = jobs.tag();
    let submitted = device.submit(tag, &Request { operation, sector, count, pieces: &pieces });
    counters.device_requests += 1;
    let sectors = if is_read { &mut counters.sectors_read } else { &mut counters.sectors_written };
    *sectors += count;
    match submitted {
        Ok(Submitted::Done) => Soon::Now(blkif::RSP_OKAY),
        Ok(Submitted::Running) => {
            device.start();
            // The same pages as above, held from now on.
            if let Ok(held) = cache.resolve(&intake.runs) {
                jobs.adopt(tag, work(intake, held.pieces, Vec::new()), operation);
            }
            Soon::Later
        }
        Err(error) => {
            counters.errors += 1;
            Soon::Now(status_of(error))
        }
    }
}

fn respond<M: SharedMemory>(dialect: Dialect, ring: &mut BackRing<M>, answer: Refusal) {
    let response =
        Response { id: answer.id, operation: answer.operation, status: answer.status, ..Response::default() };
    // There is room: every response answers a request that was taken from its slot.
    let _ = dialect.push(ring, &response);
}

/// Adds the copies that carry out a read or write; `None` when the device has no memory there.
fn direct_copies<M: SharedMemory, D: BlockDevice<M>>(
    peer: DomainId,
    device: &D,
    intake: &Intake,
    copies: &mut Vec<GrantCopy>,
) -> Option<()> {
    let unit = u16::try_from(SECTOR_SIZE).ok()?;
    let mut sector = intake.sector;
    for run in &intake.runs {
        let (mut offset, mut left) = (run.offset, run.len);
        while left > 0 {
            // The largest step that stays inside one frame of the disk.
            let most = left / unit;
            let (count, place) =
                (1..=most).rev().find_map(|n| device.location(sector, n.into()).map(|place| (n, place)))?;
            let len = count * unit;
            let local = CopyEnd::Local { gfn: place.gfn, offset: place.offset };
            let foreign = CopyEnd::Foreign { domain: peer, grant: run.grant, offset };
            let (from, to) = if intake.kind == Kind::Read { (local, foreign) } else { (foreign, local) };
            copies.push(GrantCopy { from, to, len, result: Ok(()) });
            sector += u64::from(count);
            offset += len;
            left -= len;
        }
    }
    Some(())
}
