//! What the ACPI tables tell of the machine: CPUs, I/O APICs, clocks, how it is powered off. The `acpi` crate
//! reads the tables.

use alloc::vec::Vec;
use core::ptr::NonNull;

use acpi::fadt::Fadt;
use acpi::handler::{AcpiHandler, PhysicalMapping};
use acpi::madt::{Madt, MadtEntry};
use acpi::{AcpiError, AcpiTables, HpetInfo};
use hv_core::hw::{ApicId, Gsi, Polarity, Trigger};

use super::s5;
use crate::boot::AcpiRoot;
use crate::paging;

/// An I/O APIC.
#[derive(Clone, Copy, Debug)]
pub struct IoApicEntry {
    /// Physical address of its registers.
    pub address: u64,
    /// The global system interrupt of its first input.
    pub first: u32,
}

/// Where an interrupt of the ISA bus arrives, if it is not the input of the same number, edge-triggered and
/// active high.
#[derive(Clone, Copy, Debug)]
pub struct Override {
    /// The ISA interrupt.
    pub irq: u8,
    /// Its global system interrupt.
    pub gsi: Gsi,
    /// Its trigger.
    pub trigger: Trigger,
    /// Its polarity.
    pub polarity: Polarity,
}

/// How to power off: registers PM1a and PM1b control (0 for none), and their sleep types.
#[derive(Clone, Copy, Debug, Default)]
pub struct SoftOff {
    /// The port of PM1a control.
    pub pm1a: u16,
    /// The port of PM1b control, or 0.
    pub pm1b: u16,
    /// SLP_TYP for PM1a.
    pub type_a: u8,
    /// SLP_TYP for PM1b.
    pub type_b: u8,
}

/// What the tables tell.
#[derive(Debug, Default)]
pub struct Tables {
    /// The local APICs of usable CPUs.
    pub apics: Vec<ApicId>,
    /// The I/O APICs.
    pub io_apics: Vec<IoApicEntry>,
    /// The overrides of ISA interrupts.
    pub overrides: Vec<Override>,
    /// The HPET's registers.
    pub hpet: Option<u64>,
    /// The port of the power-management timer.
    pub pm_timer: Option<u16>,
    /// How to power off.
    pub soft_off: Option<SoftOff>,
    /// The reset register, a port, and the value to write.
    pub reset: Option<(u16, u8)>,
}

impl Tables {
    /// Where an ISA interrupt arrives, and how.
    pub fn isa(&self, irq: u8) -> (Gsi, Trigger, Polarity) {
        self.overrides
            .iter()
            .find(|o| o.irq == irq)
            .map_or((Gsi::new(irq.into()), Trigger::Edge, Polarity::High), |o| (o.gsi, o.trigger, o.polarity))
    }
}

/// Maps tables where the crate wants to read them.
#[derive(Clone, Copy)]
struct Mapper;

impl AcpiHandler for Mapper {
    unsafe fn map_physical_region<T>(&self, address: usize, size: usize) -> PhysicalMapping<Self, T> {
        let pointer = paging::map_table(address as u64, size as u64).cast_mut().cast::<T>();
        let pointer = NonNull::new(pointer).expect("the window does not begin at 0");
        // SAFETY: the mapping is `size` bytes long and stays for ever.
        unsafe { PhysicalMapping::new(address, pointer, size, size, *self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

fn describe(error: &AcpiError) -> &'static str {
    match error {
        AcpiError::NoValidRsdp => "the ACPI tables are not found",
        AcpiError::TableMissing(_) => "the ACPI tables have no MADT, which lists the CPUs",
        _ => "the ACPI tables are malformed",
    }
}

/// Reads the tables.
pub fn read(root: AcpiRoot) -> Result<Tables, &'static str> {
    read_all(root).map_err(|error| describe(&error))
}

fn read_all(root: AcpiRoot) -> Result<Tables, AcpiError> {
    // SAFETY: the addresses come from the boot loader, or, on a BIOS, from its ROM area, where the crate
    // checks what it finds.
    let acpi = unsafe {
        match root {
            AcpiRoot::Rsdp(address) => AcpiTables::from_rsdp(Mapper, address as usize),
            AcpiRoot::Table { revision, address } => {
                AcpiTables::from_rsdt(Mapper, revision, address as usize)
            }
            AcpiRoot::Search => AcpiTables::search_for_rsdp_bios(Mapper),
        }
    }?;
    let mut tables = Tables::default();
    read_madt(&acpi, &mut tables)?;
    if let Ok(fadt) = acpi.find_table::<Fadt>() {
        read_fadt(&fadt, &mut tables);
        if let (Some(soft_off), Ok(dsdt)) = (&mut tables.soft_off, acpi.dsdt()) {
            let bytes = paging::map_table(dsdt.address as u64, dsdt.length.into());
            // SAFETY: the mapping is `length` bytes long, and nobody writes to the table.
            let aml = unsafe { core::slice::from_raw_parts(bytes, dsdt.length as usize) };
            match s5::sleep_types(aml) {
                Some((a, b)) => (soft_off.type_a, soft_off.type_b) = (a, b),
                None => tables.soft_off = None,
            }
        }
    }
    tables.hpet = HpetInfo::new(&acpi).ok().map(|info| info.base_address as u64);
    Ok(tables)
}

fn read_madt(acpi: &AcpiTables<Mapper>, tables: &mut Tables) -> Result<(), AcpiError> {
    let madt = acpi.find_table::<Madt>()?;
    for entry in madt.get().entries() {
        match entry {
            // Flags: bit 0 is "enabled"; a CPU that could only be plugged in later is left out.
            MadtEntry::LocalApic(cpu) if cpu.flags & 1 != 0 => {
                tables.apics.push(ApicId::new(cpu.apic_id.into()))
            }
            MadtEntry::LocalX2Apic(cpu) if cpu.flags & 1 != 0 => {
                let id = cpu.x2apic_id;
                tables.apics.push(ApicId::new(id));
            }
            MadtEntry::IoApic(apic) => tables.io_apics.push(IoApicEntry {
                address: apic.io_apic_address.into(),
                first: apic.global_system_interrupt_base,
            }),
            MadtEntry::InterruptSourceOverride(entry) => {
                let flags = entry.flags;
                // Bits 0-1 polarity (3 is low), bits 2-3 trigger (3 is level); 0 is the bus's own, which is
                // high and edge.
                tables.overrides.push(Override {
                    irq: entry.irq,
                    gsi: Gsi::new(entry.global_system_interrupt),
                    trigger: if flags >> 2 & 3 == 3 { Trigger::Level } else { Trigger::Edge },
                    polarity: if flags & 3 == 3 { Polarity::Low } else { Polarity::High },
                });
            }
            _ => {}
        }
    }
    Ok(())
}

fn read_fadt(fadt: &Fadt, tables: &mut Tables) {
    use acpi::address::{AddressSpace, GenericAddress};

    let port = |address: GenericAddress| {
        (address.address_space == AddressSpace::SystemIo)
            .then(|| u16::try_from(address.address).ok())
            .flatten()
            .filter(|port| *port != 0)
    };
    tables.pm_timer = fadt.pm_timer_block().ok().flatten().and_then(port);
    if let Some(pm1a) = fadt.pm1a_control_block().ok().and_then(port) {
        let pm1b = fadt.pm1b_control_block().ok().flatten().and_then(port).unwrap_or(0);
        tables.soft_off = Some(SoftOff { pm1a, pm1b, type_a: 0, type_b: 0 });
    }
    let flags = fadt.flags;
    if flags.supports_system_reset_via_fadt()
        && let Some(port) = fadt.reset_register().ok().and_then(port)
    {
        tables.reset = Some((port, fadt.reset_value));
    }
}
