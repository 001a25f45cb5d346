//! A domain's own memory: giving it, and taking it back.

use super::{DomainMemory, Occupant};
use crate::hw::{CachePolicy, EntryFormat, Mfn, Order, PageSize, Pages, PhysMemory, Rights};
use crate::mem::departures::Departures;
use crate::mem::flush::Flush;
use crate::mem::frame::{HeldFrames, NO_GFN, Ram, largest_order};
use crate::mem::npt::{GFN_END, Run};
use pv_abi::ids::Gfn;
use pv_abi::{Errno, Result};

impl<F: EntryFormat> DomainMemory<F> {
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
        let order = largest_order(gfn.raw(), count);
        order.min(self.config.largest.order().raw())
    }

    /// Takes the domain's own memory at `gfn` out of the physmap. `E2BIG` without effect if it has more
    /// runs of frames than the batch has [room](Departures::room) for.
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
            if size != mapping.size {
                self.npt.split(ram, at, size)?;
            }
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
            let Some((mfn, size)) = self.npt.take(ram.memory, at) else { break };
            run = match run {
                Some((first, count)) if first.raw() + count == mfn.raw() => {
                    Some((first, count + size.pages()))
                }
                Some((first, count)) => {
                    out.add(first, count, Flush::NONE);
                    Some((mfn, size.pages()))
                }
                None => Some((mfn, size.pages())),
            };
            at = Gfn::new(at.raw() + size.pages());
        }
        if let Some((first, count)) = run {
            out.add(first, count, self.generation.advance());
        }
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
                    let end = (gfn.raw() | (mapping.size.pages() - 1)) + 1;
                    let count = match self.classify(ram, gfn, mapping) {
                        Occupant::Own(mapping) => {
                            // A leaf of 1 GiB is taken in parts, and unmapped with the last.
                            let count = (end - gfn.raw()).min(PageSize::M2.pages());
                            self.reclaim(ram, mapping.mfn, count);
                            count
                        }
                        Occupant::Special(mapping) => {
                            ram.set_gfn(mapping.mfn, NO_GFN);
                            1
                        }
                        Occupant::Nothing
                        | Occupant::Foreign(_)
                        | Occupant::Counters(_)
                        | Occupant::Device(_) => end - gfn.raw(),
                    };
                    *next = Gfn::new(gfn.raw() + count);
                    if next.raw() == end {
                        self.npt.unmap(ram.memory, gfn);
                    }
                    left = left.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX) / 8);
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
