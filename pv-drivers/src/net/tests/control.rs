//! The control ring: honest ends, and front ends that lie.

use pv_abi::io::netif::{self, CtrlRequest, CtrlResponse, RxRequest};
use pv_abi::io::ring::REQ_PROD;

use super::peer::Peer;
use super::*;
use crate::platform::Access;
use crate::ring::BackRing;

const OK: u32 = netif::CTRL_STATUS_SUCCESS;
const UNSUPPORTED: u32 = netif::CTRL_STATUS_NOT_SUPPORTED;
const INVALID: u32 = netif::CTRL_STATUS_INVALID_PARAMETER;
const OVERFLOW: u32 = netif::CTRL_STATUS_BUFFER_OVERFLOW;
const HASH_TYPES: u32 = 0xf;

impl Peer {
    /// A request about the data page.
    fn ask_about(&mut self, kind: u16, bytes: &[u8], count: u32, offset: u32) -> u32 {
        self.data.memory().copy_in(0, bytes);
        let grant = self.data.grants()[0].raw();
        self.ask(kind, [grant, count, offset]).0
    }

    fn key(&mut self, key: &[u8]) -> u32 {
        self.ask_about(netif::CTRL_TYPE_SET_HASH_KEY, key, key.len() as u32, 0)
    }

    fn mapping(&mut self, entries: &[u32], offset: u32) -> u32 {
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        self.ask_about(netif::CTRL_TYPE_SET_HASH_MAPPING, &bytes, entries.len() as u32, offset)
    }

    /// The queue into which a packet from the wire comes.
    fn queue_of(&mut self, packet: &[u8]) -> usize {
        let grant = self.data.grants()[0].raw();
        for (_, rx) in &mut self.queues {
            rx.push(&RxRequest { id: 0, pad: 0, gref: grant }).unwrap();
            let _ = rx.publish();
        }
        self.rig.wire.arrive(packet);
        self.rig.bridge.poll(64);
        let came: Vec<_> = self.queues.iter().map(|(_, rx)| rx.pending().unwrap()).collect();
        for (_, rx) in &mut self.queues {
            while rx.pop::<netif::RxResponse>().unwrap().is_some() {}
        }
        assert_eq!(came.iter().sum::<u32>(), 1, "{came:?}");
        came.iter().position(|count| *count == 1).unwrap()
    }
}

#[test]
fn a_guest_learns_and_chooses_how_its_packets_are_hashed() {
    let mut peer = Peer::new();
    // First an algorithm.
    assert_eq!(peer.ask(netif::CTRL_TYPE_GET_HASH_FLAGS, [0; 3]), (UNSUPPORTED, 0));
    assert_eq!(peer.ask(netif::CTRL_TYPE_SET_HASH_FLAGS, [1, 0, 0]), (INVALID, 0));
    assert_eq!(peer.ask(netif::CTRL_TYPE_SET_HASH_ALGORITHM, [1, 0, 0]), (OK, 0));
    assert_eq!(peer.ask(netif::CTRL_TYPE_GET_HASH_FLAGS, [0; 3]), (OK, HASH_TYPES));
    assert_eq!(peer.ask(netif::CTRL_TYPE_GET_HASH_MAPPING_SIZE, [0; 3]), (OK, 128));
    assert_eq!(peer.ask(netif::CTRL_TYPE_SET_HASH_FLAGS, [HASH_TYPES, 0, 0]), (OK, 0));
    // A key with one bit: the hash is the data's last bits, here the lowest ones of the ports.
    let mut key = [0; 40];
    key[11] = 1;
    assert_eq!(peer.key(&key), OK);
    let mut packet = tcp(mac(9), mac(1), false, 100);
    for port in 0..8u8 {
        packet[37] = port;
        // Without a mapping: modulo the queues.
        let hash = crate::net::toeplitz(&key, &packet[26..38]);
        assert_eq!(peer.queue_of(&packet), hash as usize % 2);
    }
    assert_eq!(peer.ask(netif::CTRL_TYPE_SET_HASH_MAPPING_SIZE, [4, 0, 0]), (OK, 0));
    assert_eq!(peer.mapping(&[1, 1], 1), OK);
    for port in 0..8u8 {
        packet[37] = port;
        let hash = crate::net::toeplitz(&key, &packet[26..38]);
        assert_eq!(peer.queue_of(&packet), usize::from(matches!(hash % 4, 1 | 2)));
    }
    peer.end();
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let mut peer = Peer::new();
    assert_eq!(peer.ask(netif::CTRL_TYPE_SET_HASH_ALGORITHM, [2, 0, 0]).0, INVALID);
    assert_eq!(peer.ask(netif::CTRL_TYPE_SET_HASH_ALGORITHM, [1, 0, 0]).0, OK);
    assert_eq!(peer.ask(netif::CTRL_TYPE_SET_HASH_FLAGS, [0x10, 0, 0]).0, INVALID);
    assert_eq!(peer.key(&[0xff; 41]), OVERFLOW);
    for grant in [0, 0xffff_ffff, 12_345] {
        assert_eq!(peer.ask(netif::CTRL_TYPE_SET_HASH_KEY, [grant, 40, 0]).0, INVALID);
        // Nothing is fetched for an empty key.
        assert_eq!(peer.ask(netif::CTRL_TYPE_SET_HASH_KEY, [grant, 0, 0]).0, OK);
    }
    for size in [129, u32::MAX] {
        assert_eq!(peer.ask(netif::CTRL_TYPE_SET_HASH_MAPPING_SIZE, [size, 0, 0]).0, INVALID);
    }
    assert_eq!(peer.mapping(&[0], 0), INVALID, "there is no mapping yet");
    assert_eq!(peer.ask(netif::CTRL_TYPE_SET_HASH_MAPPING_SIZE, [4, 0, 0]).0, OK);
    for (entries, offset) in [(&[0u32; 5][..], 0), (&[0], 4), (&[0], u32::MAX), (&[2], 0), (&[u32::MAX], 0)] {
        assert_eq!(peer.mapping(entries, offset), INVALID, "{entries:?} at {offset}");
    }
    assert_eq!(peer.mapping(&[0; 129], 0), OVERFLOW);
    let grant = peer.data.grants()[0].raw();
    assert_eq!(peer.ask(netif::CTRL_TYPE_SET_HASH_MAPPING, [grant, u32::MAX, 0]).0, OVERFLOW);
    assert_eq!(peer.ask(netif::CTRL_TYPE_SET_HASH_MAPPING, [0, 4, 0]).0, INVALID);
    for kind in [0, 11, 0xff00] {
        assert_eq!(peer.ask(kind, [grant, 1, 1]).0, UNSUPPORTED);
    }
    let vif = peer.rig.bridge.vif(peer.port).unwrap();
    assert!(vif.is_connected());
    peer.end();
}

#[test]
fn a_full_ring_is_served_in_turns() {
    let mut peer = Peer::new();
    let slots = peer.control.slots();
    for _ in 0..3 {
        for id in 0..slots as u16 {
            let kind = netif::CTRL_TYPE_GET_HASH_MAPPING_SIZE;
            peer.control.push(&CtrlRequest { id, kind, data: [0; 3] }).unwrap();
        }
        let _ = peer.control.publish();
        while peer.rig.bridge.poll(64) == Progress::More {}
        for id in 0..slots as u16 {
            assert_eq!(peer.control.pop::<CtrlResponse>().unwrap().unwrap().1.id, id);
        }
    }
    peer.end();
}

#[test]
fn a_runaway_index_disables_that_interface_alone() {
    let mut peer = Peer::new();
    let honest = peer.rig.add(2);
    let frame = peer.control.grants()[0];
    let ring = peer.rig.dom0.map(peer.domain.id, &[frame], Access::ReadWrite).unwrap();
    ring.write_u32(REQ_PROD, 1000);
    drop(ring);
    peer.rig.bridge.poll(64);
    let port = peer.port;
    let vif = peer.rig.bridge.vif(port).unwrap();
    assert!(!vif.is_connected());
    assert!(vif.failure().unwrap().contains("control ring"), "{:?}", vif.failure());
    peer.rig.talk();
    assert!(peer.rig.vif(honest).is_connected());
    peer.rig.guests.clear();
    peer.end();
}

#[test]
fn our_front_end_asks_for_hashes_where_it_has_several_queues() {
    let mut rig = Rig::new();
    let one = rig.add(1);
    let many =
        rig.add_with(2, BackOptions::default(), NetOptions { queues: 4, ..NetOptions::default() }, &[]);
    rig.run();
    assert!(!rig.guests[one].front.is_hashing());
    assert!(rig.guests[many].front.is_hashing(), "{:?}", rig.guests[many].front.failure());
    assert_eq!(rig.guests[many].front.ports().count(), 5);
    // Connections are spread over all queues, and every packet arrives.
    for port in 0..64u8 {
        let mut packet = tcp(mac(1), mac(2), port % 2 == 1, 100);
        let at = if port % 2 == 1 { 55 } else { 35 };
        packet[at] = port;
        rig.send(one, &packet);
        assert_eq!(rig.received(many), [packet]);
    }
    rig.end();
}

#[test]
fn a_back_end_that_answers_what_was_not_asked_is_given_up() {
    let machine = Machine::new();
    let (guest, dom0) = (machine.domain(1), machine.domain(0));
    type Lie = fn(&CtrlRequest) -> CtrlResponse;
    let lies: [(Lie, bool); 3] = [
        (|asked| CtrlResponse { id: asked.id + 1, kind: asked.kind, ..CtrlResponse::default() }, false),
        (|asked| CtrlResponse { id: asked.id, kind: asked.kind + 1, ..CtrlResponse::default() }, false),
        // This is a refusal, and no lie.
        (|asked| CtrlResponse { id: asked.id, kind: asked.kind, status: 1, data: 0 }, true),
    ];
    for (lie, is_fine) in lies {
        let mut control = super::super::front::Control::new(&guest, DomainId::DOM0, 2).unwrap();
        control.poll().unwrap();
        let pages = dom0.map(guest.id, &[control.grant()], Access::ReadWrite).unwrap();
        let mut back = BackRing::new(pages, netif::CTRL_SLOT_SIZE).unwrap();
        let asked: CtrlRequest = back.pop().unwrap().unwrap();
        back.push(&lie(&asked)).unwrap();
        let _ = back.publish();
        assert_eq!(control.poll().is_ok(), is_fine);
        assert!(!control.is_hashing());
        drop((back, control));
        guest.retry_retired();
        assert_eq!(guest.counts().grants, 0);
    }
}
