//! Version and features (`xen/version.h`, `xen/features.h`).

use bitflags::bitflags;
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Sub-operations of `xen_version` (`XENVER_*`).
pub mod op {
    /// The version number.
    pub const VERSION: u64 = 0;
    /// The rest of the version, as text.
    pub const EXTRAVERSION: u64 = 1;
    /// Who built it and how.
    pub const COMPILE_INFO: u64 = 2;
    /// Kinds of guest.
    pub const CAPABILITIES: u64 = 3;
    /// The source's revision.
    pub const CHANGESET: u64 = 4;
    /// Place of the hypervisor in PV guests.
    pub const PLATFORM_PARAMETERS: u64 = 5;
    /// Feature bits.
    pub const GET_FEATURES: u64 = 6;
    /// Bytes in a page.
    pub const PAGESIZE: u64 = 7;
    /// The domain's handle.
    pub const GUEST_HANDLE: u64 = 8;
    /// The hypervisor's command line.
    pub const COMMANDLINE: u64 = 9;
    /// The image's build id.
    pub const BUILD_ID: u64 = 10;
}

/// Interface version that this crate describes: major in the upper half.
pub const VERSION: u32 = (4 << 16) | 17;

/// Text of `extraversion` (`xen_extraversion_t`).
pub type ExtraVersion = [u8; 16];
/// Text of `capabilities` (`xen_capabilities_info_t`).
pub type Capabilities = [u8; 1024];
/// Text of `changeset` (`xen_changeset_info_t`).
pub type Changeset = [u8; 64];
/// Text of `commandline` (`xen_commandline_t`).
pub type CommandLine = [u8; 1024];
/// A domain's handle (`xen_domain_handle_t`).
pub type DomainHandle = [u8; 16];

/// Who built the hypervisor (`struct xen_compile_info`): four texts ended by a zero byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CompileInfo {
    /// The compiler.
    pub compiler: [u8; 64],
    /// The user.
    pub compile_by: [u8; 16],
    /// The machine.
    pub compile_domain: [u8; 32],
    /// The date.
    pub compile_date: [u8; 32],
}
const_assert_eq!(size_of::<CompileInfo>(), 144);

/// Place of the hypervisor in the address space (`struct xen_platform_parameters`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PlatformParameters {
    /// First address that PV guests cannot use; 0 for translated guests.
    pub virt_start: u64,
}

/// Argument of `get_features` (`struct xen_feature_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FeatureInfo {
    /// Which 32 features.
    pub submap_idx: u32,
    /// Out: their bits: see [`Features`].
    pub submap: u32,
}

bitflags! {
    /// The first 32 features (`XENFEAT_*` are bit numbers).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u32 {
        /// Page tables may be written.
        const WRITABLE_PAGE_TABLES = 1 << 0;
        /// Descriptor tables may be written.
        const WRITABLE_DESCRIPTOR_TABLES = 1 << 1;
        /// The guest's frame numbers are translated.
        const AUTO_TRANSLATED_PHYSMAP = 1 << 2;
        /// The kernel runs in ring 0.
        const SUPERVISOR_MODE_KERNEL = 1 << 3;
        /// Page directories may lie above 4 GiB.
        const PAE_PGDIR_ABOVE_4GB = 1 << 4;
        /// Updates of page tables can keep accessed and dirty bits.
        const MMU_PT_UPDATE_PRESERVE_AD = 1 << 5;
        /// High memory assists.
        const HIGHMEM_ASSIST = 1 << 6;
        /// Grant mappings may set available bits.
        const GNTTAB_MAP_AVAIL_BITS = 1 << 7;
        /// Events can be delivered by a vector.
        const HVM_CALLBACK_VECTOR = 1 << 8;
        /// The clock is safe in translated guests.
        const HVM_SAFE_PVCLOCK = 1 << 9;
        /// Emulated interrupts can come as events.
        const HVM_PIRQS = 1 << 10;
        /// The domain is the first one.
        const DOM0 = 1 << 11;
        /// `memory_op` knows virtual nodes.
        const MEMORY_OP_VNODE_SUPPORTED = 1 << 13;
        /// The RSDP may lie anywhere.
        const LINUX_RSDP_UNRESTRICTED = 1 << 15;
        /// The domain's frames are not machine frames.
        const NOT_DIRECT_MAPPED = 1 << 16;
        /// The domain's frames are machine frames.
        const DIRECT_MAPPED = 1 << 17;
    }
}
