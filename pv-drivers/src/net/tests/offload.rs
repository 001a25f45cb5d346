//! Checksums and segments.

use super::*;

fn blank() -> Offload {
    Offload { csum_blank: true, validated: true, gso: None }
}

fn large(is_v6: bool, size: u16) -> Offload {
    Offload { gso: Some(Gso { is_v6, size }), ..blank() }
}

#[test]
fn offloads_reach_a_guest_that_takes_them() {
    let mut rig = Rig::new();
    let (a, b) = (rig.add(1), rig.add(2));
    for is_v6 in [false, true] {
        let packet = tcp(mac(1), mac(2), is_v6, 40_000);
        rig.send_with(a, &packet, large(is_v6, 1448));
        let frame = rig.guests[b].front.receive().unwrap();
        assert!(frame.bytes == packet);
        assert_eq!(frame.offload, large(is_v6, 1448));
        let packet = tcp(mac(1), mac(2), is_v6, 100);
        rig.send_with(a, &packet, blank());
        assert_eq!(rig.guests[b].front.receive().unwrap().offload, blank());
    }
    rig.end();
}

#[test]
fn large_packets_are_cut_for_the_wire() {
    for is_v6 in [false, true] {
        let mut rig = Rig::new();
        let a = rig.add(1);
        let outside = Mac::new([2, 0, 0, 0, 0, 9]);
        let packet = tcp(mac(1), outside, is_v6, 10_001);
        rig.send_with(a, &packet, large(is_v6, 1448));
        let sent = rig.wire.sent();
        assert_eq!(sent.len(), 7);
        let headers = if is_v6 { 86 } else { 66 };
        let sequence_at = headers - 32 + 4;
        let mut payload = Vec::new();
        for (number, segment) in sent.iter().enumerate() {
            is_sound(segment).unwrap();
            let field = &segment[sequence_at..sequence_at + 4];
            let sequence = u32::from_be_bytes(field.try_into().unwrap());
            assert_eq!(sequence, 0xffff_ff00u32.wrapping_add(payload.len() as u32));
            let flags = segment[sequence_at + 9];
            // CWR only in the first, FIN and PSH only in the last, ACK in all.
            let wanted = 0x10 | if number == 0 { 0x80 } else { 0 } | if number == 6 { 9 } else { 0 };
            assert_eq!(flags, wanted, "segment {number}");
            payload.extend_from_slice(&segment[headers..]);
        }
        assert!(payload == packet[headers..]);
        assert_eq!(rig.wire.state.lock().unwrap().starts, 1);
        rig.end();
    }
}

#[test]
fn checksums_are_filled_for_the_wire() {
    let mut rig = Rig::new();
    let a = rig.add(1);
    let outside = Mac::new([2, 0, 0, 0, 0, 9]);
    for is_v6 in [false, true] {
        for payload in [0, 1, 57, 64, 200, 253, 254, 1400] {
            // Rubbish where the checksum will be.
            let mut packet = tcp(mac(1), outside, is_v6, payload);
            let field = if is_v6 { 54 } else { 34 } + 16;
            packet[field] = 0xaa;
            if !is_v6 {
                let sum =
                    packet[14..34].chunks(2).map(|p| u32::from(p[0]) << 8 | u32::from(p[1])).sum::<u32>();
                let sum = (sum & 0xffff) + (sum >> 16);
                packet[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
            }
            rig.send_with(a, &packet, blank());
            is_sound(&rig.wire.sent()[0]).unwrap();
        }
    }
}

#[test]
fn guests_that_take_nothing_special_get_ordinary_packets() {
    let mut rig = Rig::new();
    let a = rig.add(1);
    let plain_guest = NetOptions { receive_large: false, ..NetOptions::default() };
    let keys = [("feature-no-csum-offload", "1")];
    let b = rig.add_with(2, BackOptions::default(), plain_guest, &keys);
    let packet = tcp(mac(1), mac(2), false, 5000);
    rig.send_with(a, &packet, large(false, 1400));
    let frames: Vec<_> = core::iter::from_fn(|| rig.guests[b].front.receive()).collect();
    assert_eq!(frames.len(), 4);
    let mut payload = Vec::new();
    for frame in frames {
        is_sound(&frame.bytes).unwrap();
        assert_eq!(frame.offload.gso, None);
        assert!(!frame.offload.csum_blank);
        payload.extend_from_slice(&frame.bytes[66..]);
    }
    assert!(payload == packet[66..]);
    // A broadcast goes to both kinds at once.
    let c = rig.add(3);
    let mut packet = tcp(mac(1), Mac::BROADCAST, false, 3000);
    packet[30] = 255;
    rig.send_with(a, &packet, large(false, 1400));
    assert_eq!(rig.received(b).len(), 3);
    assert!(rig.received(c) == [packet]);
    assert_eq!(rig.wire.sent().len(), 3);
    rig.end();
}

#[test]
fn a_segmentation_request_that_lies_is_refused() {
    let mut rig = Rig::new();
    let (a, b) = (rig.add(1), rig.add(2));
    let good = tcp(mac(1), mac(2), false, 5000);
    let mut not_tcp = good.clone();
    not_tcp[23] = 17;
    let mut fragment = good.clone();
    fragment[20] = 0x20;
    let mut long_header = good.clone();
    long_header[46] = 0xf0;
    long_header.truncate(70);
    let mut not_ip = good.clone();
    not_ip[12] = 0x88;
    let cases = [
        (not_tcp, large(false, 1400)),
        (fragment, large(false, 1400)),
        (long_header, large(false, 1400)),
        (not_ip, large(false, 1400)),
        (good.clone(), large(true, 1400)),
    ];
    for (number, (packet, offload)) in cases.into_iter().enumerate() {
        rig.send_with(a, &packet, offload);
        assert_eq!(rig.received(b).len(), 0, "case {number}");
        assert_eq!(rig.vif(a).counters().tx_errors, number as u64 + 1, "case {number}");
    }
    // Segments so small that they are only asked for to make work do not reach the wire.
    let mut outside = good.clone();
    outside[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    rig.send_with(a, &outside, large(false, 8));
    assert_eq!(rig.wire.sent().len(), 0);
    // A guest cuts for itself.
    assert_eq!(rig.received(b).len(), 1);
    rig.send_with(a, &good, large(false, 1400));
    assert_eq!(rig.received(b).len(), 1);
    rig.end();
}

#[test]
fn checksums_of_private_packets_are_filled() {
    for is_v6 in [false, true] {
        let mut packet = tcp(mac(1), mac(2), is_v6, 333);
        let ip_sum = packet[14..34].chunks(2).map(|p| u32::from(p[0]) << 8 | u32::from(p[1])).sum::<u32>();
        if !is_v6 {
            let sum = (ip_sum & 0xffff) + (ip_sum >> 16);
            packet[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        }
        assert!(packet::fill_checksum(&mut packet));
        is_sound(&packet).unwrap();
    }
    assert!(!packet::fill_checksum(&mut plain(mac(1), mac(2), 60, 0)));
}

#[test]
fn this_domain_has_an_address_on_its_bridge() {
    let mut rig = Rig::new();
    let a = rig.add(1);
    let own_mac = Mac::new([2, 0, 0, 0, 0, 0xff]);
    let own = Wire::own(&rig.dom0);
    rig.bridge.add_card(own_mac, own.clone()).unwrap();
    assert!(rig.bridge.add_card(own_mac, own.clone()).is_err());
    assert!(rig.bridge.add_card(mac(1), own.clone()).is_err());
    // A large packet comes whole, its checksum blank, and stays off the wire.
    for is_v6 in [false, true] {
        let packet = tcp(mac(1), own_mac, is_v6, 60_000);
        rig.send_with(a, &packet, large(is_v6, 1448));
        assert!(own.sent() == [packet]);
        assert_eq!(own.state.lock().unwrap().offloads.pop(), Some(large(is_v6, 1448)));
    }
    assert_eq!(rig.wire.sent().len(), 0);
    // Its answer goes to the guest, and to the wire only what is for the wire.
    let answer = plain(own_mac, mac(1), 333, 0);
    own.arrive(&answer);
    rig.bridge.poll(100);
    rig.run();
    assert!(rig.received(a) == [answer]);
    assert_eq!(rig.wire.sent().len(), 0);
    // Broadcasts reach all; packets to addresses that nobody knows do not come here.
    rig.send(a, &plain(mac(1), Mac::BROADCAST, 60, 0));
    assert_eq!((own.sent().len(), rig.wire.sent().len()), (1, 1));
    rig.send(a, &plain(mac(1), Mac::new([2, 0, 0, 0, 0, 9]), 60, 0));
    assert_eq!((own.sent().len(), rig.wire.sent().len()), (0, 1));
    // Nobody else is believed to have the address.
    rig.wire.arrive(&plain(own_mac, Mac::BROADCAST, 60, 0));
    rig.bridge.poll(100);
    rig.run();
    own.sent();
    rig.send(a, &plain(mac(1), own_mac, 60, 0));
    assert_eq!((own.sent().len(), rig.wire.sent().len()), (1, 0));
    rig.received(a);
    drop(own);
    rig.end();
}

#[test]
fn checksums_are_checked_and_left_blank() {
    for is_v6 in [false, true] {
        for payload in [0, 1, 333, 1400] {
            let mut packet = tcp(mac(1), mac(2), is_v6, payload);
            assert!(!packet::is_checksum_good(&packet));
            assert!(packet::fill_checksum(&mut packet));
            assert!(packet::is_checksum_good(&packet));
            // Padding is no part of it.
            packet.extend([7; 5]);
            assert!(packet::is_checksum_good(&packet));
            packet.truncate(packet.len() - 5);
            // One bit is noticed wherever it is.
            for at in [if is_v6 { 25 } else { 28 }, if is_v6 { 60 } else { 40 }, packet.len() - 1] {
                packet[at] ^= 0x10;
                assert!(!packet::is_checksum_good(&packet), "{at}");
                packet[at] ^= 0x10;
            }
            // Summing up the rest of a blank one gives the right one.
            let right = packet.clone();
            assert!(packet::fill_blank(&mut packet));
            let transport = if is_v6 { 54 } else { 34 };
            let sum = packet[transport..].chunks(2).fold(0u32, |sum, pair| {
                sum + (u32::from(pair[0]) << 8) + u32::from(*pair.get(1).unwrap_or(&0))
            });
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = (sum & 0xffff) + (sum >> 16);
            packet[transport + 16..transport + 18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
            assert!(packet == right);
        }
    }
    // Nothing that could be wrong.
    assert!(packet::is_checksum_good(&plain(mac(1), mac(2), 60, 0)));
    assert!(packet::is_checksum_good(&[]));
    // A packet that is shorter than it says.
    let mut packet = tcp(mac(1), mac(2), false, 100);
    assert!(packet::fill_checksum(&mut packet));
    packet.truncate(100);
    assert!(!packet::is_checksum_good(&packet));
}
