//! How a back end gets at the data of its front end.
//!
//! * **Persistent**: pages are mapped when they are first seen and stay mapped. No hypercall in the steady state; the
//!   device moves data to and from the front end's pages itself.
//! * **Map**: pages are mapped for each request, many in a hypercall, and unmapped after it.
//! * **Copy**: the hypervisor copies between the front end's pages and pages of ours, many in a hypercall.
//! * **Direct**: the disk is memory of ours, and the hypervisor copies between it and the front end's pages.
//!
//! In each of them a request's data is copied at most once on its way between the front end's pages and the device.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, GrantRef};
use pv_abi::io::blkif::{SEGMENTS_PER_INDIRECT_PAGE, Segment};
use zerocopy::IntoBytes;

use super::Counters;
use super::intake::Run;
use crate::platform::{Access, CopyEnd, GrantCopy, PAGE_SIZE, Platform, SharedMemory};

/// Memory that is in use as long as a request needs it.
pub(super) struct HeldPiece<M> {
    pub memory: Arc<M>,
    pub offset: usize,
    pub len: usize,
}

impl<M> Clone for HeldPiece<M> {
    fn clone(&self) -> Self {
        Self { memory: self.memory.clone(), offset: self.offset, len: self.len }
    }
}

/// Data of one request, as the device will use it.
pub(super) struct Resolved<M> {
    pub pieces: Vec<HeldPiece<M>>,
    /// To be done when the device has read.
    pub copies_out: Vec<GrantCopy>,
}

struct Cached<M> {
    grant: GrantRef,
    memory: Arc<M>,
    last_used: Cell<u64>,
}

/// The way in use.
pub(super) enum Mode<M> {
    Persistent(Cache<M>),
    Map,
    Copy(Vec<Arc<M>>),
    Direct,
}

/// Rows of a [`Cache`]: a power of two. A front end's references are close to each other, and no grant table has so many
/// that a row could become long.
const ROWS: usize = 256;

/// Pages that stay mapped, each in the row that the lowest bits of its reference name.
pub(super) struct Cache<M> {
    rows: Box<[Vec<Cached<M>>; ROWS]>,
    len: usize,
    max: usize,
    clock: Cell<u64>,
}

const fn row_of(grant: GrantRef) -> usize {
    grant.raw() as usize % ROWS
}

impl<M: SharedMemory> Cache<M> {
    pub fn new(max: usize) -> Self {
        Self { rows: Box::new([const { Vec::new() }; ROWS]), len: 0, max, clock: Cell::new(0) }
    }

    fn contains(&self, grant: GrantRef) -> bool {
        self.rows.get(row_of(grant)).is_some_and(|row| row.iter().any(|cached| cached.grant == grant))
    }

    /// Maps what is not mapped yet, in one go.
    fn fetch<P: Platform<Memory = M>>(
        &mut self,
        platform: &P,
        peer: DomainId,
        grants: impl Iterator<Item = GrantRef>,
        counters: &mut Counters,
    ) {
        let missing: BTreeSet<GrantRef> = grants.filter(|grant| !self.contains(*grant)).collect();
        if missing.is_empty() {
            return;
        }
        let missing: Vec<GrantRef> = missing.into_iter().collect();
        counters.maps += missing.len() as u64;
        for (grant, result) in missing.iter().zip(platform.map_each(peer, &missing, Access::ReadWrite)) {
            if let (Ok(memory), Some(row)) = (result, self.rows.get_mut(row_of(*grant))) {
                row.push(Cached { grant: *grant, memory: Arc::new(memory), last_used: self.clock.clone() });
                self.len += 1;
            }
        }
    }

    /// A page, if it is mapped.
    #[inline]
    pub fn get(&self, grant: GrantRef) -> Option<&Arc<M>> {
        self.clock.update(|now| now + 1);
        let cached = self.rows.get(row_of(grant))?.iter().find(|cached| cached.grant == grant)?;
        cached.last_used.set(self.clock.get());
        Some(&cached.memory)
    }

    /// The pages of a request, if all are mapped.
    pub fn resolve(&self, runs: &[Run]) -> Result<Resolved<M>, Errno> {
        collect(runs.iter().map(|run| self.get(run.grant).cloned().ok_or(Errno::EFAULT)), runs)
    }

    /// Unmaps the pages longest unused when there are too many, an eighth of the limit at a time.
    fn shrink<P: Platform<Memory = M>>(&mut self, platform: &P, counters: &mut Counters) {
        if self.len <= self.max {
            return;
        }
        let excess = self.len - self.max + self.max / 8;
        let is_idle = |cached: &Cached<M>| Arc::strong_count(&cached.memory) == 1;
        let idle = self.rows.iter().flatten().filter(|cached| is_idle(cached));
        let mut idle: Vec<u64> = idle.map(|cached| cached.last_used.get()).collect();
        idle.sort_unstable();
        // Uses have times of their own, but pages that were only mapped may share one.
        let Some(&last) = idle.get(excess.min(idle.len()).wrapping_sub(1)) else { return };
        let oldest = |cached: &mut Cached<M>| cached.last_used.get() <= last && is_idle(cached);
        let gone = self.rows.iter_mut().flat_map(|row| row.extract_if(.., oldest));
        let gone: Vec<M> = gone.filter_map(|cached| Arc::try_unwrap(cached.memory).ok()).collect();
        self.len -= gone.len();
        counters.unmaps += gone.len() as u64;
        platform.unmap(gone);
    }

    pub fn clear<P: Platform<Memory = M>>(&mut self, platform: &P) {
        let pages = self.rows.iter_mut().flat_map(core::mem::take);
        platform.unmap(pages.filter_map(|cached| Arc::try_unwrap(cached.memory).ok()).collect());
        self.len = 0;
    }
}

impl<M: SharedMemory> Mode<M> {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Persistent(_) => "persistent grants",
            Self::Map => "mapping",
            Self::Copy(_) => "copying",
            Self::Direct => "copying directly",
        }
    }

    /// Copies the segments of an indirect request out of the front end's pages, once.
    pub fn segments<P: Platform<Memory = M>>(
        &mut self,
        platform: &P,
        peer: DomainId,
        pages: &[GrantRef],
        count: usize,
        counters: &mut Counters,
    ) -> Result<Vec<Segment>, Errno> {
        let mut segments = alloc::vec![Segment::default(); count];
        let chunks = segments.chunks_mut(SEGMENTS_PER_INDIRECT_PAGE);
        match self {
            Self::Persistent(cache) => {
                cache.fetch(platform, peer, pages.iter().copied(), counters);
                for (page, chunk) in pages.iter().zip(chunks) {
                    cache.get(*page).ok_or(Errno::EFAULT)?.copy_out(0, chunk.as_mut_bytes());
                }
            }
            _ => {
                counters.maps += pages.len() as u64;
                let mapped = platform.map(peer, pages, Access::ReadOnly)?;
                for (number, chunk) in chunks.enumerate() {
                    mapped.copy_out(number * PAGE_SIZE, chunk.as_mut_bytes());
                }
                counters.unmaps += pages.len() as u64;
            }
        }
        Ok(segments)
    }

    /// Makes the data of requests reachable: for each, its runs and whether the device will write to them. The
    /// results are in order; data for the device to write is in place when this returns. Not for `Direct`.
    pub fn resolve<P: Platform<Memory = M>>(
        &mut self,
        platform: &P,
        peer: DomainId,
        wanted: &[(&[Run], bool)],
        counters: &mut Counters,
    ) -> Vec<Result<Resolved<M>, Errno>> {
        match self {
            Self::Persistent(cache) => {
                let mut resolved: Vec<_> = wanted.iter().map(|(runs, _)| cache.resolve(runs)).collect();
                // In the steady state all pages are known, and each was looked for once.
                if resolved.iter().any(Result::is_err) {
                    let grants = wanted.iter().flat_map(|(runs, _)| runs.iter().map(|run| run.grant));
                    cache.fetch(platform, peer, grants, counters);
                    for (result, (runs, _)) in resolved.iter_mut().zip(wanted).filter(|(r, _)| r.is_err()) {
                        *result = cache.resolve(runs);
                    }
                }
                cache.shrink(platform, counters);
                resolved
            }
            Self::Map => {
                let mut mapped: [alloc::vec::IntoIter<Result<M, Errno>>; 2] =
                    [(false, Access::ReadOnly), (true, Access::ReadWrite)].map(|(is_read, access)| {
                        let runs = wanted.iter().filter(|(_, read)| *read == is_read);
                        let grants: Vec<GrantRef> =
                            runs.flat_map(|(runs, _)| runs.iter().map(|run| run.grant)).collect();
                        counters.maps += grants.len() as u64;
                        if grants.is_empty() {
                            return Vec::new().into_iter();
                        }
                        platform.map_each(peer, &grants, access).into_iter()
                    });
                let [for_write, for_read] = &mut mapped;
                wanted
                    .iter()
                    .map(|(runs, is_read)| {
                        let source = if *is_read { &mut *for_read } else { &mut *for_write };
                        // All of this request's pages are taken off the list, even after one that failed.
                        let pages: Vec<_> = source.take(runs.len()).collect();
                        collect(pages.into_iter().map(|page| page.map(Arc::new)), runs)
                    })
                    .collect()
            }
            Self::Copy(free) => resolve_by_copy(free, platform, peer, wanted, counters),
            // Only what has no data comes here.
            Self::Direct => wanted.iter().map(|(runs, _)| collect(core::iter::empty(), runs)).collect(),
        }
    }

    /// Takes memory back that no request uses any more.
    pub fn release<P: Platform<Memory = M>>(
        &mut self,
        platform: &P,
        pieces: Vec<HeldPiece<M>>,
        counters: &mut Counters,
    ) {
        match self {
            Self::Persistent(_) | Self::Direct => {}
            Self::Map => {
                let unused = pieces.into_iter().filter_map(|piece| Arc::try_unwrap(piece.memory).ok());
                let unused: Vec<M> = unused.collect();
                if !unused.is_empty() {
                    counters.unmaps += unused.len() as u64;
                    platform.unmap(unused);
                }
            }
            Self::Copy(free) => {
                let unused = pieces.into_iter().map(|piece| piece.memory);
                free.extend(unused.filter(|memory| Arc::strong_count(memory) == 1));
            }
        }
    }
}

fn collect<M>(
    pages: impl Iterator<Item = Result<Arc<M>, Errno>>,
    runs: &[Run],
) -> Result<Resolved<M>, Errno> {
    let mut pieces = Vec::with_capacity(runs.len());
    for (page, run) in pages.zip(runs) {
        pieces.push(HeldPiece { memory: page?, offset: run.offset.into(), len: run.len.into() });
    }
    Ok(Resolved { pieces, copies_out: Vec::new() })
}

/// Gives each run a page of ours, and fills those that the device will read from.
fn resolve_by_copy<P: Platform>(
    free: &mut Vec<Arc<P::Memory>>,
    platform: &P,
    peer: DomainId,
    wanted: &[(&[Run], bool)],
    counters: &mut Counters,
) -> Vec<Result<Resolved<P::Memory>, Errno>> {
    let mut copies: Vec<GrantCopy> = Vec::new();
    let mut resolved: Vec<Result<Resolved<P::Memory>, Errno>> = wanted
        .iter()
        .map(|(runs, is_read)| {
            let mut own = Resolved { pieces: Vec::new(), copies_out: Vec::new() };
            for run in *runs {
                let memory = match free.pop() {
                    Some(page) => page,
                    None => Arc::new(platform.allocate(1)?),
                };
                let local = CopyEnd::Local { gfn: memory.gfn(0), offset: run.offset };
                let foreign = CopyEnd::Foreign { domain: peer, grant: run.grant, offset: run.offset };
                let (from, to) = if *is_read { (local, foreign) } else { (foreign, local) };
                own.copies_out.push(GrantCopy { from, to, len: run.len, result: Ok(()) });
                own.pieces.push(HeldPiece { memory, offset: run.offset.into(), len: run.len.into() });
            }
            if !*is_read {
                copies.append(&mut own.copies_out);
            }
            Ok(own)
        })
        .collect();
    if !copies.is_empty() {
        do_copies(platform, &mut copies, counters);
        let mut results = copies.iter();
        for ((runs, is_read), own) in wanted.iter().zip(&mut resolved) {
            if *is_read || own.is_err() {
                continue;
            }
            let failed = results.by_ref().take(runs.len()).filter_map(|copy| copy.result.err()).last();
            if let Some(error) = failed {
                *own = Err(error);
            }
        }
    }
    resolved
}

/// Does copies, and counts them.
pub(super) fn do_copies<P: Platform>(platform: &P, copies: &mut [GrantCopy], counters: &mut Counters) {
    counters.copies += copies.len() as u64;
    counters.copied_bytes += copies.iter().map(|copy| u64::from(copy.len)).sum::<u64>();
    platform.grant_copy(copies);
}
