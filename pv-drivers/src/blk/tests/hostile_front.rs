//! A front end that lies.

use proptest::prelude::*;
use pv_abi::io::blkif::{
    DiscardRequest, IndirectRequest, OP_DISCARD, OP_FLUSH_DISKCACHE, OP_INDIRECT, OP_READ, OP_WRITE,
    OP_WRITE_BARRIER, RSP_EOPNOTSUPP, RSP_ERROR, RSP_OKAY, Request as RingRequest, Response, Segment,
};
use pv_abi::io::ring::REQ_PROD;
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::platform::{Access, SharedMemory};
use crate::ring::FrontRing;
use crate::share::Shared;
use crate::xenbus::{XenbusState, read_state};
use crate::xs::{TransactionId, write_display};

/// A back end whose front end is this test.
pub(super) struct Attacker {
    machine: Machine,
    pub(super) guest: Domain,
    dom0: Domain,
    pub(super) guest_store: LocalStore,
    dom0_store: LocalStore,
    pub(super) ring: FrontRing<Domain>,
    pub(super) data: Shared<Domain>,
    pub(super) back: BlkBack<Domain, MemoryDisk<Memory>>,
}

pub(super) fn publish(attacker: &mut Attacker, keys: &[(&str, u64)]) {
    let dir = frontend_dir(GUEST, "vbd", 51712);
    for (key, value) in keys {
        write_display(&mut attacker.guest_store, TransactionId::NONE, &std::format!("{dir}/{key}"), value)
            .unwrap();
    }
    let ends = Frontend::open(&mut attacker.guest_store, &dir).unwrap();
    ends.set_state(&mut attacker.guest_store, XenbusState::Initialised).unwrap();
    attacker.back.on_store(&mut attacker.dom0_store);
}

pub(super) fn unconnected(options: Options, mode: &str, slot: usize) -> Attacker {
    let machine = Machine::new();
    let (guest, dom0) = (machine.domain(1), machine.domain(0));
    let (guest_store, mut dom0_store) = stores();
    add_disk(&mut dom0_store, mode);
    let disk = MemoryDisk::new(&dom0, MIB, false).unwrap();
    let back = open_back(&dom0, &mut dom0_store, disk, options);
    let ring = FrontRing::new(&guest, DomainId::DOM0, 1, slot).unwrap();
    let data = Shared::new(&guest, DomainId::DOM0, 4, Access::ReadWrite).unwrap();
    Attacker { machine, guest, dom0, guest_store, dom0_store, ring, data, back }
}

fn attacker_with(options: Options, mode: &str, persistent: bool) -> Attacker {
    let mut attacker = unconnected(options, mode, 112);
    let port = attacker.guest.alloc_unbound(DomainId::DOM0).unwrap();
    let grant = attacker.ring.grants()[0].raw();
    let keys = [
        ("ring-ref", grant.into()),
        ("event-channel", port.raw().into()),
        ("feature-persistent", persistent.into()),
    ];
    publish(&mut attacker, &keys);
    assert!(attacker.back.is_connected(), "{:?}", attacker.back.failure());
    attacker
}

/// One for each way in which a back end reaches memory.
fn attackers() -> Vec<Attacker> {
    (0..4).map(attacker).collect()
}

fn attacker(number: usize) -> Attacker {
    let paths = [DataPath::Auto, DataPath::Auto, DataPath::Map, DataPath::Copy];
    attacker_with(Options { data_path: paths[number], ..Options::default() }, "w", number == 0)
}

impl Attacker {
    pub(super) fn segment(&self, first_sect: u8, last_sect: u8) -> Segment {
        Segment { gref: self.data.grants()[0].raw(), first_sect, last_sect, pad: 0 }
    }

    fn request(&self, operation: u8) -> RingRequest {
        let mut request = RingRequest { operation, nr_segments: 1, id: 77, ..RingRequest::default() };
        request.seg[0] = self.segment(0, 0);
        request
    }

    fn send<T: zerocopy::IntoBytes + zerocopy::Immutable>(&mut self, request: &T) -> Response {
        self.ring.push(request).unwrap();
        let _ = self.ring.publish();
        while self.back.poll() == Progress::More {}
        let (_, response) = self.ring.pop().unwrap().expect("an answer");
        assert!(self.ring.pop::<Response>().unwrap().is_none(), "one answer");
        response
    }

    fn status(&mut self, request: &RingRequest) -> i16 {
        let response = self.send(request);
        assert_eq!((response.id, response.operation), (request.id, request.operation));
        response.status
    }

    fn assert_alive(&mut self) {
        let request = self.request(OP_READ);
        assert_eq!(self.status(&request), RSP_OKAY);
    }

    pub(super) fn end(self) {
        let Self { guest, dom0, ring, data, back, machine, .. } = self;
        drop((back, ring, data));
        guest.retry_retired();
        let mut counts = guest.counts();
        // The test does not close its port.
        counts.ports = 0;
        assert_eq!(counts, crate::mock::Counts::default());
        assert_eq!(dom0.counts(), crate::mock::Counts::default());
        drop(machine);
    }
}

#[test]
fn bad_requests_get_an_error_and_the_next_one_works() {
    for mut attacker in attackers() {
        let good = attacker.request(OP_READ);
        let mut bad: Vec<RingRequest> = Vec::new();
        for (first, last) in [(1, 0), (0, 8), (8, 8), (255, 255), (7, 255)] {
            let mut request = good;
            request.seg[0] = attacker.segment(first, last);
            bad.push(request);
        }
        for sector_number in [2048, 2047 + 1, u64::MAX, u64::MAX - 1, 1 << 55] {
            bad.push(RingRequest { sector_number, ..good });
            bad.push(RingRequest { sector_number, operation: OP_WRITE, ..good });
            bad.push(RingRequest { sector_number, operation: OP_WRITE_BARRIER, ..good });
        }
        for nr_segments in [0, 12, 255] {
            bad.push(RingRequest { nr_segments, ..good });
        }
        for gref in [0, 5, 100_000, u32::MAX] {
            let mut request = good;
            request.seg[0].gref = gref;
            bad.push(request);
            bad.push(RingRequest { operation: OP_WRITE, ..request });
            bad.push(RingRequest { operation: OP_WRITE_BARRIER, ..request });
            // One good page beside a bad one.
            request.nr_segments = 2;
            request.seg[1] = attacker.segment(0, 7);
            bad.push(request);
        }
        for request in bad {
            assert_eq!(attacker.status(&request), RSP_ERROR, "{request:?}");
            attacker.assert_alive();
        }
        for operation in [4, 7, 255] {
            assert_eq!(attacker.status(&RingRequest { operation, ..good }), RSP_EOPNOTSUPP);
        }
        let flush = RingRequest { operation: OP_FLUSH_DISKCACHE, nr_segments: 0, ..good };
        assert_eq!(attacker.status(&flush), RSP_OKAY);
        attacker.end();
    }
}

#[test]
fn bad_discards_get_an_error() {
    for mut attacker in attackers() {
        let good = DiscardRequest { operation: OP_DISCARD, nr_sectors: 8, ..DiscardRequest::default() };
        assert_eq!(attacker.send(&good).status, RSP_OKAY);
        for (sector_number, nr_sectors) in [(2048, 1), (0, 2049), (1, u64::MAX), (u64::MAX, u64::MAX)] {
            let response = attacker.send(&DiscardRequest { sector_number, nr_sectors, ..good });
            assert_eq!(response.status, RSP_ERROR);
        }
        attacker.assert_alive();
        attacker.end();
    }
}

#[test]
fn bad_indirect_requests_get_an_error() {
    for mut attacker in attackers() {
        let page = attacker.data.grants()[1].raw();
        let segments = [attacker.segment(0, 7), attacker.segment(0, 7)];
        attacker.data.memory().copy_in(4096, segments.as_bytes());
        let mut good = IndirectRequest {
            operation: OP_INDIRECT,
            indirect_op: OP_WRITE,
            nr_segments: 2,
            id: 9,
            ..IndirectRequest::default()
        };
        good.indirect_grefs[0] = page;
        let answer = attacker.send(&good);
        assert_eq!((answer.status, answer.operation), (RSP_OKAY, OP_WRITE));
        for nr_segments in [0, 257, 4096, u16::MAX] {
            assert_eq!(attacker.send(&IndirectRequest { nr_segments, ..good }).status, RSP_ERROR);
        }
        for indirect_op in [OP_INDIRECT, OP_FLUSH_DISKCACHE, OP_WRITE_BARRIER, OP_DISCARD, 200] {
            assert_eq!(attacker.send(&IndirectRequest { indirect_op, ..good }).status, RSP_EOPNOTSUPP);
        }
        let mut foreign = good;
        foreign.indirect_grefs[0] = 12345;
        assert_eq!(attacker.send(&foreign).status, RSP_ERROR);
        // Segments that make no sense, in a page that is there.
        attacker.data.memory().copy_in(4096, &[0xff; 4096]);
        assert_eq!(attacker.send(&good).status, RSP_ERROR);
        attacker.assert_alive();
        attacker.end();
    }
}

#[test]
fn a_revoked_grant_is_an_error() {
    for mut attacker in attackers().into_iter().skip(1) {
        attacker.assert_alive();
        let grant = attacker.data.grants()[0];
        attacker.guest.revoke(grant);
        let request = attacker.request(OP_READ);
        assert_eq!(attacker.status(&request), RSP_ERROR);
        let mut other = attacker.request(OP_WRITE);
        other.seg[0].gref = attacker.data.grants()[1].raw();
        assert_eq!(attacker.status(&other), RSP_OKAY);
        attacker.end();
    }
}

#[test]
fn a_page_granted_for_reading_is_not_written() {
    for mut attacker in attackers() {
        let page = Shared::new(&attacker.guest, DomainId::DOM0, 1, Access::ReadOnly).unwrap();
        let mut request = attacker.request(OP_READ);
        request.seg[0].gref = page.grants()[0].raw();
        assert_eq!(attacker.status(&request), RSP_ERROR);
        attacker.assert_alive();
        drop(page);
        attacker.end();
    }
}

#[test]
fn a_read_only_disk_is_not_written() {
    let mut attacker = attacker_with(Options::default(), "r", true);
    for operation in [OP_WRITE, OP_WRITE_BARRIER] {
        let request = attacker.request(operation);
        assert_eq!(attacker.status(&request), RSP_ERROR);
    }
    let discard = DiscardRequest { operation: OP_DISCARD, nr_sectors: 8, ..DiscardRequest::default() };
    assert_eq!(attacker.send(&discard).status, RSP_EOPNOTSUPP);
    attacker.assert_alive();
}

#[test]
fn the_same_id_twice_is_the_front_ends_own_affair() {
    for mut attacker in attackers() {
        let request = attacker.request(OP_READ);
        for _ in 0..3 {
            attacker.ring.push(&request).unwrap();
        }
        let _ = attacker.ring.publish();
        attacker.back.poll();
        for _ in 0..3 {
            let (_, response) = attacker.ring.pop::<Response>().unwrap().unwrap();
            assert_eq!((response.id, response.status), (77, RSP_OKAY));
        }
        attacker.end();
    }
}

#[test]
fn a_runaway_index_ends_the_connection_and_only_that() {
    for claimed in [33, 1000, u32::MAX] {
        for mut attacker in attackers() {
            let page = attacker.dom0.map(GUEST, attacker.ring.grants(), Access::ReadWrite).unwrap();
            attacker.assert_alive();
            page.write_u32(REQ_PROD, claimed.wrapping_add(1));
            drop(page);
            assert_eq!(attacker.back.poll(), Progress::Store);
            attacker.back.on_store(&mut attacker.dom0_store);
            assert!(attacker.back.failure().unwrap().contains("producer index"));
            assert!(attacker.back.is_closed());
            let dir = std::string::String::from(attacker.back.ends().dir());
            assert_eq!(read_state(&mut attacker.guest_store, &dir), XenbusState::Closing);
            let error = attacker.guest_store.read(TransactionId::NONE, &std::format!("{dir}/error"));
            assert!(!error.unwrap().is_empty());
            assert_eq!(attacker.back.poll(), Progress::Idle);
            attacker.end();
        }
    }
}

#[test]
fn nonsense_in_the_store_is_refused_with_a_reason() {
    let ring = |a: &Attacker| u64::from(a.ring.grants()[0].raw());
    type Keys = fn(u64) -> Vec<(&'static str, u64)>;
    let cases: [(Keys, &str); 6] = [
        (|_| std::vec![("event-channel", 1)], "no grant"),
        (|ring| std::vec![("ring-ref", ring)], "no event channel"),
        (|_| std::vec![("ring-ref", 99_999), ("event-channel", 1)], "cannot be mapped"),
        (|ring| std::vec![("ring-ref", ring), ("event-channel", 4_000_000)], "cannot be bound"),
        (|ring| std::vec![("ring-ref", ring), ("ring-page-order", 63), ("event-channel", 1)], "order 63"),
        (|ring| std::vec![("ring-ref", ring | 1 << 40), ("event-channel", 1)], "no grant"),
    ];
    for (keys, reason) in cases {
        let mut attacker = unconnected(Options::default(), "w", 112);
        let keys = keys(ring(&attacker));
        publish(&mut attacker, &keys);
        assert!(!attacker.back.is_connected());
        let said = attacker.back.failure().unwrap();
        assert!(said.contains(reason), "{said}");
        attacker.end();
    }
}

#[test]
fn a_full_ring_of_large_requests_stays_within_bounds() {
    let options = Options { max_persistent: 8, ..Options::default() };
    let mut attacker = attacker_with(options, "w", true);
    let pages = Shared::new(&attacker.guest, DomainId::DOM0, 352, Access::ReadWrite).unwrap();
    let mut grants = pages.grants().iter();
    for id in 0..32 {
        let mut request = RingRequest { operation: OP_READ, nr_segments: 11, id, ..RingRequest::default() };
        for segment in &mut request.seg {
            *segment = Segment { gref: grants.next().unwrap().raw(), first_sect: 0, last_sect: 7, pad: 0 };
        }
        attacker.ring.push(&request).unwrap();
    }
    let _ = attacker.ring.publish();
    attacker.back.poll();
    let answers = core::iter::from_fn(|| attacker.ring.pop::<Response>().unwrap());
    assert_eq!(answers.filter(|(_, response)| response.status == RSP_OKAY).count(), 32);
    attacker.assert_alive();
    assert!(attacker.dom0.counts().maps <= 8 + 1 + 352, "{:?}", attacker.dom0.counts());
    attacker.assert_alive();
    drop(pages);
    attacker.end();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever lies in the ring, every request that was taken is answered once, nothing panics, and nothing is left
    /// mapped.
    #[test]
    fn any_bytes_in_the_ring_are_survived(
        slots in prop::collection::vec(prop::collection::vec(any::<u8>(), 112), 1..32),
        path in 0..4usize,
        likely in any::<bool>(),
    ) {
        let mut attacker = attacker(path);
        let count = slots.len();
        for slot in slots {
            let mut request = RingRequest::read_from_bytes(&slot).unwrap();
            if likely {
                // Make some of it plausible, so that more than the first check is reached.
                request.operation %= 8;
                request.nr_segments %= 14;
                request.sector_number %= 3000;
                for segment in &mut request.seg {
                    segment.gref = attacker.data.grants()[segment.gref as usize % 4].raw();
                    segment.first_sect %= 9;
                    segment.last_sect %= 9;
                }
            }
            attacker.ring.push(&request).unwrap();
        }
        let _ = attacker.ring.publish();
        while attacker.back.poll() == Progress::More {}
        let answers = core::iter::from_fn(|| attacker.ring.pop::<Response>().unwrap()).count();
        prop_assert_eq!(answers, count);
        attacker.end();
    }

    /// Whatever the indices, the back end either works or gives up.
    #[test]
    fn any_indices_are_survived(indices in prop::collection::vec((0..4usize, any::<u32>(), 0..40u32), 1..20)) {
        let mut attacker = attacker_with(Options::default(), "w", true);
        let page = attacker.dom0.map(GUEST, attacker.ring.grants(), Access::ReadWrite).unwrap();
        for (which, wild, near) in indices {
            let value = if wild % 4 == 0 { wild } else { page.read_u32(which * 4).wrapping_add(near) };
            page.write_u32(which * 4, value);
            for _ in 0..4 {
                if attacker.back.poll() == Progress::Store {
                    attacker.back.on_store(&mut attacker.dom0_store);
                }
            }
        }
        drop(page);
        attacker.end();
    }
}
