//! A front end that does what Linux's `xen-netfront` (6.1) does: its keys in their order, its slots, its checks.

use pv_abi::ids::Port;
use pv_abi::io::netif::{
    self, ExtraInfo, RSP_NULL, RSP_OKAY, RX_CSUM_BLANK, RX_DATA_VALIDATED, RX_EXTRA_INFO, RX_MORE_DATA,
    RxRequest, RxResponse, TX_CSUM_BLANK, TX_DATA_VALIDATED, TX_EXTRA_INFO, TX_MORE_DATA, TxRequest,
    TxResponse,
};
use zerocopy::FromBytes;

use super::*;
use crate::platform::Access;
use crate::ring::FrontRing;
use crate::share::Shared;
use crate::xenbus::{XenbusState, read_state};
use crate::xs::{TransactionId, read_text, write_display};

/// Slots of one packet that it accepts (`MAX_XEN_SKB_FRAGS` and one).
const SLOTS_MAX: usize = 18;

struct Linux {
    domain: Domain,
    tx: FrontRing<Domain>,
    rx: FrontRing<Domain>,
    tx_port: Port,
    rx_port: Port,
    /// Pages for what is sent, and for what is received.
    out: Shared<Domain>,
    into: Shared<Domain>,
    /// Which receive page is in which slot.
    posted: Vec<usize>,
    taken: usize,
}

/// What it made of a received packet.
struct Skb {
    bytes: Vec<u8>,
    flags: u16,
    gso: Option<(u8, u16)>,
}

/// Connects a guest with it, as `talk_to_netback` does.
fn connect(rig: &mut Rig, id: u16, gso: bool) -> (Linux, PortId) {
    let port = rig.prepare(id, BackOptions::default(), &[]);
    let back = backend_dir(DomainId::DOM0, "vif", DomainId::new(id), 0);
    let read = |store: &mut LocalStore, key: &str| {
        read_text(store, TransactionId::NONE, &format!("{back}/{key}")).unwrap_or_default()
    };
    assert_eq!(read_state(&mut rig.store, &back), XenbusState::InitWait);
    for key in ["feature-rx-copy", "feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6"] {
        assert_eq!(read(&mut rig.store, key), "1", "{key}");
    }
    assert_eq!(read(&mut rig.store, "feature-split-event-channels"), "1");
    assert_ne!(read(&mut rig.store, "multi-queue-max-queues"), "");
    let domain = rig.machine.domain(id);
    let dom0 = DomainId::DOM0;
    let share = |pages| Shared::new(&domain, dom0, pages, Access::ReadWrite).unwrap();
    let linux = Linux {
        tx: FrontRing::new(&domain, dom0, 1, netif::TX_SLOT_SIZE).unwrap(),
        rx: FrontRing::new(&domain, dom0, 1, netif::RX_SLOT_SIZE).unwrap(),
        tx_port: domain.alloc_unbound(dom0).unwrap(),
        rx_port: domain.alloc_unbound(dom0).unwrap(),
        out: share(20),
        into: share(64),
        posted: Vec::new(),
        taken: 0,
        domain,
    };
    let gso = u64::from(gso);
    // One queue: its keys are flat, though the number of queues is written.
    let keys = [
        ("multi-queue-num-queues", 1),
        ("tx-ring-ref", linux.tx.grants()[0].raw().into()),
        ("rx-ring-ref", linux.rx.grants()[0].raw().into()),
        ("event-channel-tx", linux.tx_port.raw().into()),
        ("event-channel-rx", linux.rx_port.raw().into()),
        ("request-rx-copy", 1),
        ("feature-rx-notify", 1),
        ("feature-sg", 1),
        ("feature-gso-tcpv4", gso),
        ("feature-gso-tcpv6", gso),
        ("feature-ipv6-csum-offload", 1),
    ];
    let dir = frontend_dir(DomainId::new(id), "vif", 0);
    for (key, value) in keys {
        write_display(&mut rig.store, TransactionId::NONE, &format!("{dir}/{key}"), value).unwrap();
    }
    crate::xenbus::write_state(&mut rig.store, &dir, XenbusState::Connected).unwrap();
    rig.talk();
    let vif = rig.bridge.vif(port).unwrap();
    assert!(vif.is_connected(), "{:?}", vif.failure());
    assert_eq!(vif.ports().count(), 2);
    assert_eq!(read_state(&mut rig.store, &back), XenbusState::Connected);
    (linux, port)
}

impl Linux {
    /// Sends a packet as `xennet_start_xmit` does: the extra behind the first slot, the first slot naming the whole size.
    fn send(&mut self, rig: &mut Rig, packet: &[u8], gso: Option<(u8, u16)>) {
        // The linear part of a buffer starts anywhere in its page.
        let start = 100;
        let first = packet.len().min(PAGE_SIZE - start);
        self.out.memory().copy_in(start, &packet[..first]);
        let rest: Vec<&[u8]> = packet[first..].chunks(PAGE_SIZE).collect();
        assert!(rest.len() < SLOTS_MAX);
        let more = |is_last: bool| if is_last { 0 } else { TX_MORE_DATA };
        let mut flags = TX_CSUM_BLANK | TX_DATA_VALIDATED | more(rest.is_empty());
        flags |= if gso.is_some() { TX_EXTRA_INFO } else { 0 };
        let gref = |page: usize| self.out.grants()[page].raw();
        let request =
            TxRequest { gref: gref(0), offset: start as u16, flags, id: 200, size: packet.len() as u16 };
        self.tx.push(&request).unwrap();
        if let Some((kind, size)) = gso {
            self.tx.push(&ExtraInfo::gso(kind, size)).unwrap();
        }
        for (number, piece) in rest.iter().enumerate() {
            let page = number + 1;
            self.out.memory().copy_in(page * PAGE_SIZE, piece);
            let flags = more(page == rest.len());
            let size = piece.len() as u16;
            let request = TxRequest { gref: gref(page), offset: 0, flags, id: 200 + page as u16, size };
            self.tx.push(&request).unwrap();
        }
        if self.tx.publish() {
            self.domain.notify(self.tx_port);
        }
        rig.run();
        // `xennet_tx_buf_gc`
        let mut answers = Vec::new();
        while let Some((_, response)) = self.tx.pop::<TxResponse>().unwrap() {
            answers.push((response.id, response.status));
        }
        let mut wanted: Vec<(u16, i16)> =
            (0..=rest.len()).map(|page| (200 + page as u16, RSP_OKAY)).collect();
        if gso.is_some() {
            wanted.insert(1, (answers[1].0, RSP_NULL));
        }
        assert_eq!(answers, wanted);
    }

    /// Fills the receive ring (`xennet_alloc_rx_buffers`).
    fn post(&mut self) {
        for page in 0..64 {
            let gref = self.into.grants()[page].raw();
            self.rx.push(&RxRequest { id: page as u16, pad: 0, gref }).unwrap();
            self.posted.push(page);
        }
        if self.rx.publish() {
            self.domain.notify(self.rx_port);
        }
    }

    fn page(&mut self) -> usize {
        self.taken += 1;
        self.posted[self.taken - 1]
    }

    /// Takes a packet (`xennet_poll`, `xennet_get_responses`, `xennet_get_extras`, `xennet_set_skb_gso`).
    fn receive(&mut self) -> Option<Skb> {
        let (_, slot) = self.rx.pop::<[u8; 8]>().unwrap()?;
        let mut response = RxResponse::read_from_bytes(&slot).unwrap();
        let mut skb = Skb { bytes: Vec::new(), flags: response.flags, gso: None };
        let mut page = self.page();
        let mut extras = response.flags & RX_EXTRA_INFO != 0;
        while extras {
            let (_, slot) = self.rx.pop::<[u8; 8]>().unwrap().expect("missing extra info");
            self.page();
            let extra = ExtraInfo::read_from_bytes(&slot).unwrap();
            assert_eq!(extra.kind, netif::EXTRA_TYPE_GSO);
            assert!(extra.gso_size() > 0);
            skb.gso = Some((extra.gso_kind(), extra.gso_size()));
            extras = extra.flags & netif::EXTRA_FLAG_MORE != 0;
        }
        let mut slots = 1;
        loop {
            // The id is not looked at: the slot decides.
            let (offset, len) = (usize::from(response.offset), usize::try_from(response.status).unwrap());
            assert!(offset + len <= PAGE_SIZE);
            let from = skb.bytes.len();
            skb.bytes.resize(from + len, 0);
            self.into.memory().copy_out(page * PAGE_SIZE + offset, &mut skb.bytes[from..]);
            if response.flags & RX_MORE_DATA == 0 {
                assert!(slots <= SLOTS_MAX);
                return Some(skb);
            }
            slots += 1;
            let (_, slot) = self.rx.pop::<[u8; 8]>().unwrap().expect("need more slots");
            response = RxResponse::read_from_bytes(&slot).unwrap();
            page = self.page();
        }
    }

    fn end(self, mut rig: Rig, port: PortId) {
        drop(rig.bridge.remove(port));
        let Self { domain, tx, rx, out, into, tx_port, rx_port, .. } = self;
        drop((tx, rx, out, into));
        domain.close(tx_port);
        domain.close(rx_port);
        domain.retry_retired();
        assert_eq!(domain.counts(), crate::mock::Counts::default());
        rig.end();
    }
}

/// A TCP packet whose checksum is what `CHECKSUM_PARTIAL` means: the sum of the pseudo header.
fn partial(from: Mac, to: Mac, is_v6: bool, payload: usize) -> Vec<u8> {
    let mut packet = tcp(from, to, is_v6, payload);
    assert!(packet::fill_blank(&mut packet));
    packet
}

#[test]
fn it_sends_packets_of_all_sizes_to_a_guest_of_ours() {
    let mut rig = Rig::new();
    let ours = rig.add(2);
    let (mut linux, port) = connect(&mut rig, 1, true);
    for is_v6 in [false, true] {
        for payload in [0, 1400, 3950, 4000, 20_000, 60_000, 65_400] {
            let packet = partial(mac(1), mac(2), is_v6, payload);
            let kind = if is_v6 { netif::GSO_TYPE_TCPV6 } else { netif::GSO_TYPE_TCPV4 };
            let gso = (payload > 1448).then_some((kind, 1448));
            linux.send(&mut rig, &packet, gso);
            let frame = rig.guests[ours].front.receive().unwrap();
            assert!(frame.bytes == packet, "{payload}");
            let wanted = gso.map(|(_, size)| Gso { is_v6, size });
            assert_eq!(frame.offload, Offload { csum_blank: true, validated: true, gso: wanted });
        }
    }
    linux.end(rig, port);
}

#[test]
fn it_receives_large_packets_and_blank_checksums() {
    let mut rig = Rig::new();
    let ours = rig.add(2);
    let (mut linux, port) = connect(&mut rig, 1, true);
    linux.post();
    for (is_v6, payload) in [(false, 20_000), (true, 65_000), (false, 100)] {
        let packet = partial(mac(2), mac(1), is_v6, payload);
        let gso = (payload > 1448).then_some(Gso { is_v6, size: 1448 });
        rig.send_with(ours, &packet, Offload { csum_blank: true, validated: true, gso });
        let skb = linux.receive().unwrap();
        assert!(skb.bytes == packet);
        assert_eq!(skb.flags & (RX_CSUM_BLANK | RX_DATA_VALIDATED), RX_CSUM_BLANK | RX_DATA_VALIDATED);
        let kind = if is_v6 { netif::GSO_TYPE_TCPV6 } else { netif::GSO_TYPE_TCPV4 };
        assert_eq!(skb.gso, gso.map(|gso| (kind, gso.size)));
    }
    // From outside, checksums are whole and unchecked.
    let mut packet = tcp(Mac::new([2, 0, 0, 0, 0, 9]), mac(1), false, 100);
    assert!(packet::fill_checksum(&mut packet));
    rig.wire.arrive(&packet);
    rig.bridge.poll(100);
    let skb = linux.receive().unwrap();
    assert!(skb.bytes == packet);
    assert_eq!((skb.flags, skb.gso), (0, None));
    assert!(linux.receive().is_none());
    linux.end(rig, port);
}

#[test]
fn without_segmentation_it_gets_segments_with_partial_checksums() {
    let mut rig = Rig::new();
    let ours = rig.add(2);
    let (mut linux, port) = connect(&mut rig, 1, false);
    linux.post();
    let packet = partial(mac(2), mac(1), false, 5000);
    let gso = Some(Gso { is_v6: false, size: 1448 });
    rig.send_with(ours, &packet, Offload { csum_blank: true, validated: true, gso });
    let mut payload = Vec::new();
    while let Some(mut skb) = linux.receive() {
        assert_eq!(skb.gso, None);
        if skb.flags & RX_CSUM_BLANK != 0 {
            // It sums up from the transport header on (`skb_checksum_help`), over what is there.
            let sum = skb.bytes[34..].chunks(2).fold(0_u64, |sum, pair| {
                sum + (u64::from(pair[0]) << 8) + u64::from(*pair.get(1).unwrap_or(&0))
            });
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            skb.bytes[50..52].copy_from_slice(&sum.to_be_bytes());
        }
        is_sound(&skb.bytes).unwrap();
        payload.extend_from_slice(&skb.bytes[66..]);
    }
    assert!(payload == packet[66..]);
    linux.end(rig, port);
}

#[test]
fn it_closes_and_comes_again() {
    let mut rig = Rig::new();
    let (linux, port) = connect(&mut rig, 1, true);
    let front = frontend_dir(DomainId::new(1), "vif", 0);
    let back = backend_dir(DomainId::DOM0, "vif", DomainId::new(1), 0);
    // `xennet_bus_close`, then `xennet_create_dev` of a driver that is loaded again.
    for (said, answer) in [
        (XenbusState::Closing, XenbusState::Closing),
        (XenbusState::Closed, XenbusState::Closed),
        (XenbusState::Initialising, XenbusState::InitWait),
    ] {
        crate::xenbus::write_state(&mut rig.store, &front, said).unwrap();
        rig.talk();
        let failure = rig.bridge.vif(port).unwrap().failure().map(String::from);
        assert_eq!(read_state(&mut rig.store, &back), answer, "after {said:?}: {failure:?}");
    }
    crate::xenbus::write_state(&mut rig.store, &front, XenbusState::Connected).unwrap();
    rig.talk();
    assert!(rig.bridge.vif(port).unwrap().is_connected());
    linux.end(rig, port);
}
