//! A device's interrupt as an event.

use pv_abi::physdev::{self, MapPirq};
use pv_abi::{DomainId, Errno, Pirq, Port};

use super::pci::Function;
use crate::xen::{events, hv, stub};

/// A device interrupt, bound to an event channel.
#[derive(Debug)]
pub struct Interrupt {
    port: Port,
    pirq: u32,
    level: bool,
}

impl Interrupt {
    /// Binds entry `entry` of the function's MSI-X table.
    ///
    /// # Errors
    /// What the hypervisor says; ENODEV if the function has no such table.
    pub fn msix(function: &Function, entry: u16) -> Result<Self, Errno> {
        let table = function.msix().ok_or(Errno::ENODEV)?;
        let mut map = MapPirq {
            domid: DomainId::SELF,
            kind: physdev::pirq_type::MSI_SEG,
            index: -1,
            pirq: -1,
            bus: i32::from(function.address.bus),
            devfn: i32::from(function.devfn()),
            entry_nr: i32::from(entry),
            table_base: table.table,
            ..MapPirq::default()
        };
        stub::physdev_map_pirq(hv(), &mut map)?;
        Self::bind(map.pirq, false)
    }

    /// Binds a global system interrupt, level-triggered if `level`.
    ///
    /// # Errors
    /// What the hypervisor says.
    pub fn gsi(gsi: u32, level: bool) -> Result<Self, Errno> {
        let number = i32::try_from(gsi).map_err(|_| Errno::EINVAL)?;
        let setup = physdev::SetupGsi {
            gsi: number,
            triggering: u8::from(level),
            polarity: u8::from(level),
            ..physdev::SetupGsi::default()
        };
        stub::physdev_setup_gsi(hv(), &setup)?;
        let mut map = MapPirq {
            domid: DomainId::SELF,
            kind: physdev::pirq_type::GSI,
            index: number,
            pirq: number,
            ..MapPirq::default()
        };
        stub::physdev_map_pirq(hv(), &mut map)?;
        Self::bind(map.pirq, level)
    }

    fn bind(pirq: i32, level: bool) -> Result<Self, Errno> {
        let pirq = u32::try_from(pirq).map_err(|_| Errno::EINVAL)?;
        let port = events::bind_pirq(Pirq::new(pirq))?;
        Ok(Self { port, pirq, level })
    }

    /// The event channel that fires.
    pub fn port(&self) -> Port {
        self.port
    }

    /// The device has been served: a level-triggered line may signal again.
    pub fn end(&self) {
        if self.level {
            let _ = stub::physdev_eoi(hv(), &physdev::Eoi { irq: self.pirq });
        }
    }
}
