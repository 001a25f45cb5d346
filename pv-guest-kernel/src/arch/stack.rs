//! Stacks with a guard page below.
//!
//! They live in a window of virtual addresses of their own: each slot is `SLOT` bytes, of which the lowest page is never
//! mapped. Stacks are never given back (one per vCPU).

use core::sync::atomic::{AtomicU64, Ordering};

use crate::mm::{self, frames, paging};

const WINDOW: u64 = 0xffff_c000_0000_0000;
const SLOT: u64 = 0x4_0000;
/// Usable bytes of a stack.
pub const SIZE: u64 = 0x3_0000;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Maps a new stack and returns its top, 16-byte aligned.
pub fn allocate() -> u64 {
    let slot = WINDOW + SLOT * NEXT.fetch_add(1, Ordering::Relaxed);
    let top = slot + SLOT;
    let mut page = top - SIZE;
    while page < top {
        let frame = frames::allocate().expect("memory for a stack");
        paging::map(page, frame.0, paging::Flags::WRITABLE | paging::Flags::NO_EXECUTE);
        page += mm::PAGE;
    }
    top
}

/// Is this address below a stack, where nothing is mapped?
pub fn is_guard(address: u64) -> bool {
    let end = WINDOW + SLOT * NEXT.load(Ordering::Relaxed);
    (WINDOW..end).contains(&address) && (address - WINDOW) % SLOT < SLOT - SIZE
}
