//! PCI functions: finding them, and the few registers that a driver touches itself.
//!
//! Configuration space is reached through the ports of configuration mechanism #1 (PCI Local Bus Specification 3.0,
//! section 3.2.2.3.2). The hypervisor traps them, shows only the functions that this domain owns, and decides which
//! writes take effect.

use alloc::vec::Vec;

pub use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, ConfigurationAccess, DeviceFunction, DeviceFunctionInfo, PciRoot,
};
use x86_64::instructions::port::Port;

use crate::sync::IrqMutex;

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
/// PCI capability: MSI-X (PCI 3.0, appendix H).
const CAPABILITY_MSIX: u8 = 0x11;
const INTERRUPT_LINE: u8 = 0x3c;

/// The two ports are one resource: address and data belong together.
static PORTS: IrqMutex<()> = IrqMutex::new(());

/// Access to configuration space through the ports.
#[derive(Debug, Clone, Copy)]
pub struct ConfigPorts;

fn select(function: DeviceFunction, register: u8) {
    let address = 0x8000_0000
        | u32::from(function.bus) << 16
        | u32::from(function.device) << 11
        | u32::from(function.function) << 8
        | u32::from(register & 0xfc);
    // SAFETY: the address port has no effect but to choose a register; the hypervisor checks the choice.
    unsafe { Port::<u32>::new(ADDRESS).write(address) };
}

impl ConfigurationAccess for ConfigPorts {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        let _guard = PORTS.lock();
        select(function, register);
        // SAFETY: reads of configuration space have no side effect on memory.
        unsafe { Port::<u32>::new(DATA).read() }
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, data: u32) {
        let _guard = PORTS.lock();
        select(function, register);
        // SAFETY: the function belongs to this domain, or the hypervisor ignores the write.
        unsafe { Port::<u32>::new(DATA).write(data) };
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}

/// Where a function keeps its MSI-X table.
#[derive(Debug, Clone, Copy)]
pub struct Msix {
    /// The machine address of the table.
    pub table: u64,
    /// How many entries it has.
    pub entries: u16,
}

/// A function of this domain.
#[derive(Debug, Clone)]
pub struct Function {
    /// Its address on the bus.
    pub address: DeviceFunction,
    /// What it says of itself.
    pub info: DeviceFunctionInfo,
}

impl Function {
    /// Device and function as one byte, as hypercalls name them.
    pub fn devfn(&self) -> u8 {
        self.address.device << 3 | self.address.function
    }

    /// The address ranges that it decodes.
    pub fn bars(&self) -> [Option<BarInfo>; 6] {
        PciRoot::new(ConfigPorts).bars(self.address).unwrap_or([const { None }; 6])
    }

    /// Lets it decode its ranges and master the bus.
    pub fn enable(&self) {
        let mut root = PciRoot::new(ConfigPorts);
        let (_, command) = root.get_status_command(self.address);
        root.set_command(
            self.address,
            command | Command::IO_SPACE | Command::MEMORY_SPACE | Command::BUS_MASTER,
        );
    }

    /// Its MSI-X table, if it has one.
    pub fn msix(&self) -> Option<Msix> {
        let root = PciRoot::new(ConfigPorts);
        let capability = root.capabilities(self.address).find(|c| c.id == CAPABILITY_MSIX)?;
        let table = ConfigPorts.read_word(self.address, capability.offset + 4);
        let bars = self.bars();
        let (base, _) = bars.get((table & 7) as usize)?.as_ref()?.memory_address_size()?;
        Some(Msix { table: base + u64::from(table & !7), entries: (capability.private_header & 0x7ff) + 1 })
    }

    /// The interrupt line that firmware wrote down: on these machines the number of the global system interrupt.
    pub fn interrupt_line(&self) -> Option<u8> {
        let line = ConfigPorts.read_word(self.address, INTERRUPT_LINE) as u8;
        (line != 0 && line != 0xff).then_some(line)
    }
}

/// All functions of this domain on the first bus.
pub fn functions() -> Vec<Function> {
    PciRoot::new(ConfigPorts).enumerate_bus(0).map(|(address, info)| Function { address, info }).collect()
}
