//! The frame table: one record for each frame of the machine, and the only code that changes one.
//!
//! Each transition consumes a token and returns another:
//!
//! ```text
//!            alloc            scrub             give
//!   free ------------> Held ---------> Zeroed ---------> Guest(owner)
//!    ^                  |                 |  as_table         | reclaim
//!    |      free        |                 +--------> Table    +---> free, or, while references exist,
//!    +------------------+                 |  as_shared        |     Quarantined: free at the last put
//!    |                                    +--------> Shared   |
//!    +--------------------------------------------------------+
//! ```
//!
//! Invariants: a frame reaches a guest only through [`ZeroedFrames`]; a frame with references ([`PageRef`]) is never
//! free; each frame of a guest knows the one guest frame number at which its owner has it (the inverse of the physmap),
//! so that a frame that appears at another place is known to be foreign there.
//!
//! Locks: the free lists have one internal lock, a leaf. States are atomic words: references are taken and put without
//! a lock.

mod buddy;
mod record;
mod token;

#[cfg(test)]
mod tests;

pub(super) use buddy::largest_order;
pub use record::FrameState;
pub use token::{HeldFrames, PageRef, SharedPage, TablePage, ZeroedFrames};

use crate::hw::{HostPhys, Mfn, Order, PAGE_BYTES, Pages, PhysMemory};
use alloc::vec::Vec;
use buddy::{Buddy, Lists};
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use pv_abi::ids::{DomainId, Gfn};
use record::{ONE_REFERENCE, RECORD_BYTES, Records, can_refer, references, says};
use spin::Mutex;

/// In place of a guest frame number: the frame is not in its owner's physmap.
pub const NO_GFN: Gfn = Gfn::new(u64::MAX);

/// A range of usable memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RamRange {
    /// The first byte.
    pub start: HostPhys,
    /// The length in bytes.
    pub bytes: u64,
}

impl RamRange {
    /// The whole frames within, as first and end.
    fn frames(&self) -> (u64, u64) {
        let end = self.start.raw().saturating_add(self.bytes) / PAGE_BYTES;
        (self.start.raw().div_ceil(PAGE_BYTES).min(end), end)
    }
}

/// There is not enough memory, or none of the wanted kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

/// The frame is not what the caller takes it for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrongFrame;

/// What became of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is still in use.
    Kept,
    /// It is free now; it was quarantined memory of this domain.
    Freed(DomainId),
}

/// One record for each frame of the machine.
#[derive(Debug)]
pub struct FrameTable {
    records: Records,
    free: Mutex<Buddy>,
    usable: Vec<(u64, u64)>,
    total: u64,
}

/// The machine's memory and the table of its frames: what every function that allocates needs.
#[derive(Debug)]
pub struct Ram<'a, M> {
    /// The table of frames.
    pub frames: &'a FrameTable,
    /// The memory.
    pub memory: &'a M,
}

impl<M> Clone for Ram<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Ram<'_, M> {}

impl FrameTable {
    /// Makes the table of a machine with these usable ranges, which must not overlap. The table itself is put at the
    /// end of the largest of them. Frame 0 is never used.
    pub fn new<M: PhysMemory>(memory: &M, ranges: &[RamRange]) -> Result<Self, OutOfMemory> {
        let mut usable: Vec<(u64, u64)> = ranges
            .iter()
            .map(RamRange::frames)
            .map(|(first, end)| (first.max(1), end.min(u64::from(u32::MAX))))
            .filter(|(first, end)| first < end)
            .collect();
        usable.sort_unstable();
        let count = usable.last().ok_or(OutOfMemory)?.1;
        let own = (count * RECORD_BYTES).div_ceil(PAGE_BYTES);
        let largest = usable.iter_mut().max_by_key(|(first, end)| end - first).ok_or(OutOfMemory)?;
        if largest.1 - largest.0 <= own {
            return Err(OutOfMemory);
        }
        largest.1 -= own;
        let base = Mfn::new(largest.1);
        for frame in 0..own {
            memory.zero(Mfn::new(base.raw() + frame));
        }
        let records = Records { base: base.base(), count };
        let mut buddy = Buddy::new();
        let mut lists = Lists { buddy: &mut buddy, records, memory };
        for (first, end) in &usable {
            lists.free_run(Mfn::new(*first), end - first);
        }
        let total = buddy.free();
        Ok(Self { records, free: Mutex::new(buddy), usable, total })
    }

    /// How many frames can be handed out in all.
    pub fn total(&self) -> Pages {
        Pages::new(self.total)
    }

    /// How many frames are free.
    pub fn free_pages(&self) -> Pages {
        Pages::new(self.free.lock().free())
    }

    /// The end of the machine's memory: one more than the highest frame.
    pub fn end(&self) -> Mfn {
        Mfn::new(self.records.count)
    }

    /// Whether any of these frames is memory that the frame table hands out.
    pub fn overlaps_ram(&self, first: Mfn, count: u64) -> bool {
        let end = first.raw().saturating_add(count);
        self.usable.iter().any(|&(start, stop)| first.raw() < stop && start < end)
    }
}

impl<'a, M: PhysMemory> Ram<'a, M> {
    /// Brings a machine's memory and its frame table together.
    pub const fn new(frames: &'a FrameTable, memory: &'a M) -> Self {
        Self { frames, memory }
    }

    fn with_lists<R>(self, work: impl FnOnce(&mut Lists<'_, M>) -> R) -> R {
        let mut buddy = self.frames.free.lock();
        work(&mut Lists { buddy: &mut buddy, records: self.frames.records, memory: self.memory })
    }

    /// Takes a block of free frames, aligned to its size.
    pub fn alloc(self, order: Order) -> Result<HeldFrames, OutOfMemory> {
        let first = self.with_lists(|lists| lists.take(order)).ok_or(OutOfMemory)?;
        Ok(HeldFrames { first, count: order.pages() })
    }

    /// Takes exactly these frames, if all of them are free.
    pub fn alloc_at(self, first: Mfn, count: u64) -> Result<HeldFrames, OutOfMemory> {
        if count == 0 || !self.with_lists(|lists| lists.take_run(first, count)) {
            return Err(OutOfMemory);
        }
        Ok(HeldFrames { first, count })
    }

    /// Takes the lowest free run of `count` frames that starts at a multiple of `align` frames.
    pub fn alloc_contiguous(self, count: u64, align: Order) -> Result<HeldFrames, OutOfMemory> {
        let first = self.with_lists(|lists| {
            let first = lists.find_run(count, align.pages())?;
            lists.take_run(first, count).then_some(first)
        });
        match first {
            Some(first) if count > 0 => Ok(HeldFrames { first, count }),
            _ => Err(OutOfMemory),
        }
    }

    /// Frees frames that no guest has seen since they were allocated.
    pub fn free(self, frames: HeldFrames) {
        let (first, count) = frames.consume();
        self.free_held(first, count);
    }

    fn free_held(self, first: Mfn, count: u64) {
        self.with_lists(|lists| lists.free_run(first, count));
    }

    /// Fills frames with zeroes.
    pub fn scrub(self, frames: HeldFrames) -> ZeroedFrames {
        let (first, count) = frames.consume();
        for frame in first.raw()..first.raw() + count {
            self.memory.zero(Mfn::new(frame));
        }
        ZeroedFrames { first, count }
    }

    /// Takes one frame full of zeroes.
    pub fn alloc_zeroed(self) -> Result<ZeroedFrames, OutOfMemory> {
        Ok(self.scrub(self.alloc(Order::PAGE)?))
    }

    /// Frees zeroed frames that were not needed.
    pub fn free_zeroed(self, frames: ZeroedFrames) {
        let (first, count) = frames.consume();
        self.free_held(first, count);
    }

    /// Makes frames the memory of a domain, which is about to have them from `gfn` on in its physmap.
    pub fn give(self, frames: ZeroedFrames, owner: DomainId, gfn: Gfn) -> Mfn {
        let (first, count) = frames.consume();
        for offset in 0..count {
            let mfn = Mfn::new(first.raw() + offset);
            self.set_extra(mfn, gfn.raw().wrapping_add(offset));
            self.set_state(mfn, FrameState::Guest(owner));
        }
        first
    }

    /// Makes the first of the frames a nested page table; further ones are freed.
    pub fn as_table(self, frames: ZeroedFrames, owner: DomainId) -> TablePage {
        let mfn = self.only_first(frames);
        self.set_state(mfn, FrameState::Table(owner));
        TablePage { mfn }
    }

    /// Makes the first of the frames a page of the hypervisor that a domain sees; further ones are freed.
    pub fn as_shared(self, frames: ZeroedFrames, owner: DomainId) -> SharedPage {
        let mfn = self.only_first(frames);
        self.set_extra(mfn, NO_GFN.raw());
        self.set_state(mfn, FrameState::Shared(owner));
        SharedPage { mfn }
    }

    fn only_first(self, frames: ZeroedFrames) -> Mfn {
        let (first, count) = frames.consume();
        if count > 1 {
            self.free_held(Mfn::new(first.raw() + 1), count - 1);
        }
        first
    }

    /// Frees a nested page table. No CPU may still walk it.
    pub fn free_table(self, page: TablePage) {
        let mfn = page.consume();
        self.free_held(mfn, 1);
    }

    /// Frees the nested page table in this frame: the entry that pointed to it was its token.
    pub(super) fn free_table_frame(self, mfn: Mfn, owner: DomainId) -> Result<(), WrongFrame> {
        if self.state(mfn) != FrameState::Table(owner) {
            return Err(WrongFrame);
        }
        self.free_held(mfn, 1);
        Ok(())
    }

    /// Frees a shared page. No physmap may still hold it.
    pub fn free_shared(self, page: SharedPage) {
        let mfn = page.consume();
        self.free_held(mfn, 1);
    }

    /// Takes frames back from the domain whose memory they were, after they have left its physmap and no CPU can have
    /// a translation to them. Those that are referred to stay in quarantine until the last reference is put. Returns
    /// how many are free now.
    pub fn reclaim(self, first: Mfn, count: u64, owner: DomainId) -> Result<u64, WrongFrame> {
        let guest = FrameState::Guest(owner);
        let (mut freed, mut run, mut wrong) = (0, first.raw(), false);
        for frame in first.raw()..first.raw().saturating_add(count) {
            let free = match self.leave(Mfn::new(frame), guest, FrameState::Quarantined(owner)) {
                Ok(free) => free,
                Err(WrongFrame) => {
                    wrong = true;
                    false
                }
            };
            if !free {
                freed += frame - run;
                self.free_held(Mfn::new(run), frame - run);
                run = frame + 1;
            }
        }
        let rest = first.raw().saturating_add(count).saturating_sub(run);
        self.free_held(Mfn::new(run), rest);
        if wrong { Err(WrongFrame) } else { Ok(freed + rest) }
    }

    /// Ends the state `from` of one frame: `Held` (true) without references, else `pending` (false).
    fn leave(self, mfn: Mfn, from: FrameState, pending: FrameState) -> Result<bool, WrongFrame> {
        let word = self.frames.records.state(self.memory, mfn).ok_or(WrongFrame)?;
        let mut old = word.load(Relaxed);
        loop {
            if FrameState::decode(old) != from {
                return Err(WrongFrame);
            }
            let free = references(old) == 0;
            let next = if free {
                FrameState::Held.encode()
            } else {
                pending.encode() | (u64::from(references(old)) << 32)
            };
            match word.compare_exchange_weak(old, next, AcqRel, Relaxed) {
                Ok(_) => return Ok(free),
                Err(now) => old = now,
            }
        }
    }

    /// Refers to a frame of a domain.
    #[inline]
    pub fn get(self, mfn: Mfn, owner: DomainId) -> Result<PageRef, WrongFrame> {
        let word = self.frames.records.state(self.memory, mfn).ok_or(WrongFrame)?;
        let mut old = word.load(Relaxed);
        loop {
            if !says(old, FrameState::Guest(owner)) || !can_refer(old) {
                return Err(WrongFrame);
            }
            match word.compare_exchange_weak(old, old + ONE_REFERENCE, Acquire, Relaxed) {
                Ok(_) => return Ok(PageRef { mfn }),
                Err(now) => old = now,
            }
        }
    }

    /// Puts a reference back; the last one of a frame in quarantine frees it. The caller no longer uses the frame, and
    /// no CPU can have a translation to it because of this reference.
    #[inline]
    pub fn put(self, page: PageRef) -> Fate {
        let mfn = page.consume();
        let Some(word) = self.frames.records.state(self.memory, mfn) else { return Fate::Kept };
        let old = word.fetch_sub(ONE_REFERENCE, AcqRel);
        match FrameState::decode(old) {
            FrameState::Quarantined(owner) if references(old) == 1 => {
                self.free_held(mfn, 1);
                Fate::Freed(owner)
            }
            _ => Fate::Kept,
        }
    }

    /// What a frame is used for.
    #[inline]
    pub fn state(self, mfn: Mfn) -> FrameState {
        self.frames
            .records
            .state(self.memory, mfn)
            .map_or(FrameState::Absent, |word| FrameState::decode(word.load(Acquire)))
    }

    /// Whether a frame is memory of this domain, and not given back.
    #[inline]
    pub fn is_memory_of(self, mfn: Mfn, owner: DomainId) -> bool {
        let word = self.frames.records.state(self.memory, mfn);
        word.is_some_and(|word| says(word.load(Acquire), FrameState::Guest(owner)))
    }

    /// How many references a frame has.
    pub fn references(self, mfn: Mfn) -> u32 {
        self.frames.records.state(self.memory, mfn).map_or(0, |word| references(word.load(Acquire)))
    }

    /// Where the owner has a frame of a guest or a shared page; [`NO_GFN`] when nowhere.
    pub fn gfn_of(self, mfn: Mfn) -> Gfn {
        self.frames.records.extra(self.memory, mfn).map_or(NO_GFN, |word| Gfn::new(word.load(Acquire)))
    }

    /// The owner has moved a frame of a guest or a shared page.
    pub(super) fn set_gfn(self, mfn: Mfn, gfn: Gfn) {
        self.set_extra(mfn, gfn.raw());
    }

    fn set_state(self, mfn: Mfn, state: FrameState) {
        if let Some(word) = self.frames.records.state(self.memory, mfn) {
            word.store(state.encode(), Release);
        }
    }

    fn set_extra(self, mfn: Mfn, value: u64) {
        if let Some(word) = self.frames.records.extra(self.memory, mfn) {
            word.store(value, Release);
        }
    }
}
