//! Where a guest has what in its physical addresses.
//!
//! ```text
//!   ordinary domain                          domain mapped one to one
//!   4 GiB + ...   the rest of its memory
//!   4 GiB         ------------------------
//!   0xfeff8000    special pages              0xfeff8000   special pages
//!   0xfee00000    local interrupt controller 0xfee00000   local interrupt controller
//!                 nothing: grants, devices                its devices' registers, where the machine has them
//!   3 GiB         ------------------------
//!                 ACPI tables (or at the
//!                 end of less memory)
//!                 memory                     base + size  ------------------------
//!                                                         ACPI tables
//!   0                                                     memory, contiguous in the machine
//!                                            base         ------------------------
//! ```
//!
//! The special pages lie where Xen's tools put them (`xen/hvm/hvm_info_table.h`, libxenguest `xg_dom_x86.c`).

use super::acpi;
use super::elf::{Kernel, LoadSegment};
use crate::hw::{PAGE_BYTES, PAGE_SHIFT};
use alloc::vec::Vec;
use core::fmt;
use pv_abi::ids::{Gfn, GuestPhys};
use pv_abi::start_info::{HvmMemmapEntry, memmap_type};

/// The end of memory below 4 GiB in an ordinary domain.
const LOW_END: u64 = 3 << 30;
/// Where memory goes on.
const HIGH_START: u64 = 4 << 30;
/// The special pages.
const SPECIAL_START: u64 = 0xfeff_8000;
const SPECIAL_END: u64 = 0xff00_0000;
/// The page of the store's ring.
pub const STORE_GFN: Gfn = Gfn::new(0xf_effc);
/// The page of the console's ring.
pub const CONSOLE_GFN: Gfn = Gfn::new(0xf_efff);
/// The largest domain: 1 TiB.
const MAX_BYTES: u64 = 1 << 40;

/// Why a domain's memory cannot be laid out, in a sentence that follows its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the sentences below say it
pub enum LayoutError {
    TooLarge,
    KernelDoesNotFit { start: u64, end: u64, bytes: u64 },
    CannotMove { start: u64, end: u64, base: u64 },
    ModulesDoNotFit { needed: u64, bytes: u64 },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KIB: u64 = 1 << 10;
        match self {
            Self::TooLarge => write!(f, "wants more memory than a domain can have ({} GiB)", MAX_BYTES >> 30),
            Self::KernelDoesNotFit { start, end, bytes } => write!(
                f,
                "has too little memory: its kernel goes to {start:#x}-{end:#x}, its memory is {} KiB",
                bytes / KIB
            ),
            Self::CannotMove { start, end, base } => write!(
                f,
                "has memory from {base:#x} on, and its kernel can neither run there nor at {start:#x}-{end:#x}"
            ),
            Self::ModulesDoNotFit { needed, bytes } => write!(
                f,
                "has too little memory: kernel, modules and start information need {} KiB, its memory is {} KiB",
                needed.div_ceil(KIB),
                bytes / KIB
            ),
        }
    }
}

/// A range of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// The first address.
    pub start: u64,
    /// The address after the last.
    pub end: u64,
}

impl Range {
    /// The length in bytes.
    pub const fn bytes(self) -> u64 {
        self.end - self.start
    }

    /// The first frame.
    pub const fn first(self) -> Gfn {
        Gfn::new(self.start >> PAGE_SHIFT)
    }

    /// The frame after the last.
    pub const fn past(self) -> Gfn {
        Gfn::new(self.end >> PAGE_SHIFT)
    }
}

/// Where a domain has its memory: whole pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    ranges: Vec<Range>,
}

impl Layout {
    /// The memory of an ordinary domain.
    pub fn ordinary(bytes: u64) -> Result<Self, LayoutError> {
        if bytes > MAX_BYTES {
            return Err(LayoutError::TooLarge);
        }
        let bytes = bytes & !(PAGE_BYTES - 1);
        let mut ranges = alloc::vec![Range { start: 0, end: bytes.min(LOW_END) }];
        if bytes > LOW_END {
            ranges.push(Range { start: HIGH_START, end: HIGH_START + bytes - LOW_END });
        }
        Ok(Self { ranges })
    }

    /// The memory of a domain that is mapped one to one.
    pub fn one_to_one(base: GuestPhys, bytes: u64) -> Result<Self, LayoutError> {
        let start = base.raw();
        match start.checked_add(bytes) {
            Some(end) if end <= MAX_BYTES => Ok(Self { ranges: alloc::vec![Range { start, end }] }),
            _ => Err(LayoutError::TooLarge),
        }
    }

    /// The ranges of memory, lowest first.
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// The range in which a guest starts: below 4 GiB, without the ACPI tables.
    fn low(&self) -> Range {
        let mut range = self.ranges.first().copied().unwrap_or(Range { start: 0, end: 0 });
        range.end = range.end.min(HIGH_START).saturating_sub(acpi::BYTES).max(range.start);
        range
    }

    /// Where the ACPI tables go.
    pub fn acpi(&self) -> GuestPhys {
        GuestPhys::new(self.low().end)
    }

    /// The memory map that the guest is given.
    pub fn memory_map(&self) -> Vec<HvmMemmapEntry> {
        let low = self.low();
        let mut entries: Vec<_> = self
            .ranges
            .iter()
            .skip(1)
            .map(|range| entry(range.start, range.end, memmap_type::RAM))
            .chain([
                entry(low.start, low.end, memmap_type::RAM),
                entry(low.end, low.end + acpi::BYTES, memmap_type::ACPI),
                entry(SPECIAL_START, SPECIAL_END, memmap_type::RESERVED),
            ])
            .collect();
        entries.sort_unstable_by_key(|entry| entry.addr);
        entries
    }

    /// Decides where a kernel and what follows it go: modules of these sizes, then `info_bytes` of start information.
    pub fn place(
        &self,
        kernel: &Kernel<'_>,
        modules: &[u64],
        info_bytes: u64,
    ) -> Result<Placement, LayoutError> {
        let low = self.low();
        let (start, end) = (kernel.start(), kernel.end());
        let fits = |at: u64| at >= low.start && at.checked_add(end - start).is_some_and(|end| end <= low.end);
        let offset = match kernel.relocation() {
            _ if fits(start) => 0,
            Some(relocation) => {
                // The distance is a multiple of the alignment, modulo 2^64 when it goes downwards.
                let wanted = low.start.max(relocation.lowest);
                let up = wanted.wrapping_sub(start).div_ceil(relocation.align) * relocation.align;
                let down = start.wrapping_sub(wanted) / relocation.align * relocation.align;
                let offset = if wanted >= start { up } else { down.wrapping_neg() };
                let moved = start.wrapping_add(offset);
                if !fits(moved) || moved + (end - start) - 1 > relocation.highest {
                    return Err(LayoutError::KernelDoesNotFit {
                        start: moved,
                        end: moved + (end - start),
                        bytes: low.bytes(),
                    });
                }
                offset
            }
            None if low.start > 0 => return Err(LayoutError::CannotMove { start, end, base: low.start }),
            None => return Err(LayoutError::KernelDoesNotFit { start, end, bytes: low.bytes() }),
        };
        let mut at = page_up(end.wrapping_add(offset));
        let mut places = Vec::new();
        for bytes in modules.iter().copied().chain([info_bytes]) {
            places.push(GuestPhys::new(at));
            at = page_up(at.saturating_add(bytes));
        }
        if at > low.end {
            return Err(LayoutError::ModulesDoNotFit { needed: at - low.start, bytes: low.bytes() });
        }
        let info = places.pop().unwrap_or_default();
        let entry = GuestPhys::new(kernel.entry().wrapping_add(offset));
        Ok(Placement { offset, entry, modules: places, info })
    }
}

const fn entry(start: u64, end: u64, kind: u32) -> HvmMemmapEntry {
    HvmMemmapEntry { addr: start, size: end - start, kind, reserved: 0 }
}

const fn page_up(at: u64) -> u64 {
    at.saturating_add(PAGE_BYTES - 1) & !(PAGE_BYTES - 1)
}

/// Where a kernel and what follows it go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    offset: u64,
    /// The entry point.
    pub entry: GuestPhys,
    /// The modules, in their order.
    pub modules: Vec<GuestPhys>,
    /// The start information.
    pub info: GuestPhys,
}

impl Placement {
    /// Where a segment of the kernel goes.
    pub fn of(&self, segment: &LoadSegment<'_>) -> GuestPhys {
        GuestPhys::new(segment.at.raw().wrapping_add(self.offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Load, elf64, small_kernel};

    const MIB: u64 = 1 << 20;

    #[test]
    fn memory_goes_on_above_the_hole() {
        let layout = Layout::ordinary(5 << 30).unwrap();
        let expected = [Range { start: 0, end: 3 << 30 }, Range { start: 4 << 30, end: 6 << 30 }];
        assert_eq!(layout.ranges(), expected);
        let map = layout.memory_map();
        assert_eq!(map.iter().map(|entry| entry.kind).collect::<Vec<_>>(), [1, 3, 2, 1]);
        assert!(map.windows(2).all(|pair| pair[0].addr + pair[0].size <= pair[1].addr));
        assert_eq!(Layout::ordinary(64 * MIB + 5).unwrap().ranges(), [Range { start: 0, end: 64 * MIB }]);
        assert_eq!(Layout::ordinary(u64::MAX), Err(LayoutError::TooLarge));
        for gfn in [STORE_GFN, CONSOLE_GFN] {
            assert!((SPECIAL_START..SPECIAL_END).contains(&(gfn.raw() << 12)));
        }
    }

    #[test]
    fn modules_and_start_information_follow_the_kernel() {
        let image = small_kernel(false);
        let kernel = Kernel::parse(&image).unwrap();
        let placement = Layout::ordinary(32 * MIB).unwrap().place(&kernel, &[5000, 1], 100).unwrap();
        assert_eq!(placement.entry, GuestPhys::new(0x100_0040));
        assert_eq!(placement.modules, [GuestPhys::new(0x100_3000), GuestPhys::new(0x100_5000)]);
        assert_eq!(placement.info, GuestPhys::new(0x100_6000));
        let error = Layout::ordinary(16 * MIB).unwrap().place(&kernel, &[], 100).unwrap_err();
        assert!(matches!(error, LayoutError::KernelDoesNotFit { .. }), "{error}");
        let error = Layout::ordinary(17 * MIB).unwrap().place(&kernel, &[MIB], 100).unwrap_err();
        assert!(matches!(error, LayoutError::ModulesDoNotFit { .. }), "{error}");
        let error = Layout::ordinary(17 * MIB).unwrap().place(&kernel, &[u64::MAX], 100).unwrap_err();
        assert!(matches!(error, LayoutError::ModulesDoNotFit { .. }), "{error}");
    }

    #[test]
    fn a_kernel_moves_up_and_down_to_its_memory() {
        let image = small_kernel(true);
        let kernel = Kernel::parse(&image).unwrap();
        let up = Layout::one_to_one(GuestPhys::new(0x4030_0000), 32 * MIB).unwrap();
        let placement = up.place(&kernel, &[], 100).unwrap();
        assert_eq!(placement.of(&kernel.segments()[0]), GuestPhys::new(0x4040_0000));
        assert_eq!(placement.entry, GuestPhys::new(0x4040_0040));
        let down = Layout::ordinary(4 * MIB).unwrap().place(&kernel, &[], 100).unwrap();
        assert_eq!(down.of(&kernel.segments()[0]), GuestPhys::new(0));
        let error = Layout::one_to_one(GuestPhys::new(0x4030_0000), MIB).unwrap().place(&kernel, &[], 100);
        assert!(matches!(error, Err(LayoutError::KernelDoesNotFit { .. })));
    }

    #[test]
    fn a_kernel_that_cannot_move_must_fit_where_it_is() {
        let image = small_kernel(false);
        let kernel = Kernel::parse(&image).unwrap();
        let around = Layout::one_to_one(GuestPhys::new(0xf0_0000), 32 * MIB).unwrap();
        assert_eq!(around.place(&kernel, &[], 100).unwrap().entry, GuestPhys::new(0x100_0040));
        let beside = Layout::one_to_one(GuestPhys::new(0x4000_0000), 32 * MIB).unwrap();
        assert!(matches!(beside.place(&kernel, &[], 100), Err(LayoutError::CannotMove { .. })));
    }

    #[test]
    fn constraints_of_a_move_are_kept() {
        let mut desc = Vec::new();
        [0x40_0000_u32, 0x80_0000, 0xff_ffff].iter().for_each(|word| desc.extend(word.to_le_bytes()));
        let entry = 0x4000_0000_u32.to_le_bytes();
        let load = [Load { at: 0x4000_0000, data: &[], bytes: 0x1000 }];
        let image = elf64(&load, &[(18, &entry), (19, &desc)]);
        let kernel = Kernel::parse(&image).unwrap();
        let placement = Layout::ordinary(64 * MIB).unwrap().place(&kernel, &[], 1).unwrap();
        assert_eq!(placement.entry, GuestPhys::new(0x80_0000));
        let high = Layout::one_to_one(GuestPhys::new(0x200_0000), 64 * MIB).unwrap();
        assert!(high.place(&kernel, &[], 1).is_err());
    }
}
