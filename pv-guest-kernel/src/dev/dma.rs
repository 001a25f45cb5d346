//! What address a device must be given for a piece of memory.
//!
//! Without an IOMMU a device reaches memory at machine addresses. A driver domain's own memory is mapped one to one, so
//! there the guest-physical address serves; a page mapped by a grant lies elsewhere, and the hypervisor told its
//! machine address when it was mapped. No other module assumes either.
//!
//! `virtio_drivers` asks for addresses through static functions, knowing only where a buffer is mapped. For buffers in
//! foreign pages the driver therefore announces the addresses in order, under a lock held for the time of one call.

use core::ptr::NonNull;

use alloc::vec::Vec;
use pv_drivers::platform::SharedMemory;
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

use crate::mm::{self, PAGE, frames, paging};
use crate::sync::IrqMutex;
use crate::xen::platform::Pages;

/// Addresses for the next buffers that `virtio_drivers` shares, last first.
static ANNOUNCED: IrqMutex<Vec<PhysAddr>> = IrqMutex::new(Vec::new());
/// Held from an announcement to the call that uses it up.
static CALL: IrqMutex<()> = IrqMutex::new(());

/// The address at which a device reaches byte `offset` of `memory`, if a device can.
pub fn device_address(memory: &Pages, offset: usize) -> Option<u64> {
    let page = offset / PAGE as usize;
    memory.bus_address(page).map(|bus| bus.raw() + (offset as u64 % PAGE))
}

/// Runs `add`, in which `virtio_drivers` shares exactly as many buffers as `addresses` are, in this order.
pub fn with_addresses<R>(addresses: impl DoubleEndedIterator<Item = u64>, add: impl FnOnce() -> R) -> R {
    let _call = CALL.lock();
    ANNOUNCED.lock().extend(addresses.rev());
    let result = add();
    ANNOUNCED.lock().clear();
    result
}

/// This kernel's memory, for `virtio_drivers`.
#[derive(Debug)]
pub struct KernelHal;

// SAFETY: `dma_alloc` gives zeroed frames that nobody else has; `mmio_phys_to_virt` maps device registers for good;
// `share` returns an address that stays valid as long as the buffer does.
unsafe impl Hal for KernelHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let Some(run) = frames::allocate_run(pages as u64, PAGE, u64::MAX) else {
            return (0, NonNull::dangling());
        };
        let start = mm::ptr::<u8>(run.0);
        // SAFETY: the frames were just allocated and lie in the direct map.
        unsafe { core::ptr::write_bytes(start, 0, pages * PAGE as usize) };
        match NonNull::new(start) {
            Some(start) => (run.0, start),
            None => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(paddr: PhysAddr, _vaddr: NonNull<u8>, pages: usize) -> i32 {
        frames::free_run(frames::Frame(paddr), pages as u64);
        0
    }

    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, size: usize) -> NonNull<u8> {
        NonNull::new(paging::map_device(paddr, size as u64)).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        if let Some(address) = ANNOUNCED.lock().pop() {
            return address;
        }
        // Not announced, so it is memory of this domain's own.
        let virt = buffer.cast::<u8>().as_ptr().addr() as u64;
        paging::translate(virt).unwrap_or_else(|| mm::phys(virt))
    }

    unsafe fn unshare(_paddr: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}
