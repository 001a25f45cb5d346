//! The boot information of multiboot2 (specification 2.0, section 3.6), read by the `multiboot2` crate.

use multiboot2::{BootInformation, BootInformationHeader, MemoryAreaType};

use super::memmap::{Kind, Range};
use super::{AcpiRoot, BootInfo};
use crate::paging::direct_map_ptr;

/// Copies out what the structures at `info` say.
///
/// # Safety
///
/// `info` must be the physical address that a multiboot2 boot loader left in EBX.
pub unsafe fn read(info: u64) -> Result<BootInfo, &'static str> {
    // SAFETY: by this function's contract; nobody writes to the structures while they are read.
    let information = unsafe { BootInformation::load(direct_map_ptr(info).cast::<BootInformationHeader>()) }
        .map_err(|_| "the multiboot2 information is malformed")?;
    let mut boot = BootInfo::new("multiboot2");
    let map = information.memory_map_tag().ok_or("the multiboot2 information has no memory map")?;
    for area in map.memory_areas() {
        let kind = match area.typ() {
            MemoryAreaType::Available => Kind::Usable,
            MemoryAreaType::AcpiAvailable => Kind::Acpi,
            _ => Kind::Reserved,
        };
        boot.memory.push(Range { start: area.start_address(), end: area.end_address() }, kind);
    }
    if let Some(module) = information.module_tags().next() {
        boot.bundle = Some(Range { start: module.start_address().into(), end: module.end_address().into() });
    }
    if let Some(Ok(text)) = information.command_line_tag().map(|tag| tag.cmdline()) {
        boot.set_cmdline(text.bytes());
    }
    if let Some(tag) = information.rsdp_v2_tag() {
        boot.acpi = AcpiRoot::Table { revision: tag.revision(), address: tag.xsdt_address() as u64 };
    } else if let Some(tag) = information.rsdp_v1_tag() {
        boot.acpi = AcpiRoot::Table { revision: 0, address: tag.rsdt_address() as u64 };
    }
    Ok(boot)
}
