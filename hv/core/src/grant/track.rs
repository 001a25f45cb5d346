//! A domain's list of its mappings of others' grants: what a grant handle names.

use super::table::GrantTable;
use crate::hw::PhysMemory;
use crate::mem::{PageRef, make_room};
use alloc::sync::Arc;
use alloc::vec::Vec;
use pv_abi::ids::{Gfn, GrantHandle, GrantRef};

/// One mapping. It pins an entry of `table` and refers to the frame.
#[derive(Debug)]
pub(super) struct Mapping {
    /// The table that the grant is in.
    pub(super) table: Arc<GrantTable>,
    /// The entry.
    pub(super) gref: GrantRef,
    /// It may be written through this mapping.
    pub(super) write: bool,
    /// Where the mapper has it.
    pub(super) gfn: Gfn,
    /// The frame.
    pub(super) page: PageRef,
}

#[derive(Debug)]
enum Slot {
    /// Free; the next free one.
    Free(Option<u32>),
    /// Named by a call that is not finished.
    Busy,
    /// In use.
    Live(Mapping),
}

/// The mappings of one domain by their handles.
#[derive(Debug)]
pub(super) struct Mappings {
    slots: Vec<Slot>,
    free: Option<u32>,
    limit: u32,
    live: u32,
}

impl Mappings {
    pub(super) const fn new(limit: u32) -> Self {
        Self { slots: Vec::new(), free: None, limit, live: 0 }
    }

    /// How many mappings there are.
    pub(super) const fn live(&self) -> u32 {
        self.live
    }

    fn slot(&mut self, handle: GrantHandle) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(handle.raw()).ok()?)
    }

    /// Takes a handle for a mapping that is being made.
    pub(super) fn reserve<M: PhysMemory>(&mut self, memory: &M) -> Option<GrantHandle> {
        if let Some(index) = self.free {
            let handle = GrantHandle::new(index);
            let slot = self.slot(handle)?;
            let Slot::Free(next) = *slot else { return None };
            *slot = Slot::Busy;
            self.free = next;
            return Some(handle);
        }
        let index = u32::try_from(self.slots.len()).ok().filter(|index| *index < self.limit)?;
        make_room(memory, &mut self.slots, 1).ok()?;
        self.slots.push(Slot::Busy);
        Some(GrantHandle::new(index))
    }

    /// The mapping of a reserved handle is made.
    pub(super) fn fill(&mut self, handle: GrantHandle, mapping: Mapping) {
        match self.slot(handle) {
            Some(slot) => {
                *slot = Slot::Live(mapping);
                self.live += 1;
            }
            None => log::error!("{handle} was not reserved"),
        }
    }

    /// Takes the mapping out of a handle, if it is at `gfn`; the handle stays reserved.
    pub(super) fn take(&mut self, handle: GrantHandle, gfn: Gfn) -> Result<Mapping, NotTaken> {
        let slot = self.slot(handle).ok_or(NotTaken::NoMapping)?;
        match slot {
            Slot::Live(mapping) if mapping.gfn != gfn => return Err(NotTaken::Elsewhere),
            Slot::Live(_) => {}
            Slot::Free(_) | Slot::Busy => return Err(NotTaken::NoMapping),
        }
        let Slot::Live(mapping) = core::mem::replace(slot, Slot::Busy) else {
            return Err(NotTaken::NoMapping);
        };
        self.live -= 1;
        Ok(mapping)
    }

    /// Gives a reserved handle back.
    pub(super) fn release(&mut self, handle: GrantHandle) {
        let next = self.free;
        if let Some(slot) = self.slot(handle) {
            *slot = Slot::Free(next);
            self.free = Some(handle.raw());
        }
    }

    /// Makes no more handles.
    pub(super) const fn close(&mut self) {
        self.limit = 0;
        self.free = None;
    }

    /// Takes any mapping of a domain that is dying, until there is none.
    pub(super) fn pop(&mut self) -> Option<Mapping> {
        self.free = None;
        loop {
            match self.slots.pop()? {
                Slot::Live(mapping) => {
                    self.live -= 1;
                    return Some(mapping);
                }
                Slot::Free(_) | Slot::Busy => {}
            }
        }
    }
}

/// Why a handle has no mapping to take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotTaken {
    /// It names none.
    NoMapping,
    /// It names one at another place.
    Elsewhere,
}
