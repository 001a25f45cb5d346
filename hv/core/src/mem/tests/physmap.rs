//! Tests of the physmap and of the memory operations on it.

use crate::grant::{GrantLimits, GrantTable};
use crate::hw::{CachePolicy, Mfn, Order, PageSize, Pages, PhysMemory, Rights};
use crate::mem::fixture::Fixture;
use crate::mem::frame::{FrameState, NO_GFN};
use crate::mem::npt::GFN_END;
use crate::mem::op::{self, Specials};
use crate::mem::{DomainMemory, Flush, Occupant, PhysmapConfig};
use crate::testing::PlainFormat;
use pv_abi::Errno;
use pv_abi::ids::{DomainId, Gfn};
use pv_abi::memory::space;
use spin::RwLock;
use std::vec::Vec;

const OWNER: DomainId = DomainId::new(1);

fn order(raw: u8) -> Order {
    Order::new(raw).unwrap()
}

fn gfn(raw: u64) -> Gfn {
    Gfn::new(raw)
}

#[test]
fn populated_memory_is_zeroed_owned_and_counted() {
    let fixture = Fixture::new(4096);
    let mut domain = fixture.domain(1, 1024);
    domain.populate(fixture.ram(), gfn(0x200), order(9)).unwrap();
    domain.populate(fixture.ram(), gfn(5), order(0)).unwrap();
    assert_eq!(domain.account().total(), Pages::new(513));
    assert_eq!(domain.highest(), gfn(0x3ff));
    let mapping = domain.translate(&fixture.memory, gfn(0x200)).unwrap();
    assert_eq!((mapping.size, mapping.rights), (PageSize::M2, Rights::ALL));
    let last = domain.translate(&fixture.memory, gfn(0x3ff)).unwrap().mfn;
    assert_eq!(fixture.ram().gfn_of(last), gfn(0x3ff));
    assert_eq!(fixture.ram().state(last), FrameState::Guest(OWNER));
    assert_eq!(fixture.memory.bytes(last.base(), 4096), [0; 4096]);
    fixture.tear_down(domain);
    assert_eq!(fixture.free(), fixture.frames.total().raw());
    fixture.check();
}

#[test]
fn refusals_change_nothing() {
    let fixture = Fixture::new(2048);
    let mut domain = fixture.domain(1, 600);
    domain.populate(fixture.ram(), gfn(0x200), order(9)).unwrap();
    let before = fixture.census();
    let mut populate = |at, raw| domain.populate(fixture.ram(), gfn(at), order(raw));
    assert_eq!(populate(0x3ff, 0), Err(Errno::EBUSY));
    assert_eq!(populate(0x1ff, 1), Err(Errno::EBUSY));
    assert_eq!(populate(0x400, 9), Err(Errno::ENOMEM), "over its quota");
    assert_eq!(populate(GFN_END.raw(), 0), Err(Errno::EINVAL));
    assert_eq!(populate(GFN_END.raw() - 1, 1), Err(Errno::EINVAL));
    assert_eq!(populate(u64::MAX, 0), Err(Errno::EINVAL));
    assert_eq!(domain.account().total(), Pages::new(512));
    assert_eq!(fixture.census(), before);
    fixture.tear_down(domain);
}

#[test]
fn a_machine_without_memory_says_so() {
    let fixture = Fixture::new(512);
    let mut domain = fixture.domain(1, 1 << 20);
    let mut next = gfn(0);
    assert_eq!(domain.fill(fixture.ram(), &mut next, gfn(1 << 20), u64::MAX), Err(Errno::ENOMEM));
    assert_eq!(domain.account().total().raw(), next.raw(), "what it got is counted");
    assert!(next.raw() > 400);
    fixture.check();
    fixture.tear_down(domain);
    assert_eq!(fixture.free(), fixture.frames.total().raw());
}

#[test]
fn filling_goes_on_where_it_stopped_and_uses_large_pages() {
    let fixture = Fixture::new(4096);
    let mut domain = fixture.domain(1, 4096);
    let mut next = gfn(1);
    let mut calls = 0;
    while !domain.fill(fixture.ram(), &mut next, gfn(0x600), 256).unwrap() {
        calls += 1;
    }
    assert_eq!(calls, 2, "511 pages, 512, and the last 512");
    assert_eq!(domain.account().total(), Pages::new(0x5ff));
    let size = |at| domain.translate(&fixture.memory, gfn(at)).map(|mapping| mapping.size);
    assert_eq!(
        [0, 1, 0x200, 0x5ff, 0x600].map(size),
        [None, Some(PageSize::K4), Some(PageSize::M2), Some(PageSize::M2), None]
    );
    fixture.tear_down(domain);
}

#[test]
fn a_one_to_one_domain_has_its_memory_where_the_machine_has_it() {
    let fixture = Fixture::new(4096);
    let config =
        PhysmapConfig { owner: OWNER, maximum: Pages::new(2048), largest: PageSize::G1, one_to_one: true };
    let mut domain = DomainMemory::<PlainFormat>::new(fixture.ram(), config).unwrap();
    let frames = fixture.ram().alloc_contiguous(1024, order(9)).unwrap();
    let first = frames.mfn();
    domain.adopt(fixture.ram(), frames, gfn(first.raw())).unwrap();
    let mapping = domain.translate(&fixture.memory, gfn(first.raw() + 700)).unwrap();
    assert_eq!((mapping.mfn, mapping.size), (Mfn::new(first.raw() + 700), PageSize::M2));
    // What it gives back it gets back at the same frame, or not at all.
    let lock = RwLock::new(domain);
    let place = gfn(first.raw() + 3);
    assert_eq!(op::decrease(fixture.ram(), &lock, order(0), &[place], |_| ()), 1);
    let stolen = fixture.ram().alloc_at(Mfn::new(place.raw()), 1).unwrap();
    assert_eq!(op::populate(fixture.ram(), &lock, order(0), &[place]), 0);
    fixture.ram().free(stolen);
    assert_eq!(op::populate(fixture.ram(), &lock, order(0), &[place]), 1);
    assert_eq!(lock.read().translate(&fixture.memory, place).unwrap().mfn.raw(), place.raw());
    fixture.tear_down(lock.into_inner());
    assert_eq!(fixture.free(), fixture.frames.total().raw());
}

#[test]
fn pages_given_back_are_free_only_after_the_flush() {
    let fixture = Fixture::new(4096);
    let mut domain = fixture.domain(1, 4096);
    domain.populate(fixture.ram(), gfn(0x200), order(9)).unwrap();
    let generation = domain.generation().clone();
    let lock = RwLock::new(domain);
    let (before, seen) = (fixture.free(), generation.now());
    let mut kicks = Vec::new();
    let extents: Vec<Gfn> = [0x210, 0x212, 0x3ff].map(gfn).into();
    let done = op::decrease(fixture.ram(), &lock, order(0), &extents, |target| {
        assert!(lock.try_write().is_some(), "no lock is held while CPUs are waited for");
        assert!(fixture.free() <= before, "nothing is free before the flush");
        kicks.push(target);
    });
    assert_eq!(done, 3);
    assert_eq!(kicks.len(), 1, "one flush for the batch");
    assert!(kicks[0] > seen && kicks[0] == generation.now());
    let domain = lock.into_inner();
    assert_eq!(domain.account().total(), Pages::new(509));
    // One table was needed to split the large page.
    assert_eq!(fixture.free(), before + 3 - 1);
    assert_eq!(domain.translate(&fixture.memory, gfn(0x210)), None);
    assert!(domain.translate(&fixture.memory, gfn(0x211)).is_some());
    fixture.tear_down(domain);
    fixture.check();
}

#[test]
fn an_extent_in_many_pieces_is_taken_whole() {
    let fixture = &Fixture::new(4096);
    let mut domain = fixture.domain(1, 4096);
    // Every other frame of the machine is somebody else's, so that no two of the domain's frames touch.
    let take =
        |from: u64| (0..512).map(move |at| fixture.ram().alloc_at(Mfn::new(from + 2 * at), 1).unwrap());
    let (own, wall): (Vec<_>, Vec<_>) = take(2048).zip(take(2049)).unzip();
    for (at, frame) in own.into_iter().enumerate() {
        domain.adopt(fixture.ram(), frame, gfn(0x400 + at as u64)).unwrap();
    }
    let lock = RwLock::new(domain);
    let mut kicks = 0;
    let extents = [gfn(0x400), gfn(0x600)];
    assert_eq!(op::decrease(fixture.ram(), &lock, order(9), &extents, |_| kicks += 1), 1);
    assert_eq!(kicks, 512 / crate::mem::BATCH);
    assert_eq!(lock.read().account().total(), Pages::new(0));
    wall.into_iter().for_each(|frames| fixture.ram().free(frames));
    fixture.tear_down(lock.into_inner());
    assert_eq!(fixture.free(), fixture.frames.total().raw());
}

#[test]
fn only_own_memory_can_be_given_back() {
    let fixture = Fixture::new(4096);
    let ram = fixture.ram();
    let mut granter = fixture.domain(2, 16);
    granter.populate(ram, gfn(0), order(0)).unwrap();
    let page = granter.pin(ram, gfn(0)).unwrap();
    let mut domain = fixture.domain(1, 16);
    domain.populate(ram, gfn(1), order(0)).unwrap();
    domain.map_foreign(ram, gfn(2), &page, Rights::READ).unwrap();
    domain.map_device(ram, gfn(3), Mfn::new(0x10_0000), 1).unwrap();
    assert_eq!(domain.map_device(ram, gfn(4), page.mfn(), 1), Err(Errno::EPERM), "memory is no device");
    assert!(matches!(domain.occupant(ram, gfn(1)), Occupant::Own(_)));
    assert!(matches!(domain.occupant(ram, gfn(2)), Occupant::Foreign(_)));
    assert!(matches!(domain.occupant(ram, gfn(3)), Occupant::Device(_)));
    let lock = RwLock::new(domain);
    for at in [0, 2, 3, 4, GFN_END.raw(), u64::MAX] {
        assert_eq!(op::decrease(ram, &lock, order(0), &[gfn(at)], |_| panic!("no flush")), 0, "{at:#x}");
    }
    assert_eq!(op::decrease(ram, &lock, order(1), &[gfn(1)], |_| panic!("no flush")), 0, "not half of it");
    for at in [2, 3] {
        assert_eq!(op::remove_from_physmap(ram, &lock, gfn(at), |_| panic!("no flush")), Err(Errno::EBUSY));
    }
    assert_eq!(op::remove_from_physmap(ram, &lock, gfn(9), |_| panic!("no flush")), Err(Errno::ENOENT));
    let mut kicked = false;
    assert_eq!(op::remove_from_physmap(ram, &lock, gfn(1), |_| kicked = true), Ok(()));
    assert!(kicked);
    let mut domain = lock.into_inner();
    let flush = domain.unmap_foreign(&fixture.memory, gfn(2), &page).unwrap();
    assert!(flush.is_needed());
    let _ = flush.perform(|_| ());
    granter.account().put(ram, page);
    fixture.tear_down(domain);
    fixture.tear_down(granter);
    assert_eq!(fixture.free(), fixture.frames.total().raw());
}

#[test]
fn a_second_place_of_an_own_frame_is_foreign() {
    let fixture = Fixture::new(256);
    let ram = fixture.ram();
    let mut domain = fixture.domain(1, 16);
    domain.populate(ram, gfn(1), order(0)).unwrap();
    let page = domain.pin(ram, gfn(1)).unwrap();
    domain.map_foreign(ram, gfn(2), &page, Rights::READ_WRITE).unwrap();
    assert!(matches!(domain.occupant(ram, gfn(2)), Occupant::Foreign(_)));
    let account = domain.account().clone();
    let mut next = gfn(0);
    while !domain.tear_down(ram, &mut next, 8) {}
    assert_eq!(account.total(), Pages::new(1), "in quarantine it still counts");
    account.put(ram, page);
    assert_eq!(account.total(), Pages::new(0));
    domain.free_root(ram);
    assert_eq!(fixture.free(), fixture.frames.total().raw());
}

#[test]
fn special_pages_move_and_displace_memory() {
    let fixture = Fixture::new(256);
    let ram = fixture.ram();
    let mut domain = fixture.domain(1, 16);
    domain.populate(ram, gfn(4), order(2)).unwrap();
    let grants =
        GrantTable::new(ram, OWNER, domain.account().clone(), GrantLimits { frames: 2, mappings: 4 })
            .unwrap();
    let shared_info = ram.as_shared(ram.alloc_zeroed().unwrap(), OWNER);
    let foreign_info = ram.as_shared(ram.alloc_zeroed().unwrap(), DomainId::new(2));
    let lock = RwLock::new(domain);
    let specials = Specials { shared_info: &shared_info, grants: &grants };
    let add =
        |map_space, idx, at| op::add_to_physmap(ram, &lock, &specials, (map_space, idx), gfn(at), |_| ());
    assert_eq!(add(space::SHARED_INFO, 0, 4), Ok(()));
    assert_eq!(lock.read().account().total(), Pages::new(3), "the page that was there is free");
    assert_eq!(ram.gfn_of(shared_info.mfn()), gfn(4));
    assert_eq!(add(space::SHARED_INFO, 0, 9), Ok(()));
    assert!(matches!(lock.read().occupant(ram, gfn(9)), Occupant::Special(_)));
    assert_eq!(lock.read().occupant(ram, gfn(4)), Occupant::Nothing, "it is at one place");
    assert_eq!(add(space::SHARED_INFO, 0, 9), Ok(()));
    assert_eq!(add(space::SHARED_INFO, 1, 10), Err(Errno::EINVAL));
    assert_eq!(grants.frame_gfn(ram, 1), None);
    assert_eq!(add(space::GRANT_TABLE, 1, 10), Ok(()));
    assert_eq!((grants.frames(), grants.frame_gfn(ram, 1)), (2, Some(gfn(10))));
    assert_eq!(grants.frame_gfn(ram, 0), Some(NO_GFN));
    assert_eq!(add(space::GRANT_TABLE, 2, 11), Err(Errno::EINVAL));
    assert_eq!(add(space::GRANT_TABLE, 0x8000_0000, 11), Err(Errno::EINVAL), "no status frames");
    assert_eq!(add(space::GMFN, 5, 12), Ok(()));
    assert_eq!(lock.read().occupant(ram, gfn(5)), Occupant::Nothing);
    assert!(matches!(lock.read().occupant(ram, gfn(12)), Occupant::Own(_)));
    assert_eq!(add(space::GMFN, 12, 12), Ok(()));
    assert_eq!(add(space::GMFN, 9, 13), Err(Errno::EINVAL), "not memory");
    assert_eq!(add(space::GMFN, 12, GFN_END.raw()), Err(Errno::EINVAL));
    assert!(matches!(lock.read().occupant(ram, gfn(12)), Occupant::Own(_)));
    assert_eq!(add(space::GMFN_FOREIGN, 0, 13), Err(Errno::EPERM));
    assert_eq!(add(77, 0, 13), Err(Errno::ENOSYS));
    let wrong = Specials { shared_info: &foreign_info, grants: &grants };
    let other = op::add_to_physmap(ram, &lock, &wrong, (space::SHARED_INFO, 0), gfn(13), |_| ());
    assert_eq!(other, Err(Errno::EINVAL), "another domain's page");
    fixture.check();
    fixture.tear_down(lock.into_inner());
    assert_eq!(ram.gfn_of(shared_info.mfn()), NO_GFN);
    grants.close();
    grants.free_frames(ram);
    ram.free_shared(shared_info);
    ram.free_shared(foreign_info);
    assert_eq!(fixture.free(), fixture.frames.total().raw());
}

#[test]
fn orders_beyond_a_large_page_are_for_nobody() {
    assert_eq!(op::extent_order(9), Ok(order(9)));
    assert_eq!(op::extent_order(10), Err(Errno::EPERM));
    assert_eq!(op::extent_order(19), Err(Errno::EINVAL));
    assert_eq!(op::extent_order(u32::MAX), Err(Errno::EINVAL));
}

#[test]
fn a_flush_owed_twice_is_performed_once_for_the_later() {
    let fixture = Fixture::new(64);
    let domain = fixture.domain(1, 1);
    let (first, second) = (domain.generation().advance(), domain.generation().advance());
    let mut targets = Vec::new();
    let _ = Flush::NONE.and(second).and(first).perform(|target| targets.push(target));
    assert_eq!(targets, [domain.generation().now()]);
    let _ = Flush::NONE.perform(|_| panic!("nothing is owed"));
    fixture.tear_down(domain);
}

#[test]
fn device_memory_is_mapped_in_large_pages_where_nothing_is() {
    let fixture = Fixture::new(64);
    let ram = fixture.ram();
    let mut domain = fixture.domain(1, 16);
    domain.map_device(ram, gfn(0x400), Mfn::new(0x10_0000), 0x200).unwrap();
    let mapping = domain.translate(&fixture.memory, gfn(0x400)).unwrap();
    assert_eq!((mapping.size, mapping.cache), (PageSize::M2, CachePolicy::Device));
    assert!(domain.pin(ram, gfn(0x400)).is_err());
    assert_eq!(domain.map_device(ram, gfn(0x3ff), Mfn::new(0x20_0000), 2), Err(Errno::EBUSY));
    assert!(domain.translate(&fixture.memory, gfn(0x3ff)).is_none());
    fixture.tear_down(domain);
}

#[test]
fn the_machine_may_be_read_back_through_the_physmap() {
    let fixture = Fixture::new(64);
    let mut domain = fixture.domain(1, 16);
    domain.populate(fixture.ram(), gfn(7), order(0)).unwrap();
    let mfn = domain.translate(&fixture.memory, gfn(7)).unwrap().mfn;
    fixture.memory.write(mfn.at(16), b"stone");
    let mut physical = crate::mem::Physical::new(&domain, &fixture.memory);
    let mut into = [0; 5];
    physical.read(pv_abi::ids::GuestPhys::new(0x7010), &mut into).unwrap();
    assert_eq!(&into, b"stone");
    fixture.tear_down(domain);
}
