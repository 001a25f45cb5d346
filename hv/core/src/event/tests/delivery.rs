//! Whatever is sent is seen, by both ABIs and whatever the guest does in between.

use super::*;
use proptest::prelude::*;
use pv_abi::errno::Errno;
use std::collections::BTreeSet;

#[test]
fn moving_the_info_keeps_pending_events_and_tells_the_vcpu() {
    let world = World::new(1, 2);
    let table = world.table(1);
    let port = table.bind_ipi(&world.memory, v(1)).unwrap();
    assert!(world.send(1, port).upcalls.contains(1));
    let to = World::frame(1, 5).at(0x40);
    let wake = table.inner.lock().move_info(&world.memory, v(1), to).unwrap();
    assert!(wake.upcalls.contains(1));
    assert_eq!(table.info(v(1)).unwrap().get(), Some(to));
    assert_eq!(world.memory.u8_at(to).load(SeqCst), 1);
    assert_eq!(world.memory.u64_at(World::frame(1, 5).at(0x48)).load(SeqCst), !0);
    assert_eq!(table.inner.lock().move_info(&world.memory, v(1), to), Err(Errno::EINVAL), "once only");
}

#[test]
fn urgent_queues_are_served_first_and_in_order() {
    let world = World::new(1, 1);
    world.start_fifo(1, 1);
    let table = world.table(1);
    let ports: Vec<_> = (0..6).map(|_| table.bind_ipi(&world.memory, v(0)).unwrap()).collect();
    for (port, priority) in ports.iter().zip([15, 7, 0, 7, 0, 15]) {
        table.set_priority(*port, priority).unwrap();
    }
    assert_eq!(table.set_priority(ports[0], 16), Err(Errno::EINVAL));
    let wakes: Vec<_> = ports.iter().map(|port| world.send(1, *port).upcalls.contains(0)).collect();
    assert_eq!(wakes, [true, false, false, false, false, false], "one upcall until the guest looks");
    let mut guest = FifoGuest::new(&world.memory, 1, 0);
    let expected: Vec<_> = [2, 4, 1, 3, 0, 5].map(|index: usize| ports[index]).to_vec();
    assert_eq!(guest.take(), expected);
    assert!(guest.take().is_empty());
}

#[test]
fn events_from_before_the_first_page_are_made_up_for() {
    let world = World::new(1, 1);
    let table = world.table(1);
    let early = table.bind_ipi(&world.memory, v(0)).unwrap();
    let _ = world.send(1, early);
    let late = table.bind_ipi(&world.memory, v(0)).unwrap();
    table.inner.lock().set_control(&world.memory, v(0), World::frame(1, 1).base()).unwrap();
    assert!(world.send(1, late).upcalls.is_empty());
    assert!(table.is_pending(&world.memory, early) && table.is_pending(&world.memory, late));
    let mut guest = FifoGuest::new(&world.memory, 1, 0);
    guest.upcall();
    let wake = table.inner.lock().expand(&world.memory, World::frame(1, 2)).unwrap();
    assert!(wake.upcalls.contains(0));
    assert_eq!(guest.take(), [early, late]);
}

#[test]
fn a_linked_port_is_not_allocated_again() {
    let world = World::new(1, 1);
    world.start_fifo(1, 1);
    let table = world.table(1);
    let first = table.bind_ipi(&world.memory, v(0)).unwrap();
    let _ = world.send(1, first);
    let _ = table.close(&world.memory, &world, first).unwrap();
    let second = table.bind_ipi(&world.memory, v(0)).unwrap();
    assert_ne!(first, second);
    let mut guest = FifoGuest::new(&world.memory, 1, 0);
    assert!(guest.take().is_empty(), "the closed port is no longer pending");
    assert_eq!(table.bind_ipi(&world.memory, v(0)), Ok(first));
}

#[test]
fn errors_of_the_fifo_calls() {
    let world = World::new(1, 1);
    let table = world.table(1);
    let mut inner = table.inner.lock();
    assert_eq!(inner.expand(&world.memory, World::frame(1, 2)), Err(Errno::EOPNOTSUPP));
    assert_eq!(inner.set_control(&world.memory, v(1), World::frame(1, 1).base()), Err(Errno::ENOENT));
    inner.set_control(&world.memory, v(0), World::frame(1, 1).base()).unwrap();
    assert_eq!(inner.set_control(&world.memory, v(0), World::frame(1, 1).base()), Err(Errno::EBUSY));
    for _ in 0..128 {
        let _ = inner.expand(&world.memory, World::frame(1, 2)).unwrap();
    }
    assert_eq!(inner.expand(&world.memory, World::frame(1, 2)), Err(Errno::ENOSPC));
}

#[test]
fn a_guest_that_writes_nonsense_into_its_words_harms_nobody() {
    let world = World::new(2, 1);
    world.start_fifo(1, 1);
    let table = world.table(1);
    let ports: Vec<_> = (0..8).map(|_| table.bind_ipi(&world.memory, v(0)).unwrap()).collect();
    let (there, here) = world.connect(1, 2);
    for round in 0u32..200 {
        for at in 0..1024 {
            let word = (round.wrapping_mul(0x9e37_79b9) ^ at).rotate_left(round % 32);
            world.memory.u32_at(World::frame(1, 2).at(u64::from(at) * 4)).store(word, SeqCst);
        }
        let _ = world.send(1, ports[round as usize % 8]);
        let _ = world.send(2, here);
        let _ = table.unmask(&world.memory, ports[(round as usize + 3) % 8]).unwrap();
    }
    let _ = world.send(1, there);
    assert!(world.table(2).is_pending(&world.memory, here), "the other domain's events still come");
}

#[derive(Clone, Debug)]
enum Op {
    Send(usize),
    Mask(usize),
    Unmask(usize),
    Take(u32),
    Move(usize, u32),
    Priority(usize, u32),
}

fn ops(ports: usize, vcpus: u32) -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0..ports).prop_map(Op::Send),
        1 => (0..ports).prop_map(Op::Mask),
        1 => (0..ports).prop_map(Op::Unmask),
        2 => (0..vcpus).prop_map(Op::Take),
        1 => (0..ports, 0..vcpus).prop_map(|(port, vcpu)| Op::Move(port, vcpu)),
        1 => (0..ports, 0..16u32).prop_map(|(port, priority)| Op::Priority(port, priority)),
    ];
    prop::collection::vec(op, 1..120)
}

proptest! {
    #[test]
    fn no_event_is_lost_or_invented_by_the_fifo_abi(ops in ops(10, 3)) {
        let world = World::new(2, 3);
        world.start_fifo(1, 3);
        let table = world.table(1);
        let ends: Vec<_> = (0..10).map(|_| world.connect(1, 2)).collect();
        let mut guests: Vec<_> = (0..3).map(|vcpu| FifoGuest::new(&world.memory, 1, vcpu)).collect();
        let mut woken = [false; 3];
        let mut sent = BTreeSet::new();
        let mut masked = BTreeSet::new();
        for op in ops {
            let wake = match op {
                Op::Send(port) => {
                    sent.insert(ends[port].0);
                    world.send(2, ends[port].1)
                }
                Op::Mask(port) => {
                    masked.insert(ends[port].0);
                    guests[0].mask(ends[port].0);
                    Wake::NOBODY
                }
                Op::Unmask(port) => {
                    masked.remove(&ends[port].0);
                    table.unmask(&world.memory, ends[port].0).unwrap()
                }
                Op::Take(vcpu) => {
                    // A vCPU looks only when it was told to.
                    if std::mem::take(&mut woken[vcpu as usize]) {
                        for port in guests[vcpu as usize].take() {
                            prop_assert!(sent.remove(&port), "{port} was not sent");
                            prop_assert!(!masked.contains(&port), "{port} is masked");
                        }
                    }
                    Wake::NOBODY
                }
                Op::Move(port, vcpu) => {
                    table.bind_vcpu(ends[port].0, v(vcpu)).unwrap();
                    Wake::NOBODY
                }
                Op::Priority(port, priority) => {
                    table.set_priority(ends[port].0, priority).unwrap();
                    Wake::NOBODY
                }
            };
            for vcpu in wake.upcalls {
                woken[vcpu] = true;
            }
        }
        for port in std::mem::take(&mut masked) {
            for vcpu in table.unmask(&world.memory, port).unwrap().upcalls {
                woken[vcpu] = true;
            }
        }
        for (guest, woken) in guests.iter_mut().zip(woken) {
            for port in if woken { guest.take() } else { Vec::new() } {
                prop_assert!(sent.remove(&port), "{port} was not sent");
            }
        }
        prop_assert!(sent.is_empty(), "lost: {sent:?}");
    }

    #[test]
    fn no_event_is_lost_or_invented_by_the_2_level_abi(ops in ops(10, 1)) {
        let world = World::new(2, 1);
        let table = world.table(1);
        // Far apart, so that several words take part.
        let ends: Vec<_> = (0..1000).map(|_| world.connect(1, 2)).step_by(100).collect();
        let guest = TwoLevelGuest { memory: &world.memory, shared: World::frame(1, 0).base(), vcpu: 0 };
        guest.take();
        let mut woken = false;
        let mut sent = BTreeSet::new();
        let mut masked = BTreeSet::new();
        for op in ops {
            let wake = match op {
                Op::Send(port) => {
                    sent.insert(ends[port].0);
                    world.send(2, ends[port].1)
                }
                Op::Mask(port) => {
                    masked.insert(ends[port].0);
                    guest.mask(ends[port].0, true);
                    Wake::NOBODY
                }
                Op::Unmask(port) => {
                    masked.remove(&ends[port].0);
                    table.unmask(&world.memory, ends[port].0).unwrap()
                }
                Op::Take(_) if woken => {
                    woken = false;
                    for port in guest.take() {
                        prop_assert!(sent.remove(&port), "{port} was not sent");
                        prop_assert!(!masked.contains(&port), "{port} is masked");
                    }
                    Wake::NOBODY
                }
                _ => Wake::NOBODY,
            };
            woken |= wake.upcalls.contains(0);
        }
        for port in std::mem::take(&mut masked) {
            woken |= table.unmask(&world.memory, port).unwrap().upcalls.contains(0);
        }
        for port in if woken { guest.take() } else { Vec::new() } {
            prop_assert!(sent.remove(&port), "{port} was not sent");
        }
        prop_assert!(sent.is_empty(), "lost: {sent:?}");
    }
}
