//! A machine's memory for tests.

use super::frame::{FrameState, FrameTable, Ram, RamRange};
use super::{DomainMemory, PhysmapConfig};
use crate::hw::{HostPhys, Mfn, PAGE_BYTES, PageSize, Pages};
use crate::testing::{PlainFormat, VecMemory};
use pv_abi::ids::{DomainId, Gfn};
use std::collections::BTreeMap;

/// Memory and its frame table.
pub struct Fixture {
    /// The memory.
    pub memory: VecMemory,
    /// The frame table.
    pub frames: FrameTable,
}

/// How many frames are in each state; owners count apart.
pub type Census = BTreeMap<std::string::String, u64>;

impl Fixture {
    /// A machine with this many pages, all usable.
    pub fn new(pages: u64) -> Self {
        let memory = VecMemory::new(pages);
        let all = [RamRange { start: HostPhys::new(0), bytes: pages * PAGE_BYTES }];
        let frames = FrameTable::new(&memory, &all).unwrap();
        Self { memory, frames }
    }

    /// Both together.
    pub fn ram(&self) -> Ram<'_, VecMemory> {
        Ram::new(&self.frames, &self.memory)
    }

    /// How many pages are free.
    pub fn free(&self) -> u64 {
        self.frames.free_pages().raw()
    }

    /// Counts the frames by state.
    pub fn census(&self) -> Census {
        let mut census = Census::new();
        for frame in 0..self.frames.end().raw() {
            let (name, count) = match self.ram().state(Mfn::new(frame)) {
                FrameState::Absent | FrameState::Inner => continue,
                FrameState::Free(order) => ("free".into(), 1 << order),
                FrameState::Held => ("held".into(), 1),
                FrameState::Table(owner) => (std::format!("table {owner}"), 1),
                FrameState::Guest(owner) => (std::format!("guest {owner}"), 1),
                FrameState::Shared(owner) => (std::format!("shared {owner}"), 1),
                FrameState::Quarantined(owner) => (std::format!("quarantined {owner}"), 1),
            };
            *census.entry(name).or_insert(0) += count;
        }
        census
    }

    /// Checks that every frame is in one state, and that the free ones are those the allocator knows.
    pub fn check(&self) {
        let census = self.census();
        assert_eq!(census.values().sum::<u64>(), self.frames.total().raw(), "{census:?}");
        assert_eq!(census.get("free").copied().unwrap_or(0), self.free(), "{census:?}");
    }

    /// An empty physmap.
    pub fn domain(&self, id: u16, maximum: u64) -> DomainMemory<PlainFormat> {
        let config = PhysmapConfig {
            owner: DomainId::new(id),
            maximum: Pages::new(maximum),
            largest: PageSize::G1,
            one_to_one: false,
        };
        DomainMemory::new(self.ram(), config).unwrap()
    }

    /// Takes a physmap apart.
    pub fn tear_down(&self, mut domain: DomainMemory<PlainFormat>) {
        let mut next = Gfn::new(0);
        while !domain.tear_down(self.ram(), &mut next, 64) {}
        domain.free_root(self.ram());
    }
}
