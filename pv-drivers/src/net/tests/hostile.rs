//! Ends that lie.

use proptest::prelude::*;
use pv_abi::io::netif::{
    self, EXTRA_FLAG_MORE, EXTRA_TYPE_GSO, ExtraInfo, RSP_DROPPED, RSP_ERROR, RSP_OKAY, RxRequest,
    RxResponse, TX_EXTRA_INFO, TX_MORE_DATA, TxRequest, TxResponse,
};
use pv_abi::io::ring::{REQ_PROD, RSP_PROD};
use zerocopy::IntoBytes;

use super::*;
use crate::platform::Access;
use crate::ring::{BackRing, FrontRing};
use crate::share::Shared;
use crate::xenbus::{XenbusState, read_state};
use crate::xs::{TransactionId, write_display};

/// A front end that is this test, on a bridge with an honest guest.
struct Attacker {
    rig: Rig,
    domain: Domain,
    tx: FrontRing<Domain>,
    rx: FrontRing<Domain>,
    data: Shared<Domain>,
    port: PortId,
    honest: usize,
}

fn publish(rig: &mut Rig, id: u16, keys: &[(&str, u64)]) {
    let dir = frontend_dir(DomainId::new(id), "vif", 0);
    for (key, value) in keys {
        write_display(&mut rig.store, TransactionId::NONE, &format!("{dir}/{key}"), value).unwrap();
    }
    crate::xenbus::write_state(&mut rig.store, &dir, XenbusState::Connected).unwrap();
    rig.talk();
}

fn attacker() -> Attacker {
    let mut rig = Rig::new();
    let honest = rig.add(2);
    let port = rig.prepare(1, BackOptions::default(), &[]);
    let domain = rig.machine.domain(1);
    let tx = FrontRing::new(&domain, DomainId::DOM0, 1, 12).unwrap();
    let rx = FrontRing::new(&domain, DomainId::DOM0, 1, 8).unwrap();
    let data = Shared::new(&domain, DomainId::DOM0, 4, Access::ReadWrite).unwrap();
    let channel = domain.alloc_unbound(DomainId::DOM0).unwrap();
    let keys = [
        ("tx-ring-ref", tx.grants()[0].raw().into()),
        ("rx-ring-ref", rx.grants()[0].raw().into()),
        ("event-channel", channel.raw().into()),
        ("request-rx-copy", 1),
        ("feature-sg", 1),
        ("feature-gso-tcpv4", 1),
    ];
    publish(&mut rig, 1, &keys);
    let vif = rig.bridge.vif(port).unwrap();
    assert!(vif.is_connected(), "{:?}", vif.failure());
    Attacker { rig, domain, tx, rx, data, port, honest }
}

impl Attacker {
    /// A good packet to the honest guest.
    fn request(&self, len: u16) -> TxRequest {
        self.data.memory().copy_in(0, &plain(mac(1), mac(2), 2000, 0));
        TxRequest { gref: self.data.grants()[0].raw(), offset: 0, flags: 0, id: 5, size: len }
    }

    fn push(&mut self, slot: &impl ToSlot) {
        self.tx.push(&slot.slot()).unwrap();
    }

    fn run(&mut self) {
        let _ = self.tx.publish();
        self.rig.bridge.poll(1000);
        self.rig.run();
    }

    fn answers(&mut self) -> Vec<i16> {
        core::iter::from_fn(|| self.tx.pop::<TxResponse>().unwrap())
            .map(|(_, response)| response.status)
            .collect()
    }

    fn assert_alive(&mut self) {
        let request = self.request(100);
        self.push(&request);
        self.run();
        assert_eq!(self.answers(), [RSP_OKAY]);
        assert_eq!(self.rig.received(self.honest).len(), 1);
    }

    fn assert_disabled(mut self, reason: &str) {
        let vif = self.rig.bridge.vif(self.port).unwrap();
        assert!(vif.wants_store(), "not disabled, {reason}");
        let said = String::from(vif.failure().unwrap());
        assert!(said.contains(reason), "{said}");
        self.rig.talk();
        let vif = self.rig.bridge.vif(self.port).unwrap();
        assert!(vif.is_closed() && !vif.wants_store());
        let dir = backend_dir(DomainId::DOM0, "vif", DomainId::new(1), 0);
        assert_eq!(read_state(&mut self.rig.store, &dir), XenbusState::Closing);
        // Others go on.
        let honest = self.honest;
        let third = self.rig.add(3);
        self.rig.send(third, &plain(mac(3), mac(2), 100, 0));
        assert_eq!(self.rig.received(honest).len(), 1);
        self.end();
    }

    fn end(self) {
        let Self { mut rig, domain, tx, rx, data, port, .. } = self;
        drop(rig.bridge.remove(port));
        drop((tx, rx, data));
        domain.retry_retired();
        let mut counts = domain.counts();
        // The test does not close its port.
        counts.ports = 0;
        assert_eq!(counts, crate::mock::Counts::default());
        rig.end();
    }
}

trait ToSlot {
    fn slot(&self) -> [u8; 12];
}

impl ToSlot for TxRequest {
    fn slot(&self) -> [u8; 12] {
        self.as_bytes().try_into().unwrap()
    }
}

impl ToSlot for ExtraInfo {
    fn slot(&self) -> [u8; 12] {
        let mut slot = [0; 12];
        slot[..8].copy_from_slice(self.as_bytes());
        slot
    }
}

#[test]
fn a_good_packet_passes() {
    let mut attacker = attacker();
    attacker.assert_alive();
    attacker.end();
}

#[test]
fn malformed_packets_are_refused_and_the_next_one_works() {
    let mut attacker = attacker();
    for len in [0, 1, 13] {
        let request = attacker.request(len);
        attacker.push(&request);
        attacker.run();
        assert_eq!(attacker.answers(), [RSP_ERROR]);
        attacker.assert_alive();
    }
    for gref in [0, 99, u32::MAX] {
        let request = TxRequest { gref, ..attacker.request(100) };
        attacker.push(&request);
        attacker.run();
        assert_eq!(attacker.answers(), [RSP_ERROR]);
        attacker.assert_alive();
    }
    // The first piece is there, the second is not.
    let first = TxRequest { flags: TX_MORE_DATA, ..attacker.request(1000) };
    let second = TxRequest { gref: 12345, flags: 0, size: 500, ..first };
    attacker.push(&first);
    attacker.push(&second);
    attacker.run();
    assert_eq!(attacker.answers(), [RSP_ERROR, RSP_ERROR]);
    assert_eq!(attacker.rig.received(attacker.honest).len(), 0);
    assert_eq!(attacker.rig.vif(attacker.honest).counters().rx_errors, 0);
    attacker.assert_alive();
    attacker.end();
}

#[test]
fn a_grant_that_is_revoked_in_flight_is_an_error_of_its_owner() {
    let mut attacker = attacker();
    let request = attacker.request(2000);
    attacker.push(&request);
    let _ = attacker.tx.publish();
    let grant = attacker.data.grants()[0];
    attacker.domain.revoke(grant);
    attacker.run();
    assert_eq!(attacker.answers(), [RSP_ERROR]);
    assert_eq!(attacker.rig.vif(attacker.honest).counters().rx_errors, 0);
    attacker.end();
}

#[test]
fn filters_that_were_not_offered_are_no_packets() {
    let mut attacker = attacker();
    let request = TxRequest { flags: TX_EXTRA_INFO, ..attacker.request(100) };
    attacker.push(&request);
    attacker.push(&ExtraInfo { kind: netif::EXTRA_TYPE_MCAST_ADD, flags: 0, data: [1, 0, 0x5e, 0, 0, 1] });
    attacker.run();
    assert_eq!(attacker.answers(), [RSP_ERROR, netif::RSP_NULL]);
    assert_eq!(attacker.rig.received(attacker.honest).len(), 0);
    attacker.end();
}

#[test]
fn broken_chains_disable_the_interface() {
    type Case = fn(&mut Attacker);
    let cases: [(Case, &str); 8] = [
        (|a| a.push(&TxRequest { offset: 4000, ..a.request(100) }), "crosses the end"),
        (|a| a.push(&TxRequest { flags: TX_MORE_DATA, ..a.request(100) }), "not there"),
        (|a| a.push(&TxRequest { flags: TX_EXTRA_INFO, ..a.request(100) }), "not there"),
        (
            |a| {
                let request = a.request(0);
                for _ in 0..19 {
                    a.push(&TxRequest { flags: TX_MORE_DATA, ..request });
                }
                a.push(&request);
            },
            "too many pieces",
        ),
        (
            |a| {
                let request = a.request(100);
                a.push(&TxRequest { flags: TX_MORE_DATA, ..request });
                a.push(&TxRequest { size: 200, ..request });
            },
            "longer than the packet",
        ),
        (
            |a| {
                a.push(&TxRequest { flags: TX_EXTRA_INFO, ..a.request(100) });
                a.push(&ExtraInfo { kind: 77, flags: 0, data: [0; 6] });
            },
            "kind 77",
        ),
        (
            |a| {
                a.push(&TxRequest { flags: TX_EXTRA_INFO, ..a.request(100) });
                a.push(&ExtraInfo::gso(1, 0));
            },
            "segments",
        ),
        (
            |a| {
                a.push(&TxRequest { flags: TX_EXTRA_INFO, ..a.request(100) });
                for _ in 0..6 {
                    let mut extra = ExtraInfo::gso(1, 1400);
                    extra.flags = EXTRA_FLAG_MORE;
                    assert_eq!(extra.kind, EXTRA_TYPE_GSO);
                    a.push(&extra);
                }
            },
            "too many pieces",
        ),
    ];
    for (case, reason) in cases {
        let mut attacker = attacker();
        attacker.assert_alive();
        case(&mut attacker);
        attacker.run();
        attacker.assert_disabled(reason);
    }
}

#[test]
fn runaway_indices_disable_the_interface() {
    for claimed in [258, 5000, u32::MAX] {
        let mut attacker = attacker();
        attacker.assert_alive();
        let grants = [attacker.tx.grants()[0]];
        let page = attacker.rig.dom0.map(DomainId::new(1), &grants, Access::ReadWrite).unwrap();
        page.write_u32(REQ_PROD, claimed);
        drop(page);
        attacker.run();
        attacker.assert_disabled("transmit ring");
    }
    let mut attacker = attacker();
    let grants = [attacker.rx.grants()[0]];
    let page = attacker.rig.dom0.map(DomainId::new(1), &grants, Access::ReadWrite).unwrap();
    page.write_u32(REQ_PROD, 1000);
    drop(page);
    let honest = attacker.honest;
    attacker.rig.send(honest, &plain(mac(2), mac(1), 100, 0));
    attacker.assert_disabled("receive ring");
}

#[test]
fn receive_buffers_that_are_not_there_are_not_the_senders_fault() {
    let mut attacker = attacker();
    let honest = attacker.honest;
    for number in 0..64 {
        attacker.rx.push(&RxRequest { id: number, pad: 0, gref: 77_777 }).unwrap();
        let _ = attacker.rx.publish();
        attacker.rig.send(honest, &plain(mac(2), mac(1), 1000, 0));
        let (_, response) = attacker.rx.pop::<RxResponse>().unwrap().unwrap();
        assert_eq!((response.id, response.status), (number, RSP_ERROR));
    }
    assert_eq!(attacker.rig.guests[honest].front.counters().tx_errors, 0);
    attacker.assert_disabled("receive buffers");
}

#[test]
fn nonsense_in_the_store_is_refused_with_a_reason() {
    let cases: [(&[(&str, u64)], &str); 6] = [
        (&[("event-channel", 1)], "copies"),
        (&[("request-rx-copy", 1)], "transmit ring"),
        (&[("request-rx-copy", 1), ("tx-ring-ref", 1)], "receive ring"),
        (&[("request-rx-copy", 1), ("tx-ring-ref", 1), ("rx-ring-ref", 1)], "no event channel"),
        (&[("request-rx-copy", 1), ("multi-queue-num-queues", 9)], "9 queues"),
        (
            &[("request-rx-copy", 1), ("tx-ring-ref", 1), ("rx-ring-ref", 1), ("event-channel", 1)],
            "cannot be mapped",
        ),
    ];
    for (keys, reason) in cases {
        let mut rig = Rig::new();
        let port = rig.prepare(1, BackOptions::default(), &[]);
        publish(&mut rig, 1, keys);
        let vif = rig.bridge.vif(port).unwrap();
        let said = vif.failure().unwrap();
        assert!(said.contains(reason), "{said}");
        rig.end();
    }
}

#[test]
fn a_guest_that_goes_half_way_leaves_nothing_behind() {
    let mut attacker = attacker();
    let request = attacker.request(100);
    attacker.push(&request);
    let _ = attacker.tx.publish();
    let dir = frontend_dir(DomainId::new(1), "vif", 0);
    crate::xenbus::write_state(&mut attacker.rig.store, &dir, XenbusState::Closed).unwrap();
    attacker.rig.talk();
    assert!(attacker.rig.bridge.vif(attacker.port).unwrap().is_closed());
    attacker.run();
    attacker.end();
}

/// A front end whose back end is this test.
struct Victim {
    front: NetFront<Domain>,
    store: LocalStore,
    tx: BackRing<Memory>,
    rx: BackRing<Memory>,
    page: Memory,
}

fn victim() -> Victim {
    let mut rig = Rig::new();
    let port = rig.prepare(1, BackOptions::default(), &[]);
    drop(rig.bridge.remove(port));
    let domain = rig.machine.domain(1);
    let mut store = LocalStore::unprivileged(&rig.server, DomainId::new(1));
    let ends = Frontend::open(&mut store, &frontend_dir(DomainId::new(1), "vif", 0)).unwrap();
    let mut front = NetFront::new(&domain, ends.clone(), NetOptions::default());
    front.on_store(&mut store);
    let grant = |store: &mut LocalStore, name: &str| {
        let number = crate::xs::read_number(store, TransactionId::NONE, &ends.key(name)).unwrap();
        pv_abi::ids::GrantRef::new(number as u32)
    };
    let (tx, rx) = (grant(&mut store, "tx-ring-ref"), grant(&mut store, "rx-ring-ref"));
    let map = |grant| rig.dom0.map(DomainId::new(1), &[grant], Access::ReadWrite).unwrap();
    let back = backend_dir(DomainId::DOM0, "vif", DomainId::new(1), 0);
    crate::xenbus::write_state(&mut rig.store, &back, XenbusState::Connected).unwrap();
    front.on_store(&mut store);
    assert_eq!(front.state(), NetState::Connected);
    Victim {
        front,
        store,
        tx: BackRing::new(map(tx), 12).unwrap(),
        rx: BackRing::new(map(rx), 8).unwrap(),
        page: map(rx),
    }
}

impl Victim {
    fn answer_rx(&mut self, change: impl FnOnce(&mut RxResponse)) {
        let request: RxRequest = self.rx.pop().unwrap().unwrap();
        let mut response = RxResponse { id: request.id, offset: 0, flags: 0, status: 100 };
        change(&mut response);
        self.rx.push(&response).unwrap();
        let _ = self.rx.publish();
        self.front.poll();
    }

    fn assert_given_up(&mut self) {
        assert_eq!(self.front.state(), NetState::Failed);
        assert_eq!(self.front.send(&[0; 60], Offload::default()), Err(SendError::Down));
        assert!(self.front.wants_store());
        self.front.on_store(&mut self.store);
        assert!(!self.front.wants_store());
    }
}

#[test]
fn received_pieces_outside_their_page_are_dropped() {
    let mut victim = victim();
    for (offset, status) in
        [(4000, 100), (4097, 0), (u16::MAX, 1), (0, 4097), (0, i16::MAX), (0, -1), (0, RSP_DROPPED)]
    {
        victim.answer_rx(|response| {
            response.offset = offset;
            response.status = status;
        });
        assert!(victim.front.receive().is_none());
    }
    assert_eq!(victim.front.counters().rx_errors, 7);
    victim.answer_rx(|_| {});
    assert_eq!(victim.front.receive().unwrap().bytes.len(), 100);
}

#[test]
fn a_back_end_that_breaks_the_rings_is_given_up() {
    type Case = fn(&mut Victim);
    let cases: [Case; 6] = [
        |v| v.answer_rx(|response| response.id ^= 1),
        |v| v.page.write_u32(RSP_PROD, 300),
        |v| v.page.write_u32(RSP_PROD, u32::MAX),
        |v| {
            // A packet without an end.
            for _ in 0..40 {
                v.answer_rx(|response| response.flags = netif::RX_MORE_DATA);
            }
        },
        |v| {
            v.front.send(&[0; 60], Offload::default()).unwrap();
            v.front.kick();
            let _: TxRequest = v.tx.pop().unwrap().unwrap();
            v.tx.push(&TxResponse { id: 200, status: RSP_OKAY }).unwrap();
            let _ = v.tx.publish();
        },
        |v| {
            v.front.send(&[0; 60], Offload::default()).unwrap();
            v.front.kick();
            let _: TxRequest = v.tx.pop().unwrap().unwrap();
            v.tx.push(&TxResponse { id: 0, status: netif::RSP_NULL }).unwrap();
            let _ = v.tx.publish();
        },
    ];
    for case in cases {
        let mut victim = victim();
        case(&mut victim);
        victim.front.poll();
        victim.assert_given_up();
    }
}

#[test]
fn a_packet_that_comes_in_two_goes_is_put_together() {
    let mut victim = victim();
    victim.answer_rx(|response| response.flags = netif::RX_MORE_DATA);
    assert!(victim.front.receive().is_none());
    victim.answer_rx(|_| {});
    assert_eq!(victim.front.receive().unwrap().bytes.len(), 200);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever lies in the transmit ring, the bridge answers or disables, the honest guest goes on, and nothing is
    /// left mapped or granted.
    #[test]
    fn any_bytes_in_the_transmit_ring_are_survived(
        slots in prop::collection::vec(any::<[u8; 12]>(), 1..60),
        likely in any::<bool>(),
    ) {
        let mut attacker = attacker();
        let template = attacker.request(100);
        for slot in slots {
            let mut slot = slot;
            if likely && slot[0] < 200 {
                let request = TxRequest {
                    gref: attacker.data.grants()[slot[1] as usize % 4].raw(),
                    offset: u16::from(slot[2]) % 40,
                    flags: u16::from(slot[3]) & if slot[0] < 100 { 3 } else { 15 },
                    size: 14 + u16::from(slot[4]) * 8,
                    ..template
                };
                slot = request.slot();
            }
            attacker.tx.push(&slot).unwrap();
        }
        attacker.run();
        attacker.rig.talk();
        let honest = attacker.honest;
        attacker.rig.received(honest);
        let third = attacker.rig.add(3);
        attacker.rig.send(third, &plain(mac(3), mac(2), 100, 0));
        prop_assert!(attacker.rig.received(honest).iter().any(|packet| Mac::at(packet, 6) == Some(mac(3))));
        attacker.end();
    }

    /// Whatever a back end answers, the front end takes packets or gives up.
    #[test]
    fn any_answers_are_survived(slots in prop::collection::vec(any::<[u8; 8]>(), 1..200)) {
        let mut victim = victim();
        for slot in slots {
            let Ok(Some(request)) = victim.rx.pop::<RxRequest>() else { break };
            let mut slot = slot;
            // The right id is too unlikely by chance.
            if slot[7] < 128 {
                slot[..2].copy_from_slice(&request.id.to_le_bytes());
            }
            if victim.rx.push(&slot).is_err() {
                break;
            }
            let _ = victim.rx.publish();
            victim.front.poll();
            while let Some(frame) = victim.front.receive() {
                prop_assert!(frame.bytes.len() <= PACKET_MAX);
            }
        }
    }
}

const _: () = assert!(PAGE_SIZE == 4096);

#[test]
fn a_back_end_that_never_answers_costs_only_its_own_interface() {
    let mut victim = victim();
    let packet = [0x5a; 1514];
    let mut sent = 0;
    while victim.front.send(&packet, Offload::default()).is_ok() {
        sent += 1;
        victim.front.kick();
        assert!(sent <= 256, "more than the ring holds");
    }
    assert_eq!(victim.front.send(&packet, Offload::default()), Err(SendError::Full));
    assert!(!victim.front.can_send(packet.len()));
    // Nothing is taken for an answer, however often somebody looks.
    for _ in 0..100 {
        assert!(!victim.front.poll());
    }
    assert_eq!(victim.front.state(), NetState::Connected);
    // It can be closed all the same, and then holds nothing but what the other end still maps.
    victim.front.close(&mut victim.store);
    assert_eq!(victim.front.state(), NetState::Closing);
    assert_eq!(victim.front.send(&packet, Offload::default()), Err(SendError::Down));
}
