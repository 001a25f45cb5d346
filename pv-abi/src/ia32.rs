//! What 32-bit guests see: the same structures with 32-bit pointers, frame numbers and longs.
//!
//! A guest of 32-bit code (a boot loader, say) passes its arguments in EBX, ECX, EDX, ESI and EDI. Most structures have
//! the same layout for it, because they are made of fields of a fixed size; those that have not and that a hypervisor
//! here understands are in this module, with the 64-bit one that each stands for. The sources are the same headers,
//! compiled for `i386`.

use crate::ids::{DomainId, Gfn, GuestVirt};
use crate::{memory, sched};
use static_assertions::const_assert_eq;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Argument of `add_to_physmap` (`struct xen_add_to_physmap`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AddToPhysmap {
    /// Domain whose map changes.
    pub domid: DomainId,
    /// Number of pages, only for `space::GMFN_RANGE`.
    pub size: u16,
    /// What is put there: see [`memory::space`].
    pub space: u32,
    /// Which one of that kind.
    pub idx: u32,
    /// Where it is put.
    pub gpfn: u32,
}
const_assert_eq!(size_of::<AddToPhysmap>(), 16);

impl From<AddToPhysmap> for memory::AddToPhysmap {
    fn from(narrow: AddToPhysmap) -> Self {
        let AddToPhysmap { domid, size, space, idx, gpfn } = narrow;
        Self { domid, size, space, idx: u64::from(idx), gpfn: Gfn::new(u64::from(gpfn)) }
    }
}

/// Argument of `remove_from_physmap` (`struct xen_remove_from_physmap`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RemoveFromPhysmap {
    /// Domain whose map changes.
    pub domid: DomainId,
    /// Unused.
    pub pad: u16,
    /// The place that becomes empty.
    pub gpfn: u32,
}
const_assert_eq!(size_of::<RemoveFromPhysmap>(), 8);

impl From<RemoveFromPhysmap> for memory::RemoveFromPhysmap {
    fn from(narrow: RemoveFromPhysmap) -> Self {
        Self { domid: narrow.domid, pad: [0; 3], gpfn: Gfn::new(u64::from(narrow.gpfn)) }
    }
}

/// Argument of `memory_map` (`struct xen_memory_map`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryMap {
    /// Room in the buffer; afterwards the number of entries.
    pub nr_entries: u32,
    /// Array of [`memory::E820Entry`], which is the same for all guests.
    pub buffer: u32,
}
const_assert_eq!(size_of::<MemoryMap>(), 8);

impl From<MemoryMap> for memory::MemoryMap {
    fn from(narrow: MemoryMap) -> Self {
        Self { nr_entries: narrow.nr_entries, pad: 0, buffer: GuestVirt::new(u64::from(narrow.buffer)) }
    }
}

/// Argument of `poll` (`struct sched_poll`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Poll {
    /// Array of ports.
    pub ports: u32,
    /// Length of the array.
    pub nr_ports: u32,
    /// System time at which to return anyway; 0 for never.
    pub timeout: U64,
}
const_assert_eq!(size_of::<Poll>(), 16);

impl From<Poll> for sched::Poll {
    fn from(narrow: Poll) -> Self {
        Self {
            ports: GuestVirt::new(u64::from(narrow.ports)),
            nr_ports: narrow.nr_ports,
            pad: 0,
            timeout: narrow.timeout.get(),
        }
    }
}

/// What is elsewhere in the shared page (`struct shared_info`, `struct vcpu_info`). The first 32 `vcpu_info` and the
/// clocks in them are where 64-bit guests have them.
pub mod shared_info {
    /// 2-level ABI: how many ports there are.
    pub const PORTS: u32 = 1024;
    /// Offset of the 32 words of pending events.
    pub const EVTCHN_PENDING: usize = 2048;
    /// Offset of the 32 words of masked events.
    pub const EVTCHN_MASK: usize = 2176;
    /// Offset of the wall clock: sequence count, seconds and nanoseconds, of 32 bits each.
    pub const WC_VERSION: usize = 2304;
    /// Offset of the upper half of the wall clock's seconds, which is among the architecture's fields.
    pub const WC_SEC_HI: usize = 2340;
    /// Offset of the selector of 32 bits in a `vcpu_info`.
    pub const EVTCHN_PENDING_SEL: usize = 4;
}

/// The block ring's messages (`io/blkif.h`), of a front end that says `x86_32-abi` as its `protocol`.
pub mod blkif {
    use crate::io::blkif::{MAX_INDIRECT_PAGES_PER_REQUEST, MAX_SEGMENTS_PER_REQUEST, Segment};
    use static_assertions::const_assert_eq;
    use zerocopy::little_endian::U64;
    use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

    /// A read, write, barrier or flush (`struct blkif_request`).
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Request {
        /// One of `OP_*`.
        pub operation: u8,
        /// How many of `seg` are meant.
        pub nr_segments: u8,
        /// The device, as `virtual-device` names it.
        pub handle: u16,
        /// Chosen by the front end, echoed in the response.
        pub id: U64,
        /// The first sector on the disk.
        pub sector_number: U64,
        /// Where the data is.
        pub seg: [Segment; MAX_SEGMENTS_PER_REQUEST],
    }
    const_assert_eq!(size_of::<Request>(), 108);

    /// A request to discard (`struct blkif_request_discard`).
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct DiscardRequest {
        /// `OP_DISCARD`.
        pub operation: u8,
        /// `DISCARD_SECURE` or zero.
        pub flag: u8,
        /// The device.
        pub handle: u16,
        /// Chosen by the front end, echoed in the response.
        pub id: U64,
        /// The first sector.
        pub sector_number: U64,
        /// How many sectors.
        pub nr_sectors: U64,
    }
    const_assert_eq!(size_of::<DiscardRequest>(), 28);

    /// A request with its segments elsewhere (`struct blkif_request_indirect`).
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct IndirectRequest {
        /// `OP_INDIRECT`.
        pub operation: u8,
        /// `OP_READ` or `OP_WRITE`.
        pub indirect_op: u8,
        /// How many segments there are in all.
        pub nr_segments: u16,
        /// Chosen by the front end, echoed in the response.
        pub id: U64,
        /// The first sector on the disk.
        pub sector_number: U64,
        /// The device.
        pub handle: u16,
        /// Padding.
        pub pad1: u16,
        /// The pages that hold the segments.
        pub indirect_grefs: [u32; MAX_INDIRECT_PAGES_PER_REQUEST],
        /// Padding, to the size that C gives it.
        pub pad2: [u32; 2],
    }
    const_assert_eq!(size_of::<IndirectRequest>(), 64);

    /// The answer to any request (`struct blkif_response`).
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Response {
        /// The request's id.
        pub id: U64,
        /// The request's operation.
        pub operation: u8,
        /// Padding.
        pub pad0: u8,
        /// One of `RSP_*`.
        pub status: i16,
    }
    const_assert_eq!(size_of::<Response>(), 12);
}
