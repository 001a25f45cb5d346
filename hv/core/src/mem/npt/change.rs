//! Changing nested page tables.

use super::{ENTRIES, GFN_END, Leaves, MapError, Npt, ROOT, Run, index, size_of_level, slot};
use crate::hw::{CachePolicy, Entry, EntryFormat, HostPhys, Mfn, PageSize, PhysMemory, Rights};
use crate::mem::frame::Ram;
use core::sync::atomic::Ordering::{Relaxed, Release};
use pv_abi::ids::Gfn;

impl<F: EntryFormat> Npt<F> {
    /// Maps one page of `size` where nothing is mapped. Nothing needs to be flushed: no CPU keeps the absence of a
    /// translation (AMD64 manual volume 2, section 15.25.8; Intel SDM volume 3, section 29.4.2).
    pub fn map<M: PhysMemory>(
        &mut self,
        ram: Ram<'_, M>,
        gfn: Gfn,
        mfn: Mfn,
        size: PageSize,
        rights: Rights,
        cache: CachePolicy,
    ) -> Result<(), MapError> {
        let aligned = (gfn.raw() | mfn.raw()) & (size.pages() - 1) == 0;
        if gfn >= GFN_END || mfn.checked_add(size.pages() - 1).is_none() || !aligned {
            return Err(MapError::BadFrame);
        }
        let table = self.table_for(ram, gfn, size)?;
        match Self::read(ram.memory, table, size.level(), gfn) {
            Entry::Empty => {
                Self::write(ram.memory, table, size.level(), gfn, F::leaf(size, mfn, rights, cache));
                Ok(())
            }
            Entry::Table(_) | Entry::Leaf { .. } => Err(MapError::Occupied),
        }
    }

    /// Makes what is needed to map a 4 KiB page at `gfn`, which may be in use: [`map`](Self::map) cannot fail there
    /// for want of memory.
    pub fn prepare<M: PhysMemory>(&mut self, ram: Ram<'_, M>, gfn: Gfn) -> Result<(), MapError> {
        if gfn >= GFN_END {
            return Err(MapError::BadFrame);
        }
        self.split(ram, gfn, PageSize::K4)?;
        self.table_for(ram, gfn, PageSize::K4).map(drop)
    }

    /// Maps a run of frames where nothing is mapped, in pages as large as place and `largest` allow. All or nothing.
    pub fn map_run<M: PhysMemory>(
        &mut self,
        ram: Ram<'_, M>,
        run: Run,
        rights: Rights,
        cache: CachePolicy,
    ) -> Result<(), MapError> {
        let last_gfn = run.gfn.checked_add(run.count).ok_or(MapError::BadFrame)?;
        if last_gfn > GFN_END || run.mfn.checked_add(run.count).is_none() {
            return Err(MapError::BadFrame);
        }
        // First whatever can fail: find all places empty and make the tables. Then the leaves.
        self.each_piece(ram, run, |_, _, _| ())?;
        let memory = ram.memory;
        self.each_piece(ram, run, |entry, mfn, size| {
            memory.u64_at(entry).store(F::leaf(size, mfn, rights, cache), Release);
        })
    }

    /// Calls `work` with the entry, first frame and size of each page that can map a part of the run.
    fn each_piece<M: PhysMemory>(
        &mut self,
        ram: Ram<'_, M>,
        run: Run,
        mut work: impl FnMut(HostPhys, Mfn, PageSize),
    ) -> Result<(), MapError> {
        let mut done = 0;
        while done < run.count {
            let (gfn, mfn) = (Gfn::new(run.gfn.raw() + done), Mfn::new(run.mfn.raw() + done));
            let (entry, size) = self.place_for(ram, gfn, mfn, run.count - done, run.largest)?;
            work(entry, mfn, size);
            done += size.pages();
        }
        Ok(())
    }

    /// The empty entry for the largest page that fits.
    fn place_for<M: PhysMemory>(
        &mut self,
        ram: Ram<'_, M>,
        gfn: Gfn,
        mfn: Mfn,
        count: u64,
        largest: PageSize,
    ) -> Result<(HostPhys, PageSize), MapError> {
        for size in [PageSize::G1, PageSize::M2, PageSize::K4] {
            let fits = (gfn.raw() | mfn.raw()) & (size.pages() - 1) == 0 && size.pages() <= count;
            if size.level() > largest.level() || !fits {
                continue;
            }
            let table = self.table_for(ram, gfn, size)?;
            match Self::read(ram.memory, table, size.level(), gfn) {
                Entry::Empty => return Ok((slot(table, index(gfn, size.level())), size)),
                Entry::Table(_) => {}
                Entry::Leaf { .. } => return Err(MapError::Occupied),
            }
        }
        Err(MapError::Occupied)
    }

    /// The table whose entries map pages of `size` at `gfn`; made where it is missing.
    fn table_for<M: PhysMemory>(
        &mut self,
        ram: Ram<'_, M>,
        gfn: Gfn,
        size: PageSize,
    ) -> Result<Mfn, MapError> {
        let mut table = self.root;
        let mut level = ROOT;
        while level > size.level() {
            table = match Self::read(ram.memory, table, level, gfn) {
                Entry::Table(next) => next,
                Entry::Leaf { .. } => return Err(MapError::Occupied),
                Entry::Empty => {
                    let next = self.grow(ram, None)?;
                    Self::write(ram.memory, table, level, gfn, F::table(next));
                    next
                }
            };
            level -= 1;
        }
        Ok(table)
    }

    fn grow<M: PhysMemory>(&mut self, ram: Ram<'_, M>, whole: Option<Leaves>) -> Result<Mfn, MapError> {
        if self.tables >= self.most_tables {
            return Err(MapError::NoMemory);
        }
        let table = Self::new_table(ram, self.owner, whole)?;
        self.tables += 1;
        Ok(table)
    }

    /// Makes sure that no leaf larger than `size` maps `gfn`. The translations stay the same.
    pub fn split<M: PhysMemory>(
        &mut self,
        ram: Ram<'_, M>,
        gfn: Gfn,
        size: PageSize,
    ) -> Result<(), MapError> {
        if gfn >= GFN_END {
            return Err(MapError::BadFrame);
        }
        let mut table = self.root;
        let mut level = ROOT;
        while level > size.level() {
            table = match Self::read(ram.memory, table, level, gfn) {
                Entry::Empty => return Ok(()),
                Entry::Table(next) => next,
                Entry::Leaf { mfn, rights, cache } => {
                    let Some(smaller) = size_of_level(level - 1) else { return Err(MapError::BadFrame) };
                    let next = self.grow(ram, Some(Leaves { first: mfn, size: smaller, rights, cache }))?;
                    Self::write(ram.memory, table, level, gfn, F::table(next));
                    next
                }
            };
            level -= 1;
        }
        Ok(())
    }

    /// Takes away the whole leaf that maps `gfn`; false if there is none. The caller owes a flush.
    pub fn unmap<M: PhysMemory>(&mut self, memory: &M, gfn: Gfn) -> bool {
        self.take(memory, gfn).is_some()
    }

    /// Takes away the whole leaf that maps `gfn`, and tells what it mapped from its first frame number on. The caller owes
    /// a flush.
    pub fn take<M: PhysMemory>(&mut self, memory: &M, gfn: Gfn) -> Option<(Mfn, PageSize)> {
        if gfn >= GFN_END {
            return None;
        }
        let mut table = self.root;
        for level in [4, 3, 2, 1] {
            match Self::read(memory, table, level, gfn) {
                Entry::Empty => return None,
                Entry::Table(next) => table = next,
                Entry::Leaf { mfn, .. } => {
                    let size = size_of_level(level)?;
                    Self::write(memory, table, level, gfn, F::EMPTY);
                    return Some((mfn, size));
                }
            }
        }
        None
    }

    /// Frees tables, leaves and all, until none but the root is left: then true. No more than `budget` tables are freed
    /// in a call. No CPU may use the tables any more.
    pub fn dismantle<M: PhysMemory>(&mut self, ram: Ram<'_, M>, budget: &mut u32) -> bool {
        self.free_below(ram, self.root, ROOT, budget)
    }

    fn free_below<M: PhysMemory>(
        &mut self,
        ram: Ram<'_, M>,
        table: Mfn,
        level: u8,
        budget: &mut u32,
    ) -> bool {
        for at in 0..ENTRIES {
            let word = ram.memory.u64_at(slot(table, at));
            if let Entry::Table(below) = F::decode(level, word.load(Relaxed)) {
                if (level > 2 && !self.free_below(ram, below, level - 1, budget)) || *budget == 0 {
                    return false;
                }
                *budget -= 1;
                word.store(F::EMPTY, Release);
                self.tables -= 1;
                if ram.free_table_frame(below, self.owner).is_err() {
                    log::error!(
                        "{below} was a nested page table of {} but is not recorded as one",
                        self.owner
                    );
                }
            }
        }
        true
    }

    /// Frees the root after everything else was [dismantled](Self::dismantle).
    pub fn free_root<M: PhysMemory>(self, ram: Ram<'_, M>) {
        if ram.free_table_frame(self.root, self.owner).is_err() {
            log::error!("{} was the root of {} but is not recorded as a table", self.root, self.owner);
        }
    }
}
