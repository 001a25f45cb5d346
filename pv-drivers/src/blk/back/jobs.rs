//! From requests of the ring to requests of the device, and back.
//!
//! A request of the ring becomes one or more parts, none larger than the device takes; parts that follow each other on
//! the disk become one job. A request is answered when its last part is done. If a job of several parts fails, its
//! parts are tried again one by one, so that a bad sector harms only the request that asked for it.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use pv_abi::io::blkif;

use super::super::device::{
    BlockDevice, BlockError, Geometry, Operation, Piece, Request, SECTOR_SIZE, Submitted, Tag,
};
use super::super::slots::Slots;
use super::Counters;
use super::memory::HeldPiece;
use crate::platform::{GrantCopy, SharedMemory};

/// Parts in one job.
const PARTS_MAX: usize = 64;

/// A request of the ring that is being carried out.
struct Active<M> {
    id: u64,
    operation: u8,
    parts_left: usize,
    status: i16,
    copies_out: Vec<GrantCopy>,
    /// Memory of the parts that are done, of use until the last one is: the copies out are made then.
    held: Vec<HeldPiece<M>>,
}

/// A request that is done.
pub(super) struct Finished {
    pub id: u64,
    pub operation: u8,
    pub status: i16,
    /// To be done before the answer, if `status` is good.
    pub copies_out: Vec<GrantCopy>,
}

struct Part<M> {
    request: usize,
    sector: u64,
    count: u64,
    pieces: Vec<HeldPiece<M>>,
}

struct Job<M> {
    operation: Operation,
    parts: Vec<Part<M>>,
    may_merge: bool,
}

impl<M> Job<M> {
    fn sectors(&self) -> u64 {
        self.parts.iter().map(|part| part.count).sum()
    }

    fn pieces(&self) -> usize {
        self.parts.iter().map(|part| part.pieces.len()).sum()
    }
}

/// A new request, with its data.
pub(super) struct Work<M> {
    pub id: u64,
    pub operation: u8,
    pub sector: u64,
    pub count: u64,
    pub pieces: Vec<HeldPiece<M>>,
    pub copies_out: Vec<GrantCopy>,
}

/// All that is between the ring and the device.
pub(super) struct Jobs<M> {
    active: Slots<Active<M>>,
    /// Not yet submitted.
    waiting: VecDeque<Job<M>>,
    running: BTreeMap<u64, Job<M>>,
    next_tag: u64,
    /// The barrier under way; nothing else is taken meanwhile.
    barring: Option<usize>,
    /// Its steps that have not begun.
    barrier: VecDeque<Job<M>>,
    pub finished: Vec<Finished>,
    /// Memory that no job uses any more.
    pub released: Vec<HeldPiece<M>>,
}

impl<M: SharedMemory> Jobs<M> {
    pub fn new() -> Self {
        Self {
            active: Slots::new(),
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            next_tag: 0,
            barring: None,
            barrier: VecDeque::new(),
            finished: Vec::new(),
            released: Vec::new(),
        }
    }

    /// Requests that are not finished.
    pub fn in_flight(&self) -> usize {
        self.active.len()
    }

    /// Whether the device may still be moving data.
    pub fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// Whether a new request must wait: a barrier is under way, or the device is full.
    pub fn is_blocked(&self) -> bool {
        self.barring.is_some() || self.waiting.iter().any(|job| !job.may_merge) || self.waiting.len() > 1
    }

    fn begin(&mut self, id: u64, operation: u8, copies_out: Vec<GrantCopy>) -> usize {
        let status = blkif::RSP_OKAY;
        self.active.insert(Active { id, operation, parts_left: 0, status, copies_out, held: Vec::new() })
    }

    /// Takes a read or write.
    pub fn add_data(
        &mut self,
        work: Work<M>,
        operation: Operation,
        geometry: &Geometry,
        counters: &mut Counters,
    ) {
        let request = self.begin(work.id, work.operation, work.copies_out);
        for part in split(request, work.sector, work.pieces, geometry) {
            if let Some(active) = self.active.get_mut(request) {
                active.parts_left += 1;
            }
            match self.waiting.back_mut() {
                Some(last) if can_merge(last, operation, &part, geometry) => {
                    counters.merged += 1;
                    last.parts.push(part);
                }
                _ => {
                    self.waiting.push_back(Job { operation, parts: alloc::vec![part], may_merge: true });
                }
            }
        }
    }

    /// Takes a flush or discard.
    pub fn add_plain(&mut self, work: Work<M>, operation: Operation) {
        let request = self.begin(work.id, work.operation, Vec::new());
        if let Some(active) = self.active.get_mut(request) {
            active.parts_left = 1;
        }
        let part = Part { request, sector: work.sector, count: work.count, pieces: Vec::new() };
        self.waiting.push_back(Job { operation, parts: alloc::vec![part], may_merge: false });
    }

    /// Takes a barrier: when all before it is done, a flush, its own data if there are any, and another flush.
    pub fn add_barrier(&mut self, work: Work<M>, geometry: &Geometry) {
        let request = self.begin(work.id, work.operation, Vec::new());
        let flush = || {
            let part = Part { request, sector: 0, count: 0, pieces: Vec::new() };
            Job { operation: Operation::Flush, parts: alloc::vec![part], may_merge: false }
        };
        self.barring = Some(request);
        self.barrier.push_back(flush());
        for part in split(request, work.sector, work.pieces, geometry) {
            let job = Job { operation: Operation::Write, parts: alloc::vec![part], may_merge: false };
            self.barrier.push_back(job);
        }
        self.barrier.push_back(flush());
        let steps = self.barrier.len();
        if let Some(active) = self.active.get_mut(request) {
            active.parts_left = steps;
        }
    }

    /// Submits what the device has room for.
    pub fn submit<D: BlockDevice<M>>(&mut self, device: &mut D, counters: &mut Counters) {
        let mut submitted = false;
        loop {
            if self.waiting.is_empty() && self.running.is_empty() {
                // Everything before the next step of a barrier is done.
                match self.barrier.pop_front() {
                    Some(step) => self.waiting.push_back(step),
                    None => break,
                }
            }
            if device.room() == 0 {
                break;
            }
            let Some(job) = self.waiting.pop_front() else { break };
            submitted = true;
            self.submit_one(device, job, counters);
        }
        if submitted {
            device.start();
        }
    }

    /// A number for a request of the device.
    pub fn tag(&mut self) -> Tag {
        let tag = self.next_tag;
        self.next_tag = tag.wrapping_add(1);
        Tag(tag)
    }

    /// Takes a read or write that runs already under this tag.
    pub fn adopt(&mut self, tag: Tag, work: Work<M>, operation: Operation) {
        let request = self.begin(work.id, work.operation, work.copies_out);
        if let Some(active) = self.active.get_mut(request) {
            active.parts_left = 1;
        }
        let part = Part { request, sector: work.sector, count: work.count, pieces: work.pieces };
        self.running.insert(tag.0, Job { operation, parts: alloc::vec![part], may_merge: false });
    }

    fn submit_one<D: BlockDevice<M>>(&mut self, device: &mut D, job: Job<M>, counters: &mut Counters) {
        let tag = self.tag();
        let pieces: Vec<Piece<'_, M>> = job
            .parts
            .iter()
            .flat_map(|part| &part.pieces)
            .map(|piece| Piece { memory: &*piece.memory, offset: piece.offset, len: piece.len })
            .collect();
        let request = Request {
            operation: job.operation,
            sector: job.parts.first().map_or(0, |part| part.sector),
            count: job.sectors(),
            pieces: &pieces,
        };
        counters.device_requests += 1;
        match device.submit(tag, &request) {
            Ok(Submitted::Done) => self.complete(job, Ok(())),
            Ok(Submitted::Running) => {
                self.running.insert(tag.0, job);
            }
            Err(error) => self.complete(job, Err(error)),
        }
    }

    /// Takes what the device has done.
    pub fn collect<D: BlockDevice<M>>(&mut self, device: &mut D) {
        let mut done = Vec::new();
        device.poll(&mut |tag, result| done.push((tag, result)));
        for (tag, result) in done {
            if let Some(job) = self.running.remove(&tag.0) {
                self.complete(job, result);
            }
        }
    }

    fn complete(&mut self, job: Job<M>, result: Result<(), BlockError>) {
        if result.is_err() && job.parts.len() > 1 {
            for part in job.parts {
                let alone = Job { operation: job.operation, parts: alloc::vec![part], may_merge: false };
                self.waiting.push_back(alone);
            }
            return;
        }
        for part in job.parts {
            match self.active.get_mut(part.request) {
                Some(active) if active.held.is_empty() => active.held = part.pieces,
                Some(active) => active.held.extend(part.pieces),
                None => {}
            }
            self.complete_part(part.request, result);
        }
    }

    fn complete_part(&mut self, request: usize, result: Result<(), BlockError>) {
        let mut skipped = 0;
        if result.is_err() && self.barring == Some(request) {
            // The rest of a failed barrier is not done.
            skipped = self.barrier.len();
            let rest = self.barrier.drain(..).flat_map(|step| step.parts);
            self.released.extend(rest.flat_map(|part| part.pieces));
        }
        let Some(active) = self.active.get_mut(request) else { return };
        if let Err(error) = result {
            active.status = status_of(error);
        }
        active.parts_left = active.parts_left.saturating_sub(1 + skipped);
        if active.parts_left > 0 {
            return;
        }
        if let Some(active) = self.active.remove(request) {
            self.released.extend(active.held);
            if self.barring == Some(request) {
                self.barring = None;
            }
            self.finished.push(Finished {
                id: active.id,
                operation: active.operation,
                status: active.status,
                copies_out: active.copies_out,
            });
        }
    }

    /// Forgets what has not been submitted. What runs must still be collected.
    pub fn abandon(&mut self) {
        self.finished.clear();
        for job in self.waiting.drain(..).chain(self.barrier.drain(..)) {
            self.released.extend(job.parts.into_iter().flat_map(|part| part.pieces));
        }
        for active in self.active.values_mut() {
            self.released.append(&mut active.held);
        }
    }

    /// Leaks the memory of running requests: the device may write to it at any time.
    pub fn leak(&mut self) {
        if self.is_running() {
            log::error!("{} requests were running when their device went away", self.running.len());
            core::mem::forget(core::mem::take(&mut self.running));
        }
    }
}

/// What the ring calls a failure of the device.
pub(super) const fn status_of(error: BlockError) -> i16 {
    match error {
        BlockError::NotSupported => blkif::RSP_EOPNOTSUPP,
        _ => blkif::RSP_ERROR,
    }
}

/// Cuts data into parts that the device takes.
fn split<M>(request: usize, sector: u64, pieces: Vec<HeldPiece<M>>, geometry: &Geometry) -> Vec<Part<M>> {
    let all = pieces.iter().map(|piece| (piece.len / SECTOR_SIZE) as u64).sum();
    if pieces.len() <= geometry.max_pieces && all <= u64::from(geometry.max_sectors) && !pieces.is_empty() {
        // Most often there is nothing to cut.
        return alloc::vec![Part { request, sector, count: all, pieces }];
    }
    let mut parts: Vec<Part<M>> = Vec::new();
    let mut at = sector;
    for piece in pieces {
        let sectors = (piece.len / SECTOR_SIZE) as u64;
        match parts.last_mut() {
            Some(part)
                if part.pieces.len() < geometry.max_pieces
                    && part.count + sectors <= u64::from(geometry.max_sectors) =>
            {
                part.count += sectors;
                part.pieces.push(piece);
            }
            _ => parts.push(Part { request, sector: at, count: sectors, pieces: alloc::vec![piece] }),
        }
        at = at.saturating_add(sectors);
    }
    parts
}

fn can_merge<M>(job: &Job<M>, operation: Operation, part: &Part<M>, geometry: &Geometry) -> bool {
    let Some(first) = job.parts.first() else { return false };
    let sectors = job.sectors();
    job.may_merge
        && job.operation == operation
        && job.parts.len() < PARTS_MAX
        && first.sector.checked_add(sectors) == Some(part.sector)
        && sectors + part.count <= u64::from(geometry.max_sectors)
        && job.pieces() + part.pieces.len() <= geometry.max_pieces
}
