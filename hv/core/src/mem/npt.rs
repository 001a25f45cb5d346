//! Nested page tables: one walker for every vendor's entry format.
//!
//! Four levels, 512 entries of 8 bytes each; leaves of 4 KiB, 2 MiB and 1 GiB. A table that has become empty stays
//! until the whole is dismantled, because CPUs may cache the way to it; the number of tables is limited instead.
//!
//! Locks: none here; changes need `&mut`, which the owner's lock gives. Hardware walks the tables at any time, so each
//! entry is written once, whole, and after everything it leads to.

use super::frame::{OutOfMemory, Ram};
use crate::hw::{
    CachePolicy, Entry, EntryFormat, HostPhys, Mfn, Order, PAGE_SHIFT, PageSize, PhysMemory, Rights,
};
use core::marker::PhantomData;
use core::sync::atomic::Ordering::{Relaxed, Release};
use pv_abi::ids::{DomainId, Gfn, GuestPhys};
use static_assertions::const_assert_eq;

/// Binary logarithm of the entries of a table.
const INDEX_BITS: u32 = 9;
/// Entries of a table.
const ENTRIES: u64 = 1 << INDEX_BITS;
/// The level of the root.
const ROOT: u8 = 4;
/// One more than the highest guest frame number: 48 bits of address.
pub const GFN_END: Gfn = Gfn::new(1 << (INDEX_BITS * 4));

const_assert_eq!(ENTRIES * 8, crate::hw::PAGE_BYTES);
const_assert_eq!(span(ROOT - 1), Order::MAX.pages());

/// Where a guest frame leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// The frame.
    pub mfn: Mfn,
    /// What is allowed.
    pub rights: Rights,
    /// How it is cached: [`CachePolicy::Device`] means registers, not memory.
    pub cache: CachePolicy,
    /// The size of the leaf that maps it.
    pub size: PageSize,
}

impl Mapping {
    /// Whether it leads to memory, not registers, that may be read, and also written if `write`.
    #[inline]
    pub fn is_memory(&self, write: bool) -> bool {
        self.rights.read && (self.rights.write || !write) && self.cache == CachePolicy::Memory
    }
}

/// A mapping could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// Something is mapped there, or was in smaller pages.
    Occupied,
    /// No memory for a table, or too many tables.
    NoMemory,
    /// Beyond the address space, or not aligned.
    BadFrame,
}

impl From<OutOfMemory> for MapError {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::NoMemory
    }
}

/// What is remembered of the last look-up, for the next one. Valid as long as the tables are not changed: the borrow
/// of the owner's lock that it is used under.
#[derive(Clone, Copy, Debug)]
pub struct Lookaside {
    /// The last leaf that was found to be memory: its first byte, its length, where it leads, whether it is writable.
    start: u64,
    bytes: u64,
    host: u64,
    write: bool,
    /// The last 2 MiB that were found to have a table of 4 KiB leaves, and that table.
    region: u64,
    table: Mfn,
}

impl Lookaside {
    /// Remembers nothing.
    pub const EMPTY: Self =
        Self { start: 0, bytes: 0, host: 0, write: false, region: u64::MAX, table: Mfn::new(0) };

    /// Whether the memory that was found last may be written.
    #[inline]
    pub const fn is_writable(&self) -> bool {
        self.write
    }
}

/// A run of frames to map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The first place.
    pub gfn: Gfn,
    /// The first frame.
    pub mfn: Mfn,
    /// How many.
    pub count: u64,
    /// The largest page to use.
    pub largest: PageSize,
}

/// What the leaves of a full table map.
struct Leaves {
    first: Mfn,
    size: PageSize,
    rights: Rights,
    cache: CachePolicy,
}

/// The nested page tables of one domain.
#[derive(Debug)]
pub struct Npt<F> {
    root: Mfn,
    owner: DomainId,
    tables: u64,
    most_tables: u64,
    format: PhantomData<fn() -> F>,
}

/// The number of the entry of a table of `level` that leads to `gfn`.
const fn index(gfn: Gfn, level: u8) -> u64 {
    (gfn.raw() >> (INDEX_BITS * (level as u32 - 1))) & (ENTRIES - 1)
}

/// The frames that an entry of `level` covers.
const fn span(level: u8) -> u64 {
    1 << (INDEX_BITS * (level as u32 - 1))
}

const fn slot(table: Mfn, index: u64) -> HostPhys {
    table.at(index * 8)
}

const fn size_of_level(level: u8) -> Option<PageSize> {
    match level {
        1 => Some(PageSize::K4),
        2 => Some(PageSize::M2),
        3 => Some(PageSize::G1),
        _ => None,
    }
}

impl<F: EntryFormat> Npt<F> {
    /// Makes empty tables, which may grow to `most_tables`.
    pub fn new<M: PhysMemory>(
        ram: Ram<'_, M>,
        owner: DomainId,
        most_tables: u64,
    ) -> Result<Self, OutOfMemory> {
        let root = Self::new_table(ram, owner, None)?;
        Ok(Self { root, owner, tables: 1, most_tables, format: PhantomData })
    }

    /// A table: empty, or one whose entries are leaves that together map what `whole` does. The entry that will point
    /// to it is its token.
    fn new_table<M: PhysMemory>(
        ram: Ram<'_, M>,
        owner: DomainId,
        whole: Option<Leaves>,
    ) -> Result<Mfn, OutOfMemory> {
        let page = ram.as_table(ram.alloc_zeroed()?, owner);
        let mfn = page.mfn();
        if whole.is_some() || F::EMPTY != 0 {
            for at in 0..ENTRIES {
                let raw = whole.as_ref().map_or(F::EMPTY, |leaves| {
                    let mfn = Mfn::new(leaves.first.raw() + at * leaves.size.pages());
                    F::leaf(leaves.size, mfn, leaves.rights, leaves.cache)
                });
                ram.memory.u64_at(slot(mfn, at)).store(raw, Relaxed);
            }
        }
        page.into_entry();
        Ok(mfn)
    }

    /// The address of the root table.
    pub const fn root(&self) -> HostPhys {
        self.root.base()
    }

    /// How many tables there are.
    pub const fn tables(&self) -> u64 {
        self.tables
    }

    /// Changes how many tables there may be.
    pub const fn set_most_tables(&mut self, most: u64) {
        self.most_tables = most;
    }

    #[inline(always)]
    fn read<M: PhysMemory>(memory: &M, table: Mfn, level: u8, gfn: Gfn) -> Entry {
        F::decode(level, memory.u64_at(slot(table, index(gfn, level))).load(Relaxed))
    }

    #[inline]
    fn write<M: PhysMemory>(memory: &M, table: Mfn, level: u8, gfn: Gfn, raw: u64) {
        memory.u64_at(slot(table, index(gfn, level))).store(raw, Release);
    }

    /// Where `gfn` leads.
    pub fn lookup<M: PhysMemory>(&self, memory: &M, gfn: Gfn) -> Option<Mapping> {
        self.find(memory, gfn, &mut { Lookaside::EMPTY })
    }

    /// Where the byte at `gpa` is, if it is memory (no register) that may be read, and also written if `write`. This is
    /// on the way of every guest pointer: what was found last is found again in a few instructions.
    #[inline(always)]
    pub fn locate<M: PhysMemory>(
        &self,
        memory: &M,
        gpa: GuestPhys,
        write: bool,
        near: &mut Lookaside,
    ) -> Option<HostPhys> {
        let offset = gpa.raw().wrapping_sub(near.start);
        if offset < near.bytes && (near.write || !write) {
            return Some(HostPhys::new(near.host + offset));
        }
        self.locate_far(memory, gpa, write, near)
    }

    #[inline(never)]
    fn locate_far<M: PhysMemory>(
        &self,
        memory: &M,
        gpa: GuestPhys,
        write: bool,
        near: &mut Lookaside,
    ) -> Option<HostPhys> {
        let mapping = self.find(memory, gpa.gfn(), near).filter(|mapping| mapping.is_memory(write))?;
        // The whole leaf, of which the mapping is the page at `gpa`.
        let inside = gpa.gfn().raw() & (mapping.size.pages() - 1);
        near.start = (gpa.gfn().raw() - inside) << PAGE_SHIFT;
        near.bytes = mapping.size.pages() << PAGE_SHIFT;
        near.host = Mfn::new(mapping.mfn.raw() - inside).base().raw();
        near.write = mapping.rights.write;
        Some(mapping.mfn.at(gpa.raw()))
    }

    // Written out level by level: with the level known, an entry is decoded in a few instructions.
    #[inline(always)]
    fn find<M: PhysMemory>(&self, memory: &M, gfn: Gfn, near: &mut Lookaside) -> Option<Mapping> {
        if gfn.raw() >> INDEX_BITS == near.region {
            return Self::leaf(Self::read(memory, near.table, 1, gfn), PageSize::K4, gfn);
        }
        if gfn >= GFN_END {
            return None;
        }
        let Entry::Table(table) = Self::read(memory, self.root, 4, gfn) else { return None };
        let table = match Self::read(memory, table, 3, gfn) {
            Entry::Table(table) => table,
            entry => return Self::leaf(entry, PageSize::G1, gfn),
        };
        let table = match Self::read(memory, table, 2, gfn) {
            Entry::Table(table) => table,
            entry => return Self::leaf(entry, PageSize::M2, gfn),
        };
        near.region = gfn.raw() >> INDEX_BITS;
        near.table = table;
        Self::leaf(Self::read(memory, table, 1, gfn), PageSize::K4, gfn)
    }

    #[inline(always)]
    fn leaf(entry: Entry, size: PageSize, gfn: Gfn) -> Option<Mapping> {
        let Entry::Leaf { mfn, rights, cache } = entry else { return None };
        let inside = gfn.raw() & (size.pages() - 1);
        Some(Mapping { mfn: Mfn::new(mfn.raw() + inside), rights, cache, size })
    }

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

    /// Replaces the leaf that maps `gfn` (split to `size` before, so not larger); the caller owes a flush.
    fn replace<M: PhysMemory>(
        &mut self,
        memory: &M,
        gfn: Gfn,
        with: impl FnOnce(PageSize, Mfn, CachePolicy) -> u64,
    ) -> bool {
        if gfn >= GFN_END {
            return false;
        }
        let mut table = self.root;
        for level in [4, 3, 2, 1] {
            match Self::read(memory, table, level, gfn) {
                Entry::Empty => return false,
                Entry::Table(next) => table = next,
                Entry::Leaf { mfn, cache, .. } => {
                    let Some(size) = size_of_level(level) else { return false };
                    Self::write(memory, table, level, gfn, with(size, mfn, cache));
                    return true;
                }
            }
        }
        false
    }

    /// Takes away the whole leaf that maps `gfn`; false if there is none. The caller owes a flush.
    pub fn unmap<M: PhysMemory>(&mut self, memory: &M, gfn: Gfn) -> bool {
        self.replace(memory, gfn, |_, _, _| F::EMPTY)
    }

    /// Changes the rights of the whole leaf that maps `gfn`; false if there is none. The caller owes a flush.
    pub fn protect<M: PhysMemory>(&mut self, memory: &M, gfn: Gfn, rights: Rights) -> bool {
        self.replace(memory, gfn, |size, mfn, cache| F::leaf(size, mfn, rights, cache))
    }

    /// The first mapped page at or after `from`: its own number (that of the leaf's start, if `from` is before it) and
    /// where it leads. Looks at no more than `budget` entries; `Err` says where to go on.
    pub fn next<M: PhysMemory>(
        &self,
        memory: &M,
        from: Gfn,
        budget: &mut u32,
    ) -> Result<Option<(Gfn, Mapping)>, Gfn> {
        let mut gfn = from;
        while gfn < GFN_END {
            *budget = budget.checked_sub(1).ok_or(gfn)?;
            let mut table = self.root;
            let mut level = ROOT;
            loop {
                match Self::read(memory, table, level, gfn) {
                    Entry::Empty => {
                        gfn = Gfn::new((gfn.raw() & !(span(level) - 1)) + span(level));
                        break;
                    }
                    Entry::Table(next) => table = next,
                    Entry::Leaf { mfn, rights, cache } => {
                        let Some(size) = size_of_level(level) else { return Ok(None) };
                        let inside = gfn.raw() & (size.pages() - 1);
                        let mfn = Mfn::new(mfn.raw() + inside);
                        return Ok(Some((gfn, Mapping { mfn, rights, cache, size })));
                    }
                }
                level -= 1;
                if level == 0 {
                    return Ok(None);
                }
            }
        }
        Ok(None)
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
