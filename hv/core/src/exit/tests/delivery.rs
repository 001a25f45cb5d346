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
fn a_task_priority_is_looked_at_on_each_exit() {
    let bench = with_callback();
    enable_apic(&bench);
    bench.with(|context, _| context.hw.set(Reg::Cr8, 5));
    bench.vcpu.posted.vector(0x51);
    bench.vcpu.attention.raise(Reason::APIC);
    deliver_now(&bench);
    assert_eq!(bench.injected(), None);
    assert!(bench.vcpu.attention.is_wanted());
    bench.with(|context, _| context.hw.set(Reg::Cr8, 0));
    deliver_now(&bench);
    assert_eq!(bench.injected(), Some(Event::interrupt(0x51)));
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
