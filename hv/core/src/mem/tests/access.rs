//! Tests of guest pointers.

use crate::hw::{Order, PhysMemory};
use crate::mem::fixture::Fixture;
use crate::mem::{DomainMemory, Linear, Mode, Paging, Physical, Trails};
use crate::testing::PlainFormat;
use pv_abi::Errno;
use pv_abi::ids::{Gfn, GuestPhys, GuestVirt};
use std::vec;

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const NX: u64 = 1 << 63;

const CR0: u64 = 1 << 31 | 1 << 16 | 1;
const PAE: u64 = 1 << 5;
const PSE: u64 = 1 << 4;
const LMA: u64 = 1 << 10;

/// A domain with 4 MiB of memory from 0, and room to write page tables into it.
struct Guest {
    fixture: Fixture,
    map: DomainMemory<PlainFormat>,
}

impl Guest {
    fn new() -> Self {
        let fixture = Fixture::new(4096);
        let mut map = fixture.domain(1, 2048);
        map.populate(fixture.ram(), Gfn::new(0), Order::new(9).unwrap()).unwrap();
        map.populate(fixture.ram(), Gfn::new(512), Order::new(9).unwrap()).unwrap();
        Self { fixture, map }
    }

    fn set(&self, at: u64, value: u64) {
        Physical::new(&self.map, &self.fixture.memory).write_value(GuestPhys::new(at), &value).unwrap();
    }

    fn set32(&self, at: u64, value: u32) {
        Physical::new(&self.map, &self.fixture.memory).write_value(GuestPhys::new(at), &value).unwrap();
    }

    fn get(&self, at: u64) -> u64 {
        Physical::new(&self.map, &self.fixture.memory).read_value(GuestPhys::new(at)).unwrap()
    }

    fn linear(&self, cr0: u64, cr4: u64, efer: u64) -> Linear<'_, PlainFormat, crate::testing::VecMemory> {
        let trails = std::boxed::Box::leak(std::boxed::Box::default());
        Linear::new(&self.map, &self.fixture.memory, Paging::new(cr0, 0x1000, cr4, efer), trails)
    }

    fn long(&self) -> Linear<'_, PlainFormat, crate::testing::VecMemory> {
        self.linear(CR0, PAE, LMA)
    }

    /// Long-mode tables: 0x40_0000_0000 (entry 0, 256 GiB in) and so on lead through 0x2000 and 0x3000.
    fn long_tables(&self) {
        self.set(0x1000, 0x2000 | P | W | U);
        self.set(0x1ff8, 0x2000 | P | W);
        self.set(0x2000, 0x3000 | P | W);
        self.set(0x2008, PS | P | W); // 1 GiB at 1 GiB -> 0
        self.set(0x3000, 0x4000 | P | W);
        self.set(0x3008, 0x20_0000 | PS | P | W | NX); // 2 MiB at 2 MiB -> 2 MiB
        for page in 0..512 {
            self.set(0x4000 + 8 * page, (0x10_0000 + 0x1000 * page) | P | W);
        }
    }

    fn end(self) {
        self.fixture.tear_down(self.map);
    }
}

fn va(raw: u64) -> GuestVirt {
    GuestVirt::new(raw)
}

#[test]
fn the_mode_is_read_from_the_control_registers() {
    let mode = |cr0, cr4, efer| Paging::new(cr0, 0, cr4, efer).mode();
    assert_eq!(mode(1, PAE, LMA), Mode::Off);
    assert_eq!(mode(CR0, 0, 0), Mode::Bits32 { large: false });
    assert_eq!(mode(CR0, PSE, 0), Mode::Bits32 { large: true });
    assert_eq!(mode(CR0, PAE | PSE, 0), Mode::Pae);
    assert_eq!(mode(CR0, PAE, LMA), Mode::Long);
    assert_eq!(mode(CR0, PAE | 1 << 12, LMA), Mode::Unsupported);
}

#[test]
fn long_mode_pages_of_every_size() {
    let guest = Guest::new();
    guest.long_tables();
    guest.set(0x10_3010, 0x1111);
    guest.set(0x20_1238, 0x2222);
    guest.set(0x12_3450, 0x3333);
    let mut linear = guest.long();
    assert_eq!(linear.read(va(0x3010)), Ok(0x1111_u64), "4 KiB");
    assert_eq!(linear.read(va(0x20_1238)), Ok(0x2222_u64), "2 MiB");
    assert_eq!(linear.read(va(0x4012_3450)), Ok(0x3333_u64), "1 GiB");
    assert_eq!(linear.read(va(0xffff_ff80_0000_3010)), Ok(0x1111_u64), "the upper half");
    linear.write(va(0x20_1240), &0x4444_u64).unwrap();
    assert_eq!(guest.get(0x20_1240), 0x4444);
    guest.end();
}

#[test]
fn pointers_to_nothing_are_faults() {
    let guest = Guest::new();
    guest.long_tables();
    guest.set(0x3010, 0x7fff_f000 | P | W); // a table beyond the memory
    guest.set(0x3018, 0x5000 | P | W);
    guest.set(0x5000, 0x8000_0000 | P | W); // a page beyond the memory
    guest.set(0x2ff8, 0x3000); // not present
    guest.set(0x1800, PS | P | W); // a leaf in the root
    let mut linear = guest.long();
    for bad in [
        0x40_0000,             // its table is nowhere
        0x60_0000,             // its page is nowhere
        0x80_0000,             // no entry
        0x7f_c000_0000,        // an entry that is not present
        0x80_0000_0000,        // nothing in the root
        0x0000_8000_0000_0000, // not canonical
        0xffff_7fff_ffff_f000, // not canonical
        0xffff_8000_0000_0000, // a leaf where none can be
        u64::MAX - 3,          // wraps
    ] {
        assert_eq!(linear.read::<u64>(va(bad)), Err(Errno::EFAULT), "{bad:#x}");
        assert_eq!(linear.write(va(bad), &0_u64), Err(Errno::EFAULT), "{bad:#x}");
    }
    guest.end();
}

#[test]
fn a_table_in_device_memory_is_a_fault() {
    let mut guest = Guest::new();
    guest.map.map_device(guest.fixture.ram(), Gfn::new(0x8000), crate::hw::Mfn::new(0x10_0000), 1).unwrap();
    guest.long_tables();
    guest.set(0x3010, 0x800_0000 | P | W);
    guest.set(0x4000, 0x800_0000 | P | W);
    assert_eq!(guest.long().read::<u64>(va(0x40_0000)), Err(Errno::EFAULT));
    assert_eq!(guest.long().read::<u64>(va(0)), Err(Errno::EFAULT));
    guest.end();
}

#[test]
fn write_protection_counts_at_every_level_and_as_cr0_says() {
    let guest = Guest::new();
    guest.long_tables();
    guest.set(0x4000, 0x10_0000 | P);
    assert_eq!(guest.long().read::<u64>(va(0)), Ok(0));
    assert_eq!(guest.long().write(va(0), &1_u64), Err(Errno::EFAULT));
    assert_eq!(guest.linear(CR0 & !(1 << 16), PAE, LMA).write(va(0), &7_u64), Ok(()));
    assert_eq!(guest.get(0x10_0000), 7);
    guest.set(0x3000, 0x4000 | P);
    assert_eq!(guest.long().write(va(0x1000), &1_u64), Err(Errno::EFAULT), "a table that may not be written");
    guest.set(0x3000, 0x4000 | P | W);
    guest.set(0x1000, 0x2000 | P);
    assert_eq!(guest.long().write(va(0x1000), &1_u64), Err(Errno::EFAULT), "the root's entry");
    guest.set(0x1000, 0x2000 | P | W);
    let mut linear = guest.long();
    assert_eq!(linear.read::<u64>(va(0)), Ok(7));
    assert_eq!(linear.write(va(0), &1_u64), Err(Errno::EFAULT), "also after a read of the same page");
    guest.end();
}

#[test]
fn the_final_entry_is_marked_as_the_hardware_would() {
    let guest = Guest::new();
    guest.long_tables();
    guest.long().read::<u64>(va(0x5000)).unwrap();
    assert_eq!(guest.get(0x4000 + 5 * 8) & (A | D), A);
    guest.long().write(va(0x6000), &1_u64).unwrap();
    assert_eq!(guest.get(0x4000 + 6 * 8) & (A | D), A | D);
    let mut linear = guest.long();
    linear.read::<u64>(va(0x7000)).unwrap();
    linear.write(va(0x7000), &1_u64).unwrap();
    assert_eq!(guest.get(0x4000 + 7 * 8) & (A | D), A | D, "a write after a read of the same page");
    guest.set(0x4000 + 8 * 8, 0x10_8000 | P);
    assert!(guest.long().write(va(0x8000), &1_u64).is_err());
    assert_eq!(guest.get(0x4000 + 8 * 8) & D, 0, "a write that fails marks nothing");
    guest.end();
}

#[test]
fn ranges_cross_pages_that_are_not_neighbours() {
    let guest = Guest::new();
    guest.long_tables();
    guest.set(0x4000 + 8, 0x18_0000 | P | W);
    let bytes: vec::Vec<u8> = (0..10_000).map(|n| (n % 251) as u8).collect();
    let mut linear = guest.long();
    linear.write_bytes(va(0x800), &bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    linear.read_bytes(va(0x800), &mut back).unwrap();
    assert_eq!(back, bytes);
    let second = guest.map.translate(&guest.fixture.memory, Gfn::new(0x180)).unwrap().mfn;
    assert_eq!(guest.fixture.memory.bytes(second.base(), 4), bytes[0x800..0x804]);
    guest.set(0x4000 + 16, 0);
    let mut linear = guest.long();
    assert_eq!(linear.read_bytes(va(0x800), &mut back), Err(Errno::EFAULT), "the third page is gone");
    assert_eq!(linear.read_bytes(va(0x800), &mut back[..0x1800]), Ok(()));
    assert_eq!(linear.read_bytes(va(0xdead_beef_0000_0000), &mut []), Ok(()), "nothing is nowhere");
    guest.end();
}

#[test]
fn the_end_of_the_address_space_is_not_followed_by_its_start() {
    let guest = Guest::new();
    guest.long_tables();
    guest.set(0x1ff8, 0x2000 | P | W);
    guest.set(0x2ff8, 0x3000 | P | W);
    guest.set(0x3ff8, 0x4000 | P | W);
    let mut linear = guest.long();
    let mut two = [0; 2];
    assert_eq!(linear.read_bytes(va(u64::MAX), &mut two[..1]), Ok(()));
    assert_eq!(linear.read_bytes(va(u64::MAX), &mut two), Err(Errno::EFAULT));
    assert_eq!(linear.check_write(va(u64::MAX), 1), Ok(()));
    assert_eq!(linear.check_write(va(u64::MAX), 2), Err(Errno::EFAULT));
    guest.end();
}

#[test]
fn elements_of_arrays() {
    let guest = Guest::new();
    guest.long_tables();
    let mut linear = guest.long();
    linear.write_slice(va(0x0ffc), 0, &[1_u32, 2, 3, 4]).unwrap();
    linear.write_element(va(0x0ffc), 2, &33_u32).unwrap();
    assert_eq!(linear.read_element::<u32>(va(0x0ffc), 1), Ok(2));
    let mut three = [0_u32; 3];
    linear.read_slice(va(0x0ffc), 1, &mut three).unwrap();
    assert_eq!(three, [2, 33, 4]);
    assert_eq!(linear.read_element::<u64>(va(8), u64::MAX / 8), Err(Errno::EFAULT));
    assert_eq!(linear.read_element::<u64>(va(8), u64::MAX / 2), Err(Errno::EFAULT));
    assert_eq!(linear.read_element::<u64>(va(u64::MAX - 7), 1), Err(Errno::EFAULT));
    guest.end();
}

#[test]
fn a_buffer_can_be_checked_before_it_is_needed() {
    let guest = Guest::new();
    guest.long_tables();
    guest.set(0x4000 + 8 * 3, 0x10_3000 | P);
    let mut linear = guest.long();
    assert_eq!(linear.check_write(va(0x1000), 0x2000), Ok(()));
    assert_eq!(linear.check_write(va(0x1000), 0x2001), Err(Errno::EFAULT));
    assert_eq!(linear.check_write(va(0xdead_0000_0000_0000), 0), Ok(()));
    assert_eq!(linear.check_write(va(0x1000), u64::MAX), Err(Errno::E2BIG));
    guest.end();
}

#[test]
fn without_paging_addresses_are_physical_and_short() {
    let guest = Guest::new();
    guest.set(0x12_3458, 0x55);
    let mut linear = guest.linear(1, 0, 0);
    assert_eq!(linear.read(va(0x12_3458)), Ok(0x55_u64));
    assert_eq!(linear.read::<u64>(va(0x1_0012_3458)), Err(Errno::EFAULT));
    assert_eq!(linear.read::<u64>(va(0x40_0000)), Err(Errno::EFAULT));
    guest.end();
}

#[test]
fn three_levels_with_large_pages() {
    let guest = Guest::new();
    guest.set(0x1018, 0x3000 | P); // the last GiB
    guest.set(0x3000, 0x4000 | P | W);
    guest.set(0x3008, 0x20_0000 | PS | P | W);
    guest.set(0x4000, 0x10_0000 | P | W);
    guest.set(0x10_0008, 0x1111);
    guest.set(0x20_0008, 0x2222);
    let mut linear = guest.linear(CR0, PAE, 0);
    assert_eq!(linear.read(va(0xc000_0008)), Ok(0x1111_u64));
    assert_eq!(linear.read(va(0xc020_0008)), Ok(0x2222_u64));
    assert_eq!(linear.write(va(0xc000_0008), &1_u64), Ok(()));
    assert_eq!(linear.read::<u64>(va(8)), Err(Errno::EFAULT), "an upper entry that is not present");
    assert_eq!(linear.read::<u64>(va(0x1_c000_0008)), Err(Errno::EFAULT));
    guest.end();
}

#[test]
fn two_levels_with_large_pages() {
    let guest = Guest::new();
    guest.set32(0x1000, 0x2000 | 7);
    guest.set32(0x1004, 0x83); // 4 MiB at 4 MiB -> 0
    guest.set32(0x1008, 0x81); // the same, read-only
    guest.set32(0x2000 + 4 * 5, 0x10_0000 | 3);
    guest.set32(0x2000 + 4 * 6, 0x10_0000 | 1);
    guest.set(0x10_0008, 0x1111);
    let mut linear = guest.linear(CR0, PSE, 0);
    assert_eq!(linear.read(va(0x5008)), Ok(0x1111_u64));
    assert_eq!(linear.read(va(0x50_0008)), Ok(0x1111_u64));
    assert_eq!(linear.write(va(0x5008), &2_u64), Ok(()));
    assert_eq!(linear.write(va(0x50_0008), &3_u64), Ok(()));
    assert_eq!(linear.write(va(0x6008), &4_u64), Err(Errno::EFAULT));
    assert_eq!(linear.write(va(0x90_0008), &4_u64), Err(Errno::EFAULT));
    assert_eq!(linear.read(va(0x90_0008)), Ok(3_u64));
    assert_eq!(linear.read::<u64>(va(0x7000)), Err(Errno::EFAULT));
    assert_eq!(guest.get(0x2000 + 4 * 5) & (A | D), A | D);
    assert_eq!(guest.get(0x2000 + 4 * 6) & D, 0);
    assert_eq!(
        guest.linear(CR0, 0, 0).read::<u64>(va(0x50_0008)),
        Err(Errno::EFAULT),
        "no large pages without PSE"
    );
    guest.end();
}

#[test]
fn memory_that_a_grant_gives_read_only_is_not_written() {
    let mut guest = Guest::new();
    let ram = guest.fixture.ram();
    let mut granter = guest.fixture.domain(2, 16);
    granter.populate(ram, Gfn::new(0), Order::PAGE).unwrap();
    let page = granter.pin(ram, Gfn::new(0)).unwrap();
    guest.map.map_foreign(ram, Gfn::new(0x500), &page, crate::hw::Rights::READ).unwrap();
    guest.long_tables();
    guest.set(0x4000, 0x50_0000 | P | W);
    assert_eq!(guest.long().read::<u64>(va(0)), Ok(0));
    assert_eq!(guest.long().write(va(0), &1_u64), Err(Errno::EFAULT));
    // Page tables in such memory are read, and not marked.
    guest.fixture.memory.write(page.base(), &(0x10_0000 | P | W).to_le_bytes());
    guest.set(0x3000, 0x50_0000 | P | W);
    assert_eq!(guest.long().read::<u64>(va(0)), Ok(0));
    assert_eq!(guest.fixture.memory.bytes(page.base(), 8), (0x10_0000 | P | W).to_le_bytes());
    let flush = guest.map.unmap_foreign(&guest.fixture.memory, Gfn::new(0x500), &page).unwrap();
    let _ = flush.perform(|_| ());
    granter.account().put(ram, page);
    guest.fixture.tear_down(granter);
    guest.end();
}

/// What a look at guest memory found: a page of the machine, or nothing.
type Found = Result<Option<u64>, Errno>;

/// Looks for the page at `gva` with these trails; the first word of the page says which it is.
fn look(guest: &Guest, root: u64, gva: u64, write: bool, trails: &mut Trails) -> Found {
    let paging = Paging::new(CR0, root, PAE, LMA);
    let mut linear = Linear::new(&guest.map, &guest.fixture.memory, paging, trails);
    if write { linear.check_write(va(gva), 8).map(|()| None) } else { linear.read(va(gva)).map(Some) }
}

#[test]
fn a_trail_leads_where_a_walk_leads_whatever_the_guest_changes() {
    let guest = Guest::new();
    guest.long_tables();
    for page in 0..64 {
        guest.set(0x10_0000 + 0x1000 * page, 0x1111 * page);
    }
    // A second root, a third-level table and a leaf table, to switch entries to.
    guest.set(0x5000, 0x2000 | P | W);
    guest.set(0x6000, 0x7000 | P | W);
    guest.set(0x7000, 0x8000 | P | W);
    for page in 0..512 {
        guest.set(0x8000 + 8 * page, (0x12_0000 + 0x1000 * (page % 32)) | P | W);
    }
    let mut trails = Trails::default();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let changes = [
        (0x1000, [0x2000 | P | W, 0x6000 | P | W, 0x2000 | P]),
        (0x2000, [0x3000 | P | W, 0x7000 | P | W, 0]),
        (0x3000, [0x4000 | P | W, 0x8000 | P | W, PS | P | W]),
        (0x4008, [0x10_1000 | P | W, 0x10_2000 | P, 0]),
        (0x4010, [0x10_2000 | P | W | A, 0x10_5000 | P | W, 0x50_0000 | P | W]),
    ];
    let (mut same, mut failed) = (0, 0);
    for _ in 0..20_000 {
        if next(4) == 0 {
            let (at, values) = changes[next(changes.len() as u64) as usize];
            guest.set(at, values[next(3) as usize]);
        }
        let (root, gva, write) =
            ([0x1000, 0x5000][usize::from(next(16) == 0)], next(12) * 0x1000, next(2) == 0);
        let found = look(&guest, root, gva, write, &mut trails);
        assert_eq!(found, look(&guest, root, gva, write, &mut Trails::default()), "{gva:#x} write {write}");
        same += usize::from(found.is_ok());
        failed += usize::from(found.is_err());
    }
    assert!(same > 1000 && failed > 1000, "{same} found, {failed} not");
    guest.end();
}

#[test]
fn a_trail_marks_entries_as_a_walk_does() {
    let guest = Guest::new();
    guest.long_tables();
    let mut trails = Trails::default();
    let leaf = || guest.get(0x4018) & (A | D);
    look(&guest, 0x1000, 0x3000, false, &mut trails).unwrap();
    assert_eq!(leaf(), A);
    look(&guest, 0x1000, 0x3000, true, &mut trails).unwrap();
    assert_eq!(leaf(), A | D);
    // Taken back by the guest: marked again.
    guest.set(0x4018, 0x10_3000 | P | W);
    look(&guest, 0x1000, 0x3000, false, &mut trails).unwrap();
    assert_eq!(leaf(), A);
    look(&guest, 0x1000, 0x3000, true, &mut trails).unwrap();
    assert_eq!(leaf(), A | D);
    guest.end();
}

#[test]
fn trails_end_when_a_place_is_emptied() {
    let fixture = Fixture::new(256);
    let ram = fixture.ram();
    let domain = spin::RwLock::new(fixture.domain(1, 16));
    domain.write().populate(ram, Gfn::new(1), Order::PAGE).unwrap();
    let mut trails = Trails::default();
    let mut read = || {
        let map = domain.read();
        let paging = Paging::new(0, 0, 0, 0);
        Linear::new(&map, &fixture.memory, paging, &mut trails).read::<u64>(va(0x1000))
    };
    assert_eq!(read(), Ok(0));
    let before = domain.read().translate(&fixture.memory, Gfn::new(1)).unwrap().mfn;
    assert_eq!(crate::mem::op::decrease(ram, &domain, Order::PAGE, &[Gfn::new(1)], |_| ()), 1);
    assert_eq!(read(), Err(Errno::EFAULT), "the place is empty");
    let other = ram.alloc_at(before, 1).unwrap();
    fixture.memory.write(before.base(), &[0x77; 8]);
    domain.write().populate(ram, Gfn::new(1), Order::PAGE).unwrap();
    assert_eq!(read(), Ok(0), "not what is in the frame that it had");
    ram.free(other);
    fixture.tear_down(domain.into_inner());
}
