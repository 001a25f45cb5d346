//! Page tables, through `x86_64`'s mapper.
//!
//! The tables that `entry.rs` builds stay in use. At boot the image's part is mapped again in 4 KiB pages with the rights of its
//! sections, the low half is emptied, and the direct map grows to the end of memory. Device ranges are added on demand.
//! One lock; changes that take rights away are only made before other vCPUs run.

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::structures::paging::mapper::{MapToError, TranslateResult};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageTable, PageTableFlags, PhysFrame, Size2MiB, Size4KiB,
    Translate,
};
use x86_64::{PhysAddr, VirtAddr};

use super::{DIRECT, PAGE, frames, map::MemoryMap, phys, ptr};
use crate::arch::{entry, instr};
use crate::sync::IrqMutex;

pub use x86_64::structures::paging::PageTableFlags as Flags;

const LARGE: u64 = 0x20_0000;

static OFFSET: AtomicU64 = AtomicU64::new(0);
static LOCK: IrqMutex<()> = IrqMutex::new(());

struct Frames;

// SAFETY: `frames` never hands out a frame twice.
unsafe impl FrameAllocator<Size4KiB> for Frames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        frames::allocate().map(|f| PhysFrame::containing_address(PhysAddr::new(f.0)))
    }
}

fn mapper() -> OffsetPageTable<'static> {
    let root: *mut PageTable = ptr(instr::cr3() & !0xfff);
    // SAFETY: every caller holds LOCK; the direct map reaches every table.
    unsafe { OffsetPageTable::new(&mut *root, VirtAddr::new(DIRECT)) }
}

/// Remembers how far the image lies from its linked physical address.
pub fn set_image_offset(offset: u64) {
    OFFSET.store(offset, Ordering::Relaxed);
}

/// How far the image lies from its linked physical address.
pub fn image_offset() -> u64 {
    OFFSET.load(Ordering::Relaxed)
}

/// Maps one 4 KiB page.
pub fn map(virt: u64, phys: u64, flags: Flags) {
    let _lock = LOCK.lock();
    let page = Page::<Size4KiB>::containing_address(VirtAddr::new(virt));
    let frame = PhysFrame::containing_address(PhysAddr::new(phys));
    // SAFETY: callers map addresses of windows they own; LOCK is held.
    let result = unsafe { mapper().map_to(page, frame, flags | Flags::PRESENT, &mut Frames) };
    match result {
        Ok(flush) => flush.flush(),
        Err(MapToError::PageAlreadyMapped(old)) if old == frame => {}
        Err(e) => panic!("cannot map {virt:#x}: {e:?}"),
    }
}

/// Unmaps one 4 KiB page; its tables stay.
pub fn unmap(virt: u64) {
    let _lock = LOCK.lock();
    if let Ok((_, flush)) = mapper().unmap(Page::<Size4KiB>::containing_address(VirtAddr::new(virt))) {
        flush.flush();
    }
}

/// The physical address behind a virtual one.
pub fn translate(virt: u64) -> Option<u64> {
    let _lock = LOCK.lock();
    mapper().translate_addr(VirtAddr::try_new(virt).ok()?).map(|p| p.as_u64())
}

/// Extends the direct map over [`start`, `end`) in pages of 2 MiB; what is mapped already stays.
pub fn map_direct(start: u64, end: u64) {
    let _lock = LOCK.lock();
    let mut at = start / LARGE * LARGE;
    while at < end {
        let page = Page::<Size2MiB>::containing_address(VirtAddr::new(DIRECT + at));
        if matches!(mapper().translate(page.start_address()), TranslateResult::NotMapped) {
            let frame = PhysFrame::containing_address(PhysAddr::new(at));
            let flags = Flags::PRESENT | Flags::WRITABLE | Flags::NO_EXECUTE;
            // SAFETY: the direct map may hold every physical address; LOCK is held.
            if let Ok(flush) = unsafe { mapper().map_to(page, frame, flags, &mut Frames) } {
                flush.flush();
            }
        }
        at += LARGE;
    }
}

/// Makes device registers reachable in the direct map, uncached.
///
/// Ranges share 2 MiB pages; below 4 GiB the boot map already holds them, and the processor's range registers or the
/// hypervisor's tables decide about caching there.
pub fn map_device(start: u64, length: u64) -> *mut u8 {
    map_direct(start, start + length);
    ptr(start)
}

/// Maps what is beyond 4 GiB and gives the image the rights of its sections.
pub fn init(map: &MemoryMap) {
    for range in map.iter().filter(|r| r.kind == super::map::RAM && r.end > 1 << 32) {
        map_direct(range.start.max(1 << 32), range.end);
    }
    protect_image();
}

fn protect_image() {
    let _lock = LOCK.lock();
    let start = &raw const entry::__image_start as u64;
    let text_end = &raw const entry::__text_end as u64;
    let rodata_end = &raw const entry::__rodata_end as u64;
    let end = (&raw const entry::__image_end as u64).next_multiple_of(LARGE);
    let root: *mut u64 = ptr(instr::cr3() & !0xfff);
    // SAFETY: LOCK is held, one vCPU runs; the tables are those of `entry.rs`, and every new entry maps the same frame
    // as the old one, with fewer rights, in a table that is complete before it is linked.
    unsafe {
        let pdpt: *mut u64 = ptr(*root.add(511) & 0x000f_ffff_ffff_f000);
        let pd: *mut u64 = ptr(*pdpt.add(510) & 0x000f_ffff_ffff_f000);
        for i in 0..512u64 {
            let large = entry::KERNEL_BASE + i * LARGE;
            if large < start / LARGE * LARGE || large >= end {
                *pd.add(i as usize) = 0;
                continue;
            }
            let table = frames::allocate_zeroed().expect("memory for the kernel's page tables");
            for k in 0..512u64 {
                let page = large + k * PAGE;
                let rights = if page < start {
                    continue;
                } else if page < text_end {
                    1
                } else if page < rodata_end {
                    1 | 1 << 63
                } else {
                    3 | 1 << 63
                };
                *ptr::<u64>(table.0).add(k as usize) = phys(page) | rights;
            }
            *pd.add(i as usize) = table.0 | 3;
        }
        *root = 0;
        core::arch::asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack, preserves_flags));
    }
}

/// Maps the low half one to one again (`on`) or empties it: only for tests that leave the kernel's own addresses.
pub fn low_half(on: bool) {
    let _lock = LOCK.lock();
    let root: *mut u64 = ptr(instr::cr3() & !0xfff);
    // SAFETY: LOCK is held; entry 256 maps the first 4 GiB, entry 0 becomes the same or nothing.
    unsafe {
        *root = if on { *root.add(256) } else { 0 };
        core::arch::asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack, preserves_flags));
    }
}

/// The flags of a user-visible table entry, for reports.
pub fn flags_of(virt: u64) -> Option<PageTableFlags> {
    let _lock = LOCK.lock();
    match mapper().translate(VirtAddr::try_new(virt).ok()?) {
        TranslateResult::Mapped { flags, .. } => Some(flags),
        _ => None,
    }
}
