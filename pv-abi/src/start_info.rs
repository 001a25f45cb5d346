//! Start-of-day structures of the PVH entry (`xen/arch-x86/hvm/start_info.h`).
//!
//! A guest enters in 32-bit protected mode without paging, at the address in its ELF note
//! [`crate::elfnote::PHYS32_ENTRY`], with the address of [`HvmStartInfo`] in EBX.

use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of [`HvmStartInfo::magic`] (`XEN_HVM_START_MAGIC_VALUE`).
pub const MAGIC: u32 = 0x336e_c578;
/// Version of the structure described here.
pub const VERSION: u32 = 1;

/// Bit of [`HvmStartInfo::flags`]: the domain has privileges (`SIF_PRIVILEGED`).
pub const SIF_PRIVILEGED: u32 = 1 << 0;
/// Bit of [`HvmStartInfo::flags`]: the domain is the first one (`SIF_INITDOMAIN`).
pub const SIF_INITDOMAIN: u32 = 1 << 1;

/// Kinds of memory (`XEN_HVM_MEMMAP_TYPE_*`).
pub mod memmap_type {
    /// Ordinary memory.
    pub const RAM: u32 = 1;
    /// Not to be touched.
    pub const RESERVED: u32 = 2;
    /// ACPI tables, free once read.
    pub const ACPI: u32 = 3;
    /// ACPI non-volatile storage.
    pub const NVS: u32 = 4;
    /// Broken memory.
    pub const UNUSABLE: u32 = 5;
    /// Memory that is switched off.
    pub const DISABLED: u32 = 6;
    /// Persistent memory.
    pub const PMEM: u32 = 7;
}

/// What the guest is told at its start (`struct hvm_start_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HvmStartInfo {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`VERSION`] or later; later ones only append.
    pub version: u32,
    /// [`SIF_PRIVILEGED`], [`SIF_INITDOMAIN`].
    pub flags: u32,
    /// Number of modules.
    pub nr_modules: u32,
    /// Address of an array of [`HvmModlistEntry`].
    pub modlist_paddr: u64,
    /// Address of the command line, ended by a zero byte.
    pub cmdline_paddr: u64,
    /// Address of the ACPI root pointer, or 0.
    pub rsdp_paddr: u64,
    /// Address of an array of [`HvmMemmapEntry`], or 0.
    pub memmap_paddr: u64,
    /// Length of that array.
    pub memmap_entries: u32,
    /// Zero.
    pub reserved: u32,
}
const_assert_eq!(size_of::<HvmStartInfo>(), 56);

/// A file in memory (`struct hvm_modlist_entry`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HvmModlistEntry {
    /// Address.
    pub paddr: u64,
    /// Length in bytes.
    pub size: u64,
    /// Address of its command line, or 0.
    pub cmdline_paddr: u64,
    /// Zero.
    pub reserved: u64,
}
const_assert_eq!(size_of::<HvmModlistEntry>(), 32);

/// A range of the memory map (`struct hvm_memmap_table_entry`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HvmMemmapEntry {
    /// First address.
    pub addr: u64,
    /// Length in bytes.
    pub size: u64,
    /// Kind: see [`memmap_type`].
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
}
const_assert_eq!(size_of::<HvmMemmapEntry>(), 24);
