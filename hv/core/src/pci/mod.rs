//! PCI: the functions of the machine, which domain has which, and how far it may reach into their configuration.
//!
//! A domain sees the functions that its configuration lists, at their places, and bridges, which it cannot change. It
//! reaches configuration space through the ports 0xcf8 and 0xcfc only; what it writes there is filtered by
//! [`filter`]. Memory that a function decodes is found at boot and mapped where the machine has it; the pages of MSI-X
//! tables are left out, because whoever writes them sends interrupts as he likes: [`interrupt`] writes them.
//!
//! Locks: the pair of configuration ports and each function's state are leaves; the list of a domain's interrupts comes
//! before them. References: PCI Local Bus Specification 3.0, sections 6.1 to 6.8.

pub mod config;
mod filter;
mod function;
pub mod interrupt;
mod scan;

pub use function::{Bar, BarKind, Function, Msix};
pub use interrupt::{LineTable, Pirqs};
pub use pv_abi::manifest::PciAddress;

use crate::domain::{Domain, Roles};
use crate::hw::{HostPhys, IoExit, Mfn, PAGE_BYTES, Platform};
use crate::mem::{DomainMemory, Ram};
use crate::system::System;
use alloc::sync::Arc;
use alloc::vec::Vec;
use config::ConfigPorts;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use pv_abi::ids::{DomainId, Gfn};
use pv_abi::manifest::{DomainConfig, Manifest};

/// The port of the address of a configuration register.
pub const ADDRESS_PORT: u16 = 0xcf8;
/// The first of four ports of the register itself.
pub const DATA_PORT: u16 = 0xcfc;

/// Why a domain cannot have a function, in a sentence that follows its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the sentences below say it
pub enum AssignError {
    NoRole,
    NoSuchFunction(PciAddress),
    Taken(PciAddress, DomainId),
    Bridge(PciAddress),
}

impl fmt::Display for AssignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRole => f.write_str("lists PCI functions but has not the role `driver`"),
            Self::NoSuchFunction(address) => {
                write!(f, "lists the PCI function {address}, which this machine has not")
            }
            Self::Taken(address, owner) => write!(f, "lists the PCI function {address}, which {owner} has"),
            Self::Bridge(address) => write!(f, "lists the PCI function {address}, which is a bridge"),
        }
    }
}

/// The PCI functions of the machine. Found once, at boot; the list never changes.
#[derive(Default)]
pub struct Pci {
    ports: ConfigPorts,
    functions: Vec<Arc<Function>>,
}

impl Pci {
    /// Looks for the machine's functions.
    pub fn scan<P: Platform>(platform: &P) -> Self {
        let ports = ConfigPorts::default();
        let functions = scan::scan(platform, &ports).into_iter().map(Arc::new).collect();
        Self { ports, functions }
    }

    /// All functions in the order of their addresses.
    pub fn functions(&self) -> &[Arc<Function>] {
        &self.functions
    }

    /// The function at an address.
    pub fn function(&self, address: PciAddress) -> Option<&Arc<Function>> {
        self.functions.iter().find(|function| function.address == address)
    }

    /// Configuration space of the machine.
    pub fn config<'a, P: Platform>(&'a self, platform: &'a P) -> config::Config<'a, P> {
        config::Config::new(platform, &self.ports)
    }

    /// Chooses the functions that a domain's configuration lists, and makes `owner` theirs: all or none.
    pub fn assign(
        &self,
        config: &DomainConfig<'_>,
        manifest: &Manifest<'_>,
        owner: DomainId,
    ) -> Result<Vec<Arc<Function>>, AssignError> {
        let mut chosen = Vec::new();
        if config.pci.is_all() {
            let named = |address| {
                let mut others = manifest.domains().filter(|other| other.name != config.name);
                others.any(|other| other.pci.iter().any(|listed| listed == address))
            };
            let free =
                self.functions.iter().filter(|function| !function.is_bridge() && function.owner().is_none());
            chosen.extend(free.filter(|function| !named(function.address)).cloned());
        } else {
            for address in config.pci.iter() {
                let function = self.function(address).ok_or(AssignError::NoSuchFunction(address))?;
                if function.is_bridge() {
                    return Err(AssignError::Bridge(address));
                }
                chosen.push(function.clone());
            }
        }
        if !chosen.is_empty() && !config.roles.contains(Roles::DRIVER) {
            return Err(AssignError::NoRole);
        }
        for (index, function) in chosen.iter().enumerate() {
            if let Err(other) = function.take(owner) {
                chosen.iter().take(index).for_each(|taken| taken.give_up());
                return Err(AssignError::Taken(function.address, other));
            }
        }
        Ok(chosen)
    }
}

/// What a domain has of PCI.
#[derive(Default)]
pub struct DomainPci {
    functions: Vec<Arc<Function>>,
    /// What the domain last wrote to [`ADDRESS_PORT`].
    address: AtomicU32,
    /// Its interrupts.
    pub pirqs: Pirqs,
}

impl DomainPci {
    /// What a domain with these functions has.
    pub fn new(functions: Vec<Arc<Function>>) -> Self {
        Self { functions, ..Self::default() }
    }

    /// The domain's functions.
    pub fn functions(&self) -> &[Arc<Function>] {
        &self.functions
    }

    /// The ranges of I/O ports that the domain uses without exit: first and count.
    pub fn ports(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.functions.iter().flat_map(|function| function.ports())
    }

    /// Whether the domain may bind a line of an I/O interrupt controller.
    fn may_use_line(&self, gsi: u32) -> bool {
        self.functions.iter().any(|function| function.uses_line(gsi))
    }
}

/// Maps what the functions decode into their owner's memory, where the machine has it.
pub fn map_registers<P: Platform>(
    system: &System<P>,
    memory: &mut DomainMemory<crate::domain::Format<P>>,
    functions: &[Arc<Function>],
) -> pv_abi::errno::Result<()> {
    let owned = |address| functions.iter().any(|function| function.address == address);
    for function in functions {
        let msix = function.msix.map(|msix| pages(msix.table, u64::from(msix.entries) * 16));
        for bar in function.bars.iter().flatten().filter(|bar| bar.is_memory()) {
            let (first, end) = pages(HostPhys::new(bar.base), bar.bytes);
            let shared = system.pci.functions.iter().filter(|other| !owned(other.address)).any(|other| {
                other.bars.iter().flatten().filter(|bar| bar.is_memory()).any(|theirs| {
                    let (start, stop) = pages(HostPhys::new(theirs.base), theirs.bytes);
                    start < end && first < stop
                })
            });
            if shared {
                log::warn!(
                    "{}: registers share a page with another function and are not mapped",
                    function.address
                );
                continue;
            }
            for frame in first..end {
                let in_table = msix.is_some_and(|(start, stop)| (start..stop).contains(&frame));
                if !in_table {
                    map_page(system.ram(), memory, frame)?;
                }
            }
        }
    }
    Ok(())
}

fn map_page<F: crate::hw::EntryFormat, M: crate::hw::PhysMemory>(
    ram: Ram<'_, M>,
    memory: &mut DomainMemory<F>,
    frame: u64,
) -> pv_abi::errno::Result<()> {
    match memory.map_device(ram, Gfn::new(frame), Mfn::new(frame), 1) {
        // Two BARs smaller than a page share it.
        Err(pv_abi::errno::Errno::EBUSY) => Ok(()),
        result => result,
    }
}

/// The first frame and the frame after the last of a range.
const fn pages(start: HostPhys, bytes: u64) -> (u64, u64) {
    (start.raw() / PAGE_BYTES, start.raw().saturating_add(bytes).div_ceil(PAGE_BYTES))
}

/// An access of a domain to the ports of configuration space: what it reads. `None` if these ports are not meant, or
/// the domain has no functions.
pub fn access<P: Platform>(system: &System<P>, domain: &Domain<P>, io: IoExit, value: u32) -> Option<u32> {
    let pci = &domain.pci;
    if pci.functions.is_empty() || io.string {
        return None;
    }
    let past = io.port.checked_add(u16::from(io.bytes))?;
    if io.port == ADDRESS_PORT && io.bytes == 4 {
        if io.write {
            pci.address.store(value, Ordering::Relaxed);
        }
        return Some(pci.address.load(Ordering::Relaxed));
    }
    if io.port < DATA_PORT || past > DATA_PORT + 4 {
        return None;
    }
    let address = pci.address.load(Ordering::Relaxed);
    let register = config::Register::decode(address, io.port - DATA_PORT, io.bytes)?;
    let function = system.pci.function(register.function);
    let owned = function.is_some_and(|function| function.owner() == Some(domain.id));
    match function {
        Some(function) if owned && io.write => filter::write(system, function, register, value),
        Some(function) if !io.write && (owned || function.is_bridge()) => {
            return Some(filter::read(system, function, register));
        }
        _ => {}
    }
    Some(config::all_ones(io.bytes))
}

/// An access of a domain to the MSI-X table of one of its functions, which is not mapped: it may read what is there.
/// `None` if there is no table.
pub fn table_access<P: Platform>(
    system: &System<P>,
    domain: &Domain<P>,
    at: HostPhys,
    bytes: u8,
    write: Option<u64>,
) -> Option<u64> {
    let inside = |function: &&Arc<Function>| {
        function.msix.is_some_and(|msix| {
            let (first, end) = pages(msix.table, u64::from(msix.entries) * 16);
            (first..end).contains(&at.mfn().raw())
        })
    };
    domain.pci.functions.iter().find(inside)?;
    if write.is_some() || !matches!(bytes, 4 | 8) {
        return Some(u64::MAX);
    }
    let word = |at: HostPhys| u64::from(system.platform.register_read(at));
    let low = word(at);
    Some(if bytes == 8 { low | word(at.checked_add(4)?) << 32 } else { low })
}

/// Takes a domain's functions and interrupts back: the functions neither move data nor interrupt any more.
pub fn release<P: Platform>(system: &System<P>, domain: &Domain<P>) {
    interrupt::release_all(system, domain);
    for function in &domain.pci.functions {
        filter::quiesce(system, function);
        function.give_up();
    }
}

#[cfg(test)]
mod tests;
