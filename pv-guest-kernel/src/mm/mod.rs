//! Memory: the map from the loader, frames, page tables, heap.
//!
//! Virtual addresses: all physical memory is mapped one to one at [`DIRECT`]; the image at `KERNEL_BASE`; stacks in a
//! window of their own (`arch::stack`). The lower half stays empty, so that null and small addresses fault.
//! Lock rule: heap lock -> frame lock -> page-table lock; all three mask upcalls, none is held across an `await`.

pub mod frames;
pub mod heap;
pub mod map;
pub mod paging;
pub mod special;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Where physical address 0 is mapped.
pub const DIRECT: u64 = 0xffff_8000_0000_0000;

/// The virtual address of a physical one, in the direct map.
#[inline(always)]
pub const fn virt(phys: u64) -> u64 {
    DIRECT + phys
}

/// A pointer to a physical address, in the direct map.
#[inline(always)]
pub fn ptr<T>(phys: u64) -> *mut T {
    virt(phys) as *mut T
}

/// The physical address of a byte of the image or of the direct map.
///
/// Panics for addresses that are in neither: such a page has no fixed place.
pub fn phys(virt: u64) -> u64 {
    if virt >= crate::arch::entry::KERNEL_BASE {
        virt - crate::arch::entry::KERNEL_BASE + paging::image_offset()
    } else if (DIRECT..DIRECT + (1 << 46)).contains(&virt) {
        virt - DIRECT
    } else {
        panic!("address {virt:#x} is neither in the image nor in the direct map")
    }
}

/// Where a device reaches a byte of our own memory; `None` if no device of this domain can.
///
/// This is the one place that knows that a driver domain's memory is mapped one to one. With an IOMMU it will ask that.
pub fn bus_address(phys: u64) -> Option<u64> {
    has_devices().then_some(phys)
}

/// May devices reach this domain's memory?
pub fn has_devices() -> bool {
    crate::xen::identity().direct_mapped()
}
