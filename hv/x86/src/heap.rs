//! The hypervisor's heap: the `talc` allocator under a spin lock, over one region that `boot` sets aside.
//!
//! Allocation is for set-up and for the making of domains; nothing on the path of an exit allocates.

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
