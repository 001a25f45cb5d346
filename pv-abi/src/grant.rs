//! Grant tables, version 1 (`xen/grant_table.h`).

use crate::ids::{DomainId, GrantHandle, GrantRef, GuestPhys, GuestVirt};
use bitflags::bitflags;
use core::fmt;
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Sub-operations of `grant_table_op` (`GNTTABOP_*`).
pub mod op {
    /// Maps foreign pages.
    pub const MAP_GRANT_REF: u64 = 0;
    /// Ends mappings.
    pub const UNMAP_GRANT_REF: u64 = 1;
    /// Grows the table and tells its frames.
    pub const SETUP_TABLE: u64 = 2;
    /// Prints a table.
    pub const DUMP_TABLE: u64 = 3;
    /// Gives pages away.
    pub const TRANSFER: u64 = 4;
    /// Copies between granted and own pages.
    pub const COPY: u64 = 5;
    /// Tells the table's size.
    pub const QUERY_SIZE: u64 = 6;
    /// Ends a mapping and puts another page there.
    pub const UNMAP_AND_REPLACE: u64 = 7;
    /// Chooses the version of the table.
    pub const SET_VERSION: u64 = 8;
    /// Tells the frames of the status table (version 2).
    pub const GET_STATUS_FRAMES: u64 = 9;
    /// Tells the version of a table.
    pub const GET_VERSION: u64 = 10;
    /// Swaps two entries.
    pub const SWAP_GRANT_REF: u64 = 11;
    /// Cleans caches.
    pub const CACHE_FLUSH: u64 = 12;
}

/// Entries at the start of a table that are not for general use (`GNTTAB_NR_RESERVED_ENTRIES`).
pub const NR_RESERVED_ENTRIES: u32 = 8;
/// Entry that shares the console ring (`GNTTAB_RESERVED_CONSOLE`).
pub const RESERVED_CONSOLE: GrantRef = GrantRef::new(0);
/// Entry that shares the XenStore ring (`GNTTAB_RESERVED_XENSTORE`).
pub const RESERVED_XENSTORE: GrantRef = GrantRef::new(1);
/// Entries in one frame of a version 1 table.
#[allow(clippy::cast_possible_truncation)] // 512
pub const ENTRIES_PER_FRAME: u32 = (crate::PAGE_SIZE / size_of::<GrantEntry>()) as u32;

bitflags! {
    /// First word of an entry (`GTF_*`). The low two bits are a type, not flags: see [`GrantFlags::kind`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct GrantFlags: u16 {
        /// Type: the domain named may map or copy the frame.
        const PERMIT_ACCESS = 1;
        /// Type: the entry receives a frame.
        const ACCEPT_TRANSFER = 2;
        /// The frame may not be written.
        const READONLY = 1 << 2;
        /// Set by the hypervisor while the frame is read or mapped.
        const READING = 1 << 3;
        /// Set by the hypervisor while the frame is written or mapped writable.
        const WRITING = 1 << 4;
        /// Cache attribute.
        const PWT = 1 << 5;
        /// Cache attribute.
        const PCD = 1 << 6;
        /// Cache attribute.
        const PAT = 1 << 7;
        /// Only a part of the page is shared (version 2).
        const SUB_PAGE = 1 << 8;
        const _ = !0;
    }
}

impl GrantFlags {
    /// Mask of the type bits (`GTF_type_mask`).
    pub const TYPE_MASK: u16 = 3;

    /// The type bits alone.
    #[inline]
    pub const fn kind(self) -> Self {
        Self::from_bits_retain(self.bits() & Self::TYPE_MASK)
    }

    /// Whether the frame is in use by its grantee, as far as the entry says.
    #[inline]
    pub const fn is_busy(self) -> bool {
        self.intersects(Self::READING.union(Self::WRITING))
    }
}

/// An entry of a version 1 table (`struct grant_entry_v1`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GrantEntry {
    /// Type and state: bits of [`GrantFlags`].
    pub flags: u16,
    /// The grantee.
    pub domid: DomainId,
    /// Frame of the granting domain.
    pub frame: u32,
}
const_assert_eq!(size_of::<GrantEntry>(), 8);

bitflags! {
    /// Flags of a mapping (`GNTMAP_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MapFlags: u32 {
        /// For devices.
        const DEVICE_MAP = 1 << 0;
        /// For the processor.
        const HOST_MAP = 1 << 1;
        /// Read-only.
        const READONLY = 1 << 2;
        /// For user mode too.
        const APPLICATION_MAP = 1 << 3;
        /// `host_addr` names a page table entry (PV guests).
        const CONTAINS_PTE = 1 << 4;
    }
}

/// An element of `map_grant_ref` (`struct gnttab_map_grant_ref`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MapGrantRef {
    /// Where the page is to appear.
    pub host_addr: GuestPhys,
    /// Bits of [`MapFlags`].
    pub flags: u32,
    /// Entry of the granting domain.
    pub gref: GrantRef,
    /// The granting domain.
    pub dom: DomainId,
    /// Out: how it ended.
    pub status: GrantStatus,
    /// Out: names the mapping.
    pub handle: GrantHandle,
    /// Out: the address for devices.
    pub dev_bus_addr: u64,
}
const_assert_eq!(size_of::<MapGrantRef>(), 32);

/// An element of `unmap_grant_ref` (`struct gnttab_unmap_grant_ref`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnmapGrantRef {
    /// Where the page appears, or 0.
    pub host_addr: GuestPhys,
    /// Its address for devices, or 0.
    pub dev_bus_addr: u64,
    /// The mapping.
    pub handle: GrantHandle,
    /// Out: how it ended.
    pub status: GrantStatus,
    /// Unused.
    pub pad: u16,
}
const_assert_eq!(size_of::<UnmapGrantRef>(), 24);

/// Argument of `setup_table` (`struct gnttab_setup_table`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetupTable {
    /// Domain whose table it is.
    pub dom: DomainId,
    /// Unused.
    pub pad0: u16,
    /// Frames that the table shall have at least.
    pub nr_frames: u32,
    /// Out: how it ended.
    pub status: GrantStatus,
    /// Unused.
    pub pad1: [u16; 3],
    /// Array for the frame numbers.
    pub frame_list: GuestVirt,
}
const_assert_eq!(size_of::<SetupTable>(), 24);

/// One side of a copy (`struct gnttab_copy_ptr`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CopyPtr {
    /// A grant reference or a frame number, as [`CopyFlags`] says.
    pub ref_or_gmfn: u64,
    /// The domain that owns it.
    pub domid: DomainId,
    /// First byte within the page.
    pub offset: u16,
    /// Unused.
    pub pad: u32,
}
const_assert_eq!(size_of::<CopyPtr>(), 16);

impl CopyPtr {
    /// A place in a page that `domid` grants to the caller.
    #[inline]
    pub const fn granted(domid: DomainId, gref: GrantRef, offset: u16) -> Self {
        Self { ref_or_gmfn: gref.raw() as u64, domid, offset, pad: 0 }
    }

    /// A place in the caller's own memory.
    #[inline]
    pub const fn own(gfn: crate::Gfn, offset: u16) -> Self {
        Self { ref_or_gmfn: gfn.raw(), domid: DomainId::SELF, offset, pad: 0 }
    }

    /// The grant reference: the union's narrow member, the rest of the word is ignored.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub const fn gref(&self) -> GrantRef {
        GrantRef::new(self.ref_or_gmfn as u32)
    }
}

bitflags! {
    /// Which sides of a copy are grants (`GNTCOPY_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CopyFlags: u16 {
        /// The source is a grant reference.
        const SOURCE_GREF = 1 << 0;
        /// The destination is a grant reference.
        const DEST_GREF = 1 << 1;
    }
}

/// An element of `copy` (`struct gnttab_copy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Copy {
    /// Where the bytes are.
    pub source: CopyPtr,
    /// Where they go.
    pub dest: CopyPtr,
    /// How many.
    pub len: u16,
    /// Bits of [`CopyFlags`].
    pub flags: u16,
    /// Out: how it ended.
    pub status: GrantStatus,
    /// Unused.
    pub pad: u16,
}
const_assert_eq!(size_of::<Copy>(), 40);

/// Argument of `query_size` (`struct gnttab_query_size`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct QuerySize {
    /// Domain whose table it is.
    pub dom: DomainId,
    /// Unused.
    pub pad0: u16,
    /// Out: frames that the table has.
    pub nr_frames: u32,
    /// Out: frames that it may have.
    pub max_nr_frames: u32,
    /// Out: how it ended.
    pub status: GrantStatus,
    /// Unused.
    pub pad1: u16,
}
const_assert_eq!(size_of::<QuerySize>(), 16);

/// Argument of `set_version` (`struct gnttab_set_version`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetVersion {
    /// The version wanted; afterwards the version in force.
    pub version: u32,
}

/// Argument of `get_version` (`struct gnttab_get_version`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetVersion {
    /// Domain whose table it is.
    pub dom: DomainId,
    /// Unused.
    pub pad: u16,
    /// Out: the version.
    pub version: u32,
}
const_assert_eq!(size_of::<GetVersion>(), 8);

/// How one grant operation ended (`GNTST_*`).
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct GrantStatus(i16);

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        impl GrantStatus {
            $($(#[$doc])* pub const $name: Self = Self($value);)*
            const TEXTS: &'static [(Self, &'static str)] = &[$((Self::$name, $text)),*];
        }
    };
}

statuses! {
    /// Success (`GNTST_okay`).
    OKAY = 0, "okay";
    /// An error without a number of its own (`GNTST_general_error`).
    GENERAL_ERROR = -1, "undefined error";
    /// No such domain (`GNTST_bad_domain`).
    BAD_DOMAIN = -2, "unrecognised domain";
    /// No such entry, or it is not for the caller (`GNTST_bad_gntref`).
    BAD_GNTREF = -3, "invalid grant reference";
    /// No such mapping (`GNTST_bad_handle`).
    BAD_HANDLE = -4, "invalid mapping handle";
    /// The address cannot be used (`GNTST_bad_virt_addr`).
    BAD_VIRT_ADDR = -5, "invalid virtual address";
    /// The device address cannot be used (`GNTST_bad_dev_addr`).
    BAD_DEV_ADDR = -6, "invalid device address";
    /// No room in the IOMMU (`GNTST_no_device_space`).
    NO_DEVICE_SPACE = -7, "no spare translation slot in the IOMMU";
    /// Not allowed (`GNTST_permission_denied`).
    PERMISSION_DENIED = -8, "permission denied";
    /// The frame is not ordinary memory (`GNTST_bad_page`).
    BAD_PAGE = -9, "bad page";
    /// The bytes cross the end of a page (`GNTST_bad_copy_arg`).
    BAD_COPY_ARG = -10, "copy arguments cross a page boundary";
    /// The frame's address is too big (`GNTST_address_too_big`).
    ADDRESS_TOO_BIG = -11, "page address too large";
    /// Try again (`GNTST_eagain`).
    EAGAIN = -12, "not done, try again";
    /// No room for another mapping (`GNTST_no_space`).
    NO_SPACE = -13, "out of space";
}

impl GrantStatus {
    /// Takes a status as the ABI carries it.
    #[inline]
    pub const fn new(raw: i16) -> Self {
        Self(raw)
    }

    /// The number itself.
    #[inline]
    pub const fn raw(self) -> i16 {
        self.0
    }

    /// Whether the operation succeeded.
    #[inline]
    pub const fn is_okay(self) -> bool {
        self.0 == 0
    }

    /// `Ok` on success, else the status as the error.
    #[inline]
    pub const fn ok(self) -> Result<(), Self> {
        if self.0 == 0 { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for GrantStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::TEXTS.iter().find(|(status, _)| status == self) {
            Some((_, text)) => f.write_str(text),
            None => write!(f, "grant status {}", self.0),
        }
    }
}

impl fmt::Debug for GrantStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for GrantStatus {}
