use super::*;
use crate::build;
use crate::domain::{Progress, destroy};
use crate::hw::{CpuId, HostEvent, LineId};
use crate::testing::{Route, TestMachine, section, system};
use pv_abi::errno::Errno;
use pv_abi::ids::Pirq;
use pv_abi::physdev::{IrqStatus, MapPirq, pirq_type};
use std::string::ToString;

const DISK: PciAddress = PciAddress { segment: 0, bus: 0, device: 3, function: 0 };
const NET: PciAddress = PciAddress { segment: 0, bus: 1, device: 0, function: 0 };
const CPU: CpuId = CpuId::new(0);

fn at(function: PciAddress, offset: u32) -> u32 {
    u32::from(function.bus) << 16 | u32::from(function.devfn()) << 8 | offset
}

/// A host bridge, a bridge to bus 1, a disk with ports, an MSI-X table of 4 entries and registers above 4 GiB, and a
/// network card with MSI behind the bridge.
fn machine() -> TestMachine {
    let machine = TestMachine::new(64 << 8);
    {
        let mut space = machine.pci.lock().unwrap();
        let mut set = |function, offset, value: u32, writable: u32| {
            space.registers.insert(at(function, offset), value);
            space.writable.insert(at(function, offset), writable);
        };
        let host = PciAddress { segment: 0, bus: 0, device: 0, function: 0 };
        set(host, 0, 0x29c0_8086, 0);
        set(host, 8, 0x0600_0000, 0);
        set(host, 0xc, 0, 0);
        let bridge = PciAddress { device: 1, ..host };
        set(bridge, 0, 0x000c_1b36, 0);
        set(bridge, 8, 0x0604_0000, 0);
        set(bridge, 0xc, 0x0001_0000, 0);
        set(bridge, 0x18, 0x0001_0100, !0);
        set(DISK, 0, 0x1042_1af4, 0);
        set(DISK, 4, 0x0010_0007, 0x0000_ffff);
        set(DISK, 8, 0x0100_0001, 0);
        set(DISK, 0xc, 0, 0xff);
        set(DISK, 0x10, 0x0000_c001, 0x0000_ff80);
        set(DISK, 0x14, 0xfebd_1000, 0xffff_f000);
        set(DISK, 0x18, 0, 0);
        set(DISK, 0x1c, 0, 0);
        set(DISK, 0x20, 0x0000_000c, 0xffff_c000);
        set(DISK, 0x24, 0x0000_0080, 0xffff_ffff);
        set(DISK, 0x30, 0xfeb8_0000, 0xfff8_0001);
        set(DISK, 0x34, 0x40, 0);
        set(DISK, 0x3c, 0x0000_010b, 0xff);
        set(DISK, 0x40, 0x0003_5011, 0xc000_0000);
        set(DISK, 0x44, 0x0000_0001, 0);
        set(DISK, 0x48, 0x0000_0801, 0);
        set(DISK, 0x50, 0x0000_6009, !0);
        set(DISK, 0x60, 0x0000_0001, !0);
        set(DISK, 0x64, 0, !0);
        set(NET, 0, 0x100e_8086, 0);
        set(NET, 4, 0x0010_0003, 0x0000_ffff);
        set(NET, 8, 0x0200_0003, 0);
        set(NET, 0xc, 0, 0);
        set(NET, 0x10, 0xfe80_0000, 0xfffe_0000);
        for offset in (0x14..0x28).step_by(4) {
            set(NET, offset, 0, 0);
        }
        set(NET, 0x34, 0x40, 0);
        set(NET, 0x3c, 0x0000_010a, 0xff);
        set(NET, 0x40, 0x0080_7005, 0x0071_0000);
        set(NET, 0x44, 0, !3);
        set(NET, 0x48, 0, !0);
        set(NET, 0x4c, 0, 0xffff);
        set(NET, 0x70, 0x0000_0010, 0);
        set(NET, 0x78, 0, 0xffff);
    }
    machine
}

fn driver(pci: &str) -> (System<TestMachine>, Arc<Domain<TestMachine>>) {
    let system = system(machine(), &section("dom0", "4M", &std::format!("roles = driver\npci = {pci}")));
    let domain = build::create(&system, "dom0", None).unwrap();
    (system, domain)
}

fn end(system: &System<TestMachine>, domain: Arc<Domain<TestMachine>>) {
    while destroy(system, &domain).unwrap() == Progress::Again {}
    drop(domain);
    system.reap();
}

fn io(port: u16, bytes: u8, write: bool) -> IoExit {
    IoExit { port, bytes, write, string: false }
}

fn read(
    system: &System<TestMachine>,
    domain: &Domain<TestMachine>,
    function: PciAddress,
    offset: u32,
    bytes: u8,
) -> u32 {
    let address = 0x8000_0000 | at(function, offset & !3);
    access(system, domain, io(ADDRESS_PORT, 4, true), address).unwrap();
    access(system, domain, io(DATA_PORT + u16::try_from(offset & 3).unwrap(), bytes, false), 0).unwrap()
}

fn write(
    system: &System<TestMachine>,
    domain: &Domain<TestMachine>,
    function: PciAddress,
    offset: u32,
    bytes: u8,
    value: u32,
) {
    let address = 0x8000_0000 | at(function, offset & !3);
    access(system, domain, io(ADDRESS_PORT, 4, true), address).unwrap();
    access(system, domain, io(DATA_PORT + u16::try_from(offset & 3).unwrap(), bytes, true), value).unwrap();
}

fn register(system: &System<TestMachine>, function: PciAddress, offset: u32) -> u32 {
    system.platform.pci.lock().unwrap().registers[&at(function, offset)]
}

#[test]
fn functions_are_found_with_what_they_decode() {
    let machine = machine();
    let before = machine.pci.lock().unwrap().registers.clone();
    let pci = Pci::scan(&machine);
    assert_eq!(pci.functions().len(), 4);
    let disk = pci.function(DISK).unwrap();
    assert_eq!(
        (disk.vendor, disk.device, disk.class, disk.pin, disk.line),
        (0x1af4, 0x1042, 0x01_0000, 1, 11)
    );
    let expected = [
        Some((BarKind::Ports, 0xc000, 0x80)),
        Some((BarKind::Memory32, 0xfebd_1000, 0x1000)),
        None,
        None,
        Some((BarKind::Memory64, 0x80_0000_0000, 0x4000)),
        None,
    ];
    assert_eq!(disk.bars.map(|bar| bar.map(|bar| (bar.kind, bar.base, bar.bytes))), expected);
    assert_eq!(disk.msix, Some(Msix { offset: 0x40, entries: 4, table: HostPhys::new(0xfebd_1000) }));
    assert_eq!(disk.ports().collect::<Vec<_>>(), [(0xc000, 0x80)]);
    let net = pci.function(NET).unwrap();
    assert_eq!(net.msi.map(|msi| (msi.offset, msi.wide, msi.maskable)), Some((0x40, true, false)));
    assert_eq!(machine.pci.lock().unwrap().registers, before, "finding changes nothing");
}

#[test]
fn a_domain_sees_its_functions_and_bridges_only() {
    let (system, domain) = driver("00:03.0");
    assert_eq!(read(&system, &domain, DISK, 0, 4), 0x1042_1af4);
    assert_eq!(read(&system, &domain, DISK, 2, 2), 0x1042);
    assert_eq!(read(&system, &domain, DISK, 0xb, 1), 0x01);
    assert_eq!(read(&system, &domain, NET, 0, 4), u32::MAX);
    let bridge = PciAddress { device: 1, ..DISK };
    assert_eq!(read(&system, &domain, bridge, 0, 4), 0x000c_1b36);
    write(&system, &domain, bridge, 0x18, 4, 0);
    assert_eq!(register(&system, bridge, 0x18), 0x0001_0100);
    write(&system, &domain, NET, 4, 2, 0);
    assert_eq!(register(&system, NET, 4), 0x0010_0003);
    assert_eq!(access(&system, &domain, io(0x60, 1, false), 0), None);
    assert_eq!(access(&system, &domain, io(0xcf9, 1, true), 6), None);
    assert_eq!(access(&system, &domain, io(0xcff, 2, false), 0), None);
    end(&system, domain);
}

#[test]
fn the_header_can_be_changed_only_where_it_is_harmless() {
    let (system, domain) = driver("00:03.0");
    let bars = [0x10, 0x14, 0x20, 0x24, 0x30].map(|offset| register(&system, DISK, offset));
    for offset in [0x10, 0x14, 0x20, 0x24] {
        write(&system, &domain, DISK, offset, 4, u32::MAX);
    }
    assert_eq!(read(&system, &domain, DISK, 0x10, 4), 0xffff_ff81);
    assert_eq!(read(&system, &domain, DISK, 0x14, 4), 0xffff_f000);
    assert_eq!(read(&system, &domain, DISK, 0x20, 4), 0xffff_c00c);
    assert_eq!(read(&system, &domain, DISK, 0x24, 4), 0xffff_ffff);
    for offset in [0x10, 0x14, 0x20, 0x24, 0x30] {
        write(&system, &domain, DISK, offset, 4, 0x1234_5000);
    }
    assert_eq!(read(&system, &domain, DISK, 0x14, 4), 0xfebd_1000);
    assert_eq!(read(&system, &domain, DISK, 0x30, 4), 0);
    assert_eq!([0x10, 0x14, 0x20, 0x24, 0x30].map(|offset| register(&system, DISK, offset)), bars);
    write(&system, &domain, DISK, 4, 4, 0xffff_fffb);
    assert_eq!(register(&system, DISK, 4), 0x0010_0543 & 0xffff_fffb, "allowed bits, and no status");
    write(&system, &domain, DISK, 5, 1, 0);
    assert_eq!(register(&system, DISK, 4) & 0xff00, 0);
    // MSI-X, power management: not the domain's. The vendor's own capability: its own.
    for offset in [0x40, 0x60, 0x64] {
        write(&system, &domain, DISK, offset, 4, u32::MAX);
    }
    write(&system, &domain, DISK, 0x66, 2, u32::MAX);
    assert_eq!([0x40, 0x60, 0x64].map(|offset| register(&system, DISK, offset)), [0x0003_5011, 1, 0]);
    write(&system, &domain, DISK, 0x50, 4, 0x5555_6009);
    assert_eq!(register(&system, DISK, 0x50), 0x5555_6009);
    end(&system, domain);
}

#[test]
fn a_function_is_not_reset_behind_the_hypervisors_back() {
    let (system, domain) = driver("01:00.0");
    write(&system, &domain, NET, 0x78, 2, 0x802f);
    assert_eq!(register(&system, NET, 0x78), 0x002f);
    write(&system, &domain, NET, 0x79, 1, 0x81);
    assert_eq!(register(&system, NET, 0x78), 0x012f);
    end(&system, domain);
}

#[test]
fn registers_are_mapped_but_not_the_table_of_messages() {
    let (system, domain) = driver("all");
    {
        let memory = domain.memory.read();
        let maps =
            |frame: u64| memory.translate(system.memory(), Gfn::new(frame)).map(|there| there.mfn.raw());
        assert_eq!(maps(0x80_0000_0000 >> 12), Some(0x80_0000_0000 >> 12));
        assert_eq!(maps((0x80_0000_0000 >> 12) + 3), Some((0x80_0000_0000 >> 12) + 3));
        assert_eq!(maps((0x80_0000_0000 >> 12) + 4), None);
        assert_eq!(maps(0xfebd1), None);
        assert_eq!(maps(0xfe800), Some(0xfe800));
    }
    assert_eq!(domain.vcpus[0].context.lock().hw.ports, [(0xc000, 0x80)]);
    end(&system, domain);
}

fn message(function: PciAddress, entry: i32, table_base: u64) -> MapPirq {
    MapPirq {
        kind: pirq_type::MSI_SEG,
        index: -1,
        pirq: -1,
        bus: function.bus.into(),
        devfn: function.devfn().into(),
        entry_nr: entry,
        table_base,
        ..MapPirq::default()
    }
}

#[test]
fn a_message_reaches_its_port() {
    let (system, domain) = driver("all");
    let map = |request: &MapPirq| interrupt::map(&system, &domain, request, CPU);
    let pirq = map(&message(DISK, 2, 0xfebd_1000)).unwrap();
    assert_eq!(map(&message(DISK, 2, 0xfebd_1000)), Err(Errno::EEXIST));
    assert_eq!(map(&message(DISK, 4, 0xfebd_1000)), Err(Errno::EINVAL));
    assert_eq!(map(&message(DISK, 0, 0)), Err(Errno::ENODEV), "it has no plain MSI");
    assert_eq!(map(&message(PciAddress { device: 9, ..DISK }, 0, 0)), Err(Errno::ENODEV));
    let record = || system.platform.record.lock().unwrap();
    let entry = |word: u64| record().registers[&HostPhys::new(0xfebd_1020 + 4 * word)];
    assert_eq!([entry(0), entry(1), entry(3)], [0xfee0_0000, 0, 0]);
    assert_eq!(register(&system, DISK, 0x40) >> 30, 0b10, "enabled, not masked");
    let line = LineId::new(0);
    assert_eq!(record().routes[&line], Route::Msi { cpu: CPU });
    assert_eq!(entry(2) & 0xff, u32::from(line.raw()));

    let port = domain.events.bind_pirq(system.memory(), pirq).unwrap();
    interrupt::set_bound(&system, &domain, pirq, true);
    assert!(!domain.events.is_pending(system.memory(), port));
    crate::run::host_event(&system, HostEvent::Line(line));
    assert!(domain.events.is_pending(system.memory(), port));
    assert_eq!(interrupt::status(&domain, pirq), Ok(IrqStatus::empty()));

    interrupt::unmap(&system, &domain, pirq).unwrap();
    assert_eq!(entry(3), 1, "masked");
    assert_eq!(register(&system, DISK, 0x40) >> 30, 0);
    assert!(record().routes.is_empty());
    assert_eq!(interrupt::unmap(&system, &domain, pirq), Err(Errno::EINVAL));
    // A late one finds nobody.
    crate::run::host_event(&system, HostEvent::Line(line));
    end(&system, domain);
}

#[test]
fn plain_messages_are_written_into_the_capability() {
    let (system, domain) = driver("01:00.0");
    let pirq = interrupt::map(&system, &domain, &message(NET, 0, 0), CPU).unwrap();
    assert_eq!(register(&system, NET, 0x44), 0xfee0_0000);
    assert_eq!(register(&system, NET, 0x4c) & 0x4000, 0x4000);
    assert_eq!(register(&system, NET, 0x40) >> 16 & 0x71, 1);
    let denied = interrupt::map(&system, &domain, &message(DISK, 0, 1), CPU);
    assert_eq!(denied, Err(Errno::EPERM));
    interrupt::unmap(&system, &domain, pirq).unwrap();
    assert_eq!(register(&system, NET, 0x40) >> 16 & 1, 0);
    end(&system, domain);
}

#[test]
fn lines_are_masked_until_bound_and_end_when_told() {
    let (system, domain) = driver("all");
    let request = |gsi| MapPirq { kind: pirq_type::GSI, index: gsi, pirq: -1, ..MapPirq::default() };
    assert_eq!(interrupt::map(&system, &domain, &request(4), CPU), Err(Errno::EPERM), "another's line");
    assert_eq!(interrupt::map(&system, &domain, &request(-4), CPU), Err(Errno::EINVAL));
    let pirq = interrupt::map(&system, &domain, &request(11), CPU).unwrap();
    assert_eq!(pirq, Pirq::new(11));
    assert_eq!(interrupt::status(&domain, pirq), Ok(IrqStatus::NEEDS_EOI));
    let line = LineId::new(0);
    let record = || system.platform.record.lock().unwrap();
    assert_eq!(record().masked, [line]);
    domain.events.bind_pirq(system.memory(), pirq).unwrap();
    interrupt::set_bound(&system, &domain, pirq, true);
    assert!(record().masked.is_empty());
    interrupt::end(&system, &domain, pirq).unwrap();
    assert_eq!(record().ended, [line]);
    assert_eq!(interrupt::end(&system, &domain, Pirq::new(12)), Err(Errno::EINVAL));
    end(&system, domain);
    assert!(system.platform.record.lock().unwrap().routes.is_empty());
}

#[test]
fn the_end_of_a_domain_silences_its_functions() {
    let (system, domain) = driver("all");
    interrupt::map(&system, &domain, &message(DISK, 0, 1), CPU).unwrap();
    interrupt::map(&system, &domain, &message(NET, 0, 0), CPU).unwrap();
    assert_eq!(system.pci.function(DISK).unwrap().owner(), Some(domain.id));
    let before = system.frames.free_pages().raw();
    end(&system, domain);
    assert!(system.frames.free_pages().raw() > before);
    assert!(system.platform.record.lock().unwrap().routes.is_empty());
    for function in [DISK, NET] {
        assert_eq!(register(&system, function, 4) & 0x404, 0x400, "no transfers, no pin");
        assert_eq!(system.pci.function(function).unwrap().owner(), None);
    }
    let again = build::create(&system, "dom0", None).unwrap();
    assert_eq!(again.pci.functions().len(), 2);
    end(&system, again);
}

#[test]
fn functions_go_to_one_domain_with_the_role_only() {
    let manifest = [
        section("dom0", "4M", "roles = driver\npci = all"),
        section("net", "4M", "roles = driver\npci = 01:00.0"),
        section("net-2", "4M", "roles = driver\npci = 01:00.0"),
        section("guest", "4M", "pci = 01:00.0"),
        section("bridge", "4M", "roles = driver\npci = 00:01.0"),
    ];
    let system = system(machine(), &manifest.concat());
    let error = |name| build::create(&system, name, None).map(|domain| domain.id).unwrap_err().to_string();
    assert!(error("guest").contains("has not the role `driver`"));
    assert!(error("bridge").contains("is a bridge"));
    let dom0 = build::create(&system, "dom0", None).unwrap();
    assert_eq!(dom0.pci.functions().len(), 1, "another section names the other");
    let net = build::create(&system, "net", None).unwrap();
    assert!(error("net-2").contains(&std::format!("which {} has", net.id)));
    end(&system, net);
    end(&system, dom0);
}
