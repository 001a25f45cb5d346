use super::*;
use pv_abi::errno::Errno;
use pv_abi::ids::{Pirq, Virq};

#[test]
fn a_port_is_bound_by_the_domain_that_it_waits_for_only() {
    let world = World::new(3, 1);
    let port = world.table(1).alloc_unbound(&world.memory, d(2)).unwrap();
    assert_eq!(world.table(1).status(port).unwrap().state, ChannelState::Unbound { remote: d(2) });
    let stranger = world.table(3).bind_interdomain(&world.memory, world.table(1), port);
    assert_eq!(stranger.unwrap_err(), Errno::EINVAL);
    let (here, wake) = world.table(2).bind_interdomain(&world.memory, world.table(1), port).unwrap();
    assert!(wake.upcalls.contains(0), "the new port is raised once");
    let state = ChannelState::Interdomain { remote: d(2), port: here };
    assert_eq!(world.table(1).status(port).unwrap().state, state);
    let again = world.table(2).bind_interdomain(&world.memory, world.table(1), port);
    assert_eq!(again.unwrap_err(), Errno::EINVAL);
}

#[test]
fn a_domain_may_bind_its_own_port() {
    let world = World::new(1, 1);
    let table = world.table(1);
    let a = table.alloc_unbound(&world.memory, DomainId::SELF).unwrap();
    let (b, _) = table.bind_interdomain(&world.memory, table, a).unwrap();
    assert!(matches!(table.send(&world.memory, b), Ok(Sent::Here(wake)) if wake.fresh));
    assert!(table.is_pending(&world.memory, a));
    assert_eq!(table.close(&world.memory, &world, b), Ok(Closed::Done));
    assert_eq!(table.status(a).unwrap().state, ChannelState::Unbound { remote: d(1) });
}

#[test]
fn closing_one_end_makes_the_other_wait_again() {
    let world = World::new(2, 1);
    let (there, here) = world.connect(1, 2);
    assert_eq!(world.table(2).close(&world.memory, &world, here), Ok(Closed::Done));
    assert_eq!(world.table(1).status(there).unwrap().state, ChannelState::Unbound { remote: d(2) });
    assert_eq!(world.table(1).send(&world.memory, there), Ok(Sent::Nowhere));
    assert_eq!(world.table(2).close(&world.memory, &world, here), Err(Errno::EINVAL));
    assert!(world.table(2).bind_interdomain(&world.memory, world.table(1), there).is_ok());
}

#[test]
fn an_event_does_not_reach_a_port_that_belongs_to_another_by_now() {
    let world = World::new(3, 1);
    let (there, here) = world.connect(1, 2);
    let Ok(Sent::There { port, .. }) = world.table(2).send(&world.memory, here) else { panic!() };
    // Between the two halves of the send the port is closed and bound for domain 3.
    let _ = world.table(1).close(&world.memory, &world, there).unwrap();
    let (again, _) = world.connect(1, 3);
    assert_eq!(again, there);
    assert_eq!(world.table(1).deliver(&world.memory, port, d(2)), Wake::NOBODY);
    assert!(!world.table(1).is_pending(&world.memory, there));
}

#[test]
fn ports_out_of_range_and_free_ones_are_refused() {
    let world = World::new(1, 1);
    let table = world.table(1);
    for port in [0, 1, 4095, 4096, 131_071, u32::MAX] {
        assert_eq!(table.send(&world.memory, p(port)), Err(Errno::EINVAL));
        assert_eq!(table.unmask(&world.memory, p(port)), Err(Errno::EINVAL));
        assert_eq!(table.bind_vcpu(p(port), v(0)), Err(Errno::EINVAL));
        assert_eq!(table.close(&world.memory, &world, p(port)), Err(Errno::EINVAL));
    }
    assert_eq!(table.status(p(4096)), Err(Errno::EINVAL));
    assert_eq!(table.status(p(4095)).unwrap().state, ChannelState::Free);
    assert_eq!(table.poll_begin(&world.memory, v(0), &[p(4096)]), Err(Errno::EINVAL));
    assert_eq!(table.bind_ipi(&world.memory, v(1)), Err(Errno::ENOENT));
}

#[test]
fn virtual_lines_are_bound_once_each() {
    let world = World::new(1, 2);
    let table = world.table(1);
    let bind = |virq, vcpu| table.bind_virq(&world.memory, virq, v(vcpu));
    assert_eq!(bind(Virq::new(24), 0), Err(Errno::EINVAL));
    assert_eq!(bind(Virq::CONSOLE, 1), Err(Errno::EINVAL));
    assert_eq!(bind(Virq::TIMER, 2), Err(Errno::ENOENT));
    let timers = [bind(Virq::TIMER, 0).unwrap(), bind(Virq::TIMER, 1).unwrap()];
    assert_eq!(bind(Virq::TIMER, 1), Err(Errno::EEXIST));
    let wake = table.raise_virq(&world.memory, v(1), Virq::TIMER);
    assert!(wake.upcalls.contains(1) && !wake.upcalls.contains(0));
    assert!(table.is_pending(&world.memory, timers[1]) && !table.is_pending(&world.memory, timers[0]));
    assert_eq!(table.bind_vcpu(timers[0], v(1)), Err(Errno::EINVAL), "lines of a vCPU stay there");
    let console = bind(Virq::CONSOLE, 0).unwrap();
    table.bind_vcpu(console, v(1)).unwrap();
    let wake = table.raise_virq(&world.memory, v(0), Virq::CONSOLE);
    assert!(wake.fresh, "a global line can be told to any vCPU");
    assert_eq!(table.send(&world.memory, console), Err(Errno::EINVAL));
    let _ = table.close(&world.memory, &world, timers[1]).unwrap();
    assert_eq!(table.raise_virq(&world.memory, v(1), Virq::TIMER), Wake::NOBODY);
    assert!(bind(Virq::TIMER, 1).is_ok());
}

#[test]
fn physical_interrupts_are_bound_once_and_given_back() {
    let world = World::new(1, 1);
    let table = world.table(1);
    let pirq = Pirq::new(17);
    assert_eq!(table.raise_pirq(&world.memory, pirq), None);
    let port = table.bind_pirq(&world.memory, pirq).unwrap();
    assert_eq!(table.bind_pirq(&world.memory, pirq), Err(Errno::EEXIST));
    assert!(table.raise_pirq(&world.memory, pirq).unwrap().upcalls.contains(0));
    assert_eq!(table.close(&world.memory, &world, port), Ok(Closed::Pirq(pirq)));
    assert_eq!(table.raise_pirq(&world.memory, pirq), None);
    assert!(!table.is_pending(&world.memory, port), "a closed port is not pending when bound again");
}

#[test]
fn a_table_has_no_more_ports_than_its_limit() {
    let memory = VecMemory::new(1);
    let table = EventTable::new(d(1), HostPhys::new(0), 1, 8);
    for _ in 1..8 {
        table.alloc_unbound(&memory, d(2)).unwrap();
    }
    assert_eq!(table.alloc_unbound(&memory, d(2)), Err(Errno::ENOSPC));
}

#[test]
fn a_reset_closes_everything_and_ends_the_fifo_abi() {
    let world = World::new(2, 1);
    world.start_fifo(1, 1);
    let (there, here) = world.connect(1, 2);
    let pirq = Pirq::new(4);
    world.table(1).bind_pirq(&world.memory, pirq).unwrap();
    let (pirqs, pages) = world.reset(1);
    assert_eq!((pirqs, pages.len()), (std::vec![pirq], 0));
    assert!(world.table(1).bound().is_empty());
    assert_eq!(world.table(2).status(here).unwrap().state, ChannelState::Unbound { remote: d(1) });
    assert_eq!(world.table(1).set_priority(there, 3), Err(Errno::ENOSYS));
    assert_eq!(world.table(1).alloc_unbound(&world.memory, d(2)), Ok(there));
    world.table(1).retire();
    assert_eq!(world.table(1).alloc_unbound(&world.memory, d(2)), Err(Errno::ESRCH));
}

#[test]
fn polling_ends_with_any_of_its_ports() {
    let world = World::new(1, 3);
    let table = world.table(1);
    let ports: Vec<_> = (0..3).map(|_| table.bind_ipi(&world.memory, v(0)).unwrap()).collect();
    assert_eq!(table.poll_begin(&world.memory, v(1), &ports[..1]), Ok(Polled::Waits));
    assert_eq!(table.poll_begin(&world.memory, v(2), &ports), Ok(Polled::Waits));
    let wake = world.send(1, ports[2]);
    assert!(wake.pollers.contains(2) && !wake.pollers.contains(1));
    let wake = world.send(1, ports[0]);
    assert!(wake.pollers.contains(1) && !wake.pollers.contains(2), "one that was woken polls no longer");
    assert_eq!(table.poll_begin(&world.memory, v(1), &ports[..1]), Ok(Polled::Pending));
    assert_eq!(table.poll_begin(&world.memory, v(1), &ports[1..2]), Ok(Polled::Waits));
    table.poll_end(v(1));
    assert!(world.send(1, ports[1]).pollers.is_empty());
}

#[test]
fn a_poller_is_woken_by_a_masked_port_too() {
    let world = World::new(1, 1);
    let port = world.table(1).bind_ipi(&world.memory, v(0)).unwrap();
    TwoLevelGuest { memory: &world.memory, shared: World::frame(1, 0).base(), vcpu: 0 }.mask(port, true);
    assert_eq!(world.table(1).poll_begin(&world.memory, v(0), &[port]), Ok(Polled::Waits));
    let wake = world.send(1, port);
    assert!(wake.upcalls.is_empty() && wake.pollers.contains(0));
}
