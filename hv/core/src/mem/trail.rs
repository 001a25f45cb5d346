//! Trails: how a virtual CPU's linear addresses were translated a moment ago, so that the same way is checked instead
//! of searched again.
//!
//! A trail says where the entries of the guest's own page tables were that a translation read, and what they said. To
//! use it each entry is read again, once: only if all say the same does it lead to where a whole walk would lead now.
//! Where the entries and the page are in the machine holds as long as no place of the physmap was emptied or weakened,
//! which its generation tells; under another one nothing is remembered.
//!
//! Locks: used under the memory lock of the domain, which keeps the generation what it is.

use super::npt::Lookaside;
use super::walk::Paging;
use crate::hw::{HostPhys, Mfn, PAGE_SHIFT, PhysMemory};
use core::sync::atomic::Ordering::Relaxed;
use pv_abi::ids::GuestVirt;

/// The levels of a guest's tables in long mode.
const LEVELS: usize = 4;
/// How many trails are remembered: a power of two.
const TRAILS: usize = 8;

/// How one page was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trail {
    /// Its linear number; [`NOWHERE`](Self::NOWHERE) has one that no page has.
    page: u64,
    mfn: Mfn,
    /// Its entries allow writing, and are marked so.
    write: bool,
    /// Where the entries are and what they said; the last one again where a large page ended the walk.
    entries: [(HostPhys, u64); LEVELS],
}

impl Trail {
    const NOWHERE: Self =
        Self { page: u64::MAX, mfn: Mfn::new(0), write: false, entries: [(HostPhys::new(0), 0); LEVELS] };
}

/// What a walk notes on its way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Steps {
    entries: [(HostPhys, u64); LEVELS],
    count: usize,
}

impl Steps {
    /// An entry was read, and says this from now on.
    #[inline(always)]
    pub(super) fn note(&mut self, at: HostPhys, says: u64) {
        if let Some(step) = self.entries.get_mut(self.count) {
            *step = (at, says);
            self.count += 1;
        }
    }

    /// The trail of a walk that ended at `mfn`, if it noted its steps.
    fn trail(mut self, page: u64, mfn: Mfn, write: bool) -> Option<Trail> {
        let last = *self.entries.get(self.count.checked_sub(1)?)?;
        self.entries.iter_mut().skip(self.count).for_each(|entry| *entry = last);
        Some(Trail { page, mfn, write, entries: self.entries })
    }
}

/// The trails of one virtual CPU.
#[derive(Debug)]
pub struct Trails {
    pub(super) paging: Paging,
    generation: u64,
    /// Where guest-physical addresses led last.
    pub(super) near: Lookaside,
    trails: [Trail; TRAILS],
}

impl Default for Trails {
    fn default() -> Self {
        Self {
            paging: Paging::new(0, 0, 0, 0),
            generation: 0,
            near: Lookaside::EMPTY,
            trails: [Trail::NOWHERE; TRAILS],
        }
    }
}

impl Trails {
    /// Forgets what does not hold for these registers under this generation.
    #[inline]
    pub(super) fn suit(&mut self, paging: &Paging, generation: u64) {
        if self.generation != generation || self.paging != *paging {
            self.forget(paging, generation);
        }
    }

    #[cold]
    fn forget(&mut self, paging: &Paging, generation: u64) {
        (self.paging, self.generation, self.near) = (*paging, generation, Lookaside::EMPTY);
        self.trails.iter_mut().for_each(|trail| trail.page = Trail::NOWHERE.page);
    }

    /// The place of a page's trail. There is always one, which the compiler sees.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)] // a remainder
    fn slot(&mut self, page: u64) -> Option<&mut Trail> {
        self.trails.get_mut(page as usize % TRAILS)
    }

    /// Where the byte at `gva` is in the machine, if the way to it is known and still the same.
    #[inline(always)]
    pub(super) fn follow<M: PhysMemory>(
        &mut self,
        memory: &M,
        gva: GuestVirt,
        write: bool,
    ) -> Option<HostPhys> {
        let page = gva.raw() >> PAGE_SHIFT;
        let trail = self.slot(page)?;
        let known = trail.page == page && (trail.write || !write);
        let says = |(at, said): &(HostPhys, u64)| memory.u64_at(*at).load(Relaxed) == *said;
        (known && trail.entries.iter().all(says)).then(|| trail.mfn.at(gva.raw()))
    }

    /// Remembers the way to the page of `gva`.
    pub(super) fn keep(&mut self, gva: GuestVirt, mfn: Mfn, write: bool, steps: Steps) {
        let page = gva.raw() >> PAGE_SHIFT;
        if let (Some(trail), Some(slot)) = (steps.trail(page, mfn, write), self.slot(page)) {
            *slot = trail;
        }
    }
}
