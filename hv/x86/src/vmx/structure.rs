//! The memory of a virtual-machine control structure.

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::instr;
use crate::cpu::percpu::PerCpu;
use crate::paging;

/// The address of a control structure.
#[derive(Clone, Copy, Debug)]
pub struct Handle(u64);

/// A page of the hypervisor's own that the processor uses as it likes: a control structure, or a VMXON region.
pub struct Structure {
    page: NonNull<u8>,
    address: u64,
}

// SAFETY: the page belongs to this value alone.
unsafe impl Send for Structure {}

impl Structure {
    const LAYOUT: Layout = match Layout::from_size_align(4096, 4096) {
        Ok(layout) => layout,
        Err(_) => panic!("constants"),
    };

    /// A page with the revision in its first word (section 25.2), clear; nothing if memory ran out.
    pub fn new(revision: u32) -> Option<Self> {
        // SAFETY: the layout's size is not zero.
        let page = NonNull::new(unsafe { alloc_zeroed(Self::LAYOUT) })?;
        // SAFETY: the page was just allocated.
        unsafe { page.cast::<u32>().write(revision) };
        Some(Self { page, address: paging::direct_map_phys(page.as_ptr()) })
    }

    /// Its machine address.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Makes it current on this CPU. It must be clear, or current here already.
    pub fn make_current(&self) {
        self.handle().make_current();
    }

    /// Writes it back and makes it clear, so that any CPU may take it.
    pub fn clear(&self) {
        self.handle().clear();
    }

    /// Its address, to work with it while its owner is lent out.
    pub fn handle(&self) -> Handle {
        Handle(self.address)
    }
}

impl Handle {
    fn make_current(self) {
        // SAFETY: VMX is on; the page is a control structure of this processor's revision, and no other CPU has it.
        if let Err(error) = unsafe { instr::vmptrld(self.0) } {
            panic!("VMPTRLD: {error}");
        }
    }

    fn clear(self) {
        // SAFETY: as for `make_current`.
        if let Err(error) = unsafe { instr::vmclear(self.0) } {
            panic!("VMCLEAR: {error}");
        }
    }

    /// Runs `f` with this structure current although its virtual CPU is not loaded, and puts back what was current.
    pub fn visit<R>(self, f: impl FnOnce() -> R) -> R {
        let before = PerCpu::current().guest.load(Ordering::Relaxed);
        self.make_current();
        let result = f();
        self.clear();
        if before != 0 {
            // SAFETY: this CPU made that structure current before, and still runs its virtual CPU.
            if let Err(error) = unsafe { instr::vmptrld(before) } {
                panic!("VMPTRLD of the running virtual CPU: {error}");
            }
        }
        result
    }
}

impl Drop for Structure {
    fn drop(&mut self) {
        self.clear();
        // SAFETY: allocated with this layout; after VMCLEAR the processor does not use it any more.
        unsafe { dealloc(self.page.as_ptr(), Self::LAYOUT) };
    }
}
