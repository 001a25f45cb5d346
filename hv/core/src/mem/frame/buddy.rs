//! The free memory: a buddy allocator whose lists are linked through the frames' records.
//!
//! Invariants: a block of order `n` starts at a multiple of `2^n`; its first record says `Free(n)`, the others
//! `Inner`; no two blocks that could be one are both free. All of it is under the frame table's one lock, which is a
//! leaf in the lock order.

use super::record::{FrameState, Records};
use crate::hw::{Mfn, Order, PhysMemory};
use core::sync::atomic::Ordering::{Relaxed, Release};

const ORDERS: usize = Order::MAX.raw() as usize + 1;
/// The end of a list.
const NONE: u32 = u32::MAX;

/// Heads of the lists of free blocks, by order.
#[derive(Debug)]
pub(super) struct Buddy {
    heads: [u32; ORDERS],
    free: u64,
}

/// The lists together with what they are linked through.
pub(super) struct Lists<'a, M> {
    pub(super) buddy: &'a mut Buddy,
    pub(super) records: Records,
    pub(super) memory: &'a M,
}

impl Buddy {
    pub(super) const fn new() -> Self {
        Self { heads: [NONE; ORDERS], free: 0 }
    }

    /// How many frames are free.
    pub(super) const fn free(&self) -> u64 {
        self.free
    }
}

impl<M: PhysMemory> Lists<'_, M> {
    fn state(&self, mfn: Mfn) -> FrameState {
        self.records
            .state(self.memory, mfn)
            .map_or(FrameState::Absent, |word| FrameState::decode(word.load(Relaxed)))
    }

    fn set_state(&self, mfn: Mfn, state: FrameState) {
        if let Some(word) = self.records.state(self.memory, mfn) {
            word.store(state.encode(), Release);
        }
    }

    fn links(&self, mfn: u32) -> (u32, u32) {
        let word = self.records.extra(self.memory, wide(mfn)).map_or(u64::MAX, |word| word.load(Relaxed));
        split(word)
    }

    fn set_links(&self, mfn: u32, prev: u32, next: u32) {
        if let Some(word) = self.records.extra(self.memory, wide(mfn)) {
            word.store((u64::from(prev) << 32) | u64::from(next), Relaxed);
        }
    }

    fn head(&mut self, order: u8) -> &mut u32 {
        // `min` keeps the index in range; no caller passes a larger order.
        let index = usize::from(order).min(ORDERS - 1);
        #[allow(clippy::indexing_slicing)]
        &mut self.buddy.heads[index]
    }

    /// Puts a block whose records are already `Inner` into its list.
    fn push(&mut self, mfn: Mfn, order: u8) {
        let me = narrow(mfn);
        let old = core::mem::replace(self.head(order), me);
        self.set_links(me, NONE, old);
        if old != NONE {
            let (_, next) = self.links(old);
            self.set_links(old, me, next);
        }
        self.set_state(mfn, FrameState::Free(order));
        self.buddy.free += 1 << order;
    }

    /// Takes a block out of its list; its first record becomes `Inner`.
    fn unlink(&mut self, mfn: Mfn, order: u8) {
        let (prev, next) = self.links(narrow(mfn));
        if prev == NONE {
            *self.head(order) = next;
        } else {
            let (before, _) = self.links(prev);
            self.set_links(prev, before, next);
        }
        if next != NONE {
            let (_, after) = self.links(next);
            self.set_links(next, prev, after);
        }
        self.set_state(mfn, FrameState::Inner);
        self.buddy.free -= 1 << order;
    }

    /// Frees a block, joining it with its buddies. The caller owns the frames.
    pub(super) fn free_block(&mut self, mfn: Mfn, order: u8) {
        for frame in mfn.raw()..mfn.raw() + (1 << order) {
            self.set_state(Mfn::new(frame), FrameState::Inner);
        }
        let (mut mfn, mut order) = (mfn, order);
        while order < Order::MAX.raw() {
            let buddy = Mfn::new(mfn.raw() ^ (1 << order));
            if self.state(buddy) != FrameState::Free(order) {
                break;
            }
            self.unlink(buddy, order);
            mfn = mfn.min(buddy);
            order += 1;
        }
        self.push(mfn, order);
    }

    /// Frees any run of frames that the caller owns.
    pub(super) fn free_run(&mut self, first: Mfn, count: u64) {
        let (mut at, end) = (first.raw(), first.raw() + count);
        while at < end {
            let order = largest_order(at, end - at);
            self.free_block(Mfn::new(at), order);
            at += 1 << order;
        }
    }

    /// Takes a block of this order, and marks its frames as held.
    pub(super) fn take(&mut self, order: Order) -> Option<Mfn> {
        let mut from = order.raw();
        while *self.head(from) == NONE {
            from += 1;
            if from > Order::MAX.raw() {
                return None;
            }
        }
        let mfn = wide(*self.head(from));
        self.unlink(mfn, from);
        while from > order.raw() {
            from -= 1;
            self.push(Mfn::new(mfn.raw() + (1 << from)), from);
        }
        self.mark_held(mfn, order.pages());
        Some(mfn)
    }

    /// Takes exactly these frames, and marks them as held; fails unless all are free.
    pub(super) fn take_run(&mut self, first: Mfn, count: u64) -> bool {
        let end = first.raw().saturating_add(count);
        let mut at = first.raw();
        while at < end {
            let Some((head, order)) = self.block_of(Mfn::new(at)) else { return false };
            at = head.raw() + (1 << order);
        }
        at = first.raw();
        while at < end {
            let Some((head, order)) = self.block_of(Mfn::new(at)) else { return false };
            let (start, stop) = (head.raw(), head.raw() + (1 << order));
            self.unlink(head, order);
            // The pieces cannot be joined with anything: what lies between them is being taken.
            let taken_from = start.max(first.raw());
            let taken_to = stop.min(end);
            self.mark_held(Mfn::new(taken_from), taken_to - taken_from);
            self.free_run(head, taken_from - start);
            self.free_run(Mfn::new(taken_to), stop - taken_to);
            at = stop;
        }
        true
    }

    /// Finds the lowest free run of `count` frames that starts at a multiple of `align` frames.
    pub(super) fn find_run(&self, count: u64, align: u64) -> Option<Mfn> {
        let align = align.max(1);
        let (mut at, mut start) = (0, 0);
        while at < self.records.count {
            match self.state(Mfn::new(at)) {
                FrameState::Free(order) => at += 1 << order,
                _ => {
                    at += 1;
                    start = at;
                    continue;
                }
            }
            let aligned = start.checked_next_multiple_of(align)?;
            if aligned.checked_add(count)? <= at {
                return Some(Mfn::new(aligned));
            }
        }
        None
    }

    /// The free block that holds a frame.
    fn block_of(&self, mfn: Mfn) -> Option<(Mfn, u8)> {
        (0..=Order::MAX.raw()).find_map(|order| {
            let head = Mfn::new(mfn.raw() & !((1 << order) - 1));
            (self.state(head) == FrameState::Free(order)).then_some((head, order))
        })
    }

    fn mark_held(&self, first: Mfn, count: u64) {
        for frame in first.raw()..first.raw() + count {
            self.set_state(Mfn::new(frame), FrameState::Held);
        }
    }
}

/// The largest order that a block at `at` of at most `count` frames can have.
pub(in crate::mem) fn largest_order(at: u64, count: u64) -> u8 {
    let by_place = if at == 0 { u32::from(Order::MAX.raw()) } else { at.trailing_zeros() };
    let by_size = if count == 0 { 0 } else { count.ilog2() };
    u8::try_from(by_place.min(by_size)).unwrap_or(Order::MAX.raw()).min(Order::MAX.raw())
}

/// The frame table covers fewer than 2^32 frames: its constructor sees to it.
#[allow(clippy::cast_possible_truncation)]
const fn narrow(mfn: Mfn) -> u32 {
    mfn.raw() as u32
}

const fn wide(mfn: u32) -> Mfn {
    Mfn::new(mfn as u64)
}

#[allow(clippy::cast_possible_truncation)] // two halves
const fn split(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}
