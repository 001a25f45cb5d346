//! Types of the ELF notes of a guest kernel, whose name is [`NAME`] (`xen/elfnote.h`).

/// Owner of the notes, with its zero byte.
pub const NAME: &[u8; 4] = b"Xen\0";

/// Address of the entry point of a PV guest (`XEN_ELFNOTE_ENTRY`).
pub const ENTRY: u32 = 1;
/// Address of the page for hypercall code.
pub const HYPERCALL_PAGE: u32 = 2;
/// Virtual address that the kernel is linked for.
pub const VIRT_BASE: u32 = 3;
/// Offset of the physical addresses in the file.
pub const PADDR_OFFSET: u32 = 4;
/// Version that the guest was written for.
pub const XEN_VERSION: u32 = 5;
/// Name of the guest's system.
pub const GUEST_OS: u32 = 6;
/// Version of the guest's system.
pub const GUEST_VERSION: u32 = 7;
/// Loader that the kernel wants.
pub const LOADER: u32 = 8;
/// Use of PAE.
pub const PAE_MODE: u32 = 9;
/// Features needed and known, as text.
pub const FEATURES: u32 = 10;
/// Features that the kernel knows, as bits.
pub const SUPPORTED_FEATURES: u32 = 17;
/// Physical address of the 32-bit entry point: makes the kernel a PVH one (`XEN_ELFNOTE_PHYS32_ENTRY`).
pub const PHYS32_ENTRY: u32 = 18;
/// The kernel may be loaded at another physical address: alignment, lowest and highest address
/// (`XEN_ELFNOTE_PHYS32_RELOC`, which newer headers than 4.17's have).
pub const PHYS32_RELOC: u32 = 19;
