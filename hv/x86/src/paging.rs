//! The hypervisor's own page tables and the map of its address space.
//!
//! | from | what |
//! |---|---|
//! | `0xffff_8000_0000_0000` | [`DIRECT_MAP`]: all RAM, writable, never executable |
//! | `0xffff_a000_0000_0000` | [`STACKS`]: one region per CPU, with guard pages |
//! | `0xffff_c000_0000_0000` | [`DEVICE_MAP`]: device registers, uncached, mapped when asked for |
//! | `0xffff_d000_0000_0000` | [`TABLE_MAP`]: firmware tables, read-only, mapped when asked for |
//! | `0xffff_ffff_8000_0000` | [`IMAGE_BASE`]: the image; text is not writable, nothing else executable |
//!
//! Address `n` of physical memory is at offset `n` of the direct, device and table maps. Only RAM is in the
//! direct map: an access through it to anything else is a page fault of the hypervisor, hence a panic. Tables
//! come from the heap, which lies in the direct map, and are never given back.

use alloc::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use alloc::vec::Vec;

use spin::Mutex;
use x86_64::PhysAddr;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;

use crate::boot::memmap::{Kind, MemoryMap, Range};
use crate::cpu::features;

/// Where all RAM is mapped.
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Where the stacks of the CPUs are mapped.
pub const STACKS: u64 = 0xffff_a000_0000_0000;
/// Where device registers are mapped.
pub const DEVICE_MAP: u64 = 0xffff_c000_0000_0000;
/// Where firmware tables are mapped.
pub const TABLE_MAP: u64 = 0xffff_d000_0000_0000;
/// What is added to the image's load address (the linker script says the same).
pub const IMAGE_BASE: u64 = 0xffff_ffff_8000_0000;
/// Physical addresses end here: what a map's window holds.
const WINDOW: u64 = 1 << 44;

/// Bits of an entry: AMD64 manual volume 2, section 5.4.1.
mod bits {
    pub const PRESENT: u64 = 1 << 0;
    pub const WRITE: u64 = 1 << 1;
    pub const WRITE_THROUGH: u64 = 1 << 3;
    pub const NO_CACHE: u64 = 1 << 4;
    pub const ACCESSED: u64 = 1 << 5;
    pub const DIRTY: u64 = 1 << 6;
    pub const LARGE: u64 = 1 << 7;
    pub const GLOBAL: u64 = 1 << 8;
    pub const NO_EXECUTE: u64 = 1 << 63;
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// What is the same for every page: set in advance, so that the hardware need not write.
    pub const USED: u64 = PRESENT | ACCESSED | DIRTY | GLOBAL;
}

/// What a mapping is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// Code: read and execute.
    Text,
    /// Constants and foreign tables: read.
    ReadOnly,
    /// Data: read and write.
    Data,
    /// Device registers: read and write, uncached.
    Device,
}

impl Use {
    const fn bits(self) -> u64 {
        match self {
            Self::Text => bits::USED,
            Self::ReadOnly => bits::USED | bits::NO_EXECUTE,
            Self::Data => bits::USED | bits::WRITE | bits::NO_EXECUTE,
            Self::Device => {
                bits::USED | bits::WRITE | bits::NO_EXECUTE | bits::NO_CACHE | bits::WRITE_THROUGH
            }
        }
    }
}

/// The pointer to physical address `address` in the direct map. Valid where RAM is (during boot: below 4
/// GiB).
pub const fn direct_map_ptr(address: u64) -> *mut u8 {
    (DIRECT_MAP + (address & (WINDOW - 1))) as *mut u8
}

/// The physical address behind a pointer into the direct map.
pub fn direct_map_phys<T>(pointer: *const T) -> u64 {
    let address = pointer as u64;
    assert!((DIRECT_MAP..DIRECT_MAP + WINDOW).contains(&address), "{address:#x} is not in the direct map");
    address - DIRECT_MAP
}

type Table = [u64; 512];

/// The tables: guarded because mappings are added while other CPUs run.
struct Tables {
    root: u64,
    gigabyte_pages: bool,
}

static TABLES: Mutex<Option<Tables>> = Mutex::new(None);

unsafe extern "C" {
    static text_start: u8;
    static text_end: u8;
    static rodata_start: u8;
    static rodata_end: u8;
    static data_start: u8;
    static data_end: u8;
    static image_start: u8;
    static image_end: u8;
}

/// The physical memory that the image lies in.
pub fn image() -> Range {
    // The symbols are absolute addresses that the linker script computes: they are never read.
    Range { start: &raw const image_start as u64, end: &raw const image_end as u64 }
}

/// The ranges of RAM: what the direct map maps.
static RAM: spin::Once<Vec<Range>> = spin::Once::new();

/// Whether a physical address is RAM, which the direct map maps.
pub fn is_ram(address: u64) -> bool {
    RAM.get().is_some_and(|ranges| ranges.iter().any(|range| (range.start..range.end).contains(&address)))
}

/// Builds the tables from the memory map. The heap must be there. They are used from [`activate`] on.
pub fn init(memory: &MemoryMap) {
    let mut tables = Tables { root: new_table(), gigabyte_pages: features::gigabyte_pages() };
    let usable =
        || memory.iter().filter(|(_, kind)| *kind == Kind::Usable).map(|(range, _)| range.inner_pages());
    for pages in usable() {
        tables.map(DIRECT_MAP + pages.start, pages.start, pages.len(), Use::Data);
    }
    RAM.call_once(|| usable().collect());
    let parts = [
        (&raw const text_start, &raw const text_end, Use::Text),
        (&raw const rodata_start, &raw const rodata_end, Use::ReadOnly),
        (&raw const data_start, &raw const data_end, Use::Data),
    ];
    for (start, end, usage) in parts {
        let (start, end) = (start as u64, end as u64);
        assert!((start | end).is_multiple_of(4096), "the linker script aligns the image's parts");
        tables.map(start, start - IMAGE_BASE, end - start, usage);
    }
    *TABLES.lock() = Some(tables);
}

/// Makes this CPU use the tables.
///
/// # Safety
///
/// The caller must run at the image's address, on a stack that the tables map.
pub unsafe fn activate() {
    let root = TABLES.lock().as_ref().expect("paging is initialized").root;
    // SAFETY: by this function's contract; the tables map the image and all RAM.
    unsafe {
        Cr3::write(PhysFrame::containing_address(PhysAddr::new(root)), Cr3Flags::empty());
        // CR4.PGE last: global pages of the boot tables would be kept (AMD64 manual volume 2, section 5.5.1).
        let cr4 = x86_64::registers::control::Cr4::read_raw();
        x86_64::registers::control::Cr4::write_raw(cr4 | 1 << 7);
    }
}

/// Maps `len` bytes of RAM at `virt`, which lies in [`STACKS`].
pub fn map_stack(virt: u64, phys: u64, len: u64) {
    TABLES.lock().as_mut().expect("paging is initialized").map(virt, phys, len, Use::Data);
}

/// Maps device registers; twice the same is the same mapping.
pub fn map_device(phys: u64, len: u64) -> *mut u8 {
    map_window(DEVICE_MAP, phys, len, Use::Device)
}

/// Maps a firmware table; twice the same is the same mapping.
pub fn map_table(phys: u64, len: u64) -> *const u8 {
    map_window(TABLE_MAP, phys, len, Use::ReadOnly)
}

fn map_window(window: u64, phys: u64, len: u64, usage: Use) -> *mut u8 {
    assert!(phys < WINDOW && len < WINDOW, "physical address {phys:#x} is too high");
    let pages = Range::sized(phys, len.max(1)).outer_pages();
    let mut guard = TABLES.lock();
    let tables = guard.as_mut().expect("paging is initialized");
    for page in (pages.start..pages.end).step_by(4096) {
        tables.map(window + page, page, 4096, usage);
    }
    (window + phys) as *mut u8
}

/// A new, empty table: its physical address.
fn new_table() -> u64 {
    let layout = Layout::new::<Table>().align_to(4096).expect("4096 is a power of two");
    // SAFETY: the layout's size is not zero.
    let pointer = unsafe { alloc_zeroed(layout) };
    if pointer.is_null() {
        handle_alloc_error(layout)
    }
    direct_map_phys(pointer)
}

impl Tables {
    /// Maps `len` bytes at `virt` to `phys` with the largest pages that fit. All three are multiples of 4
    /// KiB.
    fn map(&mut self, mut virt: u64, mut phys: u64, mut len: u64, usage: Use) {
        while len > 0 {
            let fits = |bytes: u64| (virt | phys).is_multiple_of(bytes) && len >= bytes;
            let (level, bytes) = if self.gigabyte_pages && fits(1 << 30) {
                (3, 1 << 30)
            } else if fits(1 << 21) {
                (2, 1 << 21)
            } else {
                (1, 1 << 12)
            };
            let large = if level > 1 { bits::LARGE } else { 0 };
            self.set(virt, level, phys | usage.bits() | large);
            virt += bytes;
            phys += bytes;
            len -= bytes;
        }
    }

    /// Writes the entry of `level` for `virt`, making the tables above it. What is mapped already stays (maps
    /// may overlap in their edges).
    fn set(&mut self, virt: u64, level: u32, entry: u64) {
        let mut table = self.root;
        for upper in (level + 1..=4).rev() {
            let slot = Self::slot(table, virt, upper);
            // SAFETY: `slot` points into a table of ours, in the direct map; the lock of `TABLES` is held, or
            // nobody else knows of it yet.
            let mut next = unsafe { slot.read_volatile() };
            if next & bits::PRESENT == 0 {
                next = new_table() | bits::PRESENT | bits::WRITE | bits::ACCESSED;
                // SAFETY: as above; the new table is complete.
                unsafe { slot.write_volatile(next) };
            } else if next & bits::LARGE != 0 {
                return;
            }
            table = next & bits::ADDRESS;
        }
        let slot = Self::slot(table, virt, level);
        // SAFETY: as above.
        unsafe {
            if slot.read_volatile() & bits::PRESENT == 0 {
                slot.write_volatile(entry);
            }
        }
    }

    fn slot(table: u64, virt: u64, level: u32) -> *mut u64 {
        let index = (virt >> (12 + 9 * (level - 1))) & 0x1ff;
        direct_map_ptr(table + 8 * index).cast()
    }
}
