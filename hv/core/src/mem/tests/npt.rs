//! Tests of the nested tables.

use crate::hw::{CachePolicy, Mfn, PageSize, Rights};
use crate::mem::fixture::Fixture;
use crate::mem::npt::{GFN_END, Lookaside, MapError, Npt, Run};
use crate::testing::PlainFormat;
use proptest::prelude::*;
use pv_abi::ids::{DomainId, Gfn, GuestPhys};
use std::collections::BTreeMap;

const OWNER: DomainId = DomainId::new(1);
const MEMORY: CachePolicy = CachePolicy::Memory;

fn npt(fixture: &Fixture, most: u64) -> Npt<PlainFormat> {
    Npt::new(fixture.ram(), OWNER, most).unwrap()
}

fn finish(fixture: &Fixture, mut npt: Npt<PlainFormat>) {
    while !npt.dismantle(fixture.ram(), &mut 3) {}
    assert_eq!(npt.tables(), 1);
    npt.free_root(fixture.ram());
    assert_eq!(fixture.free(), fixture.frames.total().raw());
    fixture.check();
}

#[test]
fn pages_of_every_size_are_found_at_every_offset() {
    let fixture = Fixture::new(64);
    let mut npt = npt(&fixture, 64);
    for (gfn, mfn, size) in [
        (0x7, 0x1234, PageSize::K4),
        (0x200, 0x4_0000, PageSize::M2),
        (0x4_0000, 0x8_0000, PageSize::G1),
        (GFN_END.raw() - 1, 0x99, PageSize::K4),
    ] {
        npt.map(fixture.ram(), Gfn::new(gfn), Mfn::new(mfn), size, Rights::READ_WRITE, MEMORY).unwrap();
        for offset in [0, size.pages() / 2, size.pages() - 1] {
            let found = npt.lookup(&fixture.memory, Gfn::new(gfn + offset)).unwrap();
            assert_eq!((found.mfn, found.size), (Mfn::new(mfn + offset), size));
            assert_eq!((found.rights, found.cache), (Rights::READ_WRITE, MEMORY));
        }
    }
    for empty in [0, 6, 8, 0x1ff, 0x400, 0x3_ffff, 0x8_0000, GFN_END.raw() - 2, GFN_END.raw(), u64::MAX] {
        assert_eq!(npt.lookup(&fixture.memory, Gfn::new(empty)), None, "{empty:#x}");
    }
    finish(&fixture, npt);
}

#[test]
fn what_is_mapped_stays_and_bad_places_are_refused() {
    let fixture = Fixture::new(64);
    let ram = fixture.ram();
    let mut npt = npt(&fixture, 64);
    let mut map = |gfn, mfn, size| npt.map(ram, Gfn::new(gfn), Mfn::new(mfn), size, Rights::ALL, MEMORY);
    assert_eq!(map(0x200, 0x400, PageSize::M2), Ok(()));
    assert_eq!(map(0x200, 0x600, PageSize::M2), Err(MapError::Occupied));
    assert_eq!(map(0x201, 5, PageSize::K4), Err(MapError::Occupied));
    assert_eq!(map(0, 0, PageSize::G1), Err(MapError::Occupied));
    assert_eq!(map(0x601, 0x200, PageSize::M2), Err(MapError::BadFrame));
    assert_eq!(map(0x600, 0x201, PageSize::M2), Err(MapError::BadFrame));
    assert_eq!(map(GFN_END.raw(), 0, PageSize::K4), Err(MapError::BadFrame));
    assert_eq!(map(0x600, 1 << 40, PageSize::K4), Err(MapError::BadFrame));
    let run = Run { gfn: Gfn::new(u64::MAX), mfn: Mfn::new(0), count: 2, largest: PageSize::K4 };
    assert_eq!(npt.map_run(ram, run, Rights::ALL, MEMORY), Err(MapError::BadFrame));
    finish(&fixture, npt);
}

#[test]
fn a_guest_cannot_make_more_tables_than_it_may() {
    let fixture = Fixture::new(64);
    let mut npt = npt(&fixture, 5);
    let mut map = |gfn| npt.map(fixture.ram(), Gfn::new(gfn), Mfn::new(1), PageSize::K4, Rights::ALL, MEMORY);
    assert_eq!(map(0), Ok(()));
    assert_eq!(map(0x200), Ok(()));
    assert_eq!(map(0x400), Err(MapError::NoMemory));
    assert_eq!(map(0x201), Ok(()));
    finish(&fixture, npt);
}

#[test]
fn a_split_changes_no_translation() {
    let fixture = Fixture::new(64);
    let ram = fixture.ram();
    let mut npt = npt(&fixture, 64);
    npt.map(ram, Gfn::new(0x4_0000), Mfn::new(0x8_0000), PageSize::G1, Rights::READ, CachePolicy::Device)
        .unwrap();
    npt.split(ram, Gfn::new(0x4_0201), PageSize::K4).unwrap();
    for (offset, size) in
        [(0, PageSize::M2), (0x1ff, PageSize::M2), (0x200, PageSize::K4), (0x3ff, PageSize::K4)]
    {
        let found = npt.lookup(&fixture.memory, Gfn::new(0x4_0000 + offset)).unwrap();
        assert_eq!((found.mfn, found.size), (Mfn::new(0x8_0000 + offset), size));
        assert_eq!((found.rights, found.cache), (Rights::READ, CachePolicy::Device));
    }
    finish(&fixture, npt);
}

#[test]
fn a_run_uses_the_largest_pages_that_fit() {
    let fixture = Fixture::new(64);
    let mut npt = npt(&fixture, 64);
    let run = Run { gfn: Gfn::new(0x1ff), mfn: Mfn::new(0x5ff), count: 0x402, largest: PageSize::G1 };
    npt.map_run(fixture.ram(), run, Rights::ALL, MEMORY).unwrap();
    let size = |gfn| npt.lookup(&fixture.memory, Gfn::new(gfn)).map(|mapping| mapping.size);
    assert_eq!(
        [0x1fe, 0x1ff, 0x200, 0x5ff, 0x600, 0x601].map(size),
        [None, Some(PageSize::K4), Some(PageSize::M2), Some(PageSize::M2), Some(PageSize::K4), None]
    );
    finish(&fixture, npt);
}

#[test]
fn a_run_that_meets_something_maps_nothing() {
    let fixture = Fixture::new(64);
    let ram = fixture.ram();
    let mut npt = npt(&fixture, 64);
    npt.map(ram, Gfn::new(0x10), Mfn::new(1), PageSize::K4, Rights::ALL, MEMORY).unwrap();
    let run = Run { gfn: Gfn::new(0), mfn: Mfn::new(0x200), count: 0x11, largest: PageSize::M2 };
    assert_eq!(npt.map_run(ram, run, Rights::ALL, MEMORY), Err(MapError::Occupied));
    assert!((0..0x10).all(|gfn| npt.lookup(&fixture.memory, Gfn::new(gfn)).is_none()));
    finish(&fixture, npt);
}

#[test]
fn the_walk_over_mappings_finds_each_leaf_and_can_be_interrupted() {
    let fixture = Fixture::new(64);
    let ram = fixture.ram();
    let mut npt = npt(&fixture, 64);
    let leaves =
        [(3, PageSize::K4), (0x200, PageSize::M2), (0x8_0000, PageSize::G1), (1 << 30, PageSize::K4)];
    for (gfn, size) in leaves {
        npt.map(ram, Gfn::new(gfn), Mfn::new(gfn), size, Rights::ALL, MEMORY).unwrap();
    }
    let mut found = std::vec::Vec::new();
    let mut from = Gfn::new(0);
    loop {
        match npt.next(&fixture.memory, from, &mut 2) {
            Err(at) => {
                assert!(at > from, "each call gets on");
                from = at;
            }
            Ok(Some((gfn, mapping))) => {
                found.push((gfn.raw(), mapping.size));
                from = Gfn::new(gfn.raw() + mapping.size.pages());
            }
            Ok(None) => break,
        }
    }
    assert_eq!(found, leaves);
    finish(&fixture, npt);
}

#[derive(Clone, Debug)]
enum Step {
    Map(u64, u64, u64),
    Unmap(u64),
    Split(u64),
}

fn step() -> impl Strategy<Value = Step> {
    // Places around the borders of two 2 MiB regions.
    let gfn = || prop_oneof![0x1f8..0x208u64, 0x3f8..0x408u64];
    prop_oneof![
        (gfn(), 0x200..0x800u64, prop_oneof![1..8u64, Just(512), 500..530u64])
            .prop_map(|(g, m, c)| Step::Map(g, m, c)),
        (Just(0x200), prop_oneof![Just(0x200u64), Just(0x400)], Just(512))
            .prop_map(|(g, m, c)| Step::Map(g, m, c)),
        gfn().prop_map(Step::Unmap),
        gfn().prop_map(Step::Split),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Random changes agree with a map from places to frames and rights.
    #[test]
    fn agrees_with_a_model(steps in prop::collection::vec(step(), 1..40)) {
        let fixture = Fixture::new(64);
        let ram = fixture.ram();
        let mut npt = npt(&fixture, 64);
        let mut model: BTreeMap<u64, (u64, bool)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Map(gfn, mfn, count) => {
                    let free = model.range(gfn..gfn + count).next().is_none();
                    let run = Run { gfn: Gfn::new(gfn), mfn: Mfn::new(mfn), count, largest: PageSize::G1 };
                    prop_assert_eq!(npt.map_run(ram, run, Rights::ALL, MEMORY).is_ok(), free);
                    if free {
                        model.extend((0..count).map(|offset| (gfn + offset, (mfn + offset, true))));
                    }
                }
                Step::Unmap(gfn) => {
                    npt.split(ram, Gfn::new(gfn), PageSize::K4).unwrap();
                    let taken = npt.take(&fixture.memory, Gfn::new(gfn));
                    let was = model.remove(&gfn).map(|(mfn, _)| (Mfn::new(mfn), PageSize::K4));
                    prop_assert_eq!(taken, was);
                }
                Step::Split(gfn) => npt.split(ram, Gfn::new(gfn), PageSize::K4).unwrap(),
            }
            let mut near = Lookaside::EMPTY;
            for gfn in 0x1f0..0x620 {
                let found = npt.lookup(&fixture.memory, Gfn::new(gfn));
                let found = found.map(|mapping| (mapping.mfn.raw(), mapping.rights.write));
                let expected = model.get(&gfn).copied();
                prop_assert_eq!(found, expected, "{:#x}", gfn);
                let gpa = GuestPhys::new((gfn << 12) + 5);
                let mut locate = |write| npt.locate(&fixture.memory, gpa, write, &mut near).map(|host| host.raw());
                let byte = |(mfn, _): (u64, bool)| (mfn << 12) + 5;
                prop_assert_eq!(locate(false), expected.map(byte), "{:#x}", gfn);
                prop_assert_eq!(locate(true), expected.filter(|(_, write)| *write).map(byte), "{:#x}", gfn);
                prop_assert_eq!(locate(false), expected.map(byte), "{:#x}", gfn);
            }
        }
        finish(&fixture, npt);
    }
}
