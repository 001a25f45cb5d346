//! Who gets what.

use pv_abi::errno::Errno;

use super::*;

fn outside(n: u8) -> Mac {
    Mac::new([2, 0, 0, 0, 0, n])
}

#[test]
fn broadcasts_go_to_all_but_the_sender() {
    let mut rig = Rig::new();
    let (a, b, c) = (rig.add(1), rig.add(2), rig.add(3));
    let packet = plain(mac(1), Mac::BROADCAST, 100, 0);
    rig.send(a, &packet);
    assert_eq!(rig.received(a).len(), 0);
    assert!(rig.received(b) == [packet.clone()]);
    assert!(rig.received(c) == [packet.clone()]);
    assert!(rig.wire.sent() == [packet]);
    rig.end();
}

#[test]
fn known_addresses_go_one_way_and_unknown_ones_all() {
    let mut rig = Rig::new();
    let (a, b) = (rig.add(1), rig.add(2));
    let closed = BackOptions { antispoof: true, ..BackOptions::default() };
    let c = rig.add_with(3, closed, NetOptions::default(), &[]);
    let packet = plain(mac(1), outside(5), 100, 0);
    rig.send(a, &packet);
    // The second might have a bridge of its own behind it, the third cannot.
    assert_eq!((rig.received(b).len(), rig.received(c).len(), rig.wire.sent().len()), (1, 0, 1));
    rig.wire.arrive(&plain(outside(5), mac(1), 100, 0));
    rig.bridge.poll(100);
    rig.run();
    assert_eq!((rig.received(a).len(), rig.received(b).len()), (1, 0));
    rig.send(a, &packet);
    assert_eq!((rig.received(b).len(), rig.wire.sent().len()), (0, 1));
    // To oneself is nowhere.
    rig.send(a, &plain(mac(1), mac(1), 100, 0));
    assert_eq!(rig.bridge.counters().dropped, 1);
    rig.end();
}

#[test]
fn without_a_link_packets_for_outside_go_nowhere() {
    let mut rig = Rig::new();
    let a = rig.add(1);
    rig.wire.state.lock().unwrap().is_up = false;
    rig.send(a, &plain(mac(1), outside(1), 100, 0));
    assert_eq!(rig.wire.sent().len(), 0);
    assert_eq!(rig.bridge.counters().dropped, 1);
    rig.end();
}

#[test]
fn an_uplink_without_room_makes_senders_wait() {
    let mut rig = Rig::new();
    let a = rig.add(1);
    let taken = core::mem::take(&mut rig.wire.state.lock().unwrap().free);
    rig.wire.state.lock().unwrap().free = Vec::new();
    // It is known where the address is: nothing is dropped.
    rig.bridge.poll(1);
    let mut free = taken;
    rig.wire.state.lock().unwrap().free.push(free.pop().unwrap());
    rig.wire.arrive(&plain(outside(1), mac(1), 60, 0));
    rig.bridge.poll(100);
    rig.run();
    let last = rig.wire.state.lock().unwrap().free.pop().unwrap();
    free.push(last);
    for _ in 0..10 {
        rig.send(a, &plain(mac(1), outside(1), 100, 0));
    }
    assert_eq!(rig.wire.sent().len(), 0);
    assert!(matches!(rig.bridge.poll(100), Progress::Wake(_)));
    rig.wire.state.lock().unwrap().free = free;
    rig.bridge.poll(100);
    assert_eq!(rig.wire.sent().len(), 10);
    rig.run();
    rig.end();
}

#[test]
fn packets_with_a_foreign_source_are_dropped() {
    let mut rig = Rig::new();
    let strict = BackOptions {
        antispoof: true,
        addresses: std::vec!["10.0.0.1".parse().unwrap(), "fe80::1".parse().unwrap()],
        ..BackOptions::default()
    };
    let a = rig.add_with(1, strict, NetOptions::default(), &[]);
    let b = rig.add(2);
    let mut arp = plain(mac(1), mac(2), 60, 0);
    arp[12..14].copy_from_slice(&[8, 6]);
    arp[22..28].copy_from_slice(&mac(1).bytes());
    arp[28..32].copy_from_slice(&[10, 0, 0, 1]);
    let good = [
        plain(mac(1), mac(2), 60, 0),
        tcp(mac(1), mac(2), false, 10),
        tcp(mac(1), mac(2), true, 10),
        arp.clone(),
    ];
    for (number, packet) in good.iter().enumerate() {
        rig.send(a, packet);
        assert_eq!(rig.received(b).len(), 1, "good {number}");
    }
    let mut arp_mac = arp.clone();
    arp_mac[27] = 9;
    let mut arp_ip = arp.clone();
    arp_ip[31] = 9;
    let mut ip = tcp(mac(1), mac(2), false, 10);
    ip[29] = 9;
    let mut v6 = tcp(mac(1), mac(2), true, 10);
    v6[22..24].copy_from_slice(&[0x20, 1]);
    let bad = [plain(mac(2), mac(2), 60, 0), plain(outside(1), mac(2), 60, 0), arp_mac, arp_ip, ip, v6];
    for (number, packet) in bad.iter().enumerate() {
        rig.send(a, packet);
        assert_eq!(rig.received(b).len(), 0, "bad {number}");
    }
    assert_eq!(rig.vif(a).counters().spoofed, 6);
    // Nobody's address was taken away.
    rig.send(a, &plain(mac(1), mac(2), 60, 0));
    assert_eq!(rig.received(b).len(), 1);
    rig.end();
}

#[test]
fn a_guest_cannot_take_the_address_of_another() {
    let mut rig = Rig::new();
    let (a, b) = (rig.add(1), rig.add(2));
    let c = rig.add(3);
    // The first speaks as if it were the second.
    rig.send(a, &plain(mac(2), Mac::BROADCAST, 60, 0));
    rig.received(b);
    rig.received(c);
    rig.send(c, &plain(mac(3), mac(2), 60, 0));
    assert_eq!((rig.received(a).len(), rig.received(b).len()), (0, 1));
    let dir = backend_dir(DomainId::DOM0, "vif", DomainId::new(1), 0);
    let ends = Backend::open(&mut rig.store, &dir).unwrap();
    let twin = NetBack::new(&rig.dom0, &mut rig.store, ends, BackOptions::default()).unwrap();
    assert_eq!(rig.bridge.add(twin).err(), Some(Errno::EEXIST));
}

#[test]
fn the_table_of_addresses_has_limits() {
    let mut table = MacTable::new(3, 5);
    let mut rig = Rig::new();
    let (a, b) = (rig.add(1), rig.add(2));
    let (one, two) = (rig.guests[a].port, rig.guests[b].port);
    let now = crate::platform::Nanos::new(0);
    for n in 0..10 {
        table.learn(outside(n), one, now);
    }
    assert_eq!(table.len(), 3);
    for n in 10..20 {
        table.learn(outside(n), two, now);
    }
    assert_eq!(table.len(), 5);
    table.learn(Mac::BROADCAST, one, now);
    assert_eq!(table.find(Mac::BROADCAST, now), None);
    // What is not seen any more makes room.
    let later = crate::platform::Nanos::new(301_000_000_000);
    assert_eq!(table.find(outside(0), later), None);
    table.learn(outside(30), one, later);
    table.learn(outside(31), one, later);
    assert_eq!(table.find(outside(31), later), Some(one));
    assert_eq!(table.add_static(outside(31), two), Ok(()));
    assert_eq!(table.add_static(outside(31), two), Ok(()));
    assert_eq!(table.add_static(outside(31), one), Err(Errno::EEXIST));
    assert_eq!(table.add_static(Mac::BROADCAST, one), Err(Errno::EINVAL));
    table.learn(outside(31), one, later);
    assert_eq!(table.find(outside(31), later), Some(two));
    table.remove(two);
    assert_eq!(table.find(outside(31), later), None);
    assert!(!table.is_empty());
    // Static addresses have a limit of their own, which learned ones do not use up.
    for n in 40..45 {
        assert_eq!(table.add_static(outside(n), one), Ok(()));
    }
    assert_eq!(table.add_static(outside(45), one), Err(Errno::ENOSPC));
    assert!(table.forget(outside(40)) && !table.forget(outside(40)));
    assert_eq!(table.add_static(outside(45), two), Ok(()));
}

#[test]
fn a_static_address_is_behind_its_interface_whoever_speaks() {
    let mut rig = Rig::new();
    let (a, b, c) = (rig.add(1), rig.add(2), rig.add(3));
    let port = rig.guests[b].port;
    assert_eq!(rig.bridge.add_static(outside(7), port), Ok(()));
    // Somebody else claims it: nothing changes.
    rig.send(c, &plain(outside(7), Mac::BROADCAST, 60, 0));
    rig.received(a);
    rig.received(b);
    rig.send(a, &plain(mac(1), outside(7), 60, 0));
    assert_eq!((rig.received(b).len(), rig.received(c).len()), (1, 0));
    assert!(rig.bridge.table().entries().any(|entry| entry == (outside(7), port, None)));
    assert_eq!(rig.bridge.forget(outside(7)), Ok(()));
    assert_eq!(rig.bridge.forget(outside(7)), Err(Errno::ENOENT));
    assert_eq!(rig.bridge.forget(mac(2)), Err(Errno::EBUSY));
    assert_eq!(rig.bridge.add_static(mac(1), port), Err(Errno::EEXIST));
    // Nobody knows now where it is.
    rig.send(a, &plain(mac(1), outside(7), 60, 0));
    assert_eq!((rig.received(b).len(), rig.received(c).len()), (1, 1));
    rig.end();
}

#[test]
fn addresses_are_read_and_written() {
    assert_eq!("00:16:3e:00:00:01".parse::<Mac>().unwrap(), mac(1));
    assert_eq!(format!("{}", mac(255)), "00:16:3e:00:00:ff");
    for bad in [
        "",
        "00:16:3e:00:00",
        "00:16:3e:00:00:01:02",
        "0:16:3e:00:00:01",
        "gg:16:3e:00:00:01",
        "+1:16:3e:00:00:01",
    ] {
        assert!(bad.parse::<Mac>().is_err(), "{bad}");
    }
}
