//! Three domains that grant, map, copy and give memory back at random, beside a model of what should be.
//!
//! After every step: each place of each domain leads where the model says; so no frame can be written by two domains
//! without a mapping that the model knows; the marks of all entries are right; every frame is in one state and the
//! sums agree; contents are what the copies made of them.

use super::world::{MOST_MAPPINGS, PAGES, World, map_op};
use crate::hw::{Mfn, PAGE_BYTES, PhysMemory};
use proptest::prelude::*;
use pv_abi::grant::{CopyFlags, CopyPtr, GrantFlags};
use pv_abi::ids::{DomainId, Gfn, GrantHandle, GrantRef};
use std::collections::BTreeMap;
use std::vec::Vec;

/// Own places in play, and places for mappings.
const OWN: core::ops::Range<u64> = 0..4;
const PLACES: core::ops::Range<u64> = 32..40;
const GREFS: core::ops::Range<u32> = 8..11;

#[derive(Clone, Debug)]
enum Step {
    Grant { granter: u16, gref: u32, to: u16, gfn: u64, flags: u16 },
    Map { mapper: u16, granter: u16, gref: u32, place: u64, write: bool },
    Unmap { nth: prop::sample::Index },
    CopyIn { caller: u16, granter: u16, gref: u32, gfn: u64 },
    CopyOut { caller: u16, granter: u16, gref: u32, gfn: u64 },
    Decrease { domain: u16, gfn: u64 },
    Populate { domain: u16, gfn: u64 },
    Fill { domain: u16, gfn: u64, byte: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let domain = || 1..=3u16;
    prop_oneof![
        3 => (domain(), GREFS, domain(), 0..5u64, prop_oneof![3 => Just(1u16), 1 => Just(5), 1 => Just(0)])
            .prop_map(|(granter, gref, to, gfn, flags)| Step::Grant { granter, gref, to, gfn, flags }),
        4 => (domain(), domain(), GREFS, PLACES, any::<bool>())
            .prop_map(|(mapper, granter, gref, place, write)| Step::Map { mapper, granter, gref, place, write }),
        3 => any::<prop::sample::Index>().prop_map(|nth| Step::Unmap { nth }),
        2 => (domain(), domain(), GREFS, OWN)
            .prop_map(|(caller, granter, gref, gfn)| Step::CopyIn { caller, granter, gref, gfn }),
        2 => (domain(), domain(), GREFS, OWN)
            .prop_map(|(caller, granter, gref, gfn)| Step::CopyOut { caller, granter, gref, gfn }),
        2 => (domain(), OWN).prop_map(|(domain, gfn)| Step::Decrease { domain, gfn }),
        2 => (domain(), OWN).prop_map(|(domain, gfn)| Step::Populate { domain, gfn }),
        2 => (domain(), OWN, any::<u8>()).prop_map(|(domain, gfn, byte)| Step::Fill { domain, gfn, byte }),
    ]
}

/// A page that some domain has or had: its frame and contents.
struct Page {
    mfn: Mfn,
    owner: u16,
    byte: u8,
    /// The owner has given it back.
    is_back: bool,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    flags: u16,
    to: u16,
    gfn: u64,
}

struct Mapping {
    mapper: u16,
    entry: (u16, u32),
    handle: GrantHandle,
    place: u64,
    write: bool,
    page: usize,
}

#[derive(Default)]
struct Model {
    pages: Vec<Page>,
    /// The own pages of the domains by place.
    own: BTreeMap<(u16, u64), usize>,
    entries: BTreeMap<(u16, u32), Entry>,
    mappings: Vec<Mapping>,
}

impl Model {
    fn new(world: &World) -> Self {
        let mut model = Self::default();
        for domain in 1..=3 {
            for gfn in 0..PAGES {
                model.add_page(world, domain, gfn);
            }
            model.entries.extend(GREFS.map(|gref| ((domain, gref), Entry::default())));
        }
        model
    }

    fn add_page(&mut self, world: &World, domain: u16, gfn: u64) {
        let mfn = world.mfn(domain, gfn).unwrap();
        self.own.insert((domain, gfn), self.pages.len());
        self.pages.push(Page { mfn, owner: domain, byte: 0, is_back: false });
    }

    fn pins(&self, entry: (u16, u32)) -> impl Iterator<Item = &Mapping> {
        self.mappings.iter().filter(move |mapping| mapping.entry == entry)
    }

    fn users(&self, page: usize) -> usize {
        self.mappings.iter().filter(|mapping| mapping.page == page).count()
    }

    /// The page that a use of an entry would lead to, if it may be.
    fn access(&self, user: u16, entry: (u16, u32), write: bool) -> Option<usize> {
        let words = self.entries[&entry];
        let (mut first, mut writers) = (None, 0);
        for pin in self.pins(entry) {
            first.get_or_insert(pin);
            writers += u32::from(pin.write);
        }
        if (first.is_none() || writers == 0) && write && words.flags & 4 != 0 {
            return None;
        }
        let page = match first {
            Some(pin) => (pin.mapper == user).then_some(pin.page)?,
            None if words.flags & 3 == 1 && words.to == user => *self.own.get(&(entry.0, words.gfn))?,
            None => return None,
        };
        (!self.pages[page].is_back).then_some(page)
    }

    fn mapped_by(&self, mapper: u16) -> usize {
        self.mappings.iter().filter(|mapping| mapping.mapper == mapper).count()
    }

    fn total(&self, domain: u16) -> usize {
        let of =
            |page: &&(usize, &Page)| page.1.owner == domain && (!page.1.is_back || self.users(page.0) > 0);
        self.pages.iter().enumerate().collect::<Vec<_>>().iter().filter(of).count()
    }

    fn apply(&mut self, world: &World, step: Step) {
        match step {
            Step::Grant { granter, gref, to, gfn, flags } => {
                let marks = self.marks((granter, gref));
                world.set_entry(granter, gref, GrantFlags::from_bits_retain(flags | marks), to, gfn);
                self.entries.insert((granter, gref), Entry { flags, to, gfn });
            }
            Step::Map { mapper, granter, gref, place, write } => {
                let is_empty =
                    !self.mappings.iter().any(|other| (other.mapper, other.place) == (mapper, place));
                let room = self.mapped_by(mapper) < MOST_MAPPINGS as usize;
                let page = self.access(mapper, (granter, gref), write).filter(|_| is_empty && room);
                let op = world.map(mapper, map_op((granter, gref), place, write));
                assert_eq!(op.status.is_okay(), page.is_some(), "{:?}", op.status);
                if let Some(page) = page {
                    let (entry, handle) = ((granter, gref), op.handle);
                    self.mappings.push(Mapping { mapper, entry, handle, place, write, page });
                }
            }
            Step::Unmap { nth } => {
                if !self.mappings.is_empty() {
                    let mapping = self.mappings.swap_remove(nth.index(self.mappings.len()));
                    assert!(world.unmap(mapping.mapper, mapping.handle, mapping.place).is_okay());
                }
            }
            Step::CopyIn { caller, granter, gref, gfn } => {
                let from = self.access(caller, (granter, gref), false);
                self.copy(world, caller, (granter, gref, gfn), from, true);
            }
            Step::CopyOut { caller, granter, gref, gfn } => {
                let to = self.access(caller, (granter, gref), true);
                self.copy(world, caller, (granter, gref, gfn), to, false);
            }
            Step::Decrease { domain, gfn } => {
                let page = self.own.remove(&(domain, gfn));
                assert_eq!(world.decrease(domain, gfn), page.is_some());
                if let Some(page) = page {
                    self.pages[page].is_back = true;
                }
            }
            Step::Populate { domain, gfn } => {
                let room = self.total(domain) < PAGES as usize && !self.own.contains_key(&(domain, gfn));
                assert_eq!(world.populate(domain, gfn), room);
                if room {
                    self.add_page(world, domain, gfn);
                }
            }
            Step::Fill { domain, gfn, byte } => {
                if let Some(page) = self.own.get(&(domain, gfn)) {
                    world.fill(domain, gfn, byte);
                    self.pages[*page].byte = byte;
                }
            }
        }
    }

    /// Copies between the page that an entry leads to and an own one.
    fn copy(&mut self, world: &World, caller: u16, at: (u16, u32, u64), granted: Option<usize>, is_in: bool) {
        let (granter, gref, gfn) = at;
        let there = CopyPtr::granted(DomainId::new(granter), GrantRef::new(gref), 0);
        let here = CopyPtr::own(Gfn::new(gfn), 0);
        let own = self.own.get(&(caller, gfn)).copied();
        let status = if is_in {
            world.copy(caller, there, here, 4096, CopyFlags::SOURCE_GREF.bits())
        } else {
            world.copy(caller, here, there, 4096, CopyFlags::DEST_GREF.bits())
        };
        assert_eq!(status.is_okay(), granted.is_some() && own.is_some(), "{status:?}");
        if let (Some(granted), Some(own)) = (granted, own) {
            let (from, to) = if is_in { (granted, own) } else { (own, granted) };
            self.pages[to].byte = self.pages[from].byte;
        }
    }

    fn marks(&self, entry: (u16, u32)) -> u16 {
        let mut marks = GrantFlags::empty();
        for pin in self.pins(entry) {
            marks |= GrantFlags::READING;
            if pin.write {
                marks |= GrantFlags::WRITING;
            }
        }
        marks.bits()
    }

    fn check(&self, world: &World) {
        let memory = &world.fixture.memory;
        for domain in 1..=3 {
            let found = world.domain(domain);
            let map = super::Party::memory(&*found).read();
            for gfn in OWN.chain(PLACES) {
                let expected = match self.own.get(&(domain, gfn)) {
                    Some(page) => Some((self.pages[*page].mfn, true)),
                    None => self
                        .mappings
                        .iter()
                        .find(|mapping| (mapping.mapper, mapping.place) == (domain, gfn))
                        .map(|mapping| (self.pages[mapping.page].mfn, mapping.write)),
                };
                let found = map.translate(memory, Gfn::new(gfn)).map(|found| (found.mfn, found.rights.write));
                assert_eq!(found, expected, "d{domain} {gfn}");
            }
            assert_eq!(map.account().total().raw(), self.total(domain) as u64, "d{domain}");
        }
        for (entry, words) in &self.entries {
            assert_eq!(world.flags(entry.0, entry.1).bits(), words.flags | self.marks(*entry), "{entry:?}");
        }
        for (index, page) in self.pages.iter().enumerate() {
            if !page.is_back || self.users(index) > 0 {
                let mut contents = [0; PAGE_BYTES as usize];
                memory.read(page.mfn.base(), &mut contents);
                assert!(contents.iter().all(|byte| *byte == page.byte), "{}", page.mfn);
                assert_eq!(
                    world.fixture.ram().references(page.mfn) as usize,
                    self.users(index),
                    "{}",
                    page.mfn
                );
            }
        }
        let quarantined: u64 = world
            .fixture
            .census()
            .iter()
            .filter(|(name, _)| name.starts_with("quarantined"))
            .map(|(_, count)| count)
            .sum();
        let expected =
            (0..self.pages.len()).filter(|page| self.pages[*page].is_back && self.users(*page) > 0).count();
        assert_eq!(quarantined, expected as u64);
        world.fixture.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn three_domains_agree_with_a_model(steps in prop::collection::vec(step(), 1..60), victim in 1..=3u16) {
        let mut world = World::new();
        let mut model = Model::new(&world);
        for step in steps {
            model.apply(&world, step);
            model.check(&world);
        }
        // One of them dies; the other two end what they have of it, and then all memory must be free.
        world.destroy(victim);
        world.fixture.check();
        for mapping in model.mappings.iter().filter(|mapping| mapping.mapper != victim) {
            prop_assert!(world.unmap(mapping.mapper, mapping.handle, mapping.place).is_okay());
        }
        world.end();
    }
}
