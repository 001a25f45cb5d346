//! A disk in this domain's memory.

use alloc::vec::Vec;

use pv_abi::errno::Errno;

use super::device::{
    BlockDevice, BlockError, Discard, Geometry, Location, Operation, Request, SECTOR_SIZE, Submitted, Tag,
};
use crate::platform::{PAGE_SIZE, Platform, SharedMemory};

/// Pages that are allocated side by side.
const RUN_PAGES: usize = 256;
const RUN_BYTES: u64 = (RUN_PAGES * PAGE_SIZE) as u64;

/// A disk that consists of zeroed pages at first.
pub struct MemoryDisk<M: SharedMemory> {
    runs: Vec<M>,
    sectors: u64,
    is_read_only: bool,
}

impl<M: SharedMemory> MemoryDisk<M> {
    /// Allocates a disk of at least `bytes`, rounded up to whole pages.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new<P: Platform<Memory = M>>(platform: &P, bytes: u64, is_read_only: bool) -> Result<Self, Errno> {
        let pages = usize::try_from(bytes.div_ceil(PAGE_SIZE as u64)).map_err(|_| Errno::ENOMEM)?;
        let mut runs = Vec::new();
        let mut left = pages;
        while left > 0 {
            runs.push(platform.allocate(RUN_PAGES.min(left))?);
            left = left.saturating_sub(RUN_PAGES);
        }
        let sectors = (pages as u64) * (PAGE_SIZE / SECTOR_SIZE) as u64;
        Ok(Self { runs, sectors, is_read_only })
    }

    /// Writes bytes at an offset, whether or not the disk is read-only: to fill it before it is served.
    ///
    /// # Errors
    /// [`BlockError::OutOfRange`].
    pub fn fill(&self, offset: u64, bytes: &[u8]) -> Result<(), BlockError> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let (run, at) = self.place(offset + done as u64).ok_or(BlockError::OutOfRange)?;
            let count = rest.len().min(run.pages() * PAGE_SIZE - at);
            run.copy_in(at, rest.get(..count).unwrap_or_default());
            done += count;
        }
        Ok(())
    }

    /// The run that holds a byte, and where in it.
    fn place(&self, byte: u64) -> Option<(&M, usize)> {
        let run = self.runs.get(usize::try_from(byte / RUN_BYTES).ok()?)?;
        let at = usize::try_from(byte % RUN_BYTES).ok()?;
        (at < run.pages() * PAGE_SIZE).then_some((run, at))
    }

    /// Calls `work` for each part of a run of bytes that lies in one run of pages: the pages, the offset there, the
    /// offset from the start, and the length.
    fn each(&self, start: u64, len: usize, mut work: impl FnMut(&M, usize, usize, usize)) {
        let mut done = 0;
        while done < len {
            let Some((run, at)) = self.place(start + done as u64) else { return };
            let count = (len - done).min(run.pages() * PAGE_SIZE - at);
            work(run, at, done, count);
            done += count;
        }
    }
}

impl<M: SharedMemory> BlockDevice<M> for MemoryDisk<M> {
    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: self.sectors,
            block_size: 512,
            is_read_only: self.is_read_only,
            can_flush: true,
            discard: (!self.is_read_only).then_some(Discard {
                granularity: 512,
                alignment: 0,
                is_secure: true,
            }),
            max_pieces: usize::MAX,
            max_sectors: u32::MAX,
        }
    }

    fn room(&self) -> usize {
        usize::MAX
    }

    fn submit(&mut self, _tag: Tag, request: &Request<'_, M>) -> Result<Submitted, BlockError> {
        let is_change = matches!(request.operation, Operation::Write | Operation::Discard { .. });
        if is_change && self.is_read_only {
            return Err(BlockError::ReadOnly);
        }
        if request.operation == Operation::Flush {
            return Ok(Submitted::Done);
        }
        if !self.geometry().contains(request.sector, request.count) {
            return Err(BlockError::OutOfRange);
        }
        let mut byte = request.sector * SECTOR_SIZE as u64;
        if let Operation::Discard { .. } = request.operation {
            let len = usize::try_from(request.count).map_err(|_| BlockError::OutOfRange)? * SECTOR_SIZE;
            self.each(byte, len, |run, at, _, count| run.zero(at, count));
            return Ok(Submitted::Done);
        }
        for piece in request.pieces {
            self.each(byte, piece.len, |run, at, done, count| {
                if request.operation == Operation::Write {
                    piece.memory.copy_to(piece.offset + done, run, at, count);
                } else {
                    run.copy_to(at, piece.memory, piece.offset + done, count);
                }
            });
            byte += piece.len as u64;
        }
        Ok(Submitted::Done)
    }

    fn start(&mut self) {}

    fn poll(&mut self, _done: &mut dyn FnMut(Tag, Result<(), BlockError>)) {}

    fn location(&self, sector: u64, count: u64) -> Option<Location> {
        if !self.geometry().contains(sector, count) {
            return None;
        }
        let (run, at) = self.place(sector * SECTOR_SIZE as u64)?;
        let offset = at % PAGE_SIZE;
        let len = usize::try_from(count).ok()?.checked_mul(SECTOR_SIZE)?;
        if offset.checked_add(len)? > PAGE_SIZE {
            return None;
        }
        Some(Location { gfn: run.gfn(at / PAGE_SIZE), offset: u16::try_from(offset).ok()? })
    }
}
