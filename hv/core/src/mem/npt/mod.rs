//! Nested page tables: one walker for every vendor's entry format.
//!
//! Four levels, 512 entries of 8 bytes each; leaves of 4 KiB, 2 MiB and 1 GiB. A table that has become empty stays
//! until the whole is dismantled, because CPUs may cache the way to it; the number of tables is limited instead.
//!
//! Locks: none here; changes need `&mut`, which the owner's lock gives. Hardware walks the tables at any time, so each
//! entry is written once, whole, and after everything it leads to.

mod change;

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
}
