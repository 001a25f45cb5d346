//! Pages for frames to be sent: granted once, for reading only, and taken side by side.
//!
//! A run has as many pages as the largest frame, so that such a frame takes one. Small frames take the lowest pages that
//! are free, large ones the highest run that has room: the two stay out of each other's way, and runs are allocated when
//! they are needed first. Where no run has room for a frame though there are pages enough, the caller takes them one by
//! one.
//!
//! # Invariants
//!
//! * A page whose bit in `free` is clear is in the ring, or being put there: it comes back once.

use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, GrantRef};

use crate::platform::{Access, PAGE_SIZE, Platform, SharedMemory};
use crate::share::Shared;

/// Pages of a run: those of the largest frame.
pub(super) const RUN_PAGES: usize = 16;
/// The most runs: as many pages as the ring has slots.
const RUNS: usize = 16;

/// Pages side by side.
struct Run<P: Platform> {
    pages: Shared<P>,
    /// A bit for each page that is not in the ring.
    free: u16,
}

/// A page of the pool, numbered through all runs; what requests call it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Page(u16);

impl Page {
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }

    pub const fn raw(self) -> u16 {
        self.0
    }

    /// The page `count` further on in its run.
    pub const fn advance(self, count: u16) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// Its run, and its number there.
    fn place(self) -> (usize, usize) {
        (usize::from(self.0) / RUN_PAGES, usize::from(self.0) % RUN_PAGES)
    }

    fn at(run: usize, bit: u32) -> Option<Self> {
        let bit = u16::try_from(bit).ok()?;
        Some(Self(u16::try_from(run * RUN_PAGES).ok()?.checked_add(bit)?))
    }
}

pub(super) struct Pool<P: Platform> {
    platform: P,
    peer: DomainId,
    runs: Vec<Run<P>>,
    /// Pages that are free.
    free: usize,
    /// The most runs that can be had.
    most: usize,
}

/// The lowest bit at which `count` bits of `free` side by side are set.
fn find(free: u16, count: usize) -> Option<u32> {
    let (mut starts, mut have) = (free, 1);
    while have < count {
        // Where `have` bits are set, and as many (or what is missing) behind them.
        let step = have.min(count - have);
        starts &= starts >> step;
        have += step;
    }
    (starts != 0).then(|| starts.trailing_zeros())
}

/// `count` bits from `bit` on.
fn bits(bit: u32, count: usize) -> u16 {
    let low = if count >= RUN_PAGES { u16::MAX } else { (1 << count) - 1 };
    low << bit
}

impl<P: Platform> Pool<P> {
    pub fn new(platform: &P, peer: DomainId) -> Self {
        Self { platform: platform.clone(), peer, runs: Vec::new(), free: 0, most: RUNS }
    }

    /// Pages that can be had now.
    #[inline]
    pub fn room(&self) -> usize {
        self.free + (self.most - self.runs.len()) * RUN_PAGES
    }

    /// Takes `count` pages side by side, at least one and at most [`RUN_PAGES`].
    pub fn take(&mut self, count: usize) -> Option<Page> {
        let found = |(number, run): (usize, &Run<P>)| find(run.free, count).map(|bit| (number, bit));
        let taken = if count == 1 {
            self.runs.iter().enumerate().find_map(found)
        } else {
            self.runs.iter().enumerate().rev().find_map(found)
        };
        let (number, bit) = match taken {
            Some(taken) => taken,
            None => (self.grow()?, 0),
        };
        let run = self.runs.get_mut(number)?;
        run.free &= !bits(bit, count);
        self.free -= count;
        Page::at(number, bit)
    }

    /// Allocates a run, whose number it returns.
    fn grow(&mut self) -> Option<usize> {
        let number = self.runs.len();
        if number >= self.most {
            return None;
        }
        match self.allocate() {
            Ok(run) => self.runs.push(run),
            Err(error) => {
                log::warn!("no more than {number} times {RUN_PAGES} pages for frames: {error}");
                self.most = number;
                return None;
            }
        }
        self.free += RUN_PAGES;
        Some(number)
    }

    fn allocate(&self) -> Result<Run<P>, Errno> {
        let pages = Shared::new(&self.platform, self.peer, RUN_PAGES, Access::ReadOnly)?;
        Ok(Run { pages, free: u16::MAX })
    }

    /// Takes a page back. `false`: it was not away.
    #[must_use]
    pub fn give_back(&mut self, page: Page) -> bool {
        let (number, at) = page.place();
        match self.runs.get_mut(number) {
            Some(run) if run.free & 1 << at == 0 => {
                run.free |= 1 << at;
                self.free += 1;
                true
            }
            _ => false,
        }
    }

    pub fn grant(&self, page: Page) -> GrantRef {
        let (run, at) = page.place();
        self.runs.get(run).and_then(|run| run.pages.grants().get(at)).copied().unwrap_or_default()
    }

    /// How many runs there are.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Grants of the pages that were allocated since this was called with the same `seen`.
    pub fn grown(&self, seen: &mut usize) -> impl Iterator<Item = GrantRef> {
        let from = core::mem::replace(seen, self.runs.len());
        self.runs.get(from..).into_iter().flatten().flat_map(|run| run.pages.grants().iter().copied())
    }

    /// Lets `fill` write `len` bytes from the start of `page` on, which are in its run.
    pub fn fill(&mut self, page: Page, len: usize, fill: &mut dyn FnMut(&mut [u8])) {
        let (run, at) = page.place();
        if let Some(run) = self.runs.get_mut(run) {
            run.pages.memory_mut().fill_in(at * PAGE_SIZE, len, fill);
        }
    }

    /// Copies bytes to the start of a page.
    pub fn copy_in(&self, page: Page, bytes: &[u8]) {
        let (run, at) = page.place();
        if let Some(run) = self.runs.get(run) {
            run.pages.memory().copy_in(at * PAGE_SIZE, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::Machine;

    #[test]
    fn runs_of_bits_are_found() {
        for free in 0..=u16::MAX {
            for count in [1, 2, 3, 5, 8, 11, 15, 16] {
                let plain = (0..=RUN_PAGES - count)
                    .find(|bit| free & bits(*bit as u32, count) == bits(*bit as u32, count));
                assert_eq!(find(free, count), plain.map(|bit| bit as u32), "{free:#b} {count}");
            }
        }
    }

    #[test]
    fn small_and_large_frames_stay_apart_and_everything_comes_back() {
        let machine = Machine::new();
        let guest = machine.domain(1);
        let mut pool = Pool::new(&guest, DomainId::DOM0);
        assert_eq!((pool.room(), guest.counts().pages), (256, 0));
        let small = pool.take(1).unwrap();
        assert_eq!((small.raw(), guest.counts().pages), (0, RUN_PAGES));
        // The first run has no room for it any more, the second has.
        let large = pool.take(RUN_PAGES).unwrap();
        assert_eq!((large.raw(), pool.room(), pool.runs.len()), (16, 239, 2));
        assert_eq!(pool.take(3).unwrap().raw(), 1);
        assert_eq!(pool.take(1).unwrap().raw(), 4);
        // All that are left, one by one.
        let taken: Vec<_> = core::iter::from_fn(|| pool.take(1)).collect();
        assert_eq!((taken.len(), pool.room()), (235, 0));
        assert!(pool.take(2).is_none());
        for page in taken {
            assert!(pool.give_back(page));
            assert!(!pool.give_back(page), "twice");
        }
        assert!(!pool.give_back(Page::new(256)));
        for page in (0..5).chain(16..32) {
            assert!(pool.give_back(Page::new(page)));
        }
        assert_eq!(pool.room(), 256);
    }

    #[test]
    fn what_cannot_be_had_is_not_promised() {
        let machine = Machine::new();
        machine.limit_grants(40);
        let mut pool = Pool::new(&machine.domain(1), DomainId::DOM0);
        assert!(pool.take(RUN_PAGES).is_some());
        assert!(pool.take(RUN_PAGES).is_some());
        assert!(pool.take(RUN_PAGES).is_none());
        assert_eq!(pool.room(), 0);
    }
}
