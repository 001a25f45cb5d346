//! One function of the machine.

use super::PciAddress;
use crate::hw::HostPhys;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use pv_abi::ids::DomainId;

/// What a base address register decodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarKind {
    /// I/O ports.
    Ports,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere: the next register holds the upper half of the address.
    Memory64,
}

/// What a base address register decodes, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar {
    /// The kind.
    pub kind: BarKind,
    /// The first address.
    pub base: u64,
    /// The size: a power of two.
    pub bytes: u64,
    /// The lower bits of the register, which do not belong to the address.
    pub flags: u32,
}

impl Bar {
    /// Whether it decodes memory.
    pub const fn is_memory(&self) -> bool {
        !matches!(self.kind, BarKind::Ports)
    }

    /// What the register reads as after ones were written to it; `upper` is the next register.
    #[allow(clippy::cast_possible_truncation)] // the halves
    pub const fn mask(&self, upper: bool) -> u32 {
        let mask = !(self.bytes - 1);
        if upper { (mask >> 32) as u32 } else { mask as u32 | self.flags }
    }
}

/// The MSI capability (section 6.8.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msi {
    /// Where it is.
    pub offset: u8,
    /// The address has 64 bits.
    pub wide: bool,
    /// Messages can be masked.
    pub maskable: bool,
}

/// The MSI-X capability (section 6.8.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msix {
    /// Where it is.
    pub offset: u8,
    /// How many entries the table has.
    pub entries: u16,
    /// Where the table is.
    pub table: HostPhys,
}

/// A range of configuration space that only the hypervisor writes: first and count of bytes.
pub type Guarded = (u8, u8);

/// A function of the machine. Everything but its owner and what its owner sees of its BARs is constant.
pub struct Function {
    /// Its place.
    pub address: PciAddress,
    /// Its vendor.
    pub vendor: u16,
    /// Its device number.
    pub device: u16,
    /// Its class, sub-class and programming interface.
    pub class: u32,
    /// What it decodes.
    pub bars: [Option<Bar>; 6],
    /// Its interrupt pin, 0 for none.
    pub pin: u8,
    /// The line that the firmware connected the pin to.
    pub line: u8,
    /// Its MSI capability.
    pub msi: Option<Msi>,
    /// Its MSI-X capability.
    pub msix: Option<Msix>,
    /// What only the hypervisor writes.
    pub guarded: Vec<Guarded>,
    pub(super) owner: AtomicU32,
    pub(super) sizing: AtomicU8,
}

/// No domain has this number.
pub(super) const NOBODY: u32 = u32::MAX;

impl Function {
    /// Whether it is a bridge (class 6): domains see it, but none has it.
    pub const fn is_bridge(&self) -> bool {
        self.class >> 16 == 6
    }

    /// Whether it is an IDE controller with the ports and lines that these had before PCI (class 1, sub-class 1, the
    /// channels in compatibility mode).
    const fn is_old_ide(&self) -> bool {
        self.class >> 8 == 0x0101 && self.class & 0b101 == 0
    }

    /// The domain that has it.
    pub fn owner(&self) -> Option<DomainId> {
        u16::try_from(self.owner.load(Ordering::Acquire)).ok().map(DomainId::new)
    }

    /// Makes a domain its owner; fails with the one that it has.
    pub(super) fn take(&self, owner: DomainId) -> Result<(), DomainId> {
        let new = u32::from(owner.raw());
        match self.owner.compare_exchange(NOBODY, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(other) => Err(u16::try_from(other).map_or(DomainId::INVALID, DomainId::new)),
        }
    }

    /// Ends the ownership.
    pub(crate) fn give_up(&self) {
        self.owner.store(NOBODY, Ordering::Release);
    }

    /// The I/O ports that it decodes: first and count.
    pub fn ports(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        const OLD_IDE: [(u16, u16); 4] = [(0x1f0, 8), (0x3f6, 1), (0x170, 8), (0x376, 1)];
        let bars = self.bars.iter().flatten().filter(|bar| !bar.is_memory());
        let bars =
            bars.filter_map(|bar| Some((u16::try_from(bar.base).ok()?, u16::try_from(bar.bytes).ok()?)));
        bars.chain(OLD_IDE.into_iter().filter(|_| self.is_old_ide()))
    }

    /// Whether its pin may be connected to this line: the one that the firmware says, or one that only pins are
    /// connected to.
    pub(super) fn uses_line(&self, gsi: u32) -> bool {
        let by_pin = self.pin != 0 && (gsi == u32::from(self.line) || gsi >= 16);
        by_pin || (self.is_old_ide() && (gsi == 14 || gsi == 15))
    }

    /// The BAR that a register of the header belongs to, and whether it is its upper half.
    pub(super) fn bar_at(&self, offset: u8) -> Option<(Bar, bool)> {
        let index = usize::from(offset.checked_sub(super::config::offset::BAR0)? / 4);
        let bar = |index: usize| self.bars.get(index).copied().flatten();
        if let Some(bar) = bar(index) {
            return Some((bar, false));
        }
        let below = index.checked_sub(1).and_then(bar);
        below.filter(|bar| bar.kind == BarKind::Memory64).map(|bar| (bar, true))
    }
}
