//! What else can be at the places of a physmap: special pages, foreign frames, device registers.

use super::{DomainMemory, Occupant};
use crate::hw::{CachePolicy, EntryFormat, Mfn, Order, PageSize, PhysMemory, Rights};
use crate::mem::departures::Departures;
use crate::mem::flush::Flush;
use crate::mem::frame::{FrameState, NO_GFN, PageRef, Ram, SharedPage};
use crate::mem::npt::Run;
use pv_abi::ids::Gfn;
use pv_abi::{Errno, Result};

impl<F: EntryFormat> DomainMemory<F> {
    /// Makes a place empty: gives back the domain's own page there, or unmaps a special page. Grants and device
    /// registers stay: `EBUSY`.
    pub fn vacate<M: PhysMemory>(&mut self, ram: Ram<'_, M>, gfn: Gfn, out: &mut Departures) -> Result<()> {
        match self.occupant(ram, gfn) {
            Occupant::Nothing => Ok(()),
            Occupant::Own(_) => self.remove(ram, gfn, Order::PAGE, out),
            Occupant::Special(mapping) | Occupant::Counters(mapping) => {
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

    /// Puts a page of counters at a place, to be read only. The page is the hypervisor's for ever: any number of domains
    /// may have it, at any number of places.
    pub fn map_counters<M: PhysMemory>(
        &mut self,
        ram: Ram<'_, M>,
        gfn: Gfn,
        page: Mfn,
        out: &mut Departures,
    ) -> Result<()> {
        self.make_room(ram, gfn, out)?;
        self.npt.map(ram, gfn, page, PageSize::K4, Rights::READ, CachePolicy::Memory)?;
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
}
