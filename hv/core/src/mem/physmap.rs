//! The physmap of a domain: what its guest-physical addresses lead to.
//!
//! A place holds one of: nothing; memory of the domain's own (its frame knows the place, so each frame is at one place);
//! a special page of the hypervisor; a foreign frame that a grant gives; device registers. Which of them is read from
//! the record of the frame, not from the nested table.
//!
//! Locks: a domain's physmap is behind its memory lock, a reader-writer lock: translations need it shared, changes
//! exclusively. A frame that is translated to stays what it is while the lock is held: leaving needs it exclusively.

use super::account::{OverQuota, PageAccount};
use super::departures::Departures;
use super::flush::{Flush, Generation};
use super::frame::{FrameState, HeldFrames, NO_GFN, OutOfMemory, PageRef, Ram, SharedPage};
use super::npt::{GFN_END, Lookaside, MapError, Mapping, Npt, Run};
use crate::hw::{
    CachePolicy, EntryFormat, HostPhys, Mfn, Order, PAGE_SHIFT, PageSize, Pages, PhysMemory, Rights,
};
use alloc::sync::Arc;
use alloc::vec::Vec;
use pv_abi::ids::{DomainId, Gfn, GuestPhys};
use pv_abi::memory::E820Entry;
use pv_abi::{Errno, Result};

/// What a place in a physmap holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Occupant {
    /// Nothing.
    Nothing,
    /// Memory of the domain's own.
    Own(Mapping),
    /// A page of the hypervisor.
    Special(Mapping),
    /// A frame that is the domain's by a grant.
    Foreign(Mapping),
    /// Device registers.
    Device(Mapping),
}

/// What a domain's physmap is made from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PhysmapConfig {
    /// Whose it is.
    pub owner: DomainId,
    /// How many pages the domain may have.
    pub maximum: Pages,
    /// The largest page that the hardware can map.
    pub largest: PageSize,
    /// The domain's memory is where the machine has it, for devices that have no IOMMU.
    pub one_to_one: bool,
}

/// The memory of a domain.
#[derive(Debug)]
pub struct DomainMemory<F> {
    config: PhysmapConfig,
    npt: Npt<F>,
    account: Arc<PageAccount>,
    generation: Generation,
    highest: Gfn,
    map: Vec<E820Entry>,
}

impl From<MapError> for Errno {
    fn from(error: MapError) -> Self {
        match error {
            MapError::Occupied => Self::EBUSY,
            MapError::NoMemory => Self::ENOMEM,
            MapError::BadFrame => Self::EINVAL,
        }
    }
}

impl From<OutOfMemory> for Errno {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::ENOMEM
    }
}

impl From<OverQuota> for Errno {
    fn from(OverQuota: OverQuota) -> Self {
        Self::ENOMEM
    }
}

/// How many nested tables a domain of this size may have: all of its memory in 4 KiB pages, and some for mappings
/// that lie apart.
const fn most_tables(maximum: Pages) -> u64 {
    512 + maximum.raw() / 128
}

impl<F: EntryFormat> DomainMemory<F> {
    /// Makes an empty physmap.
    pub fn new<M: PhysMemory>(ram: Ram<'_, M>, config: PhysmapConfig) -> Result<Self> {
        Ok(Self {
            config,
            npt: Npt::new(ram, config.owner, most_tables(config.maximum))?,
            account: Arc::new(PageAccount::new(config.maximum)),
            generation: Generation::default(),
            highest: Gfn::new(0),
            map: Vec::new(),
        })
    }

    /// Whose it is.
    pub const fn owner(&self) -> DomainId {
        self.config.owner
    }

    /// Whether the domain's memory is where the machine has it.
    pub const fn is_one_to_one(&self) -> bool {
        self.config.one_to_one
    }

    /// The root of the nested page tables.
    pub const fn root(&self) -> HostPhys {
        self.npt.root()
    }

    /// The count of pages. It outlives the physmap.
    pub const fn account(&self) -> &Arc<PageAccount> {
        &self.account
    }

    /// The generation, for vCPUs to compare with: see [`super::flush`].
    pub const fn generation(&self) -> &Generation {
        &self.generation
    }

    /// The highest frame number that was ever in use.
    pub const fn highest(&self) -> Gfn {
        self.highest
    }

    /// The memory map that the domain is told.
    pub fn map(&self) -> &[E820Entry] {
        &self.map
    }

    /// Sets the memory map that the domain is told.
    pub fn set_map(&mut self, map: Vec<E820Entry>) {
        self.map = map;
    }

    /// How many nested tables there are.
    pub const fn tables(&self) -> u64 {
        self.npt.tables()
    }

    /// An empty batch of departures from this physmap.
    pub fn departures(&self) -> Departures {
        Departures::new(self.config.owner, self.account.clone())
    }

    /// Where a guest frame leads.
    #[inline]
    pub fn translate<M: PhysMemory>(&self, memory: &M, gfn: Gfn) -> Option<Mapping> {
        self.npt.lookup(memory, gfn)
    }

    /// Where the byte at `gpa` is, if it is memory (no register) that may be read, and also written if `write`.
    #[inline(always)]
    pub fn locate<M: PhysMemory>(
        &self,
        memory: &M,
        gpa: GuestPhys,
        write: bool,
        near: &mut Lookaside,
    ) -> Option<HostPhys> {
        self.npt.locate(memory, gpa, write, near)
    }

    /// The same for the first byte of a frame, whose number may be any.
    #[inline(always)]
    pub fn locate_page<M: PhysMemory>(
        &self,
        memory: &M,
        gfn: Gfn,
        write: bool,
        near: &mut Lookaside,
    ) -> Option<Mfn> {
        if gfn >= GFN_END {
            return None;
        }
        Some(self.npt.locate(memory, GuestPhys::new(gfn.raw() << PAGE_SHIFT), write, near)?.mfn())
    }

    /// What a place holds.
    pub fn occupant<M: PhysMemory>(&self, ram: Ram<'_, M>, gfn: Gfn) -> Occupant {
        self.npt.lookup(ram.memory, gfn).map_or(Occupant::Nothing, |mapping| self.classify(ram, gfn, mapping))
    }

    fn classify<M: PhysMemory>(&self, ram: Ram<'_, M>, gfn: Gfn, mapping: Mapping) -> Occupant {
        if mapping.cache == CachePolicy::Device {
            return Occupant::Device(mapping);
        }
        let at_home = ram.gfn_of(mapping.mfn) == gfn;
        match ram.state(mapping.mfn) {
            FrameState::Guest(owner) if owner == self.config.owner && at_home => Occupant::Own(mapping),
            FrameState::Shared(_) => Occupant::Special(mapping),
            _ => Occupant::Foreign(mapping),
        }
    }

    /// Refers to the frame of the domain's own at `gfn`, so that the hypervisor may use it after the lock is released.
    /// Put the reference back with [`PageAccount::put`].
    pub fn pin<M: PhysMemory>(&self, ram: Ram<'_, M>, gfn: Gfn) -> Result<PageRef> {
        let mapping = self.translate(ram.memory, gfn).ok_or(Errno::EINVAL)?;
        if mapping.cache == CachePolicy::Device || !mapping.rights.write {
            return Err(Errno::EINVAL);
        }
        ram.get(mapping.mfn, self.config.owner).map_err(|_| Errno::EINVAL)
    }

    fn touched(&mut self, gfn: Gfn, count: u64) {
        self.highest = self.highest.max(Gfn::new((gfn.raw() + count).saturating_sub(1)));
    }

    /// Checks that a range is in the address space, and empty.
    fn check_empty<M: PhysMemory>(&self, ram: Ram<'_, M>, gfn: Gfn, count: u64) -> Result<()> {
        let end = gfn.checked_add(count).filter(|end| *end <= GFN_END).ok_or(Errno::EINVAL)?;
        // Each step of the walk passes at least one entry of the range.
        let mut budget = u32::try_from(count).unwrap_or(u32::MAX);
        match self.npt.next(ram.memory, gfn, &mut budget) {
            Ok(Some((at, _))) if at < end => Err(Errno::EBUSY),
            _ => Ok(()),
        }
    }

    /// Gives the domain fresh memory at `gfn`: zeroed, contiguous in the machine.
    pub fn populate<M: PhysMemory>(&mut self, ram: Ram<'_, M>, gfn: Gfn, order: Order) -> Result<()> {
        self.check_empty(ram, gfn, order.pages())?;
        self.account.charge(Pages::new(order.pages()))?;
        let frames = if self.config.one_to_one {
            ram.alloc_at(Mfn::new(gfn.raw()), order.pages())
        } else {
            ram.alloc(order)
        };
        let adopted = frames.map_err(Errno::from).and_then(|frames| self.place(ram, frames, gfn));
        if adopted.is_err() {
            self.account.credit(Pages::new(order.pages()));
        }
        adopted
    }

    /// Gives the domain frames that were allocated for it, at `gfn`.
    pub fn adopt<M: PhysMemory>(&mut self, ram: Ram<'_, M>, frames: HeldFrames, gfn: Gfn) -> Result<()> {
        let pages = Pages::new(frames.count());
        let charged =
            self.check_empty(ram, gfn, pages.raw()).and_then(|()| Ok(self.account.charge(pages)?));
        if let Err(error) = charged {
            ram.free(frames);
            return Err(error);
        }
        let placed = self.place(ram, frames, gfn);
        if placed.is_err() {
            self.account.credit(pages);
        }
        placed
    }

    /// Maps frames, which nothing can reach yet, and then makes them the domain's.
    fn place<M: PhysMemory>(&mut self, ram: Ram<'_, M>, frames: HeldFrames, gfn: Gfn) -> Result<()> {
        let frames = ram.scrub(frames);
        let (mfn, count) = (frames.mfn(), frames.count());
        let run = Run { gfn, mfn, count, largest: self.config.largest };
        if let Err(error) = self.npt.map_run(ram, run, Rights::ALL, CachePolicy::Memory) {
            ram.free_zeroed(frames);
            return Err(error.into());
        }
        ram.give(frames, self.config.owner, gfn);
        self.touched(gfn, count);
        Ok(())
    }

    /// Gives the domain memory from `next` up to `end`, in blocks as large as there are, until done or `budget` pages
    /// are exceeded; `next` moves on. True when done.
    pub fn fill<M: PhysMemory>(
        &mut self,
        ram: Ram<'_, M>,
        next: &mut Gfn,
        end: Gfn,
        budget: u64,
    ) -> Result<bool> {
        let mut given = 0;
        while *next < end && given < budget {
            let mut raw = self.largest_block(*next, end.raw() - next.raw());
            loop {
                let order = Order::new(raw).ok_or(Errno::EINVAL)?;
                match self.populate(ram, *next, order) {
                    Ok(()) => break,
                    Err(Errno::ENOMEM) if raw > 0 => raw -= 1,
                    Err(error) => return Err(error),
                }
            }
            given += 1 << raw;
            *next = Gfn::new(next.raw() + (1 << raw));
        }
        Ok(*next >= end)
    }

    fn largest_block(&self, gfn: Gfn, count: u64) -> u8 {
        let order = super::frame::largest_order(gfn.raw(), count);
        order.min(self.config.largest.order().raw())
    }

    /// Takes the domain's own memory at `gfn` out of the physmap. The batch must have [room](Departures::room) for
    /// [`Self::pieces`] runs.
    pub fn remove<M: PhysMemory>(
        &mut self,
        ram: Ram<'_, M>,
        gfn: Gfn,
        order: Order,
        out: &mut Departures,
    ) -> Result<()> {
        let end = gfn.checked_add(order.pages()).filter(|end| *end <= GFN_END).ok_or(Errno::EINVAL)?;
        let mut at = gfn;
        let (mut pieces, mut first) = (0, None);
        while at < end {
            let Occupant::Own(mapping) = self.occupant(ram, at) else { return Err(Errno::EINVAL) };
            // A leaf that the range does not cover in full is split until it is.
            let size = Self::fitting(at, end, mapping.size);
            self.npt.split(ram, at, size)?;
            if first != Some(mapping.mfn.raw()) {
                pieces += 1;
            }
            first = Some(mapping.mfn.raw() + size.pages());
            at = Gfn::new(at.raw() + size.pages());
        }
        if pieces > out.room() {
            return Err(Errno::E2BIG);
        }
        self.take_out(ram, gfn, end, out);
        Ok(())
    }

    /// The largest page at `at` that ends before `end` and is no larger than `size`.
    fn fitting(at: Gfn, end: Gfn, size: PageSize) -> PageSize {
        [PageSize::G1, PageSize::M2]
            .into_iter()
            .find(|try_size| {
                try_size.level() <= size.level()
                    && at.raw() & (try_size.pages() - 1) == 0
                    && end.raw() - at.raw() >= try_size.pages()
            })
            .unwrap_or(PageSize::K4)
    }

    /// Unmaps a range of leaves that lie wholly in it, and hands their frames over, joined to runs.
    fn take_out<M: PhysMemory>(&mut self, ram: Ram<'_, M>, gfn: Gfn, end: Gfn, out: &mut Departures) {
        let mut at = gfn;
        let mut run: Option<(Mfn, u64)> = None;
        while at < end {
            let Some(mapping) = self.npt.lookup(ram.memory, at) else { break };
            self.npt.unmap(ram.memory, at);
            run = match run {
                Some((first, count)) if first.raw() + count == mapping.mfn.raw() => {
                    Some((first, count + mapping.size.pages()))
                }
                Some((first, count)) => {
                    out.add(first, count, Flush::NONE);
                    Some((mapping.mfn, mapping.size.pages()))
                }
                None => Some((mapping.mfn, mapping.size.pages())),
            };
            at = Gfn::new(at.raw() + mapping.size.pages());
        }
        if let Some((first, count)) = run {
            out.add(first, count, self.generation.advance());
        }
    }

    /// Makes a place empty: gives back the domain's own page there, or unmaps a special page. Grants and device
    /// registers stay: `EBUSY`.
    pub fn vacate<M: PhysMemory>(&mut self, ram: Ram<'_, M>, gfn: Gfn, out: &mut Departures) -> Result<()> {
        match self.occupant(ram, gfn) {
            Occupant::Nothing => Ok(()),
            Occupant::Own(_) => self.remove(ram, gfn, Order::PAGE, out),
            Occupant::Special(mapping) => {
                ram.set_gfn(mapping.mfn, NO_GFN);
                self.npt.unmap(ram.memory, gfn);
                out.owe(self.generation.advance());
                Ok(())
            }
            Occupant::Foreign(_) | Occupant::Device(_) => Err(Errno::EBUSY),
        }
    }

    /// Moves the domain's own page from one place to another, whose own page is given back.
    pub fn move_page<M: PhysMemory>(
        &mut self,
        ram: Ram<'_, M>,
        from: Gfn,
        to: Gfn,
        out: &mut Departures,
    ) -> Result<()> {
        let Occupant::Own(mapping) = self.occupant(ram, from) else { return Err(Errno::EINVAL) };
        if from == to {
            return Ok(());
        }
        self.npt.split(ram, from, PageSize::K4)?;
        self.make_room(ram, to, out)?;
        self.npt.unmap(ram.memory, from);
        out.owe(self.generation.advance());
        ram.set_gfn(mapping.mfn, to);
        self.npt.map(ram, to, mapping.mfn, PageSize::K4, Rights::ALL, CachePolicy::Memory)?;
        self.touched(to, 1);
        Ok(())
    }

    /// Puts a page of the hypervisor at a place; it leaves the place where it was before.
    pub fn map_special<M: PhysMemory>(
        &mut self,
        ram: Ram<'_, M>,
        gfn: Gfn,
        page: &SharedPage,
        out: &mut Departures,
    ) -> Result<()> {
        if ram.state(page.mfn()) != FrameState::Shared(self.config.owner) {
            return Err(Errno::EINVAL);
        }
        let before = ram.gfn_of(page.mfn());
        if before == gfn {
            return Ok(());
        }
        self.make_room(ram, gfn, out)?;
        if before != NO_GFN {
            self.npt.unmap(ram.memory, before);
            out.owe(self.generation.advance());
        }
        self.npt.map(ram, gfn, page.mfn(), PageSize::K4, Rights::READ_WRITE, CachePolicy::Memory)?;
        ram.set_gfn(page.mfn(), gfn);
        self.touched(gfn, 1);
        Ok(())
    }

    /// Makes a place empty and sure to take a 4 KiB page: what can fail, fails here.
    fn make_room<M: PhysMemory>(&mut self, ram: Ram<'_, M>, gfn: Gfn, out: &mut Departures) -> Result<()> {
        if out.room() == 0 {
            return Err(Errno::E2BIG);
        }
        self.npt.prepare(ram, gfn)?;
        self.vacate(ram, gfn, out)
    }

    /// Maps a foreign frame at an empty place. The caller holds a reference to it until the place is empty again and
    /// flushed.
    pub fn map_foreign<M: PhysMemory>(
        &mut self,
        ram: Ram<'_, M>,
        gfn: Gfn,
        page: &PageRef,
        rights: Rights,
    ) -> Result<()> {
        self.npt.map(ram, gfn, page.mfn(), PageSize::K4, rights, CachePolicy::Memory)?;
        self.touched(gfn, 1);
        Ok(())
    }

    /// Ends what [`map_foreign`](Self::map_foreign) began; fails unless this frame is at this place.
    pub fn unmap_foreign<M: PhysMemory>(&mut self, memory: &M, gfn: Gfn, page: &PageRef) -> Result<Flush> {
        let there = self.npt.lookup(memory, gfn);
        if !there.is_some_and(|mapping| mapping.mfn == page.mfn() && mapping.size == PageSize::K4) {
            return Err(Errno::EINVAL);
        }
        self.npt.unmap(memory, gfn);
        Ok(self.generation.advance())
    }

    /// Maps device registers at empty places. The caller has seen that they belong to a device of the domain's; that
    /// they are no memory is checked here.
    pub fn map_device<M: PhysMemory>(
        &mut self,
        ram: Ram<'_, M>,
        gfn: Gfn,
        mfn: Mfn,
        count: u64,
    ) -> Result<()> {
        if ram.frames.overlaps_ram(mfn, count) {
            return Err(Errno::EPERM);
        }
        let run = Run { gfn, mfn, count, largest: PageSize::M2 };
        self.npt.map_run(ram, run, Rights::READ_WRITE, CachePolicy::Device)?;
        Ok(())
    }

    /// Unmaps the device registers at these places.
    pub fn unmap_device<M: PhysMemory>(&mut self, ram: Ram<'_, M>, gfn: Gfn, count: u64) -> Result<Flush> {
        let end = gfn.checked_add(count).filter(|end| *end <= GFN_END).ok_or(Errno::EINVAL)?;
        let mut at = gfn;
        let mut flush = Flush::NONE;
        while at < end {
            let size = match self.occupant(ram, at) {
                Occupant::Device(mapping) => Self::fitting(at, end, mapping.size),
                _ => {
                    at = Gfn::new(at.raw() + 1);
                    continue;
                }
            };
            self.npt.split(ram, at, size)?;
            self.npt.unmap(ram.memory, at);
            flush = flush.and(self.generation.advance());
            at = Gfn::new(at.raw() + size.pages());
        }
        Ok(flush)
    }

    /// Takes a dying domain's memory back, from the place `next` on; true when all is gone. Its vCPUs run no more, its
    /// grant mappings have been ended before. `budget` is a number of table entries, roughly.
    pub fn tear_down<M: PhysMemory>(&mut self, ram: Ram<'_, M>, next: &mut Gfn, budget: u32) -> bool {
        let mut left = budget;
        loop {
            match self.npt.next(ram.memory, *next, &mut left) {
                Err(at) => {
                    *next = at;
                    return false;
                }
                Ok(Some((gfn, mapping))) => {
                    self.npt.unmap(ram.memory, gfn);
                    match self.classify(ram, gfn, mapping) {
                        Occupant::Own(mapping) => self.reclaim(ram, mapping.mfn, mapping.size.pages()),
                        Occupant::Special(mapping) => ram.set_gfn(mapping.mfn, NO_GFN),
                        Occupant::Nothing | Occupant::Foreign(_) | Occupant::Device(_) => {}
                    }
                    left = left.saturating_sub(u32::try_from(mapping.size.pages()).unwrap_or(u32::MAX) / 8);
                    *next = Gfn::new(gfn.raw() + mapping.size.pages());
                }
                Ok(None) => break,
            }
        }
        *next = GFN_END;
        self.npt.dismantle(ram, &mut left)
    }

    fn reclaim<M: PhysMemory>(&self, ram: Ram<'_, M>, first: Mfn, count: u64) {
        match ram.reclaim(first, count, self.config.owner) {
            Ok(freed) => self.account.credit(Pages::new(freed)),
            Err(_) => log::error!("{count} frames from {first} are not all memory of {}", self.config.owner),
        }
    }

    /// Frees the root of a physmap that was [torn down](Self::tear_down).
    pub fn free_root<M: PhysMemory>(self, ram: Ram<'_, M>) {
        self.npt.free_root(ram);
    }
}
