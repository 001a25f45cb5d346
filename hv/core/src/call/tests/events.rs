//! Events between two guests, and the calls that make a vCPU wait.

use super::*;
use crate::call::After;
use crate::domain::{Phase, ShutdownReason};
use crate::hw::{Reg, VcpuHw};
use crate::time::Slot;
use crate::vcpu::Reason;
use pv_abi::event::{self, status};
use pv_abi::ids::{DomainId, Port, VcpuId, Virq};
use pv_abi::{Errno, sched, stub};

/// A channel between two guests: the first one's port and the second one's.
fn connect(one: &Guest<'_>, other: &Guest<'_>) -> (Port, Port) {
    let mut alloc =
        event::AllocUnbound { dom: DomainId::SELF, remote_dom: other.domain.id, port: Port::default() };
    stub::evtchn_alloc_unbound(one, &mut alloc).unwrap();
    let mut bind =
        event::BindInterdomain { remote_dom: one.domain.id, remote_port: alloc.port, ..Default::default() };
    stub::evtchn_bind_interdomain(other, &mut bind).unwrap();
    (alloc.port, bind.local_port)
}

fn state(guest: &Guest<'_>, port: Port) -> event::Status {
    let mut out = event::Status { dom: DomainId::SELF, port, ..Default::default() };
    stub::evtchn_status(guest, &mut out).unwrap();
    out
}

#[test]
fn an_event_crosses_from_one_guest_to_another() {
    let world = World::new();
    let (a, b) = (world.guest("a"), world.guest("b"));
    let (there, here) = connect(&a, &b);
    let seen = state(&b, here);
    assert_eq!((seen.status, seen.detail), (status::INTERDOMAIN, u32::from(a.domain.id.raw())));
    assert_eq!(seen.remote_port, there);

    a.vcpu.attention.take(Reason::all());
    stub::evtchn_send(&b, &event::Send { port: here }).unwrap();
    assert!(a.domain.events.is_pending(world.system.memory(), there));
    assert!(a.vcpu.attention.peek().contains(Reason::UPCALL));
    assert_eq!((b.vcpu.stats.events_sent.get(), b.vcpu.stats.events_delivered.get()), (1, 1));
    stub::evtchn_send(&b, &event::Send { port: here }).unwrap();
    assert_eq!((b.vcpu.stats.events_sent.get(), b.vcpu.stats.events_suppressed.get()), (2, 1));

    stub::evtchn_close(&a, &event::Close { port: there }).unwrap();
    assert_eq!(state(&a, there).status, status::CLOSED);
    assert_eq!(state(&b, here).status, status::UNBOUND);
    stub::evtchn_send(&b, &event::Send { port: here }).unwrap();
}

#[test]
fn ports_and_domains_that_are_not_there_are_refused() {
    let world = World::new();
    let (a, b) = (world.guest("a"), world.guest("b"));
    for port in [0, 77, 4096, 1 << 17, u32::MAX] {
        let port = Port::new(port);
        assert_eq!(stub::evtchn_send(&a, &event::Send { port }), Err(Errno::EINVAL));
        assert_eq!(stub::evtchn_close(&a, &event::Close { port }), Err(Errno::EINVAL));
        assert_eq!(stub::evtchn_unmask(&a, &event::Unmask { port }), Err(Errno::EINVAL));
    }
    let mut bind = event::BindInterdomain {
        remote_dom: DomainId::new(99),
        remote_port: Port::new(1),
        ..Default::default()
    };
    assert_eq!(stub::evtchn_bind_interdomain(&a, &mut bind), Err(Errno::ESRCH));
    // A port that waits for somebody else.
    let mut alloc =
        event::AllocUnbound { dom: DomainId::SELF, remote_dom: a.domain.id, ..Default::default() };
    stub::evtchn_alloc_unbound(&a, &mut alloc).unwrap();
    bind = event::BindInterdomain { remote_dom: a.domain.id, remote_port: alloc.port, ..Default::default() };
    assert_eq!(stub::evtchn_bind_interdomain(&b, &mut bind), Err(Errno::EINVAL));
    // Another domain's ports are its own.
    let mut of_other =
        event::AllocUnbound { dom: b.domain.id, remote_dom: a.domain.id, ..Default::default() };
    assert_eq!(stub::evtchn_alloc_unbound(&a, &mut of_other), Err(Errno::EPERM));
    let mut other = event::Status { dom: b.domain.id, port: Port::new(1), ..Default::default() };
    assert_eq!(stub::evtchn_status(&a, &mut other), Err(Errno::EPERM));
    assert_eq!(stub::evtchn_reset(&a, &event::Reset { dom: b.domain.id }), Err(Errno::EPERM));
}

#[test]
fn lines_of_the_machine_are_for_those_who_control_it() {
    let world = World::new();
    let (dom0, a) = (world.guest("dom0"), world.guest("a"));
    let bind = |virq, vcpu| event::BindVirq { virq, vcpu: VcpuId::new(vcpu), ..Default::default() };
    assert_eq!(stub::evtchn_bind_virq(&a, &mut bind(Virq::CONSOLE, 0)), Err(Errno::EPERM));
    stub::evtchn_bind_virq(&dom0, &mut bind(Virq::CONSOLE, 0)).unwrap();
    assert_eq!(stub::evtchn_bind_virq(&dom0, &mut bind(Virq::CONSOLE, 0)), Err(Errno::EEXIST));
    stub::evtchn_bind_virq(&a, &mut bind(Virq::TIMER, 1)).unwrap();
    assert_eq!(stub::evtchn_bind_virq(&a, &mut bind(Virq::TIMER, 2)), Err(Errno::ENOENT));
    assert_eq!(stub::evtchn_bind_virq(&a, &mut bind(Virq::new(24), 0)), Err(Errno::EINVAL));
    let mut pirq = event::BindPirq { pirq: pv_abi::Pirq::new(20), ..Default::default() };
    assert_eq!(stub::evtchn_bind_pirq(&a, &mut pirq), Err(Errno::EPERM));
    assert_eq!(stub::evtchn_bind_pirq(&dom0, &mut pirq), Err(Errno::EINVAL));
}

#[test]
fn a_guest_switches_to_the_fifo_abi() {
    let world = World::new();
    let a = world.guest("a");
    let set = event::SetPriority { port: Port::new(1), priority: 3 };
    assert_eq!(stub::evtchn_set_priority(&a, &set), Err(Errno::ENOSYS));
    let (control, array) = (a.page(), a.page());
    let mut init = event::InitControl { control_gfn: control, vcpu: VcpuId::new(0), ..Default::default() };
    init.offset = 4090;
    assert_eq!(stub::evtchn_init_control(&a, &mut init), Err(Errno::EINVAL));
    init.offset = 64;
    stub::evtchn_init_control(&a, &mut init).unwrap();
    assert_eq!(u32::from(init.link_bits), event::fifo::LINK_BITS);
    let nowhere = pv_abi::Gfn::new(1 << 40);
    assert_eq!(stub::evtchn_expand_array(&a, &event::ExpandArray { array_gfn: nowhere }), Err(Errno::EINVAL));
    stub::evtchn_expand_array(&a, &event::ExpandArray { array_gfn: array }).unwrap();

    let mut ipi = event::BindIpi { vcpu: VcpuId::new(0), ..Default::default() };
    stub::evtchn_bind_ipi(&a, &mut ipi).unwrap();
    stub::evtchn_set_priority(&a, &event::SetPriority { port: ipi.port, priority: 3 }).unwrap();
    let word_at = array.base().raw() + u64::from(ipi.port.raw()) * 4;
    a.poke(word_at, &0u32);
    stub::evtchn_send(&a, &event::Send { port: ipi.port }).unwrap();
    let word: u32 = a.peek(word_at);
    assert_eq!(word & event::fifo::PENDING, event::fifo::PENDING);
    let block: event::fifo::ControlBlock = a.peek(control.base().raw() + 64);
    assert_eq!((block.ready, block.head[3]), (1 << 3, ipi.port.raw()));
    stub::evtchn_reset(&a, &event::Reset { dom: DomainId::SELF }).unwrap();
    assert_eq!(state(&a, ipi.port).status, status::CLOSED);
}

#[test]
fn yielding_blocking_and_polling_ask_the_scheduler() {
    let world = World::new();
    let (a, b) = (world.guest("a"), world.guest("b"));
    let (there, here) = connect(&a, &b);
    a.vcpu.attention.take(Reason::all());
    a.domain.events.info(VcpuId::new(0)).unwrap();
    stub::sched_yield(&a).unwrap();
    assert_eq!(a.after.get(), After::Reschedule);

    // The binding raised the event once on the binder's side: b has something to look at and does not block.
    stub::sched_block(&b).unwrap();
    assert_eq!(b.after.get(), After::Continue);
    assert!(!b.vcpu.entity.is_blocked());

    stub::sched_block(&a).unwrap();
    assert_eq!(a.after.get(), After::Reschedule);
    assert!(a.vcpu.entity.is_blocked());
    stub::evtchn_send(&b, &event::Send { port: here }).unwrap();
    assert!(!a.vcpu.entity.is_blocked(), "an event wakes who blocks");

    let ports = a.put(&[there]);
    let poll = sched::Poll { ports, nr_ports: 1, timeout: 0, pad: 0 };
    stub::sched_poll(&a, &poll).unwrap();
    assert_eq!(a.after.get(), After::Continue, "the port is pending");
    assert_eq!(stub::sched_poll(&a, &sched::Poll { nr_ports: 129, ..poll }), Err(Errno::EINVAL));
    let wrong = sched::Poll { ports: a.put(&[Port::new(u32::MAX)]), ..poll };
    assert_eq!(stub::sched_poll(&a, &wrong), Err(Errno::EINVAL));
    assert!(!a.vcpu.entity.is_blocked());
}

#[test]
fn with_interrupts_off_a_poll_waits_for_its_ports_only() {
    let world = World::new();
    let (a, b) = (world.guest("a"), world.guest("b"));
    // The binding leaves an upcall pending.
    connect(&a, &b);
    let mut quiet = event::BindIpi::default();
    stub::evtchn_bind_ipi(&b, &mut quiet).unwrap();
    let poll = sched::Poll { ports: b.put(&[quiet.port]), nr_ports: 1, timeout: 0, pad: 0 };
    b.vcpu.context.lock().hw.set(Reg::Rflags, 0x202);
    stub::sched_poll(&b, &poll).unwrap();
    assert_eq!(b.after.get(), After::Continue, "the upcall can be taken");
    b.vcpu.context.lock().hw.set(Reg::Rflags, 2);
    stub::sched_poll(&b, &poll).unwrap();
    assert_eq!(b.after.get(), After::Reschedule);
    assert!(b.vcpu.entity.is_blocked());
    stub::evtchn_send(&b, &event::Send { port: quiet.port }).unwrap();
    assert!(!b.vcpu.entity.is_blocked());
}

#[test]
fn a_poll_ends_at_its_time() {
    let world = World::new();
    let dom0 = world.guest("dom0");
    dom0.vcpu.attention.take(Reason::all());
    let poll = sched::Poll { timeout: 1 << 40, ..Default::default() };
    stub::sched_poll(&dom0, &poll).unwrap();
    assert_eq!(dom0.after.get(), After::Reschedule);
    assert!(dom0.vcpu.entity.is_blocked() && dom0.vcpu.timers.deadline(Slot::Poll).is_some());
    assert!(dom0.vcpu.end_polling());
}

#[test]
fn a_guest_ends_itself_and_no_other() {
    let world = World::new();
    let (dom0, a, b) = (world.guest("dom0"), world.guest("a"), world.guest("b"));
    let wrong = sched::Shutdown { reason: sched::reason::MAX + 1 };
    assert_eq!(stub::sched_shutdown(&a, &wrong), Err(Errno::EINVAL));
    let remote = sched::RemoteShutdown { domain_id: b.domain.id, reason: 0, pad: 0 };
    assert_eq!(stub::sched_remote_shutdown(&a, &remote), Err(Errno::EPERM));
    stub::sched_remote_shutdown(&dom0, &remote).unwrap();
    assert_eq!(b.domain.life.phase(), Phase::ShutDown(ShutdownReason::PowerOff));
    stub::sched_shutdown_code(&a, &sched::Shutdown { reason: sched::reason::CRASH }).unwrap();
    stub::sched_shutdown(&a, &sched::Shutdown { reason: sched::reason::REBOOT }).unwrap();
    assert_eq!(a.after.get(), After::Reschedule);
    assert_eq!(a.domain.life.phase(), Phase::ShutDown(ShutdownReason::Crash), "announced before");
}
