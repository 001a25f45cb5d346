//! Tests of grants, case by case.

use super::world::{MOST_MAPPINGS, PAGES, World, map_op, unmap_op};
use super::{GrantLimits, GrantTable};
use crate::hw::{Mfn, Pages, PhysMemory};
use crate::mem::frame::FrameState;
use crate::mem::op::{self, Specials};
use crate::mem::{Occupant, PageAccount};
use alloc::sync::Arc;
use pv_abi::Errno;
use pv_abi::grant::{Copy, CopyFlags, CopyPtr, GrantFlags, GrantStatus, MapFlags};
use pv_abi::ids::{DomainId, Gfn, GrantHandle, GrantRef, GuestPhys};
use pv_abi::memory::space;
use std::vec::Vec;

const OKAY: GrantStatus = GrantStatus::OKAY;
const PERMIT: GrantFlags = GrantFlags::PERMIT_ACCESS;
const FROM_REF: u16 = CopyFlags::SOURCE_GREF.bits();
const TO_REF: u16 = CopyFlags::DEST_GREF.bits();

fn granted(domain: u16, gref: u32, offset: u16) -> CopyPtr {
    CopyPtr::granted(DomainId::new(domain), GrantRef::new(gref), offset)
}

fn own(gfn: u64, offset: u16) -> CopyPtr {
    CopyPtr::own(Gfn::new(gfn), offset)
}

#[test]
fn a_mapping_shows_the_granters_page() {
    let world = World::new();
    world.grant(1, 9, 2, 5);
    let op = world.map_at(2, (1, 9), 32, true);
    assert_eq!(op.status, OKAY);
    let mfn = world.mfn(1, 5).unwrap();
    assert_eq!(world.mfn(2, 32), Some(mfn));
    assert_eq!(op.dev_bus_addr, mfn.base().raw());
    assert_eq!(world.flags(1, 9), PERMIT | GrantFlags::READING | GrantFlags::WRITING);
    let usage = (world.domain(1).grants.usage(), world.domain(2).grants.usage());
    assert_eq!((usage.0.pinned, usage.1.mappings), (1, 1));
    assert_eq!(world.unmap(2, op.handle, 32), OKAY);
    assert_eq!(world.flags(1, 9), PERMIT);
    assert_eq!(world.mfn(2, 32), None);
    assert_eq!(world.fixture.ram().references(mfn), 0);
    world.end();
}

#[test]
fn a_read_only_grant_is_mapped_read_only() {
    let world = World::new();
    world.set_entry(1, 9, PERMIT | GrantFlags::READONLY, 2, 5);
    assert_eq!(world.map_at(2, (1, 9), 32, true).status, GrantStatus::GENERAL_ERROR);
    assert_eq!(world.flags(1, 9), PERMIT | GrantFlags::READONLY);
    assert_eq!(world.map_at(2, (1, 9), 32, false).status, OKAY);
    assert_eq!(world.flags(1, 9), PERMIT | GrantFlags::READONLY | GrantFlags::READING);
    let domain = world.domain(2);
    let mapping = domain.memory.read().translate(&world.fixture.memory, Gfn::new(32)).unwrap();
    assert!(mapping.rights.read && !mapping.rights.write && !mapping.rights.execute);
    assert_eq!(
        world.map_at(2, (1, 9), 33, true).status,
        GrantStatus::GENERAL_ERROR,
        "nor by a second mapping"
    );
    assert_eq!(world.copy(2, own(0, 0), granted(1, 9, 0), 8, TO_REF), GrantStatus::GENERAL_ERROR);
    drop(domain);
    world.end();
}

#[test]
fn marks_go_with_the_last_of_their_kind() {
    let world = World::new();
    world.grant(1, 9, 2, 5);
    let reader = world.map_at(2, (1, 9), 32, false);
    let writer = world.map_at(2, (1, 9), 33, true);
    assert_eq!((reader.status, writer.status), (OKAY, OKAY));
    assert_eq!(world.unmap(2, writer.handle, 33), OKAY);
    assert_eq!(world.flags(1, 9), PERMIT | GrantFlags::READING);
    assert_eq!(world.unmap(2, reader.handle, 32), OKAY);
    assert_eq!(world.flags(1, 9), PERMIT);
    world.end();
}

#[test]
fn an_entry_rewritten_while_in_use_stays_with_its_user() {
    let world = World::new();
    world.grant(1, 9, 2, 5);
    let mapping = world.map_at(2, (1, 9), 32, false);
    world.set_entry(1, 9, PERMIT | GrantFlags::READING, 3, 6);
    assert_eq!(world.map_at(3, (1, 9), 32, false).status, GrantStatus::BAD_GNTREF);
    assert_eq!(world.map_at(3, (1, 9), 32, true).status, GrantStatus::BAD_GNTREF);
    assert_eq!(world.copy(3, granted(1, 9, 0), own(3, 0), 8, FROM_REF), GrantStatus::BAD_GNTREF);
    let again = world.map_at(2, (1, 9), 33, false);
    assert_eq!(again.status, OKAY);
    assert_eq!(world.mfn(2, 33), world.mfn(1, 5), "the page is the one that it began with");
    assert_eq!((world.unmap(2, mapping.handle, 32), world.unmap(2, again.handle, 33)), (OKAY, OKAY));
    assert_eq!(world.map_at(2, (1, 9), 32, false).status, GrantStatus::GENERAL_ERROR);
    assert_eq!(world.map_at(3, (1, 9), 32, false).status, OKAY);
    assert_eq!(world.mfn(3, 32), world.mfn(1, 6));
    world.end();
}

#[test]
fn bad_references_are_refused_and_leave_no_marks() {
    let world = World::new();
    world.grant(1, 9, 3, 5);
    world.grant(1, 10, 2, 100);
    world.set_entry(1, 11, GrantFlags::ACCEPT_TRANSFER, 2, 5);
    world.grant(1, 12, 2, 5);
    let status = |granter, gref, gfn| world.map_at(2, (granter, gref), gfn, true).status;
    assert_eq!(status(1, 9, 32), GrantStatus::GENERAL_ERROR, "granted to another");
    assert_eq!(status(1, 10, 32), GrantStatus::BAD_PAGE, "no memory there");
    assert_eq!(status(1, 11, 32), GrantStatus::GENERAL_ERROR, "no permission to access");
    assert_eq!(status(1, 8, 32), GrantStatus::GENERAL_ERROR, "an empty entry");
    assert_eq!(status(1, 512, 32), GrantStatus::BAD_GNTREF, "beyond the table");
    assert_eq!(status(1, u32::MAX, 32), GrantStatus::BAD_GNTREF);
    assert_eq!(status(7, 9, 32), GrantStatus::BAD_DOMAIN);
    assert_eq!(status(DomainId::SELF.raw(), 9, 32), GrantStatus::BAD_DOMAIN);
    assert_eq!(status(1, 12, 5), GrantStatus::BAD_VIRT_ADDR, "the place is in use");
    assert_eq!(status(1, 12, 1 << 36), GrantStatus::BAD_VIRT_ADDR, "beyond the address space");
    for gref in 8..13 {
        assert!(!world.flags(1, gref).is_busy(), "{gref}");
    }
    assert_eq!(world.domain(2).grants.usage().mappings, 0);
    assert_eq!(status(1, 12, 32), OKAY);
    world.end();
}

#[test]
fn only_what_a_guest_with_a_physmap_can_have_is_mapped() {
    let world = World::new();
    world.grant(1, 9, 2, 5);
    let status = |flags: MapFlags, address| {
        let op = pv_abi::grant::MapGrantRef {
            flags: flags.bits(),
            host_addr: GuestPhys::new(address),
            ..map_op((1, 9), 32, true)
        };
        world.map(2, op).status
    };
    assert_eq!(status(MapFlags::empty(), 0x2_0000), GrantStatus::BAD_GNTREF);
    assert_eq!(status(MapFlags::READONLY, 0x2_0000), GrantStatus::BAD_GNTREF);
    for odd in [MapFlags::DEVICE_MAP, MapFlags::APPLICATION_MAP, MapFlags::CONTAINS_PTE] {
        assert_eq!(status(MapFlags::HOST_MAP | odd, 0x2_0000), GrantStatus::GENERAL_ERROR);
    }
    assert_eq!(status(MapFlags::DEVICE_MAP, 0x2_0000), GrantStatus::GENERAL_ERROR);
    assert_eq!(status(MapFlags::HOST_MAP, 0x2_0008), GrantStatus::BAD_VIRT_ADDR);
    assert_eq!(status(MapFlags::from_bits_retain(u32::MAX), 0x2_0000), GrantStatus::GENERAL_ERROR);
    assert!(!world.flags(1, 9).is_busy());
    world.end();
}

#[test]
fn only_ordinary_memory_of_the_granters_own_can_be_granted() {
    let world = World::new();
    let ram = world.fixture.ram();
    let granter = world.domain(1);
    // A frame of its grant table, device registers, and a page that it has by a grant itself.
    let shared_info = ram.as_shared(ram.alloc_zeroed().unwrap(), DomainId::new(1));
    let specials = Specials { shared_info: &shared_info, grants: &granter.grants };
    op::add_to_physmap(ram, &granter.memory, &specials, (space::GRANT_TABLE, 0), Gfn::new(40), |_| ())
        .unwrap();
    granter.memory.write().map_device(ram, Gfn::new(41), Mfn::new(0x10_0000), 1).unwrap();
    world.grant(3, 1, 1, 2);
    assert_eq!(world.map_at(1, (3, 1), 42, true).status, OKAY);
    for (gref, gfn) in [(1, 40), (2, 41), (3, 42), (4, u64::from(u32::MAX))] {
        world.grant(1, gref, 2, gfn);
        assert_eq!(world.map_at(2, (1, gref), 50, true).status, GrantStatus::BAD_PAGE, "{gfn}");
        assert_eq!(
            world.copy(2, granted(1, gref, 0), own(0, 0), 8, FROM_REF),
            GrantStatus::BAD_PAGE,
            "{gfn}"
        );
        assert!(!world.flags(1, gref).is_busy());
    }
    drop(granter);
    world.fixture.check();
    ram.free_shared(shared_info);
    world.end();
}

#[test]
fn a_page_given_back_while_mapped_is_not_reused_before_the_mapping_ends() {
    let world = World::new();
    let ram = world.fixture.ram();
    world.grant(1, 9, 2, 5);
    let mapping = world.map_at(2, (1, 9), 32, true);
    let mfn = world.mfn(1, 5).unwrap();
    assert!(world.decrease(1, 5));
    assert_eq!(ram.state(mfn), FrameState::Quarantined(DomainId::new(1)));
    assert_eq!(world.domain(1).memory.read().account().total(), Pages::new(PAGES), "it still counts");
    assert!(!world.populate(1, 5), "the domain is at its limit");
    assert_eq!(world.map_at(2, (1, 9), 33, true).status, GrantStatus::BAD_PAGE, "nothing new begins");
    assert_eq!(world.mfn(2, 32), Some(mfn));
    assert_eq!(world.unmap(2, mapping.handle, 32), OKAY);
    assert!(matches!(ram.state(mfn), FrameState::Free(_) | FrameState::Inner));
    assert!(world.populate(1, 5));
    assert_eq!(world.bytes(1, 5, 0, 4096), [0; 4096]);
    assert_eq!(world.map_at(2, (1, 9), 33, true).status, OKAY);
    world.end();
}

#[test]
fn nobody_learns_that_a_mapping_is_gone_before_the_flush() {
    let world = World::new();
    world.grant(1, 9, 2, 5);
    world.grant(3, 9, 2, 5);
    let (one, two) = (world.map_at(2, (1, 9), 32, true), world.map_at(2, (3, 9), 33, true));
    let mut ops = [unmap_op(one.handle, 32), unmap_op(two.handle, 33), unmap_op(one.handle, 32)];
    let mut kicks = 0;
    world.unmap_all(2, &mut ops, |_| {
        kicks += 1;
        assert!(world.flags(1, 9).is_busy() && world.flags(3, 9).is_busy());
        assert_eq!(world.fixture.ram().references(world.mfn(1, 5).unwrap()), 1);
        assert!(world.domain(2).memory.try_write().is_some(), "no lock is held");
    });
    assert_eq!(ops.map(|op| op.status), [OKAY, OKAY, GrantStatus::BAD_HANDLE]);
    assert_eq!(kicks, 1);
    assert!(!world.flags(1, 9).is_busy() && !world.flags(3, 9).is_busy());
    world.end();
}

#[test]
fn a_mapping_ends_only_as_it_was_made() {
    let world = World::new();
    world.grant(1, 9, 2, 5);
    let mapping = world.map_at(2, (1, 9), 32, true);
    let bad = |op: pv_abi::grant::UnmapGrantRef| {
        let mut ops = [op];
        world.unmap_all(2, &mut ops, |_| panic!("nothing to flush"));
        ops[0].status
    };
    let good = unmap_op(mapping.handle, 32);
    assert_eq!(bad(unmap_op(mapping.handle, 33)), GrantStatus::BAD_VIRT_ADDR);
    assert_eq!(bad(unmap_op(mapping.handle, 0)), GrantStatus::BAD_VIRT_ADDR);
    assert_eq!(bad(unmap_op(GrantHandle::new(1), 32)), GrantStatus::BAD_HANDLE);
    assert_eq!(bad(unmap_op(GrantHandle::new(u32::MAX), 32)), GrantStatus::BAD_HANDLE);
    assert_eq!(bad(pv_abi::grant::UnmapGrantRef { dev_bus_addr: 0x1000, ..good }), GrantStatus::BAD_DEV_ADDR);
    assert_eq!(world.unmap(3, mapping.handle, 32), GrantStatus::BAD_HANDLE, "handles are the mapper's own");
    let mut ops = [pv_abi::grant::UnmapGrantRef { dev_bus_addr: mapping.dev_bus_addr, ..good }];
    world.unmap_all(2, &mut ops, |_| ());
    assert_eq!(ops[0].status, OKAY);
    assert_eq!(bad(good), GrantStatus::BAD_HANDLE);
    world.end();
}

#[test]
fn handles_run_out_and_are_used_again() {
    let world = World::new();
    world.grant(1, 9, 2, 5);
    let all: Vec<_> =
        (0..u64::from(MOST_MAPPINGS)).map(|at| world.map_at(2, (1, 9), 32 + at, false)).collect();
    assert!(all.iter().all(|op| op.status == OKAY));
    assert_eq!(world.map_at(2, (1, 9), 60, false).status, GrantStatus::NO_SPACE);
    assert_eq!(world.unmap(2, all[2].handle, 34), OKAY);
    assert_eq!(world.map_at(2, (1, 9), 60, false).handle, all[2].handle);
    world.end();
}

#[test]
fn a_domain_may_map_its_own_grants() {
    let world = World::new();
    world.grant(1, 9, 1, 5);
    let mapping = world.map_at(1, (1, 9), 32, true);
    assert_eq!(mapping.status, OKAY);
    assert_eq!(world.mfn(1, 32), world.mfn(1, 5));
    let domain = world.domain(1);
    assert!(matches!(domain.memory.read().occupant(world.fixture.ram(), Gfn::new(32)), Occupant::Foreign(_)));
    assert!(!world.decrease(1, 32), "a mapping is not given back as memory");
    assert!(world.decrease(1, 5));
    assert!(world.mfn(1, 32).is_some());
    assert_eq!(world.unmap(1, mapping.handle, 32), OKAY);
    assert!(world.populate(1, 5));
    assert_eq!(world.copy(1, granted(1, 9, 0), own(6, 0), 16, FROM_REF), OKAY);
    drop(domain);
    world.end();
}

#[test]
fn batches_go_on_after_a_failure_and_between_granters() {
    let world = World::new();
    world.grant(1, 9, 2, 5);
    world.grant(3, 9, 2, 5);
    let mut ops = [
        map_op((1, 9), 32, true),
        map_op((1, 8), 33, true),
        map_op((1, 9), 34, false),
        map_op((3, 9), 35, true),
    ];
    super::map_batch(world.fixture.ram(), &*world.domain(2), |id| world.find(id), &mut ops);
    assert_eq!(ops.map(|op| op.status), [OKAY, GrantStatus::GENERAL_ERROR, OKAY, OKAY]);
    let handles: std::collections::BTreeSet<_> = [0, 2, 3].iter().map(|at| ops[*at].handle).collect();
    assert_eq!(handles.len(), 3);
    world.end();
}

#[test]
fn copies_go_from_and_to_granted_pages() {
    let world = World::new();
    world.grant(1, 9, 2, 5);
    world.grant(3, 7, 2, 6);
    for (domain, gfn, byte) in [(1, 5, 0x11), (2, 4, 0x22), (3, 6, 0x33)] {
        world.fill(domain, gfn, byte);
    }
    assert_eq!(world.copy(2, granted(1, 9, 0), own(3, 0), 4096, FROM_REF), OKAY, "a whole page in");
    assert_eq!(world.bytes(2, 3, 0, 4096), [0x11; 4096]);
    assert_eq!(world.copy(2, own(4, 100), granted(3, 7, 4000), 96, TO_REF), OKAY, "a part out");
    assert_eq!(world.bytes(3, 6, 3999, 97), [&[0x33][..], &[0x22; 96]].concat());
    assert_eq!(
        world.copy(2, granted(3, 7, 4095), granted(1, 9, 0), 1, FROM_REF | TO_REF),
        OKAY,
        "between others"
    );
    assert_eq!(world.bytes(1, 5, 0, 2), [0x22, 0x11]);
    assert_eq!(world.copy(2, own(4, 0), own(3, 0), 2, 0), OKAY, "within its own");
    assert_eq!(world.bytes(2, 3, 0, 3), [0x22, 0x22, 0x11]);
    assert_eq!(world.copy(2, granted(1, 9, 4096), own(3, 4096), 0, FROM_REF), OKAY, "nothing at all");
    assert!(!world.flags(1, 9).is_busy() && !world.flags(3, 7).is_busy());
    world.end();
}

#[test]
fn copies_that_may_not_be_change_nothing() {
    let world = World::new();
    world.grant(1, 9, 2, 5);
    world.fill(1, 5, 0x11);
    world.fill(2, 3, 0x22);
    let two = DomainId::new(2);
    for (source, dest, len, flags, status) in [
        (granted(1, 9, 1), own(3, 0), 4096, FROM_REF, GrantStatus::BAD_COPY_ARG),
        (granted(1, 9, 0), own(3, 1), 4096, FROM_REF, GrantStatus::BAD_COPY_ARG),
        (granted(1, 9, u16::MAX), own(3, 0), u16::MAX, FROM_REF, GrantStatus::BAD_COPY_ARG),
        (granted(1, 9, 0), own(3, 0), 4096, 0, GrantStatus::PERMISSION_DENIED),
        (own(3, 0), granted(1, 9, 0), 4096, 0, GrantStatus::PERMISSION_DENIED),
        (CopyPtr { domid: two, ..own(3, 0) }, own(4, 0), 8, 0, GrantStatus::PERMISSION_DENIED),
        (granted(9, 9, 0), own(3, 0), 8, FROM_REF, GrantStatus::BAD_DOMAIN),
        (granted(1, 9, 0), granted(9, 9, 0), 8, FROM_REF | TO_REF, GrantStatus::BAD_DOMAIN),
        (granted(1, 900, 0), own(3, 0), 8, FROM_REF, GrantStatus::BAD_GNTREF),
        (granted(1, 9, 0), own(99, 0), 8, FROM_REF, GrantStatus::BAD_PAGE),
        (own(u64::MAX, 0), granted(1, 9, 0), 8, TO_REF, GrantStatus::BAD_PAGE),
        (own(1 << 36, 0), granted(1, 9, 0), 8, TO_REF, GrantStatus::BAD_PAGE),
    ] {
        assert_eq!(world.copy(2, source, dest, len, flags), status, "{source:?} {dest:?} {len}");
    }
    assert_eq!(world.copy(3, granted(1, 9, 0), own(3, 0), 8, FROM_REF), GrantStatus::GENERAL_ERROR);
    assert!(!world.flags(1, 9).is_busy());
    assert_eq!(world.bytes(1, 5, 0, 4096), [0x11; 4096]);
    assert_eq!(world.bytes(2, 3, 0, 4096), [0x22; 4096]);
    world.end();
}

#[test]
fn ranges_that_overlap_in_one_page_are_moved() {
    let world = World::new();
    let bytes: Vec<u8> = (0..4096).map(|n| (n % 253) as u8).collect();
    for (from, to) in [(0, 100), (100, 0), (7, 7), (0, 300), (300, 0)] {
        world.fixture.memory.write(world.mfn(2, 3).unwrap().base(), &bytes);
        assert_eq!(world.copy(2, own(3, from), own(3, to), 3000, 0), OKAY);
        let from = usize::from(from);
        assert_eq!(world.bytes(2, 3, u64::from(to), 3000), bytes[from..from + 3000], "{from} {to}");
    }
    world.end();
}

#[test]
fn a_batch_of_copies_counts_its_bytes() {
    let world = World::new();
    world.grant(1, 9, 2, 5);
    let op = |source, dest, len, flags| Copy { source, dest, len, flags, ..Copy::default() };
    let mut ops = [
        op(granted(1, 9, 0), own(3, 0), 4096, FROM_REF),
        op(granted(1, 8, 0), own(3, 0), 4096, FROM_REF),
        op(granted(1, 9, 0), own(4, 0), 100, FROM_REF),
        op(own(4, 0), granted(1, 9, 0), 50, TO_REF),
        op(granted(8, 9, 0), own(4, 0), 100, FROM_REF),
    ];
    assert_eq!(world.copy_all(2, &mut ops), 4246);
    let expected = [OKAY, GrantStatus::GENERAL_ERROR, OKAY, OKAY, GrantStatus::BAD_DOMAIN];
    assert_eq!(ops.map(|op| op.status), expected);
    world.end();
}

#[test]
fn a_page_mapped_read_only_is_no_destination() {
    let world = World::new();
    world.grant(1, 9, 2, 5);
    assert_eq!(world.map_at(2, (1, 9), 32, false).status, OKAY);
    assert_eq!(world.copy(2, own(32, 0), own(3, 0), 8, 0), OKAY);
    assert_eq!(world.copy(2, own(3, 0), own(32, 0), 8, 0), GrantStatus::BAD_PAGE);
    world.end();
}

#[test]
fn the_pages_of_a_dead_granter_live_as_long_as_their_mappings() {
    let mut world = World::new();
    world.grant(1, 9, 2, 5);
    world.fill(1, 5, 0x5a);
    let mapping = world.map_at(2, (1, 9), 32, true);
    let mfn = world.mfn(1, 5).unwrap();
    world.destroy(1);
    assert_eq!(world.fixture.ram().state(mfn), FrameState::Quarantined(DomainId::new(1)));
    assert_eq!(world.bytes(2, 32, 0, 4), [0x5a; 4]);
    assert_eq!(world.map_at(2, (1, 9), 33, true).status, GrantStatus::BAD_DOMAIN);
    assert_eq!(world.unmap(2, mapping.handle, 32), OKAY);
    assert!(matches!(world.fixture.ram().state(mfn), FrameState::Free(_) | FrameState::Inner));
    world.end();
}

#[test]
fn a_dead_mapper_lets_go() {
    let mut world = World::new();
    world.grant(1, 9, 2, 5);
    world.grant(3, 9, 2, 5);
    for (granter, gfn) in [(1, 32), (3, 33), (1, 34)] {
        assert_eq!(world.map_at(2, (granter, 9), gfn, true).status, OKAY);
    }
    world.destroy(2);
    assert!(!world.flags(1, 9).is_busy() && !world.flags(3, 9).is_busy());
    assert_eq!(world.fixture.ram().references(world.mfn(1, 5).unwrap()), 0);
    world.end();
}

#[test]
fn a_closed_table_pins_nothing() {
    let world = World::new();
    world.grant(1, 9, 2, 5);
    world.domain(1).grants.close();
    assert_eq!(world.map_at(2, (1, 9), 32, true).status, GrantStatus::BAD_DOMAIN);
    assert_eq!(world.copy(2, granted(1, 9, 0), own(3, 0), 8, FROM_REF), GrantStatus::BAD_DOMAIN);
    assert_eq!(world.domain(1).grants.grow(world.fixture.ram(), 2), Err(Errno::EINVAL));
    world.grant(2, 9, 1, 5);
    assert_eq!(world.map_at(1, (2, 9), 32, true).status, GrantStatus::NO_SPACE, "nor does its owner map");
    world.end();
}

#[test]
fn tables_grow_to_their_limit() {
    let world = World::new();
    let ram = world.fixture.ram();
    let domain = world.domain(1);
    assert_eq!((domain.grants.frames(), domain.grants.most_frames()), (1, 2));
    assert_eq!(domain.grants.grow(ram, 3), Err(Errno::EINVAL));
    assert_eq!(domain.grants.frames(), 1);
    assert_eq!(domain.grants.grow(ram, 2), Ok(()));
    assert_eq!(domain.grants.grow(ram, 1), Ok(()), "they do not shrink");
    assert_eq!(domain.grants.frames(), 2);
    assert_eq!(world.map_at(2, (1, 1023), 32, true).status, GrantStatus::GENERAL_ERROR, "an empty entry");
    assert_eq!(world.map_at(2, (1, 1024), 32, true).status, GrantStatus::BAD_GNTREF);
    drop(domain);
    world.end();
}

#[test]
fn entries_can_be_written_for_a_domain_before_it_runs() {
    let world = World::new();
    let domain = world.domain(1);
    let preset = |gref, gfn| {
        domain.grants.preset(&world.fixture.memory, GrantRef::new(gref), DomainId::new(2), Gfn::new(gfn))
    };
    assert_eq!(preset(1, 5), Ok(()));
    assert_eq!(preset(512, 5), Err(Errno::EINVAL));
    assert_eq!(preset(2, 1 << 32), Err(Errno::EINVAL));
    assert_eq!(world.map_at(2, (1, 1), 32, true).status, OKAY);
    drop(domain);
    world.end();
}

#[test]
fn a_table_that_cannot_be_had_is_refused() {
    let fixture = crate::mem::fixture::Fixture::new(16);
    let all = fixture.ram().alloc_contiguous(fixture.free(), crate::hw::Order::PAGE).unwrap();
    let account = Arc::new(PageAccount::new(Pages::new(1)));
    let table = GrantTable::new(fixture.ram(), DomainId::new(1), account, GrantLimits::default());
    assert_eq!(table.err(), Some(Errno::ENOMEM));
    fixture.ram().free(all);
}

/// Each domain, on a thread of its own, uses the next one's grants, gives pages back and gets new ones.
#[test]
fn domains_may_do_all_this_at_the_same_time() {
    const ROUNDS: u64 = 150;
    let world = World::new();
    let next = |id: u16| id % 3 + 1;
    for id in 1..=3 {
        (0..4).for_each(|at| world.grant(id, 8 + at, next(next(id)), u64::from(at)));
    }
    std::thread::scope(|scope| {
        for id in 1..=3u16 {
            let world = &world;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let (place, gref) = (32 + round % 5, 8 + (round % 4) as u32);
                    // The granter may just have given the page back: then there is nothing to use.
                    let mapping = world.map_at(id, (next(id), gref), place, round % 2 == 0);
                    assert!(
                        mapping.status == OKAY || mapping.status == GrantStatus::BAD_PAGE,
                        "{:?}",
                        mapping.status
                    );
                    let own_page = 8 + round % 4;
                    let status = world.copy(id, granted(next(id), gref, 0), own(own_page, 0), 4096, FROM_REF);
                    assert!(status == OKAY || status == GrantStatus::BAD_PAGE, "{status:?}");
                    let status = world.copy(id, own(own_page, 0), granted(next(id), gref, 0), 4096, TO_REF);
                    assert!(status == OKAY || status == GrantStatus::BAD_PAGE, "{status:?}");
                    let gfn = round % 4;
                    assert!(world.decrease(id, gfn));
                    if mapping.status == OKAY {
                        assert_eq!(world.unmap(id, mapping.handle, place), OKAY);
                    }
                    // The page counts until its user lets go of it, which waits for nothing of this domain's.
                    while !world.populate(id, gfn) {
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
    for id in 1..=3 {
        assert_eq!(world.domain(id).memory.read().account().total(), Pages::new(PAGES));
        (8..12).for_each(|gref| assert_eq!(world.flags(id, gref), PERMIT, "d{id} {gref}"));
    }
    world.fixture.check();
    world.end();
}

#[test]
fn frames_beyond_the_usual_ones_cost_the_domain_memory() {
    use pv_abi::manifest::GRANT_FRAMES;
    let fixture = crate::mem::fixture::Fixture::new(256);
    let ram = fixture.ram();
    let limits = GrantLimits { frames: GRANT_FRAMES + 2, mappings: 1 };
    let one = GrantLimits { frames: GRANT_FRAMES + 1, ..limits }.charge().raw();
    assert_eq!((limits.charge().raw(), GrantLimits::default().charge().raw()), (2 * one, 0));
    // There is room for one of the two.
    let account = Arc::new(PageAccount::new(Pages::new(2 * one - 1)));
    let table = GrantTable::new(ram, DomainId::new(1), account.clone(), limits).unwrap();
    assert_eq!(table.grow(ram, GRANT_FRAMES), Ok(()));
    assert_eq!(account.total().raw(), 0);
    assert_eq!(table.grow(ram, GRANT_FRAMES + 1), Ok(()));
    assert_eq!(account.total().raw(), one);
    assert_eq!(table.grow(ram, GRANT_FRAMES + 2), Err(Errno::ENOMEM));
    assert_eq!((table.frames(), account.total().raw()), (GRANT_FRAMES + 1, one));
    assert_eq!(table.grow(ram, GRANT_FRAMES + 3), Err(Errno::EINVAL));
    table.close();
    table.free_frames(ram);
}
