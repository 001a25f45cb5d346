//! Pages that stay mapped: an honest front end's, and front ends that lie about them.

use pv_abi::io::netif::{
    self, CtrlGref, CtrlRequest, CtrlResponse, RxRequest, RxResponse, TxRequest, TxResponse,
};
use zerocopy::{FromBytes, IntoBytes};

use super::peer::Peer;
use super::*;
use crate::net::back::MAPPED_MAX;
use crate::platform::Access;
use crate::share::Shared;
use crate::xenbus::XenbusState;

const OK: u32 = netif::CTRL_STATUS_SUCCESS;
const INVALID: u32 = netif::CTRL_STATUS_INVALID_PARAMETER;
const SIZE: u16 = netif::CTRL_TYPE_GET_GREF_MAPPING_SIZE;
const ADD: u16 = netif::CTRL_TYPE_ADD_GREF_MAPPING;
const DEL: u16 = netif::CTRL_TYPE_DEL_GREF_MAPPING;
/// What the back end maps in any case: two pairs of rings and the control ring.
const RINGS: usize = 5;

impl Peer {
    /// A request with a list of pages and flags.
    fn ask_list(&mut self, kind: u16, queue: u32, entries: &[(u32, u16)]) -> (u32, u32) {
        for (number, (gref, flags)) in entries.iter().enumerate() {
            let entry = CtrlGref { gref: *gref, flags: *flags, status: 0xaaaa };
            self.list.memory().copy_in(8 * number, entry.as_bytes());
        }
        let grant = self.list.grants()[0].raw();
        self.ask(kind, [queue, grant, entries.len() as u32])
    }

    fn statuses(&self, count: usize) -> Vec<u32> {
        let entry = |number: usize| {
            let mut bytes = [0; 8];
            self.list.memory().copy_out(8 * number, &mut bytes);
            CtrlGref::read_from_bytes(&bytes).unwrap().status.into()
        };
        (0..count).map(entry).collect()
    }

    fn page(&self, number: usize) -> u32 {
        self.data.grants()[number].raw()
    }

    /// Pages that stay mapped now.
    fn mapped(&self) -> usize {
        let own = self.rig.guests.len() * 3;
        self.rig.dom0.counts().maps - RINGS - own
    }

    fn grant_copies(&self) -> u64 {
        self.rig.machine.meters().grant_copies.load(core::sync::atomic::Ordering::SeqCst)
    }

    /// Sends bytes that lie in a page, and returns the answer.
    fn send(&mut self, queue: usize, page: usize, packet: &[u8]) -> i16 {
        self.data.memory().copy_in(page * PAGE_SIZE, packet);
        let gref = self.page(page);
        let tx = &mut self.queues[queue].0;
        tx.push(&TxRequest { gref, offset: 0, flags: 0, id: 9, size: packet.len() as u16 }).unwrap();
        let _ = tx.publish();
        self.rig.bridge.poll(64);
        self.queues[queue].0.pop::<TxResponse>().unwrap().expect("an answer").1.status
    }

    /// Receives a packet from the wire into pages, and returns the answers' lengths.
    fn receive(&mut self, pages: &[usize], packet: &[u8]) -> Vec<i16> {
        for (id, page) in pages.iter().enumerate() {
            let gref = self.page(*page);
            self.queues[0].1.push(&RxRequest { id: id as u16, pad: 0, gref }).unwrap();
        }
        let _ = self.queues[0].1.publish();
        self.rig.wire.arrive(packet);
        self.rig.bridge.poll(64);
        core::iter::from_fn(|| self.queues[0].1.pop::<RxResponse>().unwrap())
            .map(|(_, response)| response.status)
            .collect()
    }

    fn bytes(&self, page: usize, len: usize) -> Vec<u8> {
        let mut bytes = std::vec![0; len];
        self.data.memory().copy_out(page * PAGE_SIZE, &mut bytes);
        bytes
    }
}

fn outside() -> Mac {
    Mac::new([2, 0, 0, 0, 0, 1])
}

#[test]
fn packets_in_mapped_pages_need_no_hypervisor() {
    let mut peer = Peer::new();
    assert_eq!(peer.ask(SIZE, [0, 0, 0]), (OK, MAPPED_MAX as u32));
    assert_eq!(peer.ask(SIZE, [1, 0, 0]), (OK, MAPPED_MAX as u32));
    let entries: Vec<_> = (0..8).map(|page| (peer.page(page), 0)).collect();
    assert_eq!(peer.ask_list(ADD, 0, &entries), (OK, 0));
    assert_eq!(peer.mapped(), 8);
    let before = peer.grant_copies();
    let packet = plain(mac(1), outside(), 1500, 1);
    assert_eq!(peer.send(0, 3, &packet), netif::RSP_OKAY);
    assert!(peer.rig.wire.sent() == [packet]);
    let packet = plain(outside(), mac(1), 1500, 2);
    assert_eq!(peer.receive(&[5], &packet), [1500]);
    assert_eq!(peer.bytes(5, 1500), packet);
    assert_eq!(peer.grant_copies(), before);
    assert!(peer.rig.bridge.counters().mapped_bytes >= 3000);
    // The other queue has none: it goes on as before.
    let packet = plain(mac(1), outside(), 1500, 3);
    assert_eq!(peer.send(1, 3, &packet), netif::RSP_OKAY);
    assert!(peer.rig.wire.sent() == [packet]);
    assert_eq!(peer.grant_copies(), before + 2);
    peer.end();
}

#[test]
fn mapped_and_other_pages_mix_in_one_packet() {
    for mapped in [&[0usize, 2][..], &[1], &[0], &[]] {
        let mut peer = Peer::new();
        let honest = peer.rig.add(2);
        let entries: Vec<_> = mapped.iter().map(|page| (peer.page(*page), 0)).collect();
        assert_eq!(peer.ask_list(ADD, 0, &entries), (OK, 0));
        // To a guest whose pages are not mapped, and to a card: in pieces, the header in two of them.
        for to in [mac(2), outside()] {
            let packet = plain(mac(1), to, 2000, 7);
            let cuts = [0, 60, 1000, 2000];
            for page in 0..3 {
                let part = &packet[cuts[page]..cuts[page + 1]];
                peer.data.memory().copy_in(page * PAGE_SIZE + 100, part);
                let size = if page == 0 { 2000 } else { part.len() };
                let flags = if page < 2 { netif::TX_MORE_DATA } else { 0 };
                let gref = peer.page(page);
                let request = TxRequest { gref, offset: 100, flags, id: page as u16, size: size as u16 };
                peer.queues[0].0.push(&request).unwrap();
            }
            let _ = peer.queues[0].0.publish();
            peer.rig.bridge.poll(64);
            peer.rig.run();
            for _ in 0..3 {
                let (_, answer) = peer.queues[0].0.pop::<TxResponse>().unwrap().unwrap();
                assert_eq!(answer.status, netif::RSP_OKAY);
            }
            let arrived = if to == outside() { peer.rig.wire.sent() } else { peer.rig.received(honest) };
            assert!(arrived == [packet], "{mapped:?} to {to}");
        }
        peer.end();
    }
}

#[test]
fn from_one_guest_to_another_when_either_is_mapped() {
    for (is_sender, is_receiver) in [(true, true), (true, false), (false, true), (false, false)] {
        let first = Peer::new();
        // A second one on the same bridge.
        let Peer { rig, domain, mut control, mut queues, data, list, port } = first;
        let mut peer = Peer::on(rig, 2);
        if is_sender {
            let entries: Vec<_> = (0..8).map(|page| (peer.page(page), 0)).collect();
            assert_eq!(peer.ask_list(ADD, 0, &entries), (OK, 0));
        }
        if is_receiver {
            let entry = CtrlGref { gref: data.grants()[0].raw(), flags: 0, status: 0 };
            list.memory().copy_in(0, entry.as_bytes());
            let asked = [0, list.grants()[0].raw(), 1];
            control.push(&CtrlRequest { id: 0, kind: ADD, data: asked }).unwrap();
            let _ = control.publish();
            peer.rig.bridge.poll(64);
            assert_eq!(control.pop::<CtrlResponse>().unwrap().unwrap().1.status, OK);
        }
        for (_, rx) in &mut queues {
            rx.push(&RxRequest { id: 0, pad: 0, gref: data.grants()[0].raw() }).unwrap();
            let _ = rx.publish();
        }
        let before = peer.grant_copies();
        let packet = plain(mac(2), mac(1), 1000, 9);
        assert_eq!(peer.send(0, 4, &packet), netif::RSP_OKAY);
        let mut bytes = std::vec![0; 1000];
        data.memory().copy_out(0, &mut bytes);
        assert_eq!(bytes, packet);
        assert_eq!(peer.grant_copies() == before, is_sender && is_receiver);
        drop(peer.rig.bridge.remove(port));
        drop((control, queues, data, list));
        domain.retry_retired();
        assert_eq!(domain.counts().grants, 0);
        peer.end();
    }
}

#[test]
fn a_list_that_is_wrong_adds_nothing() {
    let mut peer = Peer::new();
    let [a, b] = [peer.page(0), peer.page(1)];
    assert_eq!(peer.ask(SIZE, [2, 0, 0]), (INVALID, 0));
    let wrong: &[(u32, &[(u32, u16)])] = &[
        // A queue that is not there.
        (2, &[(a, 0)]),
        (u32::MAX, &[(a, 0)]),
        // The last one is not granted: the first ones do not stay.
        (0, &[(a, 0), (b, 0), (99_999, 0)]),
        (0, &[(99_999, 0), (a, 0)]),
        (0, &[(a, 1), (b, 0), (99_999, 1)]),
        // Named twice, also with other flags.
        (0, &[(a, 0), (b, 0), (a, 0)]),
        (0, &[(a, 0), (a, 1)]),
        // Flags that nobody knows.
        (0, &[(a, 2)]),
        (0, &[(a, 0), (b, 0x8000)]),
    ];
    for (queue, entries) in wrong {
        assert_eq!(peer.ask_list(ADD, *queue, entries).0, INVALID, "{entries:?}");
        assert_eq!(peer.mapped(), 0, "{entries:?}");
    }
    let list = peer.list.grants()[0].raw();
    for count in [513, 1 << 31, u32::MAX] {
        assert_eq!(peer.ask(ADD, [0, list, count]).0, INVALID);
        assert_eq!(peer.ask(DEL, [0, list, count]).0, INVALID);
    }
    // The list itself is not there.
    for grant in [0, 99_999, u32::MAX] {
        assert_eq!(peer.ask(ADD, [0, grant, 1]).0, INVALID);
        assert_eq!(peer.ask(DEL, [0, grant, 1]).0, INVALID);
    }
    assert_eq!(peer.ask(ADD, [0, list, 0]), (OK, 0), "an empty list is no error");
    assert_eq!(peer.mapped(), 0);
    // What is there already cannot be added once more, not even beside others.
    assert_eq!(peer.ask_list(ADD, 0, &[(a, 0)]).0, OK);
    assert_eq!(peer.ask_list(ADD, 0, &[(b, 0), (a, 0)]).0, INVALID);
    assert_eq!(peer.mapped(), 1);
    assert!(peer.rig.bridge.vif(peer.port).unwrap().is_connected());
    peer.end();
}

#[test]
fn a_table_holds_so_many_and_no_more() {
    let mut peer = Peer::new();
    let pages = MAPPED_MAX + 1;
    let many = Shared::new(&peer.domain, DomainId::DOM0, pages, Access::ReadWrite).unwrap();
    let grants: Vec<_> = many.grants().iter().map(|grant| (grant.raw(), 0)).collect();
    for part in grants[..MAPPED_MAX].chunks(512) {
        assert_eq!(peer.ask_list(ADD, 0, part), (OK, 0));
    }
    assert_eq!(peer.ask_list(ADD, 0, &grants[MAPPED_MAX..]).0, INVALID);
    assert_eq!(peer.mapped(), MAPPED_MAX);
    // Another queue has a table of its own.
    assert_eq!(peer.ask_list(ADD, 1, &grants[MAPPED_MAX..]).0, OK);
    assert_eq!(peer.ask_list(DEL, 0, &grants[100..400]), (OK, 300));
    assert_eq!(peer.statuses(300), [OK; 300]);
    assert_eq!(peer.mapped(), MAPPED_MAX + 1 - 300);
    assert_eq!(peer.ask_list(ADD, 0, &grants[100..400]).0, OK);
    // The interface goes with all of them mapped.
    drop(peer.rig.bridge.remove(peer.port));
    assert_eq!(peer.rig.dom0.counts().maps, 0);
    drop(many);
    peer.end();
}

#[test]
fn pages_are_taken_out_one_by_one() {
    let mut peer = Peer::new();
    let [a, b, c] = [peer.page(0), peer.page(1), peer.page(2)];
    assert_eq!(peer.ask_list(ADD, 0, &[(a, 0), (b, 1)]), (OK, 0));
    // Twice in a list, never there, of another queue: only what was there counts, once.
    assert_eq!(peer.ask_list(DEL, 1, &[(a, 0), (b, 0)]), (OK, 0));
    assert_eq!(peer.statuses(2), [INVALID; 2]);
    assert_eq!(peer.ask_list(DEL, 0, &[(c, 0), (a, 0), (a, 0), (77, 0)]), (OK, 1));
    assert_eq!(peer.statuses(4), [INVALID, OK, INVALID, INVALID]);
    assert_eq!(peer.mapped(), 1);
    // A list in which nothing can be said changes nothing.
    let silent = Shared::new(&peer.domain, DomainId::DOM0, 1, Access::ReadOnly).unwrap();
    silent.memory().copy_in(0, CtrlGref { gref: b, flags: 0, status: 0 }.as_bytes());
    assert_eq!(peer.ask(DEL, [0, silent.grants()[0].raw(), 1]), (INVALID, 0));
    assert_eq!(peer.mapped(), 1);
    // But pages can be added by it, and be the list's own.
    silent.memory().copy_in(0, CtrlGref { gref: c, flags: 0, status: 0 }.as_bytes());
    assert_eq!(peer.ask(ADD, [0, silent.grants()[0].raw(), 1]), (OK, 0));
    let list = peer.list.grants()[0].raw();
    assert_eq!(peer.ask_list(ADD, 0, &[(list, 0)]), (OK, 0));
    assert_eq!(peer.mapped(), 3);
    assert_eq!(peer.ask_list(DEL, 0, &[(list, 0), (b, 0), (c, 0)]), (OK, 3));
    // They are the guest's again: nobody maps them.
    assert_eq!(peer.mapped(), 0);
    assert!(peer.domain.ungrant(silent.grants()[0]).is_ok());
    drop(silent);
    peer.end();
}

#[test]
fn what_is_mapped_to_read_is_not_written() {
    let mut peer = Peer::new();
    let only = Shared::new(&peer.domain, DomainId::DOM0, 1, Access::ReadOnly).unwrap();
    let grant = only.grants()[0].raw();
    // It cannot be mapped to be written.
    assert_eq!(peer.ask_list(ADD, 0, &[(grant, 0)]).0, INVALID);
    assert_eq!(peer.ask_list(ADD, 0, &[(grant, netif::CTRLF_GREF_READONLY)]).0, OK);
    // Nor received into: the hypervisor is asked, and refuses.
    peer.queues[0].1.push(&RxRequest { id: 0, pad: 0, gref: grant }).unwrap();
    let _ = peer.queues[0].1.publish();
    peer.rig.wire.arrive(&plain(outside(), mac(1), 100, 0));
    peer.rig.bridge.poll(64);
    let (_, answer) = peer.queues[0].1.pop::<RxResponse>().unwrap().unwrap();
    assert_eq!(answer.status, netif::RSP_ERROR);
    // A page that may be written, but was added to be read, is written by the hypervisor.
    let page = peer.page(0);
    assert_eq!(peer.ask_list(ADD, 0, &[(page, netif::CTRLF_GREF_READONLY)]).0, OK);
    let before = peer.grant_copies();
    let packet = plain(outside(), mac(1), 300, 0);
    assert_eq!(peer.receive(&[0], &packet), [300]);
    assert_eq!(peer.bytes(0, 300), packet);
    assert!(peer.grant_copies() > before);
    // And it is read where it is mapped.
    let before = peer.grant_copies();
    assert_eq!(peer.send(0, 0, &plain(mac(1), outside(), 300, 1)), netif::RSP_OKAY);
    assert_eq!(peer.grant_copies(), before);
    assert_eq!(peer.ask_list(DEL, 0, &[(grant, 0)]), (OK, 1));
    drop(only);
    peer.end();
}

#[test]
fn pages_go_while_packets_in_them_wait() {
    let mut peer = Peer::new();
    let honest = peer.rig.add(2);
    let entries: Vec<_> = (0..8).map(|page| (peer.page(page), 0)).collect();
    assert_eq!(peer.ask_list(ADD, 0, &entries).0, OK);
    // It is known where the address is, and the uplink has no room: packets wait, their headers looked at.
    assert_eq!(peer.receive(&[7], &plain(outside(), mac(1), 60, 0)), [60]);
    let taken = core::mem::take(&mut peer.rig.wire.state.lock().unwrap().free);
    let packets: Vec<_> = (0..3).map(|seed| plain(mac(1), outside(), 1000, seed)).collect();
    for (page, packet) in packets.iter().enumerate() {
        peer.data.memory().copy_in(page * PAGE_SIZE, packet);
        let gref = peer.page(page);
        let request = TxRequest { gref, offset: 0, flags: 0, id: page as u16, size: 1000 };
        peer.queues[0].0.push(&request).unwrap();
    }
    let _ = peer.queues[0].0.publish();
    assert!(matches!(peer.rig.bridge.poll(64), Progress::Wake(_)));
    assert_eq!(peer.rig.wire.sent().len(), 0);
    // The first page is taken out, the second taken out and no longer granted, the third stays.
    assert_eq!(peer.ask_list(DEL, 0, &entries[..2]), (OK, 2));
    peer.domain.revoke(peer.data.grants()[1]);
    // The header's page changes after it was looked at: what was looked at arrives.
    peer.data.memory().copy_in(2 * PAGE_SIZE, &[0xff; 100]);
    peer.rig.wire.state.lock().unwrap().free = taken;
    peer.rig.bridge.poll(64);
    assert!(peer.rig.wire.sent() == [packets[0].clone(), packets[2].clone()]);
    let answers: Vec<i16> = core::iter::from_fn(|| peer.queues[0].0.pop::<TxResponse>().unwrap())
        .map(|(_, response)| response.status)
        .collect();
    assert_eq!(answers, [netif::RSP_OKAY, netif::RSP_ERROR, netif::RSP_OKAY]);
    // Others go on.
    let packet = plain(mac(2), outside(), 100, 5);
    peer.rig.send(honest, &packet);
    assert!(peer.rig.wire.sent() == [packet]);
    peer.end();
}

#[test]
fn a_list_is_read_once() {
    // Both entries name one page after the list was read: what was read counts, and it is read by one copy.
    let mut peer = Peer::new();
    let before = peer.grant_copies();
    let entries = [(peer.page(0), 0), (peer.page(1), 0)];
    assert_eq!(peer.ask_list(ADD, 0, &entries).0, OK);
    assert_eq!(peer.grant_copies(), before + 1);
    assert_eq!(peer.ask_list(DEL, 0, &entries), (OK, 2));
    assert_eq!(peer.grant_copies(), before + 3, "read once, and written once");
    peer.end();
}

#[test]
fn a_front_end_that_goes_leaves_nothing_mapped() {
    for state in [XenbusState::Closing, XenbusState::Closed] {
        let mut peer = Peer::new();
        let entries: Vec<_> = (0..8).map(|page| (peer.page(page), 0)).collect();
        assert_eq!(peer.ask_list(ADD, 0, &entries).0, OK);
        assert_eq!(peer.ask_list(ADD, 1, &entries).0, OK);
        assert_eq!(peer.mapped(), 16);
        let dir = frontend_dir(DomainId::new(1), "vif", 0);
        crate::xenbus::write_state(&mut peer.rig.store, &dir, state).unwrap();
        peer.rig.talk();
        assert_eq!(peer.rig.dom0.counts().maps, 0);
        peer.end();
    }
    // Nor one that breaks the rules.
    let mut peer = Peer::new();
    let entries: Vec<_> = (0..8).map(|page| (peer.page(page), 0)).collect();
    assert_eq!(peer.ask_list(ADD, 0, &entries).0, OK);
    let gref = peer.page(0);
    peer.queues[0].0.push(&TxRequest { gref, offset: 4000, flags: 0, id: 0, size: 1000 }).unwrap();
    let _ = peer.queues[0].0.publish();
    peer.rig.bridge.poll(64);
    assert!(!peer.rig.bridge.vif(peer.port).unwrap().is_connected());
    peer.rig.talk();
    assert_eq!(peer.rig.dom0.counts().maps, 0);
    peer.end();
}
