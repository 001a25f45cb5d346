//! Inter-processor interrupts and the start of virtual CPUs.

use super::*;
use crate::apic::{Destination, IpiKind};
use crate::event::Wake;
use crate::hw::{CpuId, Gprs};
use crate::sched::Scheduler;
use crate::vcpu::{Reason, StartState, wake_all};
use pv_abi::vcpu::{HvmContext, HvmRegisters, HvmX86_32, HvmX86_64};

struct Domain {
    machine: TestMachine,
    scheduler: Scheduler<TestVcpu>,
    vcpus: Vec<TestVcpu>,
}

impl Domain {
    fn new() -> Self {
        let machine = TestMachine::with_cpus(4, 2);
        let vcpus = (0..3).map(|id| vcpu(&machine, id)).collect();
        let domain = Self { scheduler: Scheduler::new(2, 1_000_000_000), machine, vcpus };
        let _ = domain.scheduler.set_up(&domain.vcpus[0], true, TscTicks::new(0));
        domain
    }

    fn send(&self, kind: IpiKind, destination: Destination) {
        let sender = &self.vcpus[0];
        let ipi = Ipi { kind, destination };
        send_ipi(&self.machine, &self.scheduler, &self.vcpus, sender, ipi, 0x660f51);
    }
}

#[test]
fn interrupts_are_posted_to_those_addressed() {
    let domain = Domain::new();
    domain.send(IpiKind::Fixed(0xfb), Destination::Others);
    let taken: Vec<_> = domain.vcpus.iter().map(|vcpu| vcpu.posted.take()[3] >> (0xfb - 192)).collect();
    assert_eq!(taken, [0, 1, 1]);
    assert_eq!(domain.vcpus[1].attention.peek(), Reason::APIC);
    domain.send(IpiKind::LowestPriority(0x40), Destination::All);
    let taken: Vec<_> = domain.vcpus.iter().map(|vcpu| vcpu.posted.take()[1]).collect();
    assert_eq!(taken, [1, 0, 0], "to one only");
    domain.send(IpiKind::Nmi, Destination::Physical(2));
    assert!(domain.vcpus[2].attention.peek().contains(Reason::NMI));
}

/// What CPU 1 got: kicks, and how often it was told of requests.
fn sent(domain: &Domain) -> (usize, usize) {
    let record = domain.machine.record.lock().unwrap();
    let of = |counts: &HashMap<u16, usize>| counts.get(&1).copied().unwrap_or(0);
    (of(&record.kicks), of(&record.told))
}

/// A domain whose virtual CPU 1 runs on CPU 1, in the guest.
fn running(takes_requests: bool) -> Domain {
    let mut domain = Domain::new();
    domain.machine.set_takes_requests(takes_requests);
    let receiver = &domain.vcpus[1];
    receiver.set_upcall_vector(0x40);
    let _ = domain.scheduler.set_up(receiver, true, TscTicks::new(0));
    domain.scheduler.set_affinity(receiver, CpuMask::new(1 << 1));
    assert!(matches!(
        domain.scheduler.schedule(CpuId::new(1), None, TscTicks::new(0)).next,
        crate::sched::Next::Run(vcpu) if Arc::ptr_eq(&vcpu, receiver)
    ));
    receiver.entered.store(1, SeqCst);
    domain
}

#[test]
fn one_that_runs_takes_an_interrupt_in_the_guest_where_the_hardware_can() {
    let domain = running(true);
    let receiver = &domain.vcpus[1];
    let send = |vector| domain.send(IpiKind::Fixed(vector), Destination::Physical(1));
    send(0x31);
    assert_eq!(sent(&domain), (0, 1));
    assert_eq!(receiver.attention.peek(), Reason::APIC, "should it leave the guest before");
    send(0x32);
    assert_eq!(sent(&domain), (0, 1), "it has not taken the first yet");
    assert_eq!(receiver.posted.take(), [3 << 0x31, 0, 0, 0]);
    send(0x33);
    assert_eq!(sent(&domain), (0, 2), "it took them, and is told again");
    // An upcall by a vector of its own is an interrupt like others.
    let wake = || {
        let mut wake = Wake::NOBODY;
        wake.upcalls.add(1);
        wake
    };
    let _ = receiver.posted.take();
    wake_all(&domain.machine, &domain.scheduler, &domain.vcpus, wake());
    assert_eq!((sent(&domain), receiver.posted.take()), ((0, 3), [0, 1, 0, 0]));
    // What is no interrupt makes it leave, and so does all as soon as it is not in the guest.
    domain.send(IpiKind::Nmi, Destination::Physical(1));
    assert_eq!(sent(&domain), (1, 3));
    receiver.entered.store(0, SeqCst);
    send(0x34);
    assert_eq!(sent(&domain), (2, 3));
    wake_all(&domain.machine, &domain.scheduler, &domain.vcpus, wake());
    assert_eq!((sent(&domain), receiver.posted.take()), ((3, 3), [1 << 0x34, 0, 0, 0]));
    assert!(receiver.attention.peek().contains(Reason::UPCALL));
}

#[test]
fn one_that_runs_is_kicked_where_the_hardware_cannot() {
    let domain = running(false);
    domain.send(IpiKind::Fixed(0x31), Destination::Physical(1));
    assert_eq!(sent(&domain), (1, 0));
}

#[test]
fn init_and_start_bring_one_up_in_real_mode() {
    let domain = Domain::new();
    domain.send(IpiKind::Init, Destination::Physical(1));
    assert!(domain.vcpus[1].context.lock().waits_for_start);
    domain.send(IpiKind::Start(0x99), Destination::Physical(1));
    domain.send(IpiKind::Start(0x55), Destination::Physical(1));
    assert!(domain.vcpus[1].entity.is_up());
    {
        let context = domain.vcpus[1].context.lock();
        let cs = context.hw.segment(Segment::Cs);
        assert_eq!(
            (cs.selector, cs.base, context.hw.get(Reg::Rip)),
            (0x9900, 0x9_9000, 0),
            "the first one counts"
        );
        assert_eq!((context.hw.gprs.rdx, context.hw.get(Reg::Cr0) & 1), (0x660f51, 0));
    }
    let decision = domain.scheduler.schedule(CpuId::new(1), None, TscTicks::new(5));
    assert!(matches!(decision.next, crate::sched::Next::Run(_)));
    domain.send(IpiKind::Init, Destination::Physical(1));
    assert!(domain.vcpus[1].attention.peek().contains(Reason::INIT), "one that is up resets itself");
}

#[test]
fn a_cpu_does_not_reset_or_start_itself() {
    let domain = Domain::new();
    let held = domain.vcpus[0].context.lock();
    domain.send(IpiKind::Init, Destination::Own);
    domain.send(IpiKind::Start(1), Destination::All);
    assert!(!domain.vcpus[0].attention.is_wanted());
    drop(held);
}

fn started(state: &StartState) -> TestVcpu {
    let machine = TestMachine::new(4);
    let one = vcpu(&machine, 0);
    state.apply(&mut one.context.lock());
    one
}

#[test]
fn the_start_of_a_pvh_guest() {
    let one = started(&StartState::pvh(0x20_0000, GuestPhys::new(0x7000)));
    let context = one.context.lock();
    let hw = &context.hw;
    assert_eq!((hw.get(Reg::Rip), hw.gprs.rbx, hw.get(Reg::Cr0)), (0x20_0000, 0x7000, 0x11));
    assert_eq!((hw.get(Reg::Cr4), hw.get(Reg::Efer), hw.get(Reg::Rflags)), (0, 0, 2));
    let cs = hw.segment(Segment::Cs);
    assert_eq!((cs.attributes, cs.limit, cs.base), (0xc9b, u32::MAX, 0));
    assert_eq!(hw.segment(Segment::Ds).attributes, 0xc93);
    assert_eq!((hw.segment(Segment::Tr).attributes, hw.segment(Segment::Tr).limit), (0x8b, 0x67));
}

fn long() -> HvmX86_64 {
    HvmX86_64 {
        rip: 0xffff_8000_0010_0000,
        rsp: 0x8000,
        rdi: 7,
        cr0: 0x8000_0011,
        cr3: 0x1000,
        cr4: 0x20,
        efer: 0x500,
        ..HvmX86_64::default()
    }
}

#[test]
fn contexts_in_long_mode() {
    let of = |registers| StartState::from_context(&HvmContext::new(&HvmRegisters::X86_64(registers)));
    let one = started(&of(long()).unwrap());
    let context = one.context.lock();
    assert_eq!(context.hw.get(Reg::Rip), 0xffff_8000_0010_0000);
    assert_eq!(context.hw.gprs, Gprs { rdi: 7, ..Gprs::default() });
    assert_eq!(context.hw.segment(Segment::Cs).attributes, 0xa9b);
    for wrong in [
        HvmX86_64 { cr0: 0x11, ..long() },
        HvmX86_64 { cr4: 0, ..long() },
        HvmX86_64 { efer: 0x100, ..long() },
        HvmX86_64 { efer: 0x1500, ..long() },
        HvmX86_64 { cr4: 0x2020, ..long() },
        HvmX86_64 { cr0: 0x1_8000_0011, ..long() },
        HvmX86_64 { rip: 1 << 50, ..long() },
    ] {
        assert_eq!(of(wrong), Err(Errno::EINVAL), "{wrong:x?}");
    }
}

fn protected() -> HvmX86_32 {
    HvmX86_32 {
        eip: 0x1000,
        cr0: 1,
        cs_ar: 0xc9b,
        ds_ar: 0xc93,
        ss_ar: 0xc93,
        es_ar: 0,
        tr_ar: 0x8b,
        cs_limit: u32::MAX,
        ds_limit: u32::MAX,
        ss_limit: u32::MAX,
        tr_limit: 0x67,
        ..HvmX86_32::default()
    }
}

#[test]
fn contexts_in_protected_mode() {
    let of = |registers| StartState::from_context(&HvmContext::new(&HvmRegisters::X86_32(registers)));
    assert!(of(protected()).is_ok());
    for wrong in [
        HvmX86_32 { cs_ar: 0xc93, ..protected() },
        HvmX86_32 { cs_ar: 0xc1b, ..protected() },
        HvmX86_32 { cs_ar: 0xa9b, ..protected() },
        HvmX86_32 { ss_ar: 0xc91, ..protected() },
        HvmX86_32 { ds_ar: 0xc98, ..protected() },
        HvmX86_32 { tr_ar: 0x82, ..protected() },
        HvmX86_32 { cs_limit: 0x1234_5678, ..protected() },
        HvmX86_32 { efer: 0x400, ..protected() },
        HvmX86_32 { cr0: 0x8000_0000, ..protected() },
    ] {
        assert_eq!(of(wrong), Err(Errno::EINVAL), "{wrong:x?}");
    }
    let mut context = HvmContext::new(&HvmRegisters::X86_32(protected()));
    context.mode = 2;
    assert_eq!(StartState::from_context(&context), Err(Errno::EINVAL));
}

#[test]
fn the_right_to_start_is_claimed_once() {
    let domain = Domain::new();
    assert!(domain.vcpus[1].claim_start() && !domain.vcpus[1].claim_start());
    domain.vcpus[1].forget_start();
    assert!(!domain.vcpus[1].is_initialised());
    assert!(!domain.vcpus[1].end_polling());
    domain.vcpus[1].set_polling(true);
    assert!(domain.vcpus[1].end_polling() && !domain.vcpus[1].end_polling());
}

#[test]
fn two_that_were_taken_down_do_not_wait_for_each_other() {
    let domain = Domain::new();
    let [sender, target, ..] = &domain.vcpus[..] else { panic!() };
    assert!(target.claim_start());
    // Both are still on their CPUs, with their registers locked.
    let _own = sender.context.lock();
    let others = target.context.lock();
    let _ = domain.scheduler.set_up(sender, false, TscTicks::new(0));
    domain.send(IpiKind::Init, Destination::Physical(1));
    assert!(!target.claim_start(), "the message was lost with its sender");
    // One that has left gets it whatever the sender is.
    drop(others);
    domain.send(IpiKind::Init, Destination::Physical(1));
    assert!(target.claim_start());
}
