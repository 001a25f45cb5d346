//! Packets arrive, whole, in order, and cheaply.

use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::*;

#[test]
fn packets_of_every_size_arrive() {
    let mut rig = Rig::new();
    let keys = [("mtu", "65521")];
    let a = rig.add_with(1, BackOptions::default(), NetOptions::default(), &keys);
    let b = rig.add_with(2, BackOptions::default(), NetOptions::default(), &keys);
    assert_eq!(rig.guests[a].front.mac(), mac(1));
    assert_eq!(rig.guests[a].front.mtu(), 65521);
    for len in [14, 15, 60, 127, 128, 129, 1514, 4095, 4096, 4097, 8192, 9000, 65535] {
        let packet = plain(mac(1), mac(2), len, 7);
        rig.send(a, &packet);
        assert!(rig.received(b) == [packet], "{len} bytes");
    }
    assert_eq!(rig.guests[a].front.counters().tx_errors, 0);
    rig.end();
}

#[test]
fn a_packet_between_guests_is_copied_once() {
    let mut rig = Rig::new();
    let (a, b) = (rig.add(1), rig.add(2));
    let packet = plain(mac(1), mac(2), 1514, 1);
    rig.send(a, &packet);
    rig.received(b);
    let before = rig.machine.meters().bytes_copied.load(Ordering::SeqCst);
    rig.send(a, &packet);
    let copied = rig.machine.meters().bytes_copied.load(Ordering::SeqCst) - before;
    // The bytes that are looked at travel twice.
    // Both guests' pages stay mapped. What is looked at is written from the private copy of it.
    assert_eq!(copied, 1514 - 128);
}

#[test]
fn a_stream_needs_few_events() {
    let mut rig = Rig::new();
    let (a, b) = (rig.add(1), rig.add(2));
    let packet = plain(mac(1), mac(2), 1514, 1);
    let total = 2000;
    let (mut sent, mut got) = (0, 0);
    while got < total {
        // As a stack does: as many as fit, then one kick.
        while sent < total && rig.guests[a].front.can_send(packet.len()) {
            rig.guests[a].front.send(&packet, Offload::default()).unwrap();
            sent += 1;
        }
        rig.guests[a].front.kick();
        rig.run();
        got += rig.received(b).len();
    }
    let events = [rig.back_events, rig.guests[a].events, rig.guests[b].events];
    assert!(events.iter().all(|events| events * 10 <= total as u64), "{events:?}");
}

#[test]
fn packets_of_a_connection_stay_in_order_over_several_queues() {
    let mut rig = Rig::new();
    let options = NetOptions { queues: 4, ..NetOptions::default() };
    let a = rig.add_with(1, BackOptions::default(), options, &[]);
    let b = rig.add_with(2, BackOptions::default(), options, &[]);
    // One is the control ring's.
    assert_eq!(rig.guests[a].front.ports().count(), 5);
    let mut sent: Vec<Vec<Vec<u8>>> = std::vec![Vec::new(); 16];
    for number in 0..400usize {
        let mut packet = tcp(mac(1), mac(2), false, 40);
        let flow = number % 16;
        packet[35] = flow as u8;
        packet[60] = (number / 16) as u8;
        rig.guests[a].front.send(&packet, Offload::default()).unwrap();
        sent[flow].push(packet);
        if number % 50 == 49 {
            rig.guests[a].front.kick();
            rig.run();
        }
    }
    let mut received: Vec<Vec<Vec<u8>>> = std::vec![Vec::new(); 16];
    for packet in rig.received(b) {
        received[packet[35] as usize].push(packet);
    }
    assert!(received == sent);
    rig.end();
}

#[test]
fn a_receiver_that_is_slow_loses_nothing() {
    let mut rig = Rig::new();
    let a = rig.add(1);
    let slow = NetOptions { backlog: 4, rx_pages: 32, ..NetOptions::default() };
    let b = rig.add_with(2, BackOptions::default(), slow, &[]);
    let (mut sent, mut got): (u32, u32) = (0, 0);
    let total = 1500;
    while got < total {
        while sent < total {
            let mut packet = plain(mac(1), mac(2), 1000, 0);
            packet[20..24].copy_from_slice(&sent.to_be_bytes());
            match rig.guests[a].front.send(&packet, Offload::default()) {
                Ok(()) => sent += 1,
                Err(error) => {
                    assert_eq!(error, SendError::Full);
                    break;
                }
            }
        }
        rig.guests[a].front.kick();
        rig.run();
        // One packet at a time is taken.
        if let Some(frame) = rig.guests[b].front.receive() {
            assert_eq!(frame.bytes[20..24], got.to_be_bytes());
            got += 1;
        }
        rig.guests[b].front.poll();
        rig.run();
    }
    assert_eq!(rig.vif(b).counters().rx_dropped, 0);
    rig.end();
}

#[test]
fn a_flood_leaves_room_for_others() {
    let mut rig = Rig::new();
    let (flooder, other, target) = (rig.add(1), rig.add(2), rig.add(3));
    let flood = plain(mac(1), mac(3), 1000, 0);
    let ping = plain(mac(2), mac(3), 60, 0);
    let mut pings = 0;
    for _ in 0..20 {
        while rig.guests[flooder].front.send(&flood, Offload::default()).is_ok() {}
        rig.guests[flooder].front.kick();
        rig.guests[other].front.send(&ping, Offload::default()).unwrap();
        rig.guests[other].front.kick();
        rig.run();
        pings += rig.received(target).iter().filter(|packet| packet.len() == 60).count();
        rig.run();
    }
    assert!(pings >= 18, "{pings} of 20 pings came through a flood");
}

#[test]
fn a_receiver_that_shows_no_life_does_not_block_its_senders_for_ever() {
    let mut rig = Rig::new();
    let a = rig.add(1);
    let few = NetOptions { backlog: 1, rx_pages: 32, ..NetOptions::default() };
    let b = rig.add_with(2, BackOptions::default(), few, &[]);
    let c = rig.add(3);
    for _ in 0..60 {
        rig.guests[a].front.send(&plain(mac(1), mac(2), 100, 0), Offload::default()).unwrap();
    }
    rig.send(a, &plain(mac(1), mac(3), 100, 0));
    // The guest takes nothing, and its queue stands in the way.
    assert_eq!(rig.received(c).len(), 0);
    let Progress::Wake(at) = rig.bridge.poll(1000) else { panic!("nobody will look again") };
    rig.machine.advance(at.raw());
    rig.bridge.poll(1000);
    rig.run();
    assert_eq!(rig.received(c).len(), 1);
    assert!(rig.vif(b).counters().rx_dropped > 0);
    // When it lives again, it is served again.
    for _ in 0..100 {
        rig.received(b);
        rig.run();
    }
    rig.send(a, &plain(mac(1), mac(2), 222, 0));
    assert!(rig.received(b).iter().any(|packet| packet.len() == 222));
    rig.end();
}

#[test]
fn a_rate_limit_holds() {
    let mut rig = Rig::new();
    let options = BackOptions { rate: Some((100_000, 1_000_000_000)), ..BackOptions::default() };
    let a = rig.add_with(1, options, NetOptions::default(), &[]);
    let b = rig.add(2);
    let packet = plain(mac(1), mac(2), 1000, 0);
    let mut got = 0;
    for _ in 0..100 {
        while rig.guests[a].front.send(&packet, Offload::default()).is_ok() {}
        rig.guests[a].front.kick();
        rig.run();
        if let Progress::Wake(_) = rig.bridge.poll(1000) {}
        rig.run();
        got += rig.received(b).len();
        // A tenth of a second.
        rig.machine.advance(100_000_000);
    }
    // Ten seconds at 100 packets, and the burst at the start.
    assert!((990..=1150).contains(&got), "{got}");
}

#[test]
fn a_rate_limit_holds_for_large_packets_however_often_the_bridge_looks() {
    let mut rig = Rig::new();
    let options = BackOptions { rate: Some((50_000, 50_000_000)), ..BackOptions::default() };
    let a = rig.add_with(1, options, NetOptions::default(), &[]);
    let b = rig.add(2);
    let packet = tcp(mac(1), mac(2), false, 60_000);
    let offload = Offload { csum_blank: true, validated: true, gso: Some(Gso { is_v6: false, size: 1400 }) };
    let mut got = 0;
    for _ in 0..10_000 {
        while rig.guests[a].front.send(&packet, offload).is_ok() {}
        rig.guests[a].front.kick();
        rig.run();
        rig.bridge.poll(1000);
        rig.run();
        got += rig.received(b).len();
        rig.machine.advance(100_000);
    }
    // A second at a million bytes, and a burst of 131,072 at most that the last packet may overdraw.
    let bytes = got * packet.len();
    assert!((900_000..=1_200_000).contains(&bytes), "{bytes}");
}

#[test]
fn the_link_is_told() {
    let mut rig = Rig::new();
    let a = rig.add(1);
    assert!(rig.guests[a].front.is_up());
    let port = rig.guests[a].port;
    let b = rig.add(2);
    for is_up in [false, true] {
        rig.bridge.vif(port).unwrap().set_carrier(&mut rig.store, is_up).unwrap();
        rig.talk();
        assert_eq!(rig.guests[a].front.is_up(), is_up);
        rig.send(a, &plain(mac(1), mac(2), 60, 0));
        rig.send(b, &plain(mac(2), mac(1), 60, 0));
        let through = usize::from(is_up);
        assert_eq!((rig.received(a).len(), rig.received(b).len()), (through, through));
    }
    rig.end();
}

#[test]
fn a_back_end_that_comes_again_is_used_again() {
    let mut rig = Rig::new();
    let (a, b) = (rig.add(1), rig.add(2));
    let port = rig.guests[a].port;
    drop(rig.bridge.remove(port));
    let dir = backend_dir(DomainId::DOM0, "vif", DomainId::new(1), 0);
    crate::xenbus::write_state(&mut rig.store, &dir, crate::xenbus::XenbusState::Initialising).unwrap();
    rig.talk();
    let ends = Backend::open(&mut rig.store, &dir).unwrap();
    let back = NetBack::new(&rig.dom0, &mut rig.store, ends, BackOptions::default()).unwrap();
    rig.guests[a].port = rig.bridge.add(back).unwrap();
    rig.talk();
    rig.send(a, &plain(mac(1), mac(2), 100, 0));
    assert_eq!(rig.received(b).len(), 1);
    rig.end();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Three guests and the wire send to each other in any pattern: every packet arrives once, unchanged, in the order
    /// in which its sender sent to that receiver; nothing is left at the end.
    #[test]
    fn every_packet_arrives_once_and_in_order(
        sends in prop::collection::vec((0..4usize, 0..4usize, 60..6000usize, any::<u8>()), 1..150),
        pauses in prop::collection::vec(any::<bool>(), 150),
    ) {
        let mut rig = Rig::new();
        for id in 1..=3 {
            rig.add_with(id, BackOptions::default(), NetOptions::default(), &[("mtu", "9000")]);
        }
        let outside = Mac::new([2, 0, 0, 0, 0, 9]);
        let address = |who: usize| if who == 3 { outside } else { mac(who as u16 + 1) };
        // The bridge learns where the outside is.
        rig.wire.arrive(&plain(outside, Mac::BROADCAST, 60, 0));
        rig.bridge.poll(100);
        rig.run();
        for guest in 0..3 {
            rig.received(guest);
        }
        let mut expected: Vec<Vec<Vec<u8>>> = std::vec![Vec::new(); 4];
        let mut got: Vec<Vec<Vec<u8>>> = std::vec![Vec::new(); 4];
        for ((from, to, len, seed), pause) in sends.into_iter().zip(pauses) {
            if from == to {
                continue;
            }
            let len = if from == 3 || to == 3 { len.min(1514) } else { len };
            let packet = plain(address(from), address(to), len, seed);
            expected[to].push(packet.clone());
            if from == 3 {
                rig.wire.arrive(&packet);
                rig.bridge.poll(100);
            } else {
                while rig.guests[from].front.send(&packet, Offload::default()).is_err() {
                    rig.guests[from].front.kick();
                    rig.run();
                }
            }
            if pause {
                for guest in 0..3 {
                    rig.guests[guest].front.kick();
                }
                rig.run();
            }
            for (guest, got) in got.iter_mut().enumerate().take(3) {
                got.extend(rig.received(guest));
            }
        }
        for guest in 0..3 {
            rig.guests[guest].front.kick();
        }
        for _ in 0..20 {
            rig.run();
            for (guest, got) in got.iter_mut().enumerate().take(3) {
                got.extend(rig.received(guest));
            }
        }
        got[3] = rig.wire.sent();
        for (got, expected) in got.iter().zip(&expected) {
            for sender in 0..4 {
                let of = |packets: &Vec<Vec<u8>>| -> Vec<Vec<u8>> {
                    packets.iter().filter(|p| Mac::at(p, 6) == Some(address(sender))).cloned().collect()
                };
                prop_assert!(of(got) == of(expected), "{} of {}", of(got).len(), of(expected).len());
            }
        }
        rig.end();
    }
}
