//! What every virtio device on PCI needs beside `virtio_drivers`.

use alloc::string::{String, ToString};

use virtio_drivers::transport::pci::PciTransport;

use super::dma::KernelHal;
use super::pci::{BarInfo, ConfigPorts, ConfigurationAccess, Function, PciRoot};
use crate::mm::paging;

/// The vendor of virtio functions (Virtual I/O Device 1.2, section 4.1.2).
pub const VENDOR: u16 = 0x1af4;

/// Features of every device (section 6).
pub mod feature {
    /// Requests may lie in tables of their own.
    pub const INDIRECT: u64 = 1 << 28;
    /// The device keeps to the standard, not to what was before it.
    pub const VERSION_1: u64 = 1 << 32;
    /// The device reaches memory as the platform says.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
}

/// Switches a function on and finds its registers.
///
/// # Errors
/// In words.
pub fn transport(function: &Function) -> Result<PciTransport, String> {
    function.enable();
    PciTransport::new::<KernelHal, _>(&mut PciRoot::new(ConfigPorts), function.address)
        .map_err(|_| "its virtio capabilities are broken, or it is a legacy-only device".to_string())
}

/// Chooses the MSI-X entry that a queue raises, which `virtio_drivers` leaves to its user (section 4.1.5.1.2).
///
/// # Errors
/// In words.
pub fn set_vector(function: &Function, queue: u16, entry: u16) -> Result<(), String> {
    choose_vector(function, queue, entry)
        .ok_or_else(|| "its common configuration cannot be reached".to_string())
}

fn choose_vector(function: &Function, queue: u16, entry: u16) -> Option<()> {
    const CAPABILITY_VENDOR: u8 = 9;
    const COMMON_CONFIGURATION: u8 = 1;
    const QUEUE_SELECT: usize = 22;
    const QUEUE_VECTOR: usize = 26;
    let root = PciRoot::new(ConfigPorts);
    let common = root
        .capabilities(function.address)
        .find(|c| c.id == CAPABILITY_VENDOR && (c.private_header >> 8) as u8 == COMMON_CONFIGURATION)?;
    let bar = ConfigPorts.read_word(function.address, common.offset + 4) as u8;
    let offset = ConfigPorts.read_word(function.address, common.offset + 8);
    let bars = function.bars();
    let (base, _) = bars.get(usize::from(bar))?.as_ref().and_then(BarInfo::memory_address_size)?;
    let registers = paging::map_device(base + u64::from(offset), 64);
    // SAFETY: these are the device's registers, mapped uncached; both fields are 16 bits wide and aligned.
    unsafe {
        registers.add(QUEUE_SELECT).cast::<u16>().write_volatile(queue);
        registers.add(QUEUE_VECTOR).cast::<u16>().write_volatile(entry);
        (registers.add(QUEUE_VECTOR).cast::<u16>().read_volatile() == entry).then_some(())
    }
}
