//! What is put into the guest, and when it sleeps.

use super::*;
use crate::hw::Window;
use crate::vcpu::Reason;

fn deliver_now(bench: &Bench) {
    bench.with(deliver);
}

fn window(bench: &Bench) -> Option<Window> {
    bench.with(|context, _| context.hw.window)
}

fn set_interruptible(bench: &Bench, interruptible: bool) {
    bench.with(|context, _| context.hw.interruptible = interruptible);
}

fn enable_apic(bench: &Bench) {
    bench.with(|context, bench| {
        let _ = context.apic.mmio_write(0xf0, 0x1ff, moment(bench));
    });
}

fn with_callback() -> Bench {
    let mut bench = Bench::new();
    bench.long_mode();
    bench.callback = Some(0xf3);
    bench
}

#[test]
fn the_call_back_goes_in_directly_and_once() {
    let bench = with_callback();
    bench.mark();
    deliver_now(&bench);
    assert_eq!(bench.injected(), Some(Event::interrupt(0xf3)));
    assert!(!bench.vcpu.attention.is_wanted());
    deliver_now(&bench);
    assert_eq!(bench.injected(), None, "not again before the next event");
    assert_eq!(bench.vcpu.stats.injections.get(), 1);
}

#[test]
fn the_call_back_waits_for_the_guest_to_take_interrupts() {
    let bench = with_callback();
    set_interruptible(&bench, false);
    bench.mark();
    deliver_now(&bench);
    assert_eq!((bench.injected(), window(&bench)), (None, Some(Window::Interrupt)));
    assert!(!bench.vcpu.attention.is_wanted(), "until the window opens nothing is to be looked at");
    set_interruptible(&bench, true);
    assert_eq!(bench.exit(Exit::WindowOpen), Resume::Continue);
    assert!(bench.vcpu.attention.is_wanted());
    deliver_now(&bench);
    assert_eq!((bench.injected(), window(&bench)), (Some(Event::interrupt(0xf3)), None));
}

#[test]
fn an_upcall_that_the_guest_saw_by_itself_is_not_delivered() {
    let bench = with_callback();
    set_interruptible(&bench, false);
    bench.mark();
    deliver_now(&bench);
    bench.machine.memory().u8_at(INFO).store(0, SeqCst);
    set_interruptible(&bench, true);
    let _ = bench.exit(Exit::WindowOpen);
    deliver_now(&bench);
    assert_eq!(bench.injected(), None);
}

#[test]
fn an_upcall_before_the_apic_is_enabled_comes_when_it_is() {
    let bench = with_callback();
    bench.vcpu.set_upcall_vector(0x40);
    bench.mark();
    deliver_now(&bench);
    assert_eq!((bench.injected(), bench.vcpu.attention.is_wanted()), (None, false));
    bench.with(|context, bench| {
        let effect = context.apic.mmio_write(0xf0, 0x1ff, moment(bench));
        act(context, bench, effect);
    });
    deliver_now(&bench);
    assert_eq!(bench.injected(), Some(Event::interrupt(0x40)));
}

#[test]
fn an_upcall_vector_goes_through_the_apic() {
    let bench = with_callback();
    bench.vcpu.set_upcall_vector(0x40);
    enable_apic(&bench);
    bench.mark();
    deliver_now(&bench);
    assert_eq!(bench.injected(), Some(Event::interrupt(0x40)));
    bench.mark();
    deliver_now(&bench);
    assert_eq!(bench.injected(), None, "it is in service");
    bench.with(|context, bench| {
        let effect = context.apic.mmio_write(0xb0, 0, moment(bench));
        act(context, bench, effect);
    });
    assert!(bench.vcpu.attention.is_wanted(), "the end of one lets in the next");
    deliver_now(&bench);
    assert_eq!(bench.injected(), Some(Event::interrupt(0x40)));
}

#[test]
fn two_interrupts_go_in_one_after_the_other() {
    let bench = with_callback();
    enable_apic(&bench);
    bench.vcpu.posted.vector(0x31);
    bench.vcpu.posted.vector(0x52);
    bench.vcpu.attention.raise(Reason::APIC);
    deliver_now(&bench);
    assert_eq!(bench.injected(), Some(Event::interrupt(0x52)));
    assert_eq!(window(&bench), None, "the other is of a lower class");
    bench.with(|context, bench| {
        let effect = context.apic.mmio_write(0xb0, 0, moment(bench));
        act(context, bench, effect);
    });
    deliver_now(&bench);
    assert_eq!(bench.injected(), Some(Event::interrupt(0x31)));
    bench.mark();
    bench.vcpu.posted.vector(0x61);
    bench.vcpu.attention.raise(Reason::APIC);
    deliver_now(&bench);
    assert_eq!(bench.injected(), Some(Event::interrupt(0xf3)));
    assert_eq!(window(&bench), Some(Window::Interrupt), "the other goes in as soon as it can");
}

#[test]
fn a_lower_task_priority_lets_in_what_it_held() {
    let bench = with_callback();
    let watched = |bench: &Bench| bench.with(|context, _| context.hw.watched);
    enable_apic(&bench);
    bench.with(|context, _| context.hw.set(Reg::Cr8, 5));
    bench.vcpu.posted.vector(0x51);
    bench.vcpu.attention.raise(Reason::APIC);
    deliver_now(&bench);
    assert_eq!((bench.injected(), watched(&bench)), (None, Some(5)));
    assert!(!bench.vcpu.attention.is_wanted(), "until it is lowered nothing is to be looked at");
    // One of a higher class comes at once, and the other is still waited for.
    bench.vcpu.posted.vector(0x61);
    bench.vcpu.attention.raise(Reason::APIC);
    deliver_now(&bench);
    assert_eq!((bench.injected(), watched(&bench)), (Some(Event::interrupt(0x61)), Some(5)));
    bench.with(|context, bench| {
        let effect = context.apic.mmio_write(0xb0, 0, moment(bench));
        act(context, bench, effect);
    });
    bench.with(|context, _| context.hw.set(Reg::Cr8, 4));
    assert_eq!(bench.exit(Exit::Priority), Resume::Continue);
    deliver_now(&bench);
    assert_eq!((bench.injected(), watched(&bench)), (Some(Event::interrupt(0x51)), None));
    // The same by the instruction's own exit.
    bench.with(|context, bench| {
        let effect = context.apic.mmio_write(0xb0, 0, moment(bench));
        act(context, bench, effect);
        context.hw.set(Reg::Cr8, 15);
    });
    bench.vcpu.posted.vector(0x71);
    bench.vcpu.attention.raise(Reason::APIC);
    deliver_now(&bench);
    assert_eq!((bench.injected(), watched(&bench)), (None, Some(7)));
    bench.with(|context, _| context.hw.gprs.rax = 0);
    let write = crate::hw::ControlAccess { register: 8, write: true, gpr: 0 };
    assert_eq!(bench.exit(Exit::Control(write)), Resume::Continue);
    deliver_now(&bench);
    assert_eq!((bench.injected(), watched(&bench)), (Some(Event::interrupt(0x71)), None));
}

#[test]
fn hardware_that_delivers_is_told_and_nothing_is_put_in() {
    let bench = with_callback();
    bench.with(|context, _| context.hw.delivers = true);
    let offered = |bench: &Bench| {
        bench.with(|context, _| context.hw.offered.take()).map(|levels| (levels.requested, levels.in_service))
    };
    bench.vcpu.posted.vector(0x31);
    enable_apic(&bench);
    bench.vcpu.posted.vector(0x52);
    bench.vcpu.attention.raise(Reason::APIC);
    deliver_now(&bench);
    assert_eq!((bench.injected(), window(&bench), offered(&bench)), (None, None, Some((0x52, 0))));
    // The hardware delivers it, and the guest ends it through the page, with an exit.
    let page = bench.with(|context, _| Arc::clone(context.apic.page()));
    page.set(0x22, 0);
    page.set(0x12, 1 << 0x12);
    assert_eq!(bench.exit(Exit::ApicWritten(0xb0)), Resume::Continue);
    deliver_now(&bench);
    assert_eq!(offered(&bench), Some((0x31, 0)));
    // The call-back does not go through the APIC, and leaves it alone.
    bench.mark();
    deliver_now(&bench);
    assert_eq!((bench.injected(), offered(&bench)), (Some(Event::interrupt(0xf3)), None));
    // An upcall vector does.
    bench.vcpu.set_upcall_vector(0x40);
    bench.mark();
    deliver_now(&bench);
    assert_eq!((bench.injected(), offered(&bench)), (None, Some((0x40, 0))));
    // What waits ends a halt, and no task priority is watched.
    assert_eq!(bench.exit(Exit::Halt), Resume::Continue);
    bench.with(|context, _| context.hw.set(Reg::Cr8, 15));
    deliver_now(&bench);
    bench.with(|context, _| assert_eq!(context.hw.watched, None));
    assert_eq!(bench.exit(Exit::Halt), Resume::Block);
    bench.with(|context, _| context.reset());
    assert_eq!(offered(&bench), Some((0, 0)));
}

#[test]
fn what_cannot_come_yet_does_not_end_a_halt() {
    let bench = with_callback();
    bench.with(|context, _| context.hw.delivers = true);
    enable_apic(&bench);
    bench.vcpu.attention.take(Reason::all());
    bench.with(|context, _| context.hw.set(Reg::Cr8, 5));
    bench.vcpu.posted.vector(0x51);
    bench.vcpu.attention.raise(Reason::APIC);
    assert_eq!(bench.exit(Exit::Halt), Resume::Block, "its task priority holds it back");
    let levels = bench.with(|context, _| context.hw.offered.take());
    assert_eq!(levels.map(|levels| levels.requested), Some(0x51), "the hardware knows it nevertheless");
    // Hardware took it while the guest ran, and the note that there was one is left.
    bench.with(|context, _| context.apic.accept(0x51));
    bench.with(|context, _| context.hw.set(Reg::Cr8, 0));
    bench.vcpu.attention.raise(Reason::APIC);
    assert_eq!(bench.exit(Exit::Halt), Resume::Block);
    bench.vcpu.posted.vector(0x61);
    bench.vcpu.attention.raise(Reason::APIC);
    assert_eq!(bench.exit(Exit::Halt), Resume::Continue);
    assert_eq!(bench.vcpu.attention.peek(), Reason::APIC);
}

#[test]
fn the_end_of_an_interrupt_is_told_to_hardware_that_delivers() {
    let bench = with_callback();
    enable_apic(&bench);
    bench.vcpu.attention.take(Reason::all());
    assert_eq!(bench.exit(Exit::ApicWritten(0xb0)), Resume::Continue);
    assert!(!bench.vcpu.attention.is_wanted());
    bench.with(|context, _| context.hw.delivers = true);
    assert_eq!(bench.exit(Exit::ApicWritten(0xb0)), Resume::Continue);
    assert_eq!(bench.vcpu.attention.peek(), Reason::APIC);
}

#[test]
fn the_timer_of_the_apic() {
    let bench = with_callback();
    enable_apic(&bench);
    bench.with(|context, bench| {
        let _ = context.apic.mmio_write(0x320, 0x2_00ec, moment(bench));
        let effect = context.apic.mmio_write(0x380, 1000, moment(bench));
        act(context, bench, effect);
    });
    assert!(bench.timer.lock().unwrap().take().flatten().is_some());
    bench.vcpu.posted.timer();
    bench.vcpu.attention.raise(Reason::APIC);
    deliver_now(&bench);
    assert_eq!(bench.injected(), Some(Event::interrupt(0xec)));
    assert!(bench.timer.lock().unwrap().take().flatten().is_some(), "periodic: it is set again");
}

#[test]
fn a_non_maskable_interrupt_goes_first_and_does_not_care() {
    let bench = with_callback();
    set_interruptible(&bench, false);
    bench.mark();
    bench.vcpu.attention.raise(Reason::NMI);
    deliver_now(&bench);
    assert_eq!(bench.injected(), Some(Event::NMI));
    assert_eq!(window(&bench), Some(Window::Interrupt), "the call-back is not forgotten");
    bench.vcpu.attention.raise(Reason::NMI);
    deliver_now(&bench);
    assert_eq!((bench.injected(), window(&bench)), (None, Some(Window::Nmi)), "one at a time");
    // A window for something else does not let it in: the handler has not returned.
    assert_eq!(bench.exit(Exit::WindowOpen), Resume::Continue);
    deliver_now(&bench);
    assert_eq!((bench.injected(), window(&bench)), (None, Some(Window::Nmi)), "it would nest");
    bench.with(|context, _| context.hw.blocks_nmi = false);
    assert_eq!(bench.exit(Exit::WindowOpen), Resume::Continue);
    deliver_now(&bench);
    assert_eq!(bench.injected(), Some(Event::NMI));
    assert_eq!(window(&bench), Some(Window::Interrupt));
}

#[test]
fn an_event_that_was_interrupted_goes_first() {
    let bench = with_callback();
    bench.mark();
    bench.with(|context, _| context.hw.inject(Event::interrupt(0x99)).unwrap());
    deliver_now(&bench);
    assert_eq!(bench.injected(), Some(Event::interrupt(0x99)));
    assert_eq!(window(&bench), Some(Window::Interrupt));
}

#[test]
fn halting_sleeps_unless_something_waits() {
    let bench = with_callback();
    assert_eq!(bench.exit(Exit::Halt), Resume::Block);
    assert_eq!(bench.rip(), 0x1003);
    bench.mark();
    assert_eq!(bench.exit(Exit::Halt), Resume::Continue);
    set_interruptible(&bench, false);
    deliver_now(&bench);
    assert!(!bench.vcpu.attention.is_wanted());
    // `sti; hlt`: the window has not opened before the halt.
    assert_eq!(bench.exit(Exit::Halt), Resume::Continue);
    set_interruptible(&bench, true);
    deliver_now(&bench);
    assert_eq!(bench.injected(), Some(Event::interrupt(0xf3)));
}

#[test]
fn halting_with_interrupts_off_stops() {
    let bench = with_callback();
    bench.with(|context, _| context.hw.set(Reg::Rflags, 2));
    bench.mark();
    assert_eq!(bench.exit(Exit::Halt), Resume::Down);
    bench.vcpu.attention.raise(Reason::NMI);
    assert_eq!(bench.exit(Exit::Halt), Resume::Continue);
}

#[test]
fn reasons_are_taken_one_by_one() {
    let attention = crate::vcpu::Attention::default();
    attention.raise(Reason::UPCALL | Reason::FLUSH);
    assert_eq!(attention.take(Reason::DELIVER), Reason::UPCALL);
    assert!(attention.is_wanted());
    assert_eq!(attention.peek(), Reason::FLUSH);
    assert_eq!(attention.take(Reason::all()), Reason::FLUSH);
    assert!(!attention.is_wanted());
}

#[test]
fn a_machine_check_ends_the_domain_under_which_it_came() {
    let bench = with_callback();
    assert_eq!(bench.exit(Exit::MachineCheck), Resume::Crash(GuestFault::MachineCheck));
    assert!(std::format!("{}", GuestFault::MachineCheck).contains("machine check"));
}
