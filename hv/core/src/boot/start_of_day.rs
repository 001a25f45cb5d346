//! What a guest finds in its memory at its start (`xen/arch-x86/hvm/start_info.h`).

use alloc::vec::Vec;
use pv_abi::ids::GuestPhys;
use pv_abi::start_info::{HvmMemmapEntry, HvmModlistEntry, HvmStartInfo, MAGIC, VERSION};
use zerocopy::IntoBytes;

/// A module: where it is, how long it is, and its command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Module<'a> {
    /// Where it is.
    pub at: GuestPhys,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its command line.
    pub cmdline: &'a str,
}

/// How many bytes [`start_info`] makes.
pub fn start_info_bytes(cmdline: &str, module_cmdlines: &[&str], memory_map: &[HvmMemmapEntry]) -> u64 {
    let structures = size_of::<HvmStartInfo>()
        + module_cmdlines.len() * size_of::<HvmModlistEntry>()
        + size_of_val(memory_map);
    let texts = module_cmdlines.iter().chain([&cmdline]).map(|text| text.len() + 1).sum::<usize>();
    (structures + texts) as u64
}

/// Makes the start information that goes to `at`, which is aligned to 8 bytes: the structure, the list of modules, the
/// memory map and the command lines. The ACPI tables are at `rsdp`.
pub fn start_info(
    at: GuestPhys,
    flags: u32,
    cmdline: &str,
    modules: &[Module<'_>],
    memory_map: &[HvmMemmapEntry],
    rsdp: GuestPhys,
) -> Vec<u8> {
    let modlist = at.raw() + size_of::<HvmStartInfo>() as u64;
    let memmap = modlist + (modules.len() * size_of::<HvmModlistEntry>()) as u64;
    let texts_at = memmap + size_of_val(memory_map) as u64;
    let mut texts = Vec::new();
    let mut text = |value: &str| {
        let place = texts_at + texts.len() as u64;
        texts.extend_from_slice(value.as_bytes());
        texts.push(0);
        place
    };
    let cmdline_paddr = text(cmdline);
    let list: Vec<_> = modules
        .iter()
        .map(|module| HvmModlistEntry {
            paddr: module.at.raw(),
            size: module.bytes,
            cmdline_paddr: if module.cmdline.is_empty() { 0 } else { text(module.cmdline) },
            reserved: 0,
        })
        .collect();
    let info = HvmStartInfo {
        magic: MAGIC,
        version: VERSION,
        flags,
        nr_modules: u32::try_from(modules.len()).unwrap_or(u32::MAX),
        modlist_paddr: if modules.is_empty() { 0 } else { modlist },
        cmdline_paddr,
        rsdp_paddr: rsdp.raw(),
        memmap_paddr: memmap,
        memmap_entries: u32::try_from(memory_map.len()).unwrap_or(u32::MAX),
        reserved: 0,
    };
    [info.as_bytes(), list.as_bytes(), memory_map.as_bytes(), &texts].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;
    use zerocopy::FromBytes;

    #[test]
    fn the_structures_point_to_each_other() {
        let at = GuestPhys::new(0x5000);
        let modules = [
            Module { at: GuestPhys::new(0x9000), bytes: 77, cmdline: "first" },
            Module { at: GuestPhys::new(0xa000), bytes: 78, cmdline: "" },
        ];
        let map = [HvmMemmapEntry { addr: 0, size: 0x10_0000, kind: 1, reserved: 0 }];
        let bytes = start_info(at, 3, "role=guest", &modules, &map, GuestPhys::new(0x8000));
        assert_eq!(bytes.len() as u64, start_info_bytes("role=guest", &["first"], &map) + 32);
        let offset = |address: u64| usize::try_from(address - at.raw()).unwrap();
        let text =
            |address: u64| CStr::from_bytes_until_nul(&bytes[offset(address)..]).unwrap().to_str().unwrap();
        let (info, _) = HvmStartInfo::read_from_prefix(&bytes).unwrap();
        assert_eq!((info.magic, info.version, info.flags), (MAGIC, VERSION, 3));
        assert_eq!((text(info.cmdline_paddr), info.rsdp_paddr), ("role=guest", 0x8000));
        assert_eq!((info.nr_modules, info.memmap_entries), (2, 1));
        let (first, rest) = HvmModlistEntry::read_from_prefix(&bytes[offset(info.modlist_paddr)..]).unwrap();
        let (second, _) = HvmModlistEntry::read_from_prefix(rest).unwrap();
        assert_eq!((first.paddr, first.size, text(first.cmdline_paddr)), (0x9000, 77, "first"));
        assert_eq!((second.paddr, second.size, second.cmdline_paddr), (0xa000, 78, 0));
        let (entry, _) = HvmMemmapEntry::read_from_prefix(&bytes[offset(info.memmap_paddr)..]).unwrap();
        assert_eq!(entry, map[0]);
    }
}
