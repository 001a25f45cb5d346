//! The heap: `talc`, fed with runs of frames when it runs dry, behind a few freed blocks of each small size.
//!
//! Most of what is allocated is small and short-lived, such as what a driver needs for one request: it is taken from
//! where the last one of its size was put, in a tenth of the instructions that a search takes. Allocation is allowed in
//! upcalls (the lock masks them).

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use talc::DefaultBinning;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;

use super::{PAGE, frames, ptr};
use crate::sync::IrqMutex;

/// Small sizes are multiples of this many bytes, which is also their alignment.
const UNIT: usize = 16;
/// How many small sizes there are.
const SIZES: usize = 64;
/// The most bytes of freed blocks that are kept of one size.
const KEPT: usize = 16 << 10;

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

/// Freed blocks of one size. Each holds the address of the next in its first word.
#[derive(Clone, Copy)]
struct Freed {
    first: Option<NonNull<u8>>,
    /// How many more are kept.
    room: usize,
}

struct Blocks {
    talc: Talc<FrameSource, DefaultBinning>,
    freed: [Freed; SIZES],
}

// SAFETY: the freed blocks belong to nobody else, whichever vCPU looks at them.
unsafe impl Send for Blocks {}

/// The index of the small size that a layout needs.
#[inline]
const fn small(layout: Layout) -> Option<usize> {
    let index = layout.size().saturating_sub(1) / UNIT;
    if index < SIZES && layout.align() <= UNIT { Some(index) } else { None }
}

/// The layout of all blocks of a small size.
#[inline]
const fn layout_of(index: usize) -> Layout {
    // SAFETY: the alignment is a power of two and the size small.
    unsafe { Layout::from_size_align_unchecked((index + 1) * UNIT, UNIT) }
}

/// How many freed blocks of a small size are kept.
const fn most(index: usize) -> usize {
    KEPT / UNIT / (index + 1)
}

impl Freed {
    const NONE: [Self; SIZES] = {
        let mut none = [Self { first: None, room: 0 }; SIZES];
        let mut index = 0;
        while index < SIZES {
            none[index].room = most(index);
            index += 1;
        }
        none
    };

    #[inline]
    fn take(&mut self) -> Option<NonNull<u8>> {
        let block = self.first?;
        // SAFETY: `put` wrote the word, and nobody has used the block since.
        self.first = unsafe { block.cast().read() };
        self.room += 1;
        Some(block)
    }

    /// # Safety
    /// The block must be of this size, and nobody's; there must be room.
    #[inline]
    unsafe fn put(&mut self, block: NonNull<u8>) {
        // SAFETY: a block has room for a word and is aligned for it.
        unsafe { block.cast().write(self.first) };
        self.first = Some(block);
        self.room -= 1;
    }
}

impl Blocks {
    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        match small(layout) {
            Some(index) => match self.freed[index].take() {
                Some(block) => Some(block),
                None => self.search(layout_of(index)),
            },
            None => self.search(layout),
        }
    }

    #[cold]
    fn search(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the layout is not empty, by the contract of the trait or by `layout_of`.
        unsafe { self.talc.allocate(layout) }
    }

    /// # Safety
    /// The block must have come from `allocate` with this layout.
    #[inline]
    unsafe fn deallocate(&mut self, block: NonNull<u8>, layout: Layout) {
        match small(layout) {
            // SAFETY: by this function's contract, blocks with this index all have the same layout.
            Some(index) if self.freed[index].room > 0 => unsafe {
                self.freed[index].put(block);
            },
            // SAFETY: as above.
            Some(index) => unsafe { self.talc.deallocate(block.as_ptr(), layout_of(index)) },
            // SAFETY: by this function's contract.
            None => unsafe { self.talc.deallocate(block.as_ptr(), layout) },
        }
    }
}

struct Heap(IrqMutex<Blocks>);

#[global_allocator]
static HEAP: Heap = Heap(IrqMutex::new(Blocks { talc: Talc::new(FrameSource), freed: Freed::NONE }));

// SAFETY: `Blocks` does the work, one caller at a time.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().allocate(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: by the trait's contract the block came from `alloc` with this layout.
            unsafe { self.0.lock().deallocate(block, layout) };
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: by the trait's contract `size` is not zero and does not overflow with this alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if small(layout).is_some() && small(layout) == small(wanted) {
            return block;
        }
        // SAFETY: by the trait's contract; both blocks are valid for the smaller of the sizes, and apart.
        unsafe {
            let new = self.alloc(wanted);
            if !new.is_null() {
                ptr::copy_nonoverlapping(block, new, layout.size().min(size));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

/// Bytes allocated, and bytes claimed from the frame allocator.
pub fn count() -> (usize, usize) {
    let heap = HEAP.0.lock();
    let bytes = |(index, freed): (usize, &Freed)| (most(index) - freed.room) * (index + 1) * UNIT;
    let kept: usize = heap.freed.iter().enumerate().map(bytes).sum();
    let c = heap.talc.counters();
    (c.allocated_bytes - kept, c.claimed_bytes)
}
