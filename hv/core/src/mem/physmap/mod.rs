//! The physmap of a domain: what its guest-physical addresses lead to.
//!
//! A place holds one of: nothing; memory of the domain's own (its frame knows the place, so each frame is at one place);
//! a special page of the hypervisor, or one of its counters; a foreign frame that a grant gives; device registers. Which of them is read from
//! the record of the frame, not from the nested table.
//!
//! Locks: a domain's physmap is behind its memory lock, a reader-writer lock: translations need it shared, changes
//! exclusively. A frame that is translated to stays what it is while the lock is held: leaving needs it exclusively.

mod own;
mod places;

use super::account::{OverQuota, PageAccount};
use super::departures::Departures;
use super::flush::Generation;
use super::frame::{FrameState, OutOfMemory, PageRef, Ram};
use super::npt::{GFN_END, Lookaside, MapError, Mapping, Npt};
use crate::hw::{CachePolicy, EntryFormat, HostPhys, Mfn, PAGE_SHIFT, PageSize, Pages, PhysMemory};
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
    /// A page of counters, which are no memory that the frame table hands out.
    Counters(Mapping),
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
            FrameState::Absent => Occupant::Counters(mapping),
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
}
