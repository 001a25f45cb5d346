//! What a guest finds at its start (`xen/arch-x86/hvm/start_info.h`): the structures in its memory and the state of
//! its first vCPU.

use crate::hw::{Reg, Segment, SegmentState, VcpuHw};
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
/// memory map and the command lines.
pub fn start_info(
    at: GuestPhys,
    flags: u32,
    cmdline: &str,
    modules: &[Module<'_>],
    memory_map: &[HvmMemmapEntry],
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
        rsdp_paddr: 0,
        memmap_paddr: memmap,
        memmap_entries: u32::try_from(memory_map.len()).unwrap_or(u32::MAX),
        reserved: 0,
    };
    [info.as_bytes(), list.as_bytes(), memory_map.as_bytes(), &texts].concat()
}

/// CR0.PE: protected mode (Intel SDM volume 3, section 2.5).
const CR0_PE: u64 = 1;
/// CR0.ET: reads as one on every CPU that has 64-bit mode.
const CR0_ET: u64 = 1 << 4;
/// The bit of RFLAGS that is always one.
const RFLAGS_ONE: u64 = 2;

const fn flat(selector: u16, attributes: u16) -> SegmentState {
    SegmentState { selector, attributes, limit: u32::MAX, base: 0 }
}

/// Sets a vCPU as the PVH entry wants it: 32-bit protected mode without paging, flat segments, the address of the
/// start information in EBX.
pub fn set_entry_state<H: VcpuHw>(hw: &mut H, entry: GuestPhys, info: GuestPhys) {
    hw.reset();
    hw.set(Reg::Cr0, CR0_PE | CR0_ET);
    hw.set(Reg::Cr3, 0);
    hw.set(Reg::Cr4, 0);
    hw.set(Reg::Efer, 0);
    hw.set(Reg::Rflags, RFLAGS_ONE);
    hw.set(Reg::Rip, entry.raw());
    hw.set(Reg::Rsp, 0);
    // Code: execute, read, accessed; data: read, write, accessed; 32-bit with a limit in pages.
    hw.set_segment(Segment::Cs, flat(0x8, 0xc9b));
    for segment in [Segment::Ds, Segment::Es, Segment::Fs, Segment::Gs, Segment::Ss] {
        hw.set_segment(segment, flat(0x10, 0xc93));
    }
    // A busy 32-bit task-state segment.
    hw.set_segment(Segment::Tr, SegmentState { selector: 0x18, attributes: 0x8b, limit: 0x67, base: 0 });
    hw.set_segment(Segment::Ldtr, SegmentState::default());
    hw.set_segment(Segment::Gdtr, SegmentState::default());
    hw.set_segment(Segment::Idtr, SegmentState::default());
    hw.gprs_mut().rbx = info.raw();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hw::{Backend, HostPhys, VcpuConfig};
    use crate::testing::Scripted;
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
        let bytes = start_info(at, 3, "role=guest", &modules, &map);
        assert_eq!(bytes.len() as u64, start_info_bytes("role=guest", &["first"], &map) + 32);
        let offset = |address: u64| usize::try_from(address - at.raw()).unwrap();
        let text =
            |address: u64| CStr::from_bytes_until_nul(&bytes[offset(address)..]).unwrap().to_str().unwrap();
        let (info, _) = HvmStartInfo::read_from_prefix(&bytes).unwrap();
        assert_eq!((info.magic, info.version, info.flags), (MAGIC, VERSION, 3));
        assert_eq!(text(info.cmdline_paddr), "role=guest");
        assert_eq!((info.nr_modules, info.memmap_entries), (2, 1));
        let (first, rest) = HvmModlistEntry::read_from_prefix(&bytes[offset(info.modlist_paddr)..]).unwrap();
        let (second, _) = HvmModlistEntry::read_from_prefix(rest).unwrap();
        assert_eq!((first.paddr, first.size, text(first.cmdline_paddr)), (0x9000, 77, "first"));
        assert_eq!((second.paddr, second.size, second.cmdline_paddr), (0xa000, 78, 0));
        let (entry, _) = HvmMemmapEntry::read_from_prefix(&bytes[offset(info.memmap_paddr)..]).unwrap();
        assert_eq!(entry, map[0]);
    }

    #[test]
    fn the_first_vcpu_is_in_flat_protected_mode() {
        let config = VcpuConfig { nested_root: HostPhys::new(0), domain: 1 };
        let mut vcpu = Scripted::default().new_vcpu(config).unwrap();
        set_entry_state(&mut vcpu, GuestPhys::new(0x100_0040), GuestPhys::new(0x5000));
        assert_eq!(vcpu.get(Reg::Rip), 0x100_0040);
        assert_eq!(vcpu.get(Reg::Cr0) & 0x8000_0001, 1);
        assert_eq!(vcpu.get(Reg::Cr4) | vcpu.get(Reg::Efer), 0);
        assert_eq!(vcpu.get(Reg::Rflags) & 0x2_0300, 0);
        assert_eq!(vcpu.gprs().rbx, 0x5000);
        let code = vcpu.segment(Segment::Cs);
        assert_eq!((code.base, code.limit, code.attributes & 0x60f), (0, u32::MAX, 0x40b));
        assert_eq!(vcpu.segment(Segment::Tr).attributes & 0x8f, 0x8b);
    }
}
