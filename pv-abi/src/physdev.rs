//! Physical devices and interrupts, for driver domains (`xen/physdev.h`).

use crate::ids::DomainId;
use bitflags::bitflags;
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Sub-operations of `physdev_op` (`PHYSDEVOP_*`).
pub mod op {
    /// Whether an interrupt must be acknowledged by `EOI`.
    pub const IRQ_STATUS_QUERY: u64 = 5;
    /// Acknowledges an interrupt.
    pub const EOI: u64 = 12;
    /// Binds a line or a message to a pirq number.
    pub const MAP_PIRQ: u64 = 13;
    /// Ends that binding.
    pub const UNMAP_PIRQ: u64 = 14;
    /// Registers a device (old form).
    pub const MANAGE_PCI_ADD: u64 = 15;
    /// Sets trigger and polarity of a line.
    pub const SETUP_GSI: u64 = 21;
    /// Finds an unused pirq number.
    pub const GET_FREE_PIRQ: u64 = 23;
    /// Tells of a memory-mapped configuration space.
    pub const PCI_MMCFG_RESERVED: u64 = 24;
    /// Registers a device.
    pub const PCI_DEVICE_ADD: u64 = 25;
    /// Forgets a device.
    pub const PCI_DEVICE_REMOVE: u64 = 26;
    /// Shares a page of acknowledgement bits.
    pub const PIRQ_EOI_GMFN_V2: u64 = 28;
    /// Announces the use of a device's MSI-X table.
    pub const PREPARE_MSIX: u64 = 30;
    /// Ends that use.
    pub const RELEASE_MSIX: u64 = 31;
}

/// Kinds of interrupt for `map_pirq` (`MAP_PIRQ_TYPE_*`).
pub mod pirq_type {
    /// A message of a device in segment 0.
    pub const MSI: u32 = 0;
    /// A line of an I/O APIC.
    pub const GSI: u32 = 1;
    /// Not known.
    pub const UNKNOWN: u32 = 2;
    /// A message; the segment is in the upper half of `bus`.
    pub const MSI_SEG: u32 = 3;
    /// Several messages of one device.
    pub const MULTI_MSI: u32 = 4;
}

/// Argument of `eoi` (`struct physdev_eoi`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Eoi {
    /// The pirq.
    pub irq: u32,
}

bitflags! {
    /// State of an interrupt (`XENIRQSTAT_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct IrqStatus: u32 {
        /// Must be acknowledged by `eoi`.
        const NEEDS_EOI = 1 << 0;
        /// Other domains have it too.
        const SHARED = 1 << 1;
    }
}

/// Argument of `irq_status_query` (`struct physdev_irq_status_query`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IrqStatusQuery {
    /// The pirq.
    pub irq: u32,
    /// Out: bits of [`IrqStatus`].
    pub flags: u32,
}

/// Argument of `map_pirq` (`struct physdev_map_pirq`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MapPirq {
    /// The domain that gets the interrupt.
    pub domid: DomainId,
    /// Unused.
    pub pad0: u16,
    /// Kind: see [`pirq_type`].
    pub kind: u32,
    /// The line, or -1 for a message.
    pub index: i32,
    /// The pirq wanted, or -1 for any; afterwards the one given.
    pub pirq: i32,
    /// Bus of the device (with the segment in the upper half, for `pirq_type::MSI_SEG`).
    pub bus: i32,
    /// Device and function.
    pub devfn: i32,
    /// Entry of the MSI-X table; for `pirq_type::MULTI_MSI` the number of messages.
    pub entry_nr: i32,
    /// Unused.
    pub pad1: u32,
    /// Address of the MSI-X table's register block, or 0 for plain MSI.
    pub table_base: u64,
}
const_assert_eq!(size_of::<MapPirq>(), 40);

/// Argument of `unmap_pirq` (`struct physdev_unmap_pirq`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnmapPirq {
    /// The domain that has it.
    pub domid: DomainId,
    /// Unused.
    pub pad: u16,
    /// The pirq.
    pub pirq: i32,
}
const_assert_eq!(size_of::<UnmapPirq>(), 8);

/// Argument of `setup_gsi` (`struct physdev_setup_gsi`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetupGsi {
    /// The line.
    pub gsi: i32,
    /// 0 edge, 1 level.
    pub triggering: u8,
    /// 0 active high, 1 active low.
    pub polarity: u8,
    /// Unused.
    pub pad: u16,
}
const_assert_eq!(size_of::<SetupGsi>(), 8);

/// Argument of `get_free_pirq` (`struct physdev_get_free_pirq`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetFreePirq {
    /// Kind: see [`pirq_type`].
    pub kind: u32,
    /// Out: the number.
    pub pirq: u32,
}

bitflags! {
    /// Flags of a device (`XEN_PCI_DEV_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PciDeviceFlags: u32 {
        /// A function found by ARI.
        const EXTFN = 1;
        /// A virtual function.
        const VIRTFN = 2;
        /// `optarr` holds the proximity domain.
        const PXM = 4;
    }
}

/// Argument of `pci_device_add`, without its optional array (`struct physdev_pci_device_add`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PciDeviceAdd {
    /// Segment.
    pub seg: u16,
    /// Bus.
    pub bus: u8,
    /// Device and function.
    pub devfn: u8,
    /// Bits of [`PciDeviceFlags`].
    pub flags: u32,
    /// Bus of the physical function.
    pub physfn_bus: u8,
    /// Device and function of the physical function.
    pub physfn_devfn: u8,
    /// Unused.
    pub pad: u16,
}
const_assert_eq!(size_of::<PciDeviceAdd>(), 12);

/// Names a PCI function (`struct physdev_pci_device`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PciDevice {
    /// Segment.
    pub seg: u16,
    /// Bus.
    pub bus: u8,
    /// Device and function.
    pub devfn: u8,
}

/// Argument of `pci_mmcfg_reserved` (`struct physdev_pci_mmcfg_reserved`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PciMmcfgReserved {
    /// Address of the configuration space.
    pub address: u64,
    /// Segment.
    pub segment: u16,
    /// First bus.
    pub start_bus: u8,
    /// Last bus.
    pub end_bus: u8,
    /// 1 when the firmware reserves the range (`XEN_PCI_MMCFG_RESERVED`).
    pub flags: u32,
}
const_assert_eq!(size_of::<PciMmcfgReserved>(), 16);
