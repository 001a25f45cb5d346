//! The PVH start information: `struct hvm_start_info` of `xen/arch-x86/hvm/start_info.h`.

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::memmap::{Kind, Range};
use super::{AcpiRoot, BootInfo, entry::PVH_MAGIC};
use crate::paging::direct_map_ptr;

/// `struct hvm_start_info`, version 1.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    nr_modules: u32,
    modlist_paddr: u64,
    cmdline_paddr: u64,
    rsdp_paddr: u64,
    memmap_paddr: u64,
    memmap_entries: u32,
    reserved: u32,
}

/// `struct hvm_modlist_entry`.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Module {
    paddr: u64,
    size: u64,
    cmdline_paddr: u64,
    reserved: u64,
}

/// `struct hvm_memmap_table_entry`.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MemoryEntry {
    addr: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// `XEN_HVM_MEMMAP_TYPE_RAM`.
const TYPE_RAM: u32 = 1;
/// `XEN_HVM_MEMMAP_TYPE_ACPI`.
const TYPE_ACPI: u32 = 3;

/// Reads a `T` at a physical address.
///
/// # Safety
///
/// `address` must be that of a `T` which the boot loader wrote, below 4 GiB.
unsafe fn read_at<T: FromBytes>(address: u64) -> T {
    // SAFETY: by this function's contract; the boot page tables map the first 4 GiB at the direct map. No
    // alignment is promised.
    unsafe { direct_map_ptr(address).cast::<T>().read_unaligned() }
}

/// Copies out what the structures at `info` say.
///
/// # Safety
///
/// `info` must be the physical address that a PVH boot loader left in EBX.
pub unsafe fn read(info: u64) -> Result<BootInfo, &'static str> {
    // SAFETY: by this function's contract.
    let start: StartInfo = unsafe { read_at(info) };
    if start.magic != PVH_MAGIC {
        return Err("the PVH start information has a wrong magic number");
    }
    if start.version == 0 {
        return Err("the PVH start information has no memory map (version 0)");
    }
    let mut boot = BootInfo::new("PVH");
    for index in 0..u64::from(start.memmap_entries) {
        // SAFETY: the table has this many entries, by the protocol.
        let entry: MemoryEntry =
            unsafe { read_at(start.memmap_paddr + index * size_of::<MemoryEntry>() as u64) };
        let kind = match entry.kind {
            TYPE_RAM => Kind::Usable,
            TYPE_ACPI => Kind::Acpi,
            _ => Kind::Reserved,
        };
        boot.memory.push(Range::sized(entry.addr, entry.size), kind);
    }
    if start.nr_modules > 0 {
        // SAFETY: the list has at least one entry.
        let module: Module = unsafe { read_at(start.modlist_paddr) };
        boot.bundle = Some(Range::sized(module.paddr, module.size));
    }
    if start.cmdline_paddr != 0 {
        // SAFETY: the command line is a string that ends with a zero byte.
        boot.set_cmdline(
            (0..).map(|at| unsafe { read_at::<u8>(start.cmdline_paddr + at) }).take_while(|byte| *byte != 0),
        );
    }
    if start.rsdp_paddr != 0 {
        boot.acpi = AcpiRoot::Rsdp(start.rsdp_paddr);
    }
    Ok(boot)
}
