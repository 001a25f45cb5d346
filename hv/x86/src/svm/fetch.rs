//! What older CPUs and QEMU do not tell of an instruction that caused an exit: where it ends, and which
//! register a MOV to CR8 names.
//!
//! The bytes at RIP are read through the guest's own page tables and the nested ones, in the direct map. What
//! cannot be read counts as an instruction without prefixes: a guest that changes its tables or code under
//! its own feet harms itself only.

use core::sync::atomic::{AtomicU64, Ordering};

use hv_core::hw::{Entry, EntryFormat};

use super::decode::instruction_length;
use super::npt::Npt;
use super::vmcb::{Vmcb, code};
use crate::paging::{self, direct_map_ptr};

/// The longest instruction there is.
const LONGEST: usize = 15;

/// Where the instruction at RIP ends.
#[cold]
pub fn next_rip(vmcb: &Vmcb) -> u64 {
    let control = &vmcb.control;
    match control.exit_code {
        // The exit of an I/O instruction tells (section 15.10.2).
        code::IO => control.exit_info2,
        exit => {
            let prefixes = prefixes(code_bytes(vmcb), exit, is_long(vmcb));
            let length = prefixes + usize::from(instruction_length(exit));
            vmcb.save.rip.wrapping_add(length as u64)
        }
    }
}

/// The general register of the MOV to or from a control register at RIP; 0 if it cannot be read.
#[cold]
pub fn control_register_gpr(vmcb: &Vmcb) -> u8 {
    let mut bytes = [0; LONGEST];
    bytes.iter_mut().zip(code_bytes(vmcb)).for_each(|(to, from)| *to = from);
    gpr_of_mov(&bytes)
}

/// How many prefixes stand before the opcode of an instruction that caused exit `exit`. Not a byte more is read than that
/// takes.
fn prefixes(bytes: impl Iterator<Item = u8>, exit: u64, long: bool) -> usize {
    // PAUSE is NOP with prefix F3h, and MOV CR8 has REX or LOCK: they are part of `instruction_length`.
    let part = match exit {
        code::PAUSE | 0x08 | 0x18 => 1,
        _ => 0,
    };
    let count = bytes.take_while(|byte| is_prefix(*byte, long)).count();
    if count == LONGEST { 0 } else { count.saturating_sub(part) }
}

/// Legacy prefixes, and REX in 64-bit mode: AMD64 manual volume 3, section 1.2.
const fn is_prefix(byte: u8, long: bool) -> bool {
    matches!(byte, 0x66 | 0x67 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65 | 0xf0 | 0xf2 | 0xf3)
        || long && byte >> 4 == 4
}

/// The `rm` field of `0F 20/22 /r`, with REX.B.
fn gpr_of_mov(bytes: &[u8; LONGEST]) -> u8 {
    let Some(opcode) = bytes.iter().position(|byte| !is_prefix(*byte, true)) else { return 0 };
    let rex = match opcode.checked_sub(1).map(|at| bytes[at]) {
        Some(byte) if byte >> 4 == 4 => byte & 1,
        _ => 0,
    };
    bytes.get(opcode + 2).map_or(0, |modrm| modrm & 7 | rex << 3)
}

/// 64-bit mode: EFER.LMA and CS.L.
fn is_long(vmcb: &Vmcb) -> bool {
    vmcb.save.efer & 1 << 10 != 0 && vmcb.save.cs.attributes & 1 << 9 != 0
}

/// The bytes at RIP as far as they can be read, each when it is asked for.
fn code_bytes(vmcb: &Vmcb) -> impl Iterator<Item = u8> + '_ {
    let base = if is_long(vmcb) { 0 } else { vmcb.save.cs.base };
    let mut linear = base.wrapping_add(vmcb.save.rip);
    let mut page = None;
    (0..LONGEST).map_while(move |_| {
        // One translation for each page.
        if page.is_none() || linear & 0xfff == 0 {
            page = Some(translate(vmcb, linear).filter(|host| paging::is_ram(*host))? & !0xfff);
        }
        let host = page? | linear & 0xfff;
        linear = linear.wrapping_add(1);
        // SAFETY: the page was found in nested page tables and is RAM; one byte is read, whatever the guest writes
        // meanwhile.
        Some(unsafe { direct_map_ptr(host).read_volatile() })
    })
}

fn host_word(host: u64) -> Option<u64> {
    // SAFETY: as above; page tables are aligned, so that the word is within the page.
    paging::is_ram(host)
        .then(|| unsafe { AtomicU64::from_ptr(direct_map_ptr(host & !7).cast()) }.load(Ordering::Relaxed))
}

/// From a guest-physical to a host-physical address.
fn nested(vmcb: &Vmcb, gpa: u64) -> Option<u64> {
    let mut table = vmcb.control.nested_root;
    if gpa >> 48 != 0 {
        return None;
    }
    for level in (1..=4u8).rev() {
        let shift = 12 + 9 * (u32::from(level) - 1);
        match Npt::decode(level, host_word(table + 8 * (gpa >> shift & 0x1ff))?) {
            Entry::Empty => return None,
            Entry::Table(next) => table = next.base().raw(),
            Entry::Leaf { mfn, .. } => return Some(mfn.base().raw() + (gpa & ((1 << shift) - 1))),
        }
    }
    None
}

/// From a linear to a host-physical address: no paging, or the four levels of long mode, which are all that
/// such guests use.
fn translate(vmcb: &Vmcb, linear: u64) -> Option<u64> {
    if vmcb.save.cr0 & 1 << 31 == 0 {
        return nested(vmcb, linear & 0xffff_ffff);
    }
    if vmcb.save.efer & 1 << 10 == 0 {
        return None;
    }
    let five_levels = vmcb.save.cr4 & 1 << 12 != 0;
    let mut table = vmcb.save.cr3 & 0x000f_ffff_ffff_f000;
    for level in (1..=if five_levels { 5 } else { 4 }).rev() {
        let shift = 12 + 9 * (level - 1);
        let entry = host_word(nested(vmcb, table + 8 * (linear >> shift & 0x1ff))?)?;
        if entry & 1 == 0 {
            return None;
        }
        let address = entry & 0x000f_ffff_ffff_f000;
        if level == 1 || (level <= 3 && entry & 1 << 7 != 0) {
            let offset = (1 << shift) - 1;
            return nested(vmcb, address & !offset | linear & offset);
        }
        table = address;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(bytes: &[u8]) -> [u8; LONGEST] {
        let mut out = [0; LONGEST];
        out[..bytes.len()].copy_from_slice(bytes);
        out
    }

    #[test]
    fn counts_prefixes() {
        let cases: [(&[u8], u64, usize); 7] = [
            (&[0x0f, 0xa2], code::CPUID, 0),
            (&[0x3e, 0x0f, 0x30], code::MSR, 1),
            (&[0x66, 0x48, 0x0f, 0xa2], code::CPUID, 2),
            (&[0xf3, 0x90], code::PAUSE, 0),
            (&[0xf3, 0x0f, 0x09], code::WBINVD, 1),
            (&[0x44, 0x0f, 0x22, 0xc0], 0x18, 0),
            (&[0x66; LONGEST], code::CPUID, 0),
        ];
        for (bytes, exit, count) in cases {
            assert_eq!(prefixes(code_of(bytes).into_iter(), exit, true), count, "{bytes:x?}");
        }
        // INC EAX outside of 64-bit mode is no prefix.
        let outside = code_of(&[0x40, 0x0f, 0xa2]).into_iter();
        assert_eq!(prefixes(outside, code::CPUID, false), 0);
    }

    #[test]
    fn finds_the_register() {
        assert_eq!(gpr_of_mov(&code_of(&[0x44, 0x0f, 0x22, 0xc0])), 0);
        assert_eq!(gpr_of_mov(&code_of(&[0x44, 0x0f, 0x22, 0xc7])), 7);
        assert_eq!(gpr_of_mov(&code_of(&[0x45, 0x0f, 0x22, 0xc7])), 15);
        assert_eq!(gpr_of_mov(&code_of(&[0xf0, 0x0f, 0x22, 0xc3])), 3);
        assert_eq!(gpr_of_mov(&[0x66; LONGEST]), 0);
    }
}
