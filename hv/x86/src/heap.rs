//! The hypervisor's heap: the `talc` allocator under a spin lock, over one region that `boot` sets aside.
//!
//! Allocation is for set-up, for the making of domains, and for lists that a guest makes longer. These leave a part of the
//! heap alone ([`room`]), so that small things always find room.

use talc::TalcLock;
use talc::source::Manual;

#[cfg_attr(target_os = "none", global_allocator)]
static HEAP: TalcLock<spin::Mutex<()>, Manual> = TalcLock::new(Manual);

/// Gives a region to the heap.
///
/// # Safety
///
/// The region must be mapped, writable, and used for nothing else from now on.
pub unsafe fn claim(start: *mut u8, len: usize) {
    // SAFETY: by this function's contract.
    let claimed = unsafe { HEAP.lock().claim(start, len) };
    assert!(claimed.is_some(), "the heap's region is too small");
}

/// How many bytes are free beyond the quarter of the heap that is not for guests.
pub fn room() -> usize {
    let counters = *HEAP.lock().counters();
    counters.available_bytes.saturating_sub(counters.claimed_bytes / 4)
}
