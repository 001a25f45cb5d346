//! The block ring's messages, features and XenStore keys (`io/blkif.h`).

use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Reads sectors (`BLKIF_OP_READ`).
pub const OP_READ: u8 = 0;
/// Writes sectors (`BLKIF_OP_WRITE`).
pub const OP_WRITE: u8 = 1;
/// Writes sectors, after all earlier writes and before all later ones (`BLKIF_OP_WRITE_BARRIER`).
pub const OP_WRITE_BARRIER: u8 = 2;
/// Makes all completed writes durable (`BLKIF_OP_FLUSH_DISKCACHE`).
pub const OP_FLUSH_DISKCACHE: u8 = 3;
/// Not for use (`BLKIF_OP_RESERVED_1`).
pub const OP_RESERVED_1: u8 = 4;
/// Tells that sectors are no longer in use (`BLKIF_OP_DISCARD`).
pub const OP_DISCARD: u8 = 5;
/// Reads or writes, with the segments in pages of their own (`BLKIF_OP_INDIRECT`).
pub const OP_INDIRECT: u8 = 6;

/// Done (`BLKIF_RSP_OKAY`).
pub const RSP_OKAY: i16 = 0;
/// Failed (`BLKIF_RSP_ERROR`).
pub const RSP_ERROR: i16 = -1;
/// The back end does not do this (`BLKIF_RSP_EOPNOTSUPP`).
pub const RSP_EOPNOTSUPP: i16 = -2;

/// Segments in a direct request (`BLKIF_MAX_SEGMENTS_PER_REQUEST`).
pub const MAX_SEGMENTS_PER_REQUEST: usize = 11;
/// Pages of segments in an indirect request (`BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST`).
pub const MAX_INDIRECT_PAGES_PER_REQUEST: usize = 8;
/// Segments in one page of an indirect request.
pub const SEGMENTS_PER_INDIRECT_PAGE: usize = super::ring::PAGE_SIZE / size_of::<Segment>();
/// Overwrite what is discarded so that it cannot be recovered (`BLKIF_DISCARD_SECURE`).
pub const DISCARD_SECURE: u8 = 1 << 0;

/// The device is a CD-ROM (`VDISK_CDROM`).
pub const VDISK_CDROM: u32 = 1;
/// The medium may be taken out (`VDISK_REMOVABLE`).
pub const VDISK_REMOVABLE: u32 = 2;
/// The device cannot be written (`VDISK_READONLY`).
pub const VDISK_READONLY: u32 = 4;

/// The unit of `first_sect` and `last_sect`, and of sector numbers unless `feature-large-sector-size` was negotiated.
pub const SECTOR_SIZE: usize = 512;
/// The size of a slot: the larger of request and response.
pub const SLOT_SIZE: usize = size_of::<Request>();

/// One run of sectors inside one granted page (`struct blkif_request_segment`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Segment {
    /// The page.
    pub gref: u32,
    /// The first sector in the page.
    pub first_sect: u8,
    /// The last sector in the page, itself included.
    pub last_sect: u8,
    /// Padding.
    pub pad: u16,
}

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
    /// Padding.
    pub pad: u32,
    /// Chosen by the front end, echoed in the response.
    pub id: u64,
    /// The first sector on the disk.
    pub sector_number: u64,
    /// Where the data is.
    pub seg: [Segment; MAX_SEGMENTS_PER_REQUEST],
}

/// A request with [`OP_DISCARD`] (`struct blkif_request_discard`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DiscardRequest {
    /// [`OP_DISCARD`].
    pub operation: u8,
    /// [`DISCARD_SECURE`] or zero.
    pub flag: u8,
    /// The device.
    pub handle: u16,
    /// Padding.
    pub pad: u32,
    /// Chosen by the front end, echoed in the response.
    pub id: u64,
    /// The first sector.
    pub sector_number: u64,
    /// How many sectors.
    pub nr_sectors: u64,
}

/// A request with [`OP_INDIRECT`] (`struct blkif_request_indirect`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IndirectRequest {
    /// [`OP_INDIRECT`].
    pub operation: u8,
    /// [`OP_READ`] or [`OP_WRITE`].
    pub indirect_op: u8,
    /// How many segments there are in all.
    pub nr_segments: u16,
    /// Padding.
    pub pad0: u32,
    /// Chosen by the front end, echoed in the response.
    pub id: u64,
    /// The first sector on the disk.
    pub sector_number: u64,
    /// The device.
    pub handle: u16,
    /// Padding.
    pub pad1: u16,
    /// The pages that hold the segments.
    pub indirect_grefs: [u32; MAX_INDIRECT_PAGES_PER_REQUEST],
    /// Padding.
    pub pad2: u32,
}

/// The answer to any request (`struct blkif_response`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Response {
    /// The request's id.
    pub id: u64,
    /// The request's operation.
    pub operation: u8,
    /// Padding.
    pub pad0: u8,
    /// One of `RSP_*`.
    pub status: i16,
    /// Padding.
    pub pad1: u32,
}

const_assert_eq!(size_of::<Segment>(), 8);
const_assert_eq!(size_of::<Request>(), 112);
const_assert_eq!(size_of::<DiscardRequest>(), 32);
const_assert_eq!(size_of::<IndirectRequest>(), 64);
const_assert_eq!(size_of::<Response>(), 16);

/// XenStore keys that the two ends write ("Feature and Parameter Negotiation" in `io/blkif.h`).
pub mod key {
    /// Back end: barriers are understood.
    pub const FEATURE_BARRIER: &str = "feature-barrier";
    /// Back end: flushes are understood.
    pub const FEATURE_FLUSH_CACHE: &str = "feature-flush-cache";
    /// Back end: discards are understood.
    pub const FEATURE_DISCARD: &str = "feature-discard";
    /// Both: grants are used again and stay mapped.
    pub const FEATURE_PERSISTENT: &str = "feature-persistent";
    /// Back end: the most segments of an indirect request.
    pub const FEATURE_MAX_INDIRECT_SEGMENTS: &str = "feature-max-indirect-segments";
    /// Front end: sector numbers are in units of `sector-size`.
    pub const FEATURE_LARGE_SECTOR_SIZE: &str = "feature-large-sector-size";
    /// Back end: the largest ring, as a power of two of pages.
    pub const MAX_RING_PAGE_ORDER: &str = "max-ring-page-order";
    /// Back end: the largest ring in pages (the older scheme).
    pub const MAX_RING_PAGES: &str = "max-ring-pages";
    /// Front end: the ring's size, as a power of two of pages.
    pub const RING_PAGE_ORDER: &str = "ring-page-order";
    /// Front end: the ring's size in pages (the older scheme).
    pub const NUM_RING_PAGES: &str = "num-ring-pages";
    /// Front end: the grant of the ring's only page; with a number appended, of that page.
    pub const RING_REF: &str = "ring-ref";
    /// Front end: the port.
    pub const EVENT_CHANNEL: &str = "event-channel";
    /// Front end: the layout of messages.
    pub const PROTOCOL: &str = "protocol";
    /// Back end: the most queues; each has a ring and a port of its own.
    pub const MULTI_QUEUE_MAX_QUEUES: &str = "multi-queue-max-queues";
    /// Front end: how many it uses. With more than one, the keys of each are in a directory `queue-N`.
    pub const MULTI_QUEUE_NUM_QUEUES: &str = "multi-queue-num-queues";
    /// The value of [`PROTOCOL`] for this architecture (`XEN_IO_PROTO_ABI_X86_64` in `io/protocols.h`).
    pub const PROTOCOL_X86_64: &str = "x86_64-abi";
    /// The value for front ends of 32-bit kernels (`XEN_IO_PROTO_ABI_X86_32`): [`crate::ia32::blkif`].
    pub const PROTOCOL_X86_32: &str = "x86_32-abi";
    /// Back end: size of the disk in sectors.
    pub const SECTORS: &str = "sectors";
    /// Back end: logical sector size.
    pub const SECTOR_SIZE: &str = "sector-size";
    /// Back end: physical sector size.
    pub const PHYSICAL_SECTOR_SIZE: &str = "physical-sector-size";
    /// Back end: `VDISK_*`.
    pub const INFO: &str = "info";
    /// Back end: unit of discarding in bytes.
    pub const DISCARD_GRANULARITY: &str = "discard-granularity";
    /// Back end: where the first unit of discarding starts.
    pub const DISCARD_ALIGNMENT: &str = "discard-alignment";
    /// Back end: [`DISCARD_SECURE`](super::DISCARD_SECURE) is understood.
    pub const DISCARD_SECURE: &str = "discard-secure";
    /// Toolstack: whether discard is offered.
    pub const DISCARD_ENABLE: &str = "discard-enable";
    /// Toolstack: `r` or `w`.
    pub const MODE: &str = "mode";
    /// Front end: the device's number.
    pub const VIRTUAL_DEVICE: &str = "virtual-device";
    /// Front end: `disk`, `cdrom`, ...
    pub const DEVICE_TYPE: &str = "device-type";
}
