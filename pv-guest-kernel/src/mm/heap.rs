//! The heap: `talc`, fed with runs of frames when it runs dry.
//!
//! Allocation is allowed in upcalls (the lock masks them).

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use talc::DefaultBinning;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;

use super::{PAGE, frames, ptr};
use crate::sync::IrqMutex;

/// Claims frames for the heap.
#[derive(Debug)]
struct FrameSource;

// SAFETY: `acquire` only uses the frame allocator, which does not allocate from the heap.
unsafe impl Source for FrameSource {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let need = (layout.size() as u64 + layout.align() as u64 + 8 * PAGE).div_ceil(PAGE);
        // A generous piece first, what is needed otherwise.
        for count in [need.max(512), need] {
            if let Some(frame) = frames::allocate_run(count, PAGE, u64::MAX) {
                // SAFETY: the frames are ours, mapped in the direct map, and never given back.
                let claimed = unsafe { talc.claim(ptr(frame.0), (count * PAGE) as usize) };
                return claimed.map(|_| ()).ok_or(());
            }
        }
        Err(())
    }
}

struct Heap(IrqMutex<Talc<FrameSource, DefaultBinning>>);

#[global_allocator]
static HEAP: Heap = Heap(IrqMutex::new(Talc::new(FrameSource)));

// SAFETY: `talc` does the work, one caller at a time.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the layout is not empty by the trait's contract.
        unsafe { self.0.lock().allocate(layout) }.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: by the trait's contract the block came from `alloc` with this layout.
        unsafe { self.0.lock().deallocate(ptr, layout) };
    }
}

/// Bytes allocated, and bytes claimed from the frame allocator.
pub fn count() -> (usize, usize) {
    let heap = HEAP.0.lock();
    let c = heap.counters();
    (c.allocated_bytes, c.claimed_bytes)
}
