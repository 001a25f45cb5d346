//! Guest frame numbers where no memory is: for shared_info, grant table and mapped foreign pages.
//!
//! They lie beyond everything the memory map names (and well away from where firmware puts large device ranges), so that
//! no page of RAM has to be given up for them and the hypervisor's large mappings stay whole. Freed numbers are reused.

use alloc::vec::Vec;

use super::{PAGE, map::MemoryMap, paging};
use crate::arch::instr;
use crate::sync::IrqMutex;

struct Space {
    next: u64,
    end: u64,
    free: Vec<u64>,
}

static SPACE: IrqMutex<Space> = IrqMutex::new(Space { next: 0, end: 0, free: Vec::new() });

/// Frames in the window.
const LENGTH: u64 = 0x4000_0000 / PAGE;

/// Chooses the window.
pub fn init(map: &MemoryMap) {
    let gib = 1u64 << 30;
    let top = map.iter().filter(|r| r.kind == super::map::RAM).map(|r| r.end).max().unwrap_or(0);
    let bits = instr::cpuid(0x8000_0008, 0)[0] & 0xff;
    let limit = 1u64 << bits.clamp(36, 46);
    let length = LENGTH * PAGE;
    let mut start = (top.max(4 * gib).next_multiple_of(gib) + 32 * gib).min(limit - length);
    // Out of the way of everything the map names.
    while let Some(r) = map.iter().find(|r| r.start < start + length && r.end > start) {
        start = r.end.next_multiple_of(gib);
    }
    assert!(start + length <= limit, "no guest-physical addresses left for mappings");
    let mut space = SPACE.lock();
    space.next = start / PAGE;
    space.end = start / PAGE + LENGTH;
    drop(space);
    paging::map_direct(start, start + LENGTH * PAGE / 64);
}

/// Takes `count` adjacent unused frame numbers; the direct map covers them.
pub fn allocate(count: u64) -> Option<u64> {
    let mut space = SPACE.lock();
    if count == 1
        && let Some(gfn) = space.free.pop()
    {
        return Some(gfn);
    }
    let first = space.next;
    if first + count > space.end {
        return None;
    }
    space.next += count;
    drop(space);
    paging::map_direct(first * PAGE, (first + count) * PAGE);
    Some(first)
}

/// Gives one back; nothing may be mapped there any more.
pub fn free(gfn: u64) {
    SPACE.lock().free.push(gfn);
}
