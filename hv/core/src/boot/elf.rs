//! Kernels: ELF files with the note that makes them PVH guests.
//!
//! The format is read by the crate `elf`; what a kernel must be is checked here. A kernel is entered at the physical
//! address in the note `XEN_ELFNOTE_PHYS32_ENTRY`; one with `XEN_ELFNOTE_PHYS32_RELOC` may be loaded elsewhere than it
//! says (both: Xen 4.19, `elfnote.h`).

use alloc::vec::Vec;
use core::fmt;
use elf::abi::{EM_386, EM_X86_64, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::note::Note;
use elf::{ElfBytes, segment::ProgramHeader};
use pv_abi::elfnote::{PHYS32_ENTRY, PHYS32_RELOC};
use pv_abi::ids::GuestPhys;

/// The alignment to which a kernel is moved when it names none.
const DEFAULT_ALIGN: u64 = 2 << 20;
/// The end of the addresses that 32-bit code without paging reaches.
const END: u64 = 1 << 32;

/// Why a kernel cannot be started, in a sentence that follows its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the sentences below say it
pub enum KernelError {
    LinuxImage,
    NotElf,
    NotX86,
    BadElf,
    NoSegments,
    NotPvh,
    BadEntryNote,
    BadRelocNote,
    BeyondFile { at: u64 },
    MoreInFile { at: u64 },
    Above4Gib { at: u64 },
    Overlap { at: u64 },
    EntryOutside { entry: u64 },
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinuxImage => f.write_str(
                "is a compressed Linux image (bzImage): take the ELF file vmlinux out of it, for instance with \
                 Linux's scripts/extract-vmlinux",
            ),
            Self::NotElf => f.write_str("is not an ELF file"),
            Self::NotX86 => f.write_str("is not for x86"),
            Self::BadElf => f.write_str("is a damaged ELF file: a table leaves the file"),
            Self::NoSegments => f.write_str("has nothing to load: no segment of type PT_LOAD"),
            Self::NotPvh => f.write_str("is not a PVH kernel: it has no ELF note XEN_ELFNOTE_PHYS32_ENTRY"),
            Self::BadEntryNote => f.write_str("has an ELF note XEN_ELFNOTE_PHYS32_ENTRY without an address in it"),
            Self::BadRelocNote => f.write_str("has an ELF note XEN_ELFNOTE_PHYS32_RELOC that makes no sense"),
            Self::BeyondFile { at } => write!(f, "is truncated: its segment at {at:#x} leaves the file"),
            Self::MoreInFile { at } => {
                write!(f, "is damaged: its segment at {at:#x} is larger in the file than in memory")
            }
            Self::Above4Gib { at } => write!(f, "wants to be loaded at {at:#x}, which is not below 4 GiB"),
            Self::Overlap { at } => write!(f, "is damaged: two segments overlap at {at:#x}"),
            Self::EntryOutside { entry } => write!(f, "has its entry point {entry:#x} outside of what is loaded"),
        }
    }
}

/// A part of a kernel's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoadSegment<'a> {
    /// Where it goes.
    pub at: GuestPhys,
    /// What goes there.
    pub data: &'a [u8],
    /// The size in memory; what `data` does not fill is zero.
    pub bytes: u64,
}

/// Where a kernel may be moved to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Relocation {
    /// The distance is a multiple of this.
    pub align: u64,
    /// The lowest address of its start.
    pub lowest: u64,
    /// The highest address of its last byte.
    pub highest: u64,
}

/// A kernel that was checked: its segments lie below 4 GiB and do not overlap, the entry point lies in one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel<'a> {
    segments: Vec<LoadSegment<'a>>,
    entry: u64,
    relocation: Option<Relocation>,
}

impl<'a> Kernel<'a> {
    /// Reads and checks a kernel.
    pub fn parse(image: &'a [u8]) -> Result<Self, KernelError> {
        check_magic(image)?;
        let file = ElfBytes::<LittleEndian>::minimal_parse(image).map_err(|_| KernelError::BadElf)?;
        if file.ehdr.e_machine != EM_X86_64 && file.ehdr.e_machine != EM_386 {
            return Err(KernelError::NotX86);
        }
        let headers = file.segments().ok_or(KernelError::NoSegments)?;
        let mut segments = Vec::new();
        for header in headers.iter().filter(|header| header.p_type == PT_LOAD && header.p_memsz > 0) {
            segments.push(segment(&file, &header)?);
        }
        segments.sort_unstable_by_key(|segment| segment.at);
        let align =
            headers.iter().filter(|header| header.p_type == PT_LOAD).map(|header| header.p_align).max();
        let overlap = segments.windows(2).find_map(|pair| match pair {
            [low, high] if low.at.raw() + low.bytes > high.at.raw() => Some(high.at.raw()),
            _ => None,
        });
        if let Some(at) = overlap {
            return Err(KernelError::Overlap { at });
        }
        if segments.is_empty() {
            return Err(KernelError::NoSegments);
        }
        let (mut entry, mut relocation) = (None, None);
        for header in headers.iter().filter(|header| header.p_type == PT_NOTE) {
            let notes = file.segment_data_as_notes(&header).map_err(|_| KernelError::BadElf)?;
            for note in notes {
                let Note::Unknown(note) = note else { continue };
                if !note.name_str().is_ok_and(|name| name == "Xen") {
                    continue;
                }
                if note.n_type == u64::from(PHYS32_ENTRY) {
                    entry = Some(entry_address(note.desc)?);
                } else if note.n_type == u64::from(PHYS32_RELOC) {
                    relocation = Some(constraints(note.desc, align)?);
                }
            }
        }
        let entry = entry.ok_or(KernelError::NotPvh)?;
        let kernel = Self { segments, entry, relocation };
        let inside =
            |segment: &LoadSegment<'_>| (segment.at.raw()..segment.at.raw() + segment.bytes).contains(&entry);
        if !kernel.segments.iter().any(inside) {
            return Err(KernelError::EntryOutside { entry });
        }
        Ok(kernel)
    }

    /// The segments in the order of their addresses.
    pub fn segments(&self) -> &[LoadSegment<'a>] {
        &self.segments
    }

    /// The physical address of the entry point.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// Where it may be moved to, if it may.
    pub fn relocation(&self) -> Option<Relocation> {
        self.relocation
    }

    /// The first address of its memory.
    pub fn start(&self) -> u64 {
        self.segments.first().map_or(0, |segment| segment.at.raw())
    }

    /// The address after its memory.
    pub fn end(&self) -> u64 {
        self.segments.last().map_or(0, |segment| segment.at.raw() + segment.bytes)
    }
}

fn check_magic(image: &[u8]) -> Result<(), KernelError> {
    if image.starts_with(b"\x7fELF") {
        return Ok(());
    }
    // The boot sector of a Linux image holds this at byte 0x202 (Linux, Documentation/arch/x86/boot.rst).
    let linux = image.get(0x202..0x206) == Some(b"HdrS");
    Err(if linux { KernelError::LinuxImage } else { KernelError::NotElf })
}

fn segment<'a>(
    file: &ElfBytes<'a, LittleEndian>,
    header: &ProgramHeader,
) -> Result<LoadSegment<'a>, KernelError> {
    let at = header.p_paddr;
    if header.p_filesz > header.p_memsz {
        return Err(KernelError::MoreInFile { at });
    }
    match at.checked_add(header.p_memsz) {
        Some(end) if end <= END => {}
        _ => return Err(KernelError::Above4Gib { at }),
    }
    let data = file.segment_data(header).map_err(|_| KernelError::BeyondFile { at })?;
    Ok(LoadSegment { at: GuestPhys::new(at), data, bytes: header.p_memsz })
}

/// The number at the start of a note: 4 bytes or 8.
fn entry_address(desc: &[u8]) -> Result<u64, KernelError> {
    let word = match desc.len() {
        4 => word32(desc, 0),
        8.. => word32(desc, 0).zip(word32(desc, 1)).map(|(low, high)| low | (high << 32)),
        _ => None,
    };
    word.ok_or(KernelError::BadEntryNote)
}

/// Up to three 32-bit words: alignment, lowest and highest address.
fn constraints(desc: &[u8], segments_align: Option<u64>) -> Result<Relocation, KernelError> {
    let align = match (word32(desc, 0), segments_align) {
        (Some(align), _) if align != 0 => align,
        (_, Some(align)) if align >= DEFAULT_ALIGN => align,
        _ => DEFAULT_ALIGN,
    };
    let relocation = Relocation {
        align,
        lowest: word32(desc, 1).unwrap_or(0),
        highest: word32(desc, 2).unwrap_or(END - 1),
    };
    let sound = align.is_power_of_two() && align >= 4096 && relocation.lowest <= relocation.highest;
    if sound { Ok(relocation) } else { Err(KernelError::BadRelocNote) }
}

fn word32(desc: &[u8], index: usize) -> Option<u64> {
    let bytes = desc.get(4 * index..4 * index + 4)?;
    Some(u64::from(u32::from_le_bytes(bytes.try_into().ok()?)))
}

#[cfg(test)]
mod tests;
