//! Access to the machine's configuration space by ports (PCI Local Bus Specification 3.0, section 3.2.2.3.2).

use super::{ADDRESS_PORT, DATA_PORT, PciAddress};
use crate::hw::Platform;
use spin::Mutex;

/// The bit of the address port that says that the data port means configuration space.
const ENABLE: u32 = 1 << 31;

/// The registers that every function has, by their offset.
pub mod offset {
    /// Vendor and device.
    pub const IDS: u8 = 0x00;
    /// Command, and status in the upper half.
    pub const COMMAND: u8 = 0x04;
    /// Revision and class.
    pub const CLASS: u8 = 0x08;
    /// Cache line, latency, header type, self test.
    pub const HEADER: u8 = 0x0c;
    /// The first base address register.
    pub const BAR0: u8 = 0x10;
    /// Bus numbers of a bridge.
    pub const BUSES: u8 = 0x18;
    /// The expansion ROM of an ordinary function.
    pub const ROM: u8 = 0x30;
    /// The first capability.
    pub const CAPABILITIES: u8 = 0x34;
    /// Interrupt line and pin.
    pub const INTERRUPT: u8 = 0x3c;
    /// The end of the header.
    pub const HEADER_END: u8 = 0x40;
}

/// Bits of the command register.
pub mod command {
    /// Decodes I/O ports.
    pub const IO: u32 = 1 << 0;
    /// Decodes memory.
    pub const MEMORY: u32 = 1 << 1;
    /// Moves data by itself.
    pub const MASTER: u32 = 1 << 2;
    /// Does not use its interrupt pin.
    pub const NO_PIN: u32 = 1 << 10;
}

/// A register, or a part of one, of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Register {
    /// The function.
    pub function: PciAddress,
    /// The first byte.
    pub offset: u8,
    /// How many bytes: 1, 2 or 4, all in one aligned group of four.
    pub bytes: u8,
}

impl Register {
    /// A whole register of four bytes.
    pub const fn word(function: PciAddress, offset: u8) -> Self {
        Self { function, offset: offset & !3, bytes: 4 }
    }

    /// Reads what is in the address port, for an access of `bytes` bytes to data port `port` (0 to 3).
    #[allow(clippy::cast_possible_truncation)] // bits are masked
    pub const fn decode(address: u32, port: u16, bytes: u8) -> Option<Self> {
        if address & ENABLE == 0 || port + bytes as u16 > 4 {
            return None;
        }
        let function = PciAddress {
            segment: 0,
            bus: (address >> 16) as u8,
            device: (address >> 11) as u8 & 31,
            function: (address >> 8) as u8 & 7,
        };
        Some(Self { function, offset: (address as u8 & 0xfc) | port as u8, bytes })
    }

    /// What goes into the address port.
    const fn encode(self) -> u32 {
        let function = self.function;
        ENABLE
            | (function.bus as u32) << 16
            | (function.device as u32 & 31) << 11
            | (function.function as u32 & 7) << 8
            | (self.offset & 0xfc) as u32
    }

    /// The data port.
    const fn port(self) -> u16 {
        DATA_PORT + (self.offset & 3) as u16
    }
}

/// The value of `bytes` bytes that says that nothing is there.
pub const fn all_ones(bytes: u8) -> u32 {
    match bytes {
        1 => 0xff,
        2 => 0xffff,
        _ => u32::MAX,
    }
}

/// The pair of ports: an access takes both.
#[derive(Debug, Default)]
pub struct ConfigPorts(Mutex<()>);

/// Configuration space.
pub struct Config<'a, P> {
    platform: &'a P,
    ports: &'a ConfigPorts,
}

impl<'a, P: Platform> Config<'a, P> {
    pub(super) const fn new(platform: &'a P, ports: &'a ConfigPorts) -> Self {
        Self { platform, ports }
    }

    /// Reads a register or a part of one.
    pub fn read(&self, register: Register) -> u32 {
        let _guard = self.ports.0.lock();
        self.platform.port_write(ADDRESS_PORT, 4, register.encode());
        self.platform.port_read(register.port(), register.bytes)
    }

    /// Writes a register or a part of one.
    pub fn write(&self, register: Register, value: u32) {
        let _guard = self.ports.0.lock();
        self.platform.port_write(ADDRESS_PORT, 4, register.encode());
        self.platform.port_write(register.port(), register.bytes, value);
    }

    /// Reads four bytes.
    pub fn word(&self, function: PciAddress, offset: u8) -> u32 {
        self.read(Register::word(function, offset))
    }

    /// Writes four bytes.
    pub fn set_word(&self, function: PciAddress, offset: u8, value: u32) {
        self.write(Register::word(function, offset), value);
    }

    /// Sets and clears bits of the command register, without touching the status beside it.
    pub fn command(&self, function: PciAddress, set: u32, clear: u32) {
        let register = Register { function, offset: offset::COMMAND, bytes: 2 };
        let old = self.read(register);
        self.write(register, (old & !clear) | set);
    }
}
