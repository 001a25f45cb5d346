use super::*;
use crate::testing::{Load, elf64, small_kernel};
use std::string::ToString;

const ENTRY: [u8; 4] = 0x10_0000_u32.to_le_bytes();

fn load(at: u64, bytes: u64) -> Load<'static> {
    Load { at, data: &[1, 2, 3, 4], bytes }
}

#[test]
fn a_pvh_kernel_is_read() {
    let image = small_kernel(false);
    let kernel = Kernel::parse(&image).unwrap();
    assert_eq!((kernel.start(), kernel.end(), kernel.entry()), (0x100_0000, 0x100_3000, 0x100_0040));
    assert_eq!(kernel.segments()[0].data, [0x90; 5000]);
    assert_eq!(kernel.relocation(), None);
    let image = small_kernel(true);
    let expected = Relocation { align: 2 << 20, lowest: 0, highest: 0xffff_ffff };
    assert_eq!(Kernel::parse(&image).unwrap().relocation(), Some(expected));
}

#[test]
fn constraints_of_a_move_are_read() {
    let mut desc = std::vec::Vec::new();
    [0x40_0000_u32, 0x80_0000, 0x3fff_ffff].iter().for_each(|word| desc.extend(word.to_le_bytes()));
    let image = elf64(&[load(0x10_0000, 0x1000)], &[(18, &ENTRY), (19, &desc)]);
    let expected = Relocation { align: 0x40_0000, lowest: 0x80_0000, highest: 0x3fff_ffff };
    assert_eq!(Kernel::parse(&image).unwrap().relocation(), Some(expected));
    let image = elf64(&[load(0x10_0000, 0x1000)], &[(18, &ENTRY), (19, &3_u32.to_le_bytes())]);
    assert_eq!(Kernel::parse(&image), Err(KernelError::BadRelocNote));
}

#[test]
fn malformed_kernels_are_told_apart() {
    let check = |loads: &[Load<'_>], notes: &[(u32, &[u8])]| {
        let image = elf64(loads, notes);
        Kernel::parse(&image).map(drop).unwrap_err()
    };
    let entry: (u32, &[u8]) = (18, &ENTRY);
    assert_eq!(check(&[], &[entry]), KernelError::NoSegments);
    assert_eq!(check(&[load(0x10_0000, 0)], &[entry]), KernelError::NoSegments);
    assert_eq!(check(&[load(0x10_0000, 16)], &[]), KernelError::NotPvh);
    assert_eq!(check(&[load(0x10_0000, 16)], &[(17, &ENTRY)]), KernelError::NotPvh);
    assert_eq!(check(&[load(0x10_0000, 16)], &[(18, &[0, 0])]), KernelError::BadEntryNote);
    assert_eq!(check(&[load(0x10_0000, 2)], &[entry]), KernelError::MoreInFile { at: 0x10_0000 });
    assert_eq!(check(&[load(1 << 32, 16)], &[entry]), KernelError::Above4Gib { at: 1 << 32 });
    assert_eq!(check(&[load(u64::MAX - 4, 16)], &[entry]), KernelError::Above4Gib { at: u64::MAX - 4 });
    assert_eq!(check(&[load(0x20_0000, 16)], &[entry]), KernelError::EntryOutside { entry: 0x10_0000 });
    let overlapping = [load(0x10_0000, 32), load(0x10_001f, 32)];
    assert_eq!(check(&overlapping, &[entry]), KernelError::Overlap { at: 0x10_001f });
}

#[test]
fn files_that_are_no_kernels_are_told_apart() {
    assert_eq!(Kernel::parse(b""), Err(KernelError::NotElf));
    assert_eq!(Kernel::parse(b"#!/bin/sh"), Err(KernelError::NotElf));
    assert_eq!(Kernel::parse(b"\x7fELF"), Err(KernelError::BadElf));
    let mut linux = std::vec![0; 0x400];
    linux[0x202..0x206].copy_from_slice(b"HdrS");
    assert!(Kernel::parse(&linux).unwrap_err().to_string().contains("vmlinux"));
    let mut arm = small_kernel(false);
    arm[18] = 183;
    assert_eq!(Kernel::parse(&arm), Err(KernelError::NotX86));
}

#[test]
fn every_truncation_is_refused() {
    let image = small_kernel(true);
    for len in 0..image.len() - 4 {
        assert!(Kernel::parse(&image[..len]).is_err(), "{len}");
    }
    let cut = Kernel::parse(&image[..2000]).unwrap_err();
    assert_eq!(cut, KernelError::BeyondFile { at: 0x100_0000 });
}

proptest::proptest! {
    #[test]
    fn no_flipped_byte_makes_it_panic(at in 0_usize..300, value in proptest::num::u8::ANY) {
        let mut image = small_kernel(true);
        image[at] = value;
        if let Ok(kernel) = Kernel::parse(&image) {
            assert!(kernel.end() <= END);
            assert!(kernel.start() <= kernel.end());
        }
    }
}
