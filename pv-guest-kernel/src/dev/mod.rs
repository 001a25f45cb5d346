//! Drivers of real devices, for driver domains.
//!
//! The hypervisor mediates configuration space and owns interrupt routing; the rest of a device (its registers, its
//! DMA) belongs to this domain. [`dma`] is the only module that knows what address a device must be given.

pub mod dma;
pub mod e1000;
pub mod ide_disk;
pub mod interrupt;
pub mod pci;
pub mod virtio;
pub mod virtio_disk;
pub mod virtio_net;
