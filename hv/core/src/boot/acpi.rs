//! The ACPI tables that a guest finds: the processors that it has, and that there is nothing else.
//!
//! RSDP, XSDT, a FADT that says "hardware-reduced", a MADT with the local APICs, and a DSDT with the processors' devices
//! (ACPI 6.5, sections 5.2.5 to 5.2.12). A processor's number there is that of the virtual CPU, as guests take it from
//! the MADT. They lie in the last pages below 4 GiB of a guest's memory, which its memory map marks.

use crate::apic::{PAGE, apic_id};
use crate::hw::PAGE_BYTES;
use acpi_tables::aml::{Device, Name, Path, Scope};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::madt::{EnabledStatus, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use alloc::format;
use alloc::vec::Vec;
use pv_abi::ids::{GuestPhys, VcpuId};

/// The bytes set aside for the tables: whole pages, enough for the most virtual CPUs that a domain can have.
pub const BYTES: u64 = 2 * PAGE_BYTES;

const OEM: [u8; 6] = *b"XENLTH";
const TABLE: [u8; 8] = *b"XENOLITH";
const REVISION: u32 = 1;
/// The length of a table's header; in the DSDT the code follows.
const HEADER: u32 = 36;

/// IAPC_BOOT_ARCH: no VGA, no message-signalled interrupts, no CMOS clock (ACPI 6.5, table 5.11).
const BOOT_ARCH: u16 = 1 << 2 | 1 << 3 | 1 << 5;

/// Makes the tables that go to `at`, a page's start, with the RSDP first.
pub fn tables(at: GuestPhys, vcpus: u32) -> Vec<u8> {
    let mut bytes = alloc::vec![0; Rsdp::len().next_multiple_of(8)];
    let mut put = |table: &dyn Aml| {
        let place = at.raw() + bytes.len() as u64;
        table.to_aml_bytes(&mut bytes);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        place
    };
    let dsdt = put(&dsdt(vcpus));
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    let fadt = fadt
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::HwReducedAcpi);
    let fadt = put(&fadt.finalize());
    let madt = put(&madt(vcpus));
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = put(&xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    bytes.iter_mut().zip(rsdp).for_each(|(to, from)| *to = from);
    bytes
}

fn madt(vcpus: u32) -> MADT {
    let address = u32::try_from(PAGE).unwrap_or_default();
    let mut madt = MADT::new(OEM, TABLE, REVISION, LocalInterruptController::Address(address));
    for vcpu in 0..vcpus {
        // More than these numbers can say are not allowed to a domain.
        let numbers = u8::try_from(vcpu).ok().zip(u8::try_from(apic_id(VcpuId::new(vcpu))).ok());
        if let Some((uid, id)) = numbers {
            madt.add_structure(ProcessorLocalApic::new(uid, id, EnabledStatus::Enabled));
        }
    }
    madt
}

fn dsdt(vcpus: u32) -> Sdt {
    let processors: Vec<_> = (0..vcpus).map(Processor).collect();
    let children = processors.iter().map(|processor| processor as &dyn Aml).collect();
    let mut code = Vec::new();
    Scope::new(Path::new("_SB_"), children).to_aml_bytes(&mut code);
    let mut dsdt = Sdt::new(*b"DSDT", HEADER, 2, OEM, TABLE, REVISION);
    dsdt.append_slice(&code);
    dsdt
}

/// The device of a processor (ACPI 6.5, section 8.4).
struct Processor(u32);

impl Aml for Processor {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let kind = Name::new(Path::new("_HID"), &"ACPI0007");
        let number = Name::new(Path::new("_UID"), &self.0);
        let name = format!("C{:03X}", self.0);
        Device::new(Path::new(&name), alloc::vec![&kind, &number]).to_aml_bytes(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pv_abi::manifest::VCPUS_MAX;

    const AT: u64 = 0xbfff_e000;

    /// The table at an address, checked: its signature, length and sum.
    fn table<'a>(bytes: &'a [u8], address: u64, signature: &[u8]) -> &'a [u8] {
        let at = usize::try_from(address - AT).unwrap();
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap());
        let table = &bytes[at..at + length as usize];
        assert_eq!(&table[..4], signature);
        assert_eq!(table.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)), 0);
        table
    }

    fn word64(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn a_guest_finds_its_processors() {
        let bytes = tables(GuestPhys::new(AT), 3);
        assert_eq!(&bytes[..8], b"RSD PTR ");
        assert_eq!(bytes[..20].iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)), 0);
        assert_eq!(bytes[..36].iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)), 0);
        let xsdt = table(&bytes, word64(&bytes, 24), b"XSDT");
        assert_eq!(xsdt.len(), 36 + 16);
        let fadt = table(&bytes, word64(xsdt, 36), b"FACP");
        let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
        assert_eq!(flags, 1 << 20 | 1 << 5 | 1 << 4 | 1 << 2 | 1, "hardware-reduced, no buttons");
        let dsdt = table(&bytes, word64(fadt, 140), b"DSDT");
        assert_eq!(dsdt.windows(8).filter(|part| part == b"ACPI0007").count(), 3);
        let madt = table(&bytes, word64(xsdt, 44), b"APIC");
        assert_eq!(madt[36..40], 0xfee0_0000_u32.to_le_bytes());
        let entries: Vec<_> = madt[44..].chunks(8).collect();
        assert_eq!(entries, [[0, 8, 0, 0, 1, 0, 0, 0], [0, 8, 1, 1, 1, 0, 0, 0], [0, 8, 2, 2, 1, 0, 0, 0]]);
    }

    #[test]
    fn the_tables_of_the_largest_domain_fit() {
        assert!(tables(GuestPhys::new(AT), VCPUS_MAX).len() as u64 <= BYTES);
    }
}
