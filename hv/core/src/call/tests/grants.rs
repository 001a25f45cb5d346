//! Memory and grants.

use super::world::{machine_bytes, machine_page};
use super::*;
use pv_abi::grant::{
    Copy, CopyFlags, CopyPtr, GetVersion, GrantEntry, GrantFlags, GrantStatus, MapFlags, MapGrantRef,
    QuerySize, SetVersion, SetupTable, UnmapGrantRef,
};
use pv_abi::ids::{DomainId, Gfn, GrantRef, GuestPhys};
use pv_abi::memory::{
    AddToPhysmap, AddToPhysmapBatch, DomainArg, E820Entry, MemoryMap, RemoveFromPhysmap, Reservation, space,
};
use pv_abi::{Errno, stub};
use std::vec;
use std::vec::Vec;

/// A place at which no guest of these tests has anything.
const EMPTY: Gfn = Gfn::new(0x80_000);

/// Makes the first frame of a guest's grant table appear, and tells where.
fn table(guest: &Guest<'_>) -> u64 {
    let add = AddToPhysmap {
        domid: DomainId::SELF,
        space: space::GRANT_TABLE,
        idx: 0,
        gpfn: EMPTY,
        ..Default::default()
    };
    stub::memory_add_to_physmap(guest, &add).unwrap();
    EMPTY.base().raw()
}

fn grant(guest: &Guest<'_>, table: u64, gref: u32, to: DomainId, page: Gfn, flags: GrantFlags) {
    let entry = GrantEntry { flags: flags.bits(), domid: to, frame: u32::try_from(page.raw()).unwrap() };
    guest.poke(table + u64::from(gref) * 8, &entry);
}

#[test]
fn bytes_are_copied_and_mapped_between_two_guests() {
    let world = World::new();
    let (a, b) = (world.guest("a"), world.guest("b"));
    let entries = table(&a);
    let (theirs, mine) = (a.page(), b.page());
    a.poke(theirs.base().raw() + 100, &[0x5a_u8; 3000]);
    grant(&a, entries, 9, b.domain.id, theirs, GrantFlags::PERMIT_ACCESS);

    let mut copies = [Copy {
        source: CopyPtr::granted(a.domain.id, GrantRef::new(9), 100),
        dest: CopyPtr::own(mine, 5),
        len: 3000,
        flags: CopyFlags::SOURCE_GREF.bits(),
        ..Default::default()
    }];
    stub::grant_copy(&b, &mut copies).unwrap();
    assert!(copies[0].status.is_okay(), "{}", copies[0].status);
    let bytes: [u8; 3008] = b.peek(mine.base().raw());
    assert!(bytes[..5].iter().all(|byte| *byte == 0) && bytes[5..3005].iter().all(|byte| *byte == 0x5a));
    assert_eq!((b.vcpu.stats.copies.get(), b.vcpu.stats.copied_bytes.get()), (1, 3000));

    let mut maps = [MapGrantRef {
        host_addr: EMPTY.base(),
        flags: MapFlags::HOST_MAP.bits(),
        gref: GrantRef::new(9),
        dom: a.domain.id,
        ..Default::default()
    }];
    stub::grant_map(&b, &mut maps).unwrap();
    assert!(maps[0].status.is_okay(), "{}", maps[0].status);
    assert_eq!(maps[0].dev_bus_addr, machine_page(&a, theirs).base().raw());
    b.poke(EMPTY.base().raw(), b"written by b");
    let mut seen = [0; 12];
    machine_bytes(&a, machine_page(&a, theirs), &mut seen);
    assert_eq!(&seen, b"written by b");
    let busy: GrantEntry = a.peek(entries + 72);
    assert!(GrantFlags::from_bits_retain(busy.flags).is_busy());

    let mut unmaps =
        [UnmapGrantRef { host_addr: EMPTY.base(), handle: maps[0].handle, ..Default::default() }];
    stub::grant_unmap(&b, &mut unmaps).unwrap();
    assert!(unmaps[0].status.is_okay(), "{}", unmaps[0].status);
    stub::grant_unmap(&b, &mut unmaps).unwrap();
    assert_eq!(unmaps[0].status, GrantStatus::BAD_HANDLE);
    let free: GrantEntry = a.peek(entries + 72);
    assert!(!GrantFlags::from_bits_retain(free.flags).is_busy());
    assert_eq!((b.vcpu.stats.maps.get(), b.vcpu.stats.unmaps.get()), (1, 1));
}

#[test]
fn each_element_of_a_long_array_has_its_own_end() {
    let world = World::new();
    let (a, b) = (world.guest("a"), world.guest("b"));
    let entries = table(&a);
    let (theirs, mine) = (a.page(), b.page());
    grant(&a, entries, 20, b.domain.id, theirs, GrantFlags::PERMIT_ACCESS | GrantFlags::READONLY);
    let good = Copy {
        source: CopyPtr::granted(a.domain.id, GrantRef::new(20), 0),
        dest: CopyPtr::own(mine, 0),
        len: 64,
        flags: CopyFlags::SOURCE_GREF.bits(),
        ..Default::default()
    };
    let mut copies = vec![good; 300];
    copies[7].source = CopyPtr::granted(a.domain.id, GrantRef::new(21), 0);
    copies[16].source = CopyPtr::granted(DomainId::new(99), GrantRef::new(20), 0);
    copies[130].len = 4097;
    copies[131].dest.offset = 4095;
    copies[250].source = CopyPtr::granted(a.domain.id, GrantRef::new(u32::MAX), 0);
    copies[299].dest = CopyPtr::own(Gfn::new(1 << 40), 0);
    stub::grant_copy(&b, &mut copies).unwrap();
    let failed: Vec<_> = copies.iter().enumerate().filter(|(_, op)| !op.status.is_okay()).collect();
    assert_eq!(failed.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [7, 16, 130, 131, 250, 299]);
    assert_eq!(copies[16].status, GrantStatus::BAD_DOMAIN);
    assert_eq!(copies[130].status, GrantStatus::BAD_COPY_ARG);
    assert!(b.preemptions.get() >= 2, "a long array lets others run");
    // Writing to what is read-only.
    let mut back = [Copy {
        source: CopyPtr::own(mine, 0),
        dest: CopyPtr::granted(a.domain.id, GrantRef::new(20), 0),
        len: 64,
        flags: CopyFlags::DEST_GREF.bits(),
        ..Default::default()
    }];
    stub::grant_copy(&b, &mut back).unwrap();
    assert!(!back[0].status.is_okay());
    assert_eq!(stub::grant_copy(&b, &mut []), Ok(0));
}

#[test]
fn a_guest_sets_its_grant_table_up() {
    let world = World::new();
    let (a, b) = (world.guest("a"), world.guest("b"));
    let mut query = [QuerySize { dom: DomainId::SELF, ..Default::default() }];
    stub::grant_query_size(&a, &mut query).unwrap();
    assert!(query[0].status.is_okay() && query[0].nr_frames == 1 && query[0].max_nr_frames > 1);
    query[0].dom = b.domain.id;
    stub::grant_query_size(&a, &mut query).unwrap();
    assert_eq!(query[0].status, GrantStatus::PERMISSION_DENIED);

    let at = table(&a) / 4096;
    let list = a.put(&[0u64; 3]);
    let mut setup =
        [SetupTable { dom: DomainId::SELF, nr_frames: 2, frame_list: list, ..Default::default() }];
    stub::grant_setup_table(&a, &mut setup).unwrap();
    assert!(setup[0].status.is_okay());
    assert_eq!(a.peek::<[u64; 3]>(list.raw()), [at, u64::MAX, 0]);
    setup[0].nr_frames = u32::MAX;
    stub::grant_setup_table(&a, &mut setup).unwrap();
    assert_eq!(setup[0].status, GrantStatus::GENERAL_ERROR);
    let mut two = [setup[0]; 2];
    assert_eq!(stub::grant_setup_table(&a, &mut two), Err(Errno::EINVAL));

    assert_eq!(stub::grant_set_version(&a, &mut [SetVersion { version: 1 }]), Ok(0));
    assert_eq!(stub::grant_set_version(&a, &mut [SetVersion { version: 2 }]), Err(Errno::ENOSYS));
    let mut version = [GetVersion { dom: DomainId::SELF, ..Default::default() }];
    stub::grant_get_version(&a, &mut version).unwrap();
    assert_eq!(version[0].version, 1);
}

fn reservation(guest: &Guest<'_>, extents: &[Gfn], order: u32) -> Reservation {
    Reservation {
        extent_start: guest.put(extents),
        nr_extents: extents.len() as u64,
        extent_order: order,
        domid: DomainId::SELF,
        ..Default::default()
    }
}

#[test]
fn a_guest_gives_memory_back_and_takes_it_again() {
    let world = World::new();
    let (dom0, a) = (world.guest("dom0"), world.guest("a"));
    let own = DomainArg { domid: DomainId::SELF };
    let before = stub::memory_current_reservation(&a, &own).unwrap();
    let most = stub::memory_maximum_reservation(&a, &own).unwrap();
    let pages: Vec<Gfn> = (0..40).map(|_| a.page()).collect();
    a.poke(pages[0].base().raw(), &0xdead_u64);
    assert_eq!(stub::memory_decrease(&a, &reservation(&a, &pages, 0)), Ok(40));
    assert_eq!(stub::memory_current_reservation(&a, &own), Ok(before - 40));
    assert_eq!(stub::memory_current_reservation(&dom0, &DomainArg { domid: a.domain.id }), Ok(before - 40));
    // The second is gone already: the call says how far it came.
    let again = [a.page(), pages[0], a.page()];
    assert_eq!(stub::memory_decrease(&a, &reservation(&a, &again, 0)), Ok(1));
    assert_eq!(stub::memory_populate(&a, &reservation(&a, &pages, 0)), Ok(40));
    assert_eq!(a.peek::<u64>(pages[0].base().raw()), 0, "fresh memory is zeroed");
    let left = most - (before - 1);
    let beyond: Vec<Gfn> = (0..left + 5).map(|index| Gfn::new(EMPTY.raw() + index)).collect();
    assert_eq!(stub::memory_populate(&a, &reservation(&a, &beyond, 0)), Ok(left));
    assert_eq!(stub::memory_current_reservation(&a, &own), Ok(most));
    assert!(stub::memory_maximum_gpfn(&a, &own).unwrap() >= EMPTY.raw());
    assert!(stub::memory_maximum_ram_page(&a).unwrap() > 0);
}

#[test]
fn many_extents_are_preempted_and_huge_ones_refused() {
    let world = World::new();
    let a = world.guest("a");
    let pages: Vec<Gfn> = (0..1100).map(|index| Gfn::new(a.base / 4096 + 800 + index)).collect();
    assert_eq!(stub::memory_decrease(&a, &reservation(&a, &pages, 0)), Ok(1100));
    assert!(a.preemptions.get() > 0);
    assert_eq!(stub::memory_populate(&a, &reservation(&a, &pages, 0)), Ok(1100));
    assert_eq!(stub::memory_populate(&a, &reservation(&a, &pages, 10)), Err(Errno::EPERM));
    assert_eq!(stub::memory_populate(&a, &reservation(&a, &pages, 64)), Err(Errno::EINVAL));
    let endless = Reservation { nr_extents: u64::MAX, ..reservation(&a, &pages, 0) };
    assert_eq!(stub::memory_populate(&a, &endless), Err(Errno::E2BIG));
    assert_eq!(stub::memory_increase(&a, &reservation(&a, &pages, 0)), Err(Errno::EOPNOTSUPP));
}

#[test]
fn special_pages_are_put_where_the_guest_wants_them() {
    let world = World::new();
    let (a, b) = (world.guest("a"), world.guest("b"));
    let place = |map_space, idx, gpfn| AddToPhysmap {
        domid: DomainId::SELF,
        space: map_space,
        idx,
        gpfn,
        ..Default::default()
    };
    stub::memory_add_to_physmap(&a, &place(space::SHARED_INFO, 0, EMPTY)).unwrap();
    assert_eq!(machine_page(&a, EMPTY), a.domain.shared_info.mfn());
    let own = a.page();
    a.poke(own.base().raw(), &77u64);
    stub::memory_add_to_physmap(&a, &place(space::GMFN, own.raw(), Gfn::new(0x90_000))).unwrap();
    assert_eq!(a.peek::<u64>(0x9000_0000), 77);
    for (map_space, idx, errno) in [
        (space::SHARED_INFO, 1, Errno::EINVAL),
        (space::GRANT_TABLE, 1 << 20, Errno::EINVAL),
        (space::GMFN, own.raw(), Errno::EINVAL),
        (space::GMFN_FOREIGN, 0, Errno::EPERM),
        (space::DEV_MMIO, 0, Errno::EOPNOTSUPP),
        (99, 0, Errno::ENOSYS),
    ] {
        assert_eq!(stub::memory_add_to_physmap(&a, &place(map_space, idx, EMPTY)), Err(errno));
    }
    let others = AddToPhysmap { domid: b.domain.id, ..place(space::SHARED_INFO, 0, EMPTY) };
    assert_eq!(stub::memory_add_to_physmap(&a, &others), Err(Errno::EPERM));

    let errs = a.put(&[9i32; 3]);
    let batch = AddToPhysmapBatch {
        domid: DomainId::SELF,
        space: u16::try_from(space::GRANT_TABLE).unwrap(),
        size: 3,
        idxs: a.put(&[0u64, 1 << 20, 1]),
        gpfns: a.put(&[0xa0_000u64, 0xa0_001, 0xa0_002]),
        errs,
        ..Default::default()
    };
    stub::memory_add_to_physmap_batch(&a, &batch).unwrap();
    assert_eq!(a.peek::<[i32; 3]>(errs.raw()), [0, -22, 0]);

    let remove = |gpfn| RemoveFromPhysmap { domid: DomainId::SELF, gpfn, ..Default::default() };
    stub::memory_remove_from_physmap(&a, &remove(EMPTY)).unwrap();
    assert_eq!(stub::memory_remove_from_physmap(&a, &remove(EMPTY)), Err(Errno::ENOENT));
}

#[test]
fn the_memory_map_is_cut_to_the_room_there_is() {
    let world = World::new();
    let a = world.guest("a");
    let buffer = a.put(&[0u8; 20 * 16]);
    let mut map = MemoryMap { nr_entries: 16, buffer, ..Default::default() };
    stub::memory_map(&a, &mut map).unwrap();
    let count = a.domain.memory.read().map().len();
    assert!(count >= 2);
    assert_eq!(map.nr_entries as usize, count);
    let first: E820Entry = a.peek(buffer.raw());
    assert_eq!(first, a.domain.memory.read().map()[0]);
    map.nr_entries = 1;
    stub::memory_map(&a, &mut map).unwrap();
    assert_eq!(map.nr_entries, 1);
}

#[test]
fn a_mapping_keeps_nothing_of_a_place_that_is_taken() {
    let world = World::new();
    let (a, b) = (world.guest("a"), world.guest("b"));
    let entries = table(&a);
    grant(&a, entries, 9, b.domain.id, a.page(), GrantFlags::PERMIT_ACCESS);
    let at = |host_addr: GuestPhys| MapGrantRef {
        host_addr,
        flags: MapFlags::HOST_MAP.bits(),
        gref: GrantRef::new(9),
        dom: a.domain.id,
        ..Default::default()
    };
    let mut maps = [at(b.page().base()), at(GuestPhys::new(0x8000_0001)), at(GuestPhys::new(!0xfff))];
    stub::grant_map(&b, &mut maps).unwrap();
    assert!(maps.iter().all(|op| !op.status.is_okay()));
    let entry: GrantEntry = a.peek(entries + 72);
    assert!(!GrantFlags::from_bits_retain(entry.flags).is_busy());
}
