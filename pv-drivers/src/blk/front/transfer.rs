//! Requests of the user on their way through the ring.

use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::io::blkif::{self, DiscardRequest, IndirectRequest, Request, Response, Segment};
use zerocopy::{Immutable, IntoBytes};

use super::super::device::{BlockError, SECTOR_SIZE};
use super::{BlkFront, Command, Completion, FrontCounters, Job, Part, RequestId};
use crate::platform::{PAGE_SIZE, Platform};
use crate::ring::FrontRing;

impl<P: Platform> BlkFront<P> {
    /// Cuts a job into requests of the ring.
    pub(super) fn enqueue(&mut self, at: usize) {
        let Some(job) = self.jobs.get_mut(at) else { return };
        let queue = self.turn % self.links.len().max(1);
        let Some(link) = self.links.get_mut(queue) else { return };
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
                queue,
                in_ring: false,
                descriptors: Vec::new(),
            };
            self.generation = self.generation.wrapping_add(1);
            let slot = self.parts.insert(part);
            link.waiting.push_back(slot);
        }
    }

    /// Puts waiting parts into the ring of a queue, as long as there is room.
    pub(super) fn fill(&mut self, queue: usize) {
        while let Some(&at) = self.links.get(queue).and_then(|link| link.waiting.front()) {
            if !self.put(queue, at) {
                break;
            }
            if let Some(link) = self.links.get_mut(queue) {
                link.waiting.pop_front();
            }
        }
    }

    /// Puts one part into the ring. `false`: no room.
    pub(super) fn put(&mut self, queue: usize, at: usize) -> bool {
        let Some(link) = self.links.get_mut(queue).filter(|link| link.ring.free() > 0) else {
            return false;
        };
        let Some(part) = self.parts.get_mut(at) else { return true };
        let Some(job) = self.jobs.get(part.job) else { return true };
        let id = (at as u64) | u64::from(part.generation) << 32;
        let sector = job.sector + (part.first_page * (PAGE_SIZE / SECTOR_SIZE)) as u64;
        let count = if job.buffer.is_some() { part.pages } else { 0 };
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
        if count <= blkif::MAX_SEGMENTS_PER_REQUEST {
            let mut request = Request { operation, id, sector_number: sector, ..Request::default() };
            request.nr_segments = u8::try_from(count).unwrap_or(0);
            for (to, from) in request.seg.iter_mut().zip(segments(job, part)) {
                *to = from;
            }
            return push(&mut link.ring, &request, part, &mut self.counters);
        }
        let needed = count.div_ceil(blkif::SEGMENTS_PER_INDIRECT_PAGE);
        let Ok(descriptors) = self.pool.take_own(needed) else { return false };
        let mut request = IndirectRequest {
            operation: blkif::OP_INDIRECT,
            indirect_op: operation,
            nr_segments: u16::try_from(count).unwrap_or(0),
            id,
            sector_number: sector,
            ..IndirectRequest::default()
        };
        let segments: Vec<Segment> = segments(job, part).collect();
        let chunks = segments.chunks(blkif::SEGMENTS_PER_INDIRECT_PAGE);
        for ((page, chunk), gref) in descriptors.iter().zip(chunks).zip(&mut request.indirect_grefs) {
            page.copy_in(0, chunk.as_bytes());
            *gref = page.grant().raw();
        }
        part.descriptors = descriptors;
        push(&mut link.ring, &request, part, &mut self.counters)
    }

    pub(super) fn take_responses(&mut self) -> Result<(), String> {
        let mut found = false;
        for queue in 0..self.links.len() {
            found |= self.take_queue(queue)?;
        }
        self.counters.busy_polls += u64::from(found);
        Ok(())
    }

    /// Takes the answers of one queue; whether there were any.
    fn take_queue(&mut self, queue: usize) -> Result<bool, String> {
        let mut found = false;
        loop {
            while let Some(response) = self.next_response(queue)? {
                found = true;
                self.on_response(queue, &response)?;
            }
            // What waits for room goes first, so that the event below is asked for with it in mind.
            self.kick_queue(queue);
            let Some(link) = self.links.get_mut(queue) else { break };
            // An event for every fourth of what is outstanding: all of it will be answered, so it will come.
            let after = link.ring.outstanding() / 4;
            if !link.ring.arm(after).map_err(|fault| alloc::format!("{fault}"))? {
                break;
            }
        }
        Ok(found)
    }

    pub(super) fn next_response(&mut self, queue: usize) -> Result<Option<Response>, String> {
        let Some(link) = self.links.get_mut(queue) else { return Ok(None) };
        let next = link.ring.pop().map_err(|fault| alloc::format!("{fault}"))?;
        Ok(next.map(|(_, response)| response))
    }

    pub(super) fn on_response(&mut self, queue: usize, response: &Response) -> Result<(), String> {
        let slot = usize::try_from(response.id & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        let is_ours = |part: &Part<P>| {
            part.in_ring && part.queue == queue && u64::from(part.generation) == response.id >> 32
        };
        let is_ours = self.parts.get(slot).is_some_and(is_ours);
        let Some(part) = is_ours.then(|| self.parts.remove(slot)).flatten() else {
            return Err(alloc::format!("a response to no request, {:#x}", response.id));
        };
        if !part.descriptors.is_empty() {
            self.pool.give(part.descriptors.into_iter());
        }
        let error = match response.status {
            blkif::RSP_OKAY => None,
            blkif::RSP_EOPNOTSUPP => Some(BlockError::NotSupported),
            _ => Some(BlockError::Io),
        };
        if let Some(job) = self.jobs.get_mut(part.job) {
            job.error = job.error.or(error);
            job.parts_left = job.parts_left.saturating_sub(1);
            if job.parts_left == 0 {
                self.finish(part.job);
            }
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, at: usize) {
        if let Some(job) = self.jobs.remove(at) {
            let result = job.error.map_or(Ok(()), Err);
            self.completions.push_back(Completion { id: job.id, result, buffer: job.buffer });
        }
    }

    /// Sends what an earlier back end did not answer, in the order in which it was submitted.
    pub(super) fn requeue(&mut self) {
        let mut order: Vec<(RequestId, usize)> = Vec::new();
        order.extend(self.jobs.iter().map(|(at, job)| (job.id, at)));
        order.sort_unstable();
        for (_, at) in order {
            self.enqueue(at);
        }
    }
}

/// The segments of a part, as the ring wants them.
fn segments<P: Platform>(job: &Job<P>, part: &Part<P>) -> impl Iterator<Item = Segment> {
    let first = part.first_page;
    let buffer = job.buffer.iter();
    buffer.flat_map(move |buffer| {
        let pages = buffer.pages.get(first..).unwrap_or_default().iter().take(part.pages);
        pages.enumerate().map(move |(number, page)| {
            let bytes = PAGE_SIZE.min(buffer.len().saturating_sub((first + number) * PAGE_SIZE));
            let last = u8::try_from((bytes / SECTOR_SIZE).saturating_sub(1)).unwrap_or(0);
            Segment { gref: page.grant().raw(), first_sect: 0, last_sect: last, pad: 0 }
        })
    })
}

fn push<P: Platform, T: IntoBytes + Immutable>(
    ring: &mut FrontRing<P>,
    request: &T,
    part: &mut Part<P>,
    counters: &mut FrontCounters,
) -> bool {
    let is_pushed = ring.push(request).is_ok();
    part.in_ring |= is_pushed;
    counters.ring_requests += u64::from(is_pushed);
    is_pushed
}
