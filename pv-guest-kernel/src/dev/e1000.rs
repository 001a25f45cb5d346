//! The registers of an Intel 82540EM network controller on PCI, for [`E1000`].

use alloc::string::{String, ToString};
use core::sync::atomic::{Ordering, compiler_fence};

use pv_drivers::net::{E1000, E1000_REGISTERS, Registers};

use super::pci::{BarInfo, Function};
use crate::mm::paging;
use crate::xen::platform::{Pages, Xen};

/// Vendor and device number (the 82540EM as it is emulated everywhere).
const ID: (u16, u16) = (0x8086, 0x100e);

/// A controller's memory range, mapped for good.
pub struct Range {
    base: *mut u8,
}

// SAFETY: registers belong to no processor, and only the value's owner reaches them.
unsafe impl Send for Range {}

impl Range {
    fn at(&self, offset: u32) -> *mut u32 {
        assert!(
            offset.is_multiple_of(4) && (offset as usize) < E1000_REGISTERS,
            "no register at {offset:#x}"
        );
        // SAFETY: the range is mapped, and longer than the registers that are used.
        unsafe { self.base.add(offset as usize).cast() }
    }
}

impl Registers for Range {
    fn read(&self, offset: u32) -> u32 {
        // SAFETY: `at` checks the place; a read changes no memory.
        unsafe { self.at(offset).read_volatile() }
    }

    fn write(&self, offset: u32, value: u32) {
        // A store into an uncached range follows all earlier ones: only the compiler must be told.
        compiler_fence(Ordering::Release);
        // SAFETY: `at` checks the place; the driver lets the controller reach its own buffers alone.
        unsafe { self.at(offset).write_volatile(value) };
    }
}

/// Whether this function is such a controller.
pub fn is_nic(function: &Function) -> bool {
    (function.info.vendor_id, function.info.device_id) == ID
}

/// Starts the controller.
///
/// # Errors
/// What is wrong with it, in words.
pub fn start(function: &Function) -> Result<E1000<Range, Pages>, String> {
    let range = function.bars()[0].as_ref().and_then(BarInfo::memory_address_size);
    let (base, size) = range.ok_or("it has no registers")?;
    if size < E1000_REGISTERS as u64 {
        return Err("it has too few registers".to_string());
    }
    function.enable();
    E1000::new(Range { base: paging::map_device(base, size) }, &Xen).map_err(|error| error.to_string())
}
