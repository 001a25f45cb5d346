//! A back end that lies.

use pv_abi::io::blkif::{Request as RingRequest, Response};
use pv_abi::io::ring::RSP_PROD;

use super::*;
use crate::platform::{Access, SharedMemory};
use crate::ring::BackRing;
use crate::xenbus::XenbusState;
use crate::xs::{TransactionId, read_number};

/// A front end whose back end is this test.
struct Victim {
    front: BlkFront<Domain>,
    store: LocalStore,
    dom0_store: LocalStore,
    guest: Domain,
    ring: BackRing<Memory>,
    page: Memory,
}

fn victim(keys: &[(&str, &str)]) -> Victim {
    let machine = Machine::new();
    let (guest, dom0) = (machine.domain(1), machine.domain(0));
    let (mut store, mut dom0_store) = stores();
    let features = [("sectors", "2048"), ("sector-size", "512"), ("info", "0")];
    let keys: Vec<_> = features.iter().chain(keys).copied().collect();
    let spec = DeviceSpec {
        kind: "vbd",
        number: 51712,
        frontend: GUEST,
        backend: DomainId::DOM0,
        frontend_keys: &[],
        backend_keys: &keys,
    };
    create_device(&mut dom0_store, &spec).unwrap();
    let dir = crate::xenbus::backend_dir(DomainId::DOM0, "vbd", GUEST, 51712);
    let back = Backend::open(&mut dom0_store, &dir).unwrap();
    back.set_state(&mut dom0_store, XenbusState::InitWait).unwrap();
    let ends = Frontend::open(&mut store, &frontend_dir(GUEST, "vbd", 51712)).unwrap();
    let options = FrontOptions { max_ring_order: 0, ..FrontOptions::default() };
    let mut front = BlkFront::new(&guest, ends, options);
    front.on_store(&mut store);
    let grant = read_number(&mut dom0_store, TransactionId::NONE, &back.peer_key("ring-ref")).unwrap();
    let grant = pv_abi::ids::GrantRef::new(grant as u32);
    let page = dom0.map(GUEST, &[grant], Access::ReadWrite).unwrap();
    let ring = BackRing::new(dom0.map(GUEST, &[grant], Access::ReadWrite).unwrap(), 112).unwrap();
    back.set_state(&mut dom0_store, XenbusState::Connected).unwrap();
    front.on_store(&mut store);
    Victim { front, store, dom0_store, guest, ring, page }
}

impl Victim {
    fn send(&mut self) -> RequestId {
        let buffer = self.front.buffer(4096).unwrap();
        let id = self.front.read(0, buffer).unwrap();
        self.front.kick();
        id
    }

    fn answer(&mut self, response: Response) {
        self.ring.push(&response).unwrap();
        let _ = self.ring.publish();
        self.front.poll();
    }

    fn assert_given_up(&mut self, wanted: usize) {
        assert_eq!(self.front.state(), FrontState::Failed);
        for _ in 0..wanted {
            let completion = self.front.next_completion().unwrap();
            assert_eq!(completion.result, Err(BlockError::Disconnected));
            assert!(completion.buffer.is_some());
        }
        assert!(self.front.next_completion().is_none());
        let buffer = self.front.buffer(512).unwrap();
        assert_eq!(self.front.read(0, buffer).unwrap_err().error, Some(BlockError::Disconnected));
        assert!(self.front.wants_store());
        self.front.on_store(&mut self.store);
        assert!(!self.front.wants_store());
        let dir = frontend_dir(GUEST, "vbd", 51712);
        assert_eq!(crate::xenbus::read_state(&mut self.dom0_store, &dir), XenbusState::Closing);
    }
}

#[test]
fn a_response_with_an_unknown_id_is_the_end() {
    for id in [1, 1 << 32, u64::MAX, 31] {
        let mut victim = victim(&[]);
        victim.send();
        let _: RingRequest = victim.ring.pop().unwrap().unwrap();
        victim.answer(Response { id, ..Response::default() });
        victim.assert_given_up(1);
    }
}

#[test]
fn a_second_response_to_a_request_is_the_end() {
    let mut victim = victim(&[]);
    let first = victim.send();
    victim.send();
    let request: RingRequest = victim.ring.pop().unwrap().unwrap();
    let _: RingRequest = victim.ring.pop().unwrap().unwrap();
    victim.answer(Response { id: request.id, ..Response::default() });
    let completion = victim.front.next_completion().unwrap();
    assert_eq!((completion.id, completion.result), (first, Ok(())));
    victim.answer(Response { id: request.id, ..Response::default() });
    victim.assert_given_up(1);
}

#[test]
fn an_old_id_does_not_stand_for_the_request_that_has_its_place_now() {
    let mut victim = victim(&[]);
    victim.send();
    let old: RingRequest = victim.ring.pop().unwrap().unwrap();
    victim.answer(Response { id: old.id, ..Response::default() });
    victim.front.next_completion().unwrap().result.unwrap();
    victim.send();
    let new: RingRequest = victim.ring.pop().unwrap().unwrap();
    assert_ne!(old.id, new.id);
    victim.answer(Response { id: old.id, ..Response::default() });
    victim.assert_given_up(1);
}

#[test]
fn a_runaway_index_is_the_end() {
    for claimed in [2, 33, u32::MAX] {
        let mut victim = victim(&[]);
        victim.send();
        victim.page.write_u32(RSP_PROD, claimed);
        victim.front.poll();
        victim.assert_given_up(1);
    }
}

#[test]
fn unknown_statuses_are_errors() {
    let mut victim = victim(&[]);
    for (status, error) in [
        (-1, BlockError::Io),
        (-2, BlockError::NotSupported),
        (-3, BlockError::Io),
        (1, BlockError::Io),
        (i16::MIN, BlockError::Io),
    ] {
        victim.send();
        let request: RingRequest = victim.ring.pop().unwrap().unwrap();
        victim.answer(Response { id: request.id, status, ..Response::default() });
        assert_eq!(victim.front.next_completion().unwrap().result, Err(error));
    }
}

#[test]
fn nonsense_in_the_store_is_refused() {
    for (key, value) in [("sectors", "many"), ("sectors", "-1"), ("sector-size", "0"), ("sector-size", "513")]
    {
        let mut victim = victim(&[(key, value)]);
        assert_eq!(victim.front.state(), FrontState::Failed, "{key}={value}");
        victim.front.on_store(&mut victim.store);
        assert!(victim.front.failure().is_some());
    }
    for (key, value) in [
        ("max-ring-page-order", "99999999999"),
        ("feature-max-indirect-segments", "18446744073709551615"),
        ("discard-granularity", "-5"),
    ] {
        let victim = victim(&[(key, value)]);
        let _ = victim.front.summary();
    }
}

#[test]
fn memory_that_the_back_end_keeps_mapped_stays_away() {
    let mut victim = victim(&[]);
    victim.send();
    let request: RingRequest = victim.ring.pop().unwrap().unwrap();
    let dom0 = Machine::domain(&victim.guest.machine_for_test(), 0);
    let grant = pv_abi::ids::GrantRef::new(request.seg[0].gref);
    let kept = dom0.map(GUEST, &[grant], Access::ReadWrite).unwrap();
    let Victim { front, guest, ring, page, .. } = victim;
    drop(front);
    drop((ring.into_pages(), page));
    guest.retry_retired();
    // The page of the request, with the run that it is part of.
    assert_eq!(guest.counts().retired, 16);
    drop(kept);
    guest.retry_retired();
    assert_eq!(guest.counts(), crate::mock::Counts::default());
}
