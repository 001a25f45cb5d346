//! Memory reservation and the physmap (`xen/memory.h`).

use crate::ids::{DomainId, Gfn, GuestVirt};
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Sub-operations of `memory_op` (`XENMEM_*`).
pub mod op {
    /// Adds frames to the domain.
    pub const INCREASE_RESERVATION: u64 = 0;
    /// Gives frames back.
    pub const DECREASE_RESERVATION: u64 = 1;
    /// Highest machine frame number of RAM.
    pub const MAXIMUM_RAM_PAGE: u64 = 2;
    /// Pages that a domain has.
    pub const CURRENT_RESERVATION: u64 = 3;
    /// Pages that a domain may have.
    pub const MAXIMUM_RESERVATION: u64 = 4;
    /// Puts fresh frames at given places.
    pub const POPULATE_PHYSMAP: u64 = 6;
    /// Puts a special page, or another of the caller's, at a place.
    pub const ADD_TO_PHYSMAP: u64 = 7;
    /// The memory map given to the domain at its start.
    pub const MEMORY_MAP: u64 = 9;
    /// The machine's memory map.
    pub const MACHINE_MEMORY_MAP: u64 = 10;
    /// Swaps frames for others.
    pub const EXCHANGE: u64 = 11;
    /// Highest frame number in a domain's map.
    pub const MAXIMUM_GPFN: u64 = 14;
    /// Empties a place.
    pub const REMOVE_FROM_PHYSMAP: u64 = 15;
    /// As `ADD_TO_PHYSMAP`, for a list.
    pub const ADD_TO_PHYSMAP_BATCH: u64 = 23;
    /// Maps a resource of another domain.
    pub const ACQUIRE_RESOURCE: u64 = 28;
}

/// Values of [`AddToPhysmap::space`] (`XENMAPSPACE_*`).
pub mod space {
    /// The shared information page; the index is 0.
    pub const SHARED_INFO: u32 = 0;
    /// A frame of the grant table; the index counts frames.
    pub const GRANT_TABLE: u32 = 1;
    /// A frame that the caller has at another place; the index is its number there.
    pub const GMFN: u32 = 2;
    /// A run of such frames.
    pub const GMFN_RANGE: u32 = 3;
    /// A frame of another domain.
    pub const GMFN_FOREIGN: u32 = 4;
    /// Device memory.
    pub const DEV_MMIO: u32 = 5;
}

/// Bit of a grant-table index that asks for status frames, which only version 2 has (`XENMAPIDX_grant_table_status`).
pub const MAPIDX_GRANT_TABLE_STATUS: u64 = 0x8000_0000;

/// Argument of the calls that change a reservation (`struct xen_memory_reservation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reservation {
    /// Array of frame numbers, one an extent.
    pub extent_start: GuestVirt,
    /// Length of the array.
    pub nr_extents: u64,
    /// Binary logarithm of an extent's size in pages.
    pub extent_order: u32,
    /// Restrictions on the frames (`XENMEMF_*`).
    pub mem_flags: u32,
    /// Domain whose memory changes.
    pub domid: DomainId,
    /// Unused.
    pub pad: [u16; 3],
}
const_assert_eq!(size_of::<Reservation>(), 32);

/// Argument of the calls that only name a domain (`struct xen_memory_domain`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DomainArg {
    /// The domain.
    pub domid: DomainId,
}

/// Argument of `add_to_physmap` (`struct xen_add_to_physmap`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AddToPhysmap {
    /// Domain whose map changes.
    pub domid: DomainId,
    /// Number of pages, only for `space::GMFN_RANGE`.
    pub size: u16,
    /// What is put there: see [`space`].
    pub space: u32,
    /// Which one of that kind.
    pub idx: u64,
    /// Where it is put.
    pub gpfn: Gfn,
}
const_assert_eq!(size_of::<AddToPhysmap>(), 24);

/// Argument of `add_to_physmap_batch` (`struct xen_add_to_physmap_batch`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AddToPhysmapBatch {
    /// Domain whose map changes.
    pub domid: DomainId,
    /// What is put there: see [`space`].
    pub space: u16,
    /// Length of the three arrays.
    pub size: u16,
    /// The owner, for `space::GMFN_FOREIGN`.
    pub foreign_domid: DomainId,
    /// Array of indices (`xen_ulong_t`).
    pub idxs: GuestVirt,
    /// Array of places (`xen_pfn_t`).
    pub gpfns: GuestVirt,
    /// Array of results (`int`).
    pub errs: GuestVirt,
}
const_assert_eq!(size_of::<AddToPhysmapBatch>(), 32);

/// Argument of `remove_from_physmap` (`struct xen_remove_from_physmap`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RemoveFromPhysmap {
    /// Domain whose map changes.
    pub domid: DomainId,
    /// Unused.
    pub pad: [u16; 3],
    /// The place that becomes empty.
    pub gpfn: Gfn,
}
const_assert_eq!(size_of::<RemoveFromPhysmap>(), 16);

/// Argument of `memory_map` (`struct xen_memory_map`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryMap {
    /// Room in the buffer; afterwards the number of entries.
    pub nr_entries: u32,
    /// Unused.
    pub pad: u32,
    /// Array of [`E820Entry`].
    pub buffer: GuestVirt,
}
const_assert_eq!(size_of::<MemoryMap>(), 16);

/// One range of the memory map (`struct hvm_e820_entry`'s relative in the BIOS interface): 20 bytes, unaligned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub struct E820Entry {
    /// First address.
    pub addr: u64,
    /// Length in bytes.
    pub size: u64,
    /// Kind of memory: the numbers of [`crate::start_info::memmap_type`].
    pub kind: u32,
}
const_assert_eq!(size_of::<E820Entry>(), 20);
