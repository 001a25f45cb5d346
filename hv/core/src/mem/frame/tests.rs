//! Tests of the frame table.

use super::*;
use crate::hw::HostPhys;
use crate::mem::fixture::Fixture;
use crate::testing::VecMemory;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

const OWNER: DomainId = DomainId::new(3);

fn page(frames: u64) -> RamRange {
    RamRange { start: HostPhys::new(frames * PAGE_BYTES), bytes: PAGE_BYTES }
}

#[test]
fn ranges_are_cut_to_whole_pages_and_frame_zero_is_kept_out() {
    let memory = VecMemory::new(64);
    let ranges = [
        RamRange { start: HostPhys::new(0x100), bytes: 2 * PAGE_BYTES },
        RamRange { start: HostPhys::new(16 * PAGE_BYTES), bytes: 16 * PAGE_BYTES - 1 },
    ];
    let frames = FrameTable::new(&memory, &ranges).unwrap();
    // Frame 1 of the first range; 15 of the second, one of which holds the table.
    assert_eq!(frames.total(), Pages::new(1 + 14));
    assert!(frames.overlaps_ram(Mfn::new(0), 2));
    assert!(!frames.overlaps_ram(Mfn::new(2), 14));
    assert!(!frames.overlaps_ram(Mfn::new(30), 1), "the table's own frame is not handed out");
}

#[test]
fn a_machine_too_small_for_the_table_is_refused() {
    let memory = VecMemory::new(8);
    assert_eq!(FrameTable::new(&memory, &[]).err(), Some(OutOfMemory));
    assert_eq!(FrameTable::new(&memory, &[page(1)]).err(), Some(OutOfMemory));
}

#[test]
fn all_memory_can_be_had_once_and_comes_back_whole() {
    let fixture = Fixture::new(4096);
    let ram = fixture.ram();
    let total = fixture.free();
    let mut held = Vec::new();
    while let Ok(frames) = ram.alloc(Order::PAGE) {
        held.push(frames);
    }
    assert_eq!(held.len() as u64, total);
    let distinct: BTreeSet<_> = held.iter().map(|frames| frames.mfn()).collect();
    assert_eq!(distinct.len(), held.len());
    fixture.check();
    held.into_iter().for_each(|frames| ram.free(frames));
    assert_eq!(fixture.free(), total);
    let large = ram.alloc(Order::new(10).unwrap()).expect("buddies are joined again");
    assert_eq!(large.mfn().raw() % 1024, 0);
    ram.free(large);
    fixture.check();
}

#[test]
fn contiguous_runs_need_not_be_a_power_of_two() {
    let fixture = Fixture::new(2048);
    let ram = fixture.ram();
    let before = fixture.free();
    let run = ram.alloc_contiguous(700, Order::new(9).unwrap()).unwrap();
    assert_eq!((run.mfn(), run.count()), (Mfn::new(512), 700));
    assert_eq!(fixture.free(), before - 700);
    fixture.check();
    assert!(ram.alloc_at(Mfn::new(1211), 1).is_err(), "its last frame is taken");
    let next = ram.alloc_at(Mfn::new(1212), 1).expect("the frame after it is free");
    ram.free(next);
    ram.free(run);
    assert!(ram.alloc_contiguous(4096, Order::PAGE).is_err());
    assert!(ram.alloc_contiguous(0, Order::PAGE).is_err());
    assert!(ram.alloc_at(Mfn::new(u64::MAX - 1), 4).is_err());
    assert_eq!(fixture.free(), before);
    fixture.check();
}

#[test]
fn nothing_that_was_in_a_frame_is_seen_by_its_next_owner() {
    let fixture = Fixture::new(64);
    let ram = fixture.ram();
    let held = ram.alloc(Order::PAGE).unwrap();
    let mfn = held.mfn();
    fixture.memory.write(mfn.base(), &[0xa5; 4096]);
    ram.free(held);
    let zeroed = ram.scrub(ram.alloc_at(mfn, 1).unwrap());
    assert_eq!(fixture.memory.bytes(mfn.base(), 4096), [0; 4096]);
    ram.give(zeroed, OWNER, Gfn::new(5));
    assert_eq!((ram.state(mfn), ram.gfn_of(mfn)), (FrameState::Guest(OWNER), Gfn::new(5)));
    assert_eq!(ram.reclaim(mfn, 1, OWNER), Ok(1));
}

#[test]
fn a_frame_in_use_by_others_is_quarantined_until_the_last_lets_go() {
    let fixture = Fixture::new(64);
    let ram = fixture.ram();
    let before = fixture.free();
    let mfn = ram.give(ram.scrub(ram.alloc(Order::new(2).unwrap()).unwrap()), OWNER, Gfn::new(0));
    let middle = Mfn::new(mfn.raw() + 1);
    let (one, other) = (ram.get(middle, OWNER).unwrap(), ram.get(middle, OWNER).unwrap());
    assert!(ram.get(middle, DomainId::new(4)).is_err(), "it is another's");
    assert_eq!(ram.reclaim(mfn, 4, OWNER), Ok(3));
    assert_eq!(ram.state(middle), FrameState::Quarantined(OWNER));
    assert!(ram.get(middle, OWNER).is_err(), "nobody can begin to use it");
    assert!(ram.alloc_at(middle, 1).is_err());
    assert_eq!(ram.put(one), Fate::Kept);
    assert!(ram.alloc_at(middle, 1).is_err());
    assert_eq!(ram.put(other), Fate::Freed(OWNER));
    assert_eq!(fixture.free(), before);
    assert_eq!(ram.reclaim(mfn, 1, OWNER), Err(WrongFrame), "it is not the domain's any more");
    fixture.check();
}

#[test]
fn tables_and_shared_pages_are_single_frames() {
    let fixture = Fixture::new(64);
    let ram = fixture.ram();
    let before = fixture.free();
    let table = ram.as_table(ram.scrub(ram.alloc(Order::new(3).unwrap()).unwrap()), OWNER);
    let shared = ram.as_shared(ram.alloc_zeroed().unwrap(), OWNER);
    assert_eq!(fixture.free(), before - 2);
    assert!(ram.get(table.mfn(), OWNER).is_err());
    assert!(ram.get(shared.mfn(), OWNER).is_err());
    assert_eq!(ram.gfn_of(shared.mfn()), NO_GFN);
    ram.free_table(table);
    ram.free_shared(shared);
    assert_eq!(fixture.free(), before);
    fixture.check();
}

#[derive(Clone, Debug)]
enum Step {
    Alloc(u8),
    AllocAt(u64, u64),
    Contiguous(u64, u8),
    Free(prop::sample::Index),
    Give(prop::sample::Index),
    Get(prop::sample::Index),
    Put(prop::sample::Index),
    Reclaim(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (0..6u8).prop_map(Step::Alloc),
        (0..260u64, 1..20u64).prop_map(|(at, count)| Step::AllocAt(at, count)),
        (1..40u64, 0..4u8).prop_map(|(count, align)| Step::Contiguous(count, align)),
        index().prop_map(Step::Free),
        index().prop_map(Step::Give),
        index().prop_map(Step::Get),
        index().prop_map(Step::Put),
        index().prop_map(Step::Reclaim),
    ]
}

/// What the model knows of a frame of the guest.
#[derive(Default)]
struct Given {
    references: Vec<PageRef>,
    is_back: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Random operations agree with a model that is a map from frames to what is known of them.
    #[test]
    fn agrees_with_a_model(steps in prop::collection::vec(step(), 1..200)) {
        let fixture = Fixture::new(256);
        let ram = fixture.ram();
        let total = fixture.free();
        let mut held: Vec<HeldFrames> = Vec::new();
        let mut given: BTreeMap<Mfn, Given> = BTreeMap::new();
        for step in steps {
            let used: BTreeSet<u64> = held
                .iter()
                .flat_map(|frames| frames.mfn().raw()..frames.mfn().raw() + frames.count())
                .chain(given.keys().map(|mfn| mfn.raw()))
                .collect();
            let new = match step {
                Step::Alloc(order) => ram.alloc(Order::new(order).unwrap()).ok(),
                Step::AllocAt(at, count) => {
                    let got = ram.alloc_at(Mfn::new(at), count).ok();
                    let end = fixture.frames.end().raw() - 1;
                    let expected = at > 0 && at + count <= end && used.range(at..at + count).next().is_none();
                    prop_assert_eq!(got.is_some(), expected);
                    got
                }
                Step::Contiguous(count, align) => {
                    ram.alloc_contiguous(count, Order::new(align).unwrap()).ok().inspect(|frames| {
                        assert_eq!(frames.mfn().raw() % (1 << align), 0);
                        assert_eq!(frames.count(), count);
                    })
                }
                Step::Free(index) => {
                    if !held.is_empty() {
                        ram.free(held.swap_remove(index.index(held.len())));
                    }
                    None
                }
                Step::Give(index) => {
                    if !held.is_empty() {
                        let frames = held.swap_remove(index.index(held.len()));
                        for frame in 0..frames.count() {
                            given.insert(Mfn::new(frames.mfn().raw() + frame), Given::default());
                        }
                        ram.give(ram.scrub(frames), OWNER, Gfn::new(0));
                    }
                    None
                }
                Step::Get(index) => {
                    if !given.is_empty() {
                        let (mfn, model) = {
 let at = index.index(given.len());
 given.iter_mut().nth(at).unwrap()
 };
                        let got = ram.get(*mfn, OWNER);
                        prop_assert_eq!(got.is_ok(), !model.is_back);
                        model.references.extend(got);
                    }
                    None
                }
                Step::Put(index) => {
                    if !given.is_empty() {
                        let (&mfn, model) = {
 let at = index.index(given.len());
 given.iter_mut().nth(at).unwrap()
 };
                        if let Some(reference) = model.references.pop() {
                            let last = model.references.is_empty() && model.is_back;
                            let fate = ram.put(reference);
                            prop_assert_eq!(fate, if last { Fate::Freed(OWNER) } else { Fate::Kept });
                            if last {
                                given.remove(&mfn);
                            }
                        }
                    }
                    None
                }
                Step::Reclaim(index) => {
                    if !given.is_empty() {
                        let (&mfn, model) = {
 let at = index.index(given.len());
 given.iter_mut().nth(at).unwrap()
 };
                        let free = model.references.is_empty();
                        let expected = if model.is_back { Err(WrongFrame) } else { Ok(u64::from(free)) };
                        prop_assert_eq!(ram.reclaim(mfn, 1, OWNER), expected);
                        model.is_back = true;
                        if free {
                            given.remove(&mfn);
                        }
                    }
                    None
                }
            };
            if let Some(frames) = new {
                for frame in frames.mfn().raw()..frames.mfn().raw() + frames.count() {
                    prop_assert!(!used.contains(&frame), "frame {frame} was given twice");
                }
                held.push(frames);
            }
            let now: u64 = held.iter().map(HeldFrames::count).sum::<u64>() + given.len() as u64;
            prop_assert_eq!(fixture.free(), total - now);
            fixture.check();
        }
        held.into_iter().for_each(|frames| ram.free(frames));
        for (mfn, model) in given {
            if !model.is_back {
                let _ = ram.reclaim(mfn, 1, OWNER);
            }
            for reference in model.references {
                ram.put(reference);
            }
        }
        prop_assert_eq!(fixture.free(), total);
        fixture.check();
    }
}
