//! Ends that go away, in order or not.

use super::*;
use crate::mock::Counts;
use crate::xenbus::{XenbusState, write_state};

#[test]
fn closing_waits_for_the_device_and_leaks_nothing() {
    let (mut rig, disk) = Rig::slow(Options::default(), FrontOptions::default());
    let buffer = rig.front.buffer(8192).unwrap();
    rig.front.write(0, buffer).unwrap();
    rig.front.close(&mut rig.guest_store);
    rig.run();
    rig.talk();
    assert_eq!(rig.front.state(), FrontState::Closing);
    let buffer = rig.front.buffer(512).unwrap();
    assert_eq!(rig.front.read(0, buffer).unwrap_err().error, Some(BlockError::Disconnected));
    disk.release(1);
    rig.device_event();
    rig.talk();
    assert_eq!(rig.front.next_completion().unwrap().result, Ok(()));
    assert_eq!(rig.front.state(), FrontState::Closed);
    assert!(rig.back.is_closed());
    let (guest, dom0) = (rig.guest.clone(), rig.dom0.clone());
    assert_eq!(dom0.counts().maps, 0);
    drop((rig, disk));
    assert_eq!(guest.counts(), Counts::default());
    assert_eq!(dom0.counts(), Counts::default());
}

#[test]
fn a_front_end_that_vanishes_leaves_its_memory_to_the_device_until_it_is_done() {
    let (mut rig, disk) = Rig::slow(Options::default(), FrontOptions::default());
    let buffer = rig.front.buffer(8192).unwrap();
    rig.front.read(0, buffer).unwrap();
    rig.front.kick();
    rig.run();
    let mapped = rig.dom0.counts().maps;
    // The guest writes that it is closed without waiting for anything.
    let dir = frontend_dir(GUEST, "vbd", 51712);
    write_state(&mut rig.guest_store, &dir, XenbusState::Closed).unwrap();
    rig.back.on_store(&mut rig.dom0_store);
    assert!(!rig.back.is_closed());
    assert_eq!(rig.dom0.counts().maps, mapped);
    disk.release(1);
    assert_eq!(rig.back.poll(), Progress::Store);
    rig.back.on_store(&mut rig.dom0_store);
    assert!(rig.back.is_closed());
    assert_eq!(rig.dom0.counts().maps, 0);
}

#[test]
fn pages_that_the_back_end_keeps_are_not_freed() {
    let mut rig = Rig::memory(Options::default(), FrontOptions::default());
    Rig::write(&mut rig, 0, &[1; 4096]).unwrap();
    // The front end is dropped while everything is still mapped.
    let Rig { guest, dom0, front, back, .. } = rig;
    drop(front);
    assert!(guest.counts().retired > 0);
    guest.retry_retired();
    assert!(guest.counts().retired > 0);
    drop(back);
    guest.retry_retired();
    assert_eq!(guest.counts(), Counts::default());
    assert_eq!(dom0.counts(), Counts::default());
}

#[test]
fn a_back_end_that_asks_to_close_gets_its_answer() {
    let mut rig = Rig::memory(Options::default(), FrontOptions::default());
    let dir = crate::xenbus::backend_dir(DomainId::DOM0, "vbd", GUEST, 51712);
    write_state(&mut rig.dom0_store, &dir, XenbusState::Closing).unwrap();
    rig.talk();
    assert_eq!(rig.front.state(), FrontState::Closed);
    assert!(rig.back.is_closed());
    let buffer = rig.front.buffer(512).unwrap();
    assert_eq!(rig.front.read(0, buffer).unwrap_err().error, Some(BlockError::Disconnected));
}

/// No write is lost when a driver domain dies and another takes its place.
#[test]
fn unanswered_requests_go_to_the_next_back_end() {
    let front_options = FrontOptions { reconnect: true, ..FrontOptions::default() };
    let (mut rig, disk) = Rig::slow(Options::default(), front_options);
    let mut ids = Vec::new();
    for n in 0..40u64 {
        let mut buffer = rig.front.buffer(4096).unwrap();
        buffer.copy_in(0, &[n as u8 + 1; 4096]);
        ids.push(rig.front.write(n * 8, buffer).unwrap());
    }
    rig.front.kick();
    rig.run();
    assert!(rig.front.next_completion().is_none());
    let Rig { machine, guest, dom0, guest_store, mut dom0_store, front, back, .. } = rig;
    // The driver domain dies; its mappings go with it.
    drop(back);
    add_disk(&mut dom0_store, "w");
    let memory = MemoryDisk::new(&dom0, MIB, false).unwrap();
    let back = open_back(&dom0, &mut dom0_store, memory, Options::default());
    let mut rig =
        Rig { machine, guest, dom0, guest_store, dom0_store, front, back, front_events: 0, back_events: 0 };
    rig.talk();
    assert_eq!(rig.front.state(), FrontState::Connected);
    rig.run();
    let mut done: Vec<_> = core::iter::from_fn(|| rig.front.next_completion())
        .map(|completion| {
            completion.result.unwrap();
            completion.id
        })
        .collect();
    done.sort_unstable();
    assert_eq!(done, ids);
    for n in 0..40 {
        assert!(Rig::read(&mut rig, n * 8, 4096).unwrap() == [n as u8 + 1; 4096]);
    }
    drop(disk);
}

#[test]
fn without_reconnection_requests_fail_when_the_back_end_goes() {
    let (mut rig, _disk) = Rig::slow(Options::default(), FrontOptions::default());
    let buffer = rig.front.buffer(4096).unwrap();
    rig.front.read(0, buffer).unwrap();
    rig.front.kick();
    crate::xenbus::remove_device(&mut rig.dom0_store, "vbd", 51712, GUEST, DomainId::DOM0).unwrap();
    rig.front.on_store(&mut rig.guest_store);
    assert_eq!(rig.front.next_completion().unwrap().result, Err(BlockError::Disconnected));
    assert_eq!(rig.front.state(), FrontState::Closed);
}

#[test]
fn a_closed_front_end_may_start_over() {
    let mut rig = Rig::memory(Options::default(), FrontOptions::default());
    for round in 0..3u8 {
        Rig::write(&mut rig, 0, &[round; 512]).unwrap();
        rig.front.close(&mut rig.guest_store);
        rig.talk();
        assert!(rig.back.is_closed());
        let dir = frontend_dir(GUEST, "vbd", 51712);
        write_state(&mut rig.guest_store, &dir, XenbusState::Initialising).unwrap();
        let ends = Frontend::open(&mut rig.guest_store, &dir).unwrap();
        rig.front = BlkFront::new(&rig.guest, ends, FrontOptions::default());
        rig.talk();
        assert_eq!(rig.front.state(), FrontState::Connected);
        assert_eq!(Rig::read(&mut rig, 0, 512).unwrap(), [round; 512]);
    }
}

#[test]
fn a_guest_without_memory_gets_an_error_and_no_leak() {
    let machine = Machine::new();
    let guest = machine.domain(1);
    let dom0 = machine.domain(0);
    let (mut guest_store, mut dom0_store) = stores();
    add_disk(&mut dom0_store, "w");
    let disk = MemoryDisk::new(&dom0, MIB, false).unwrap();
    let mut back = open_back(&dom0, &mut dom0_store, disk, Options::default());
    machine.limit_grants(3);
    let ends = Frontend::open(&mut guest_store, &frontend_dir(GUEST, "vbd", 51712)).unwrap();
    let mut front = BlkFront::new(&guest, ends, FrontOptions::default());
    for _ in 0..4 {
        front.on_store(&mut guest_store);
        back.on_store(&mut dom0_store);
    }
    assert_eq!(front.state(), FrontState::Failed);
    assert_eq!(front.failure(), Some("no ring: ENOSPC"));
    assert_eq!(guest.counts(), Counts::default());
    assert!(!back.is_connected());
}
