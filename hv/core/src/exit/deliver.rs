//! What is put into a guest before it is entered: non-maskable interrupts, upcalls, interrupts of its local APIC.

use super::{Around, Resume, moment};
use crate::hw::{Event, Platform, Reg, VcpuHw, Window};
use crate::vcpu::{Context, Hw, Reason, Vcpu};

const RFLAGS_IF: u64 = 1 << 9;

/// Puts into the guest what is due, or asks to be told when it can take it. Called before entry when the attention
/// word has one of [`Reason::DELIVER`], which this takes.
///
/// Without a vector of its own, a virtual CPU gets the domain's call-back vector directly, whatever its local APIC
/// says; with one, the upcall is an interrupt of the APIC like others (`HVMOP_set_evtchn_upcall_vector`).
pub fn deliver<P: Platform>(context: &mut Context<Hw<P>>, around: &impl Around<P>) {
    let vcpu = around.vcpu();
    let reasons = vcpu.attention.take(Reason::DELIVER);
    if reasons.contains(Reason::NMI) {
        context.nmi_due = true;
    }
    if context.nmi_due {
        inject_nmi(context, vcpu);
    }
    if reasons.contains(Reason::UPCALL) || context.upcall_due {
        // The guest may have dealt with its events, or have taken the call-back away, in the meantime.
        let due = vcpu.info.has_upcall(around.platform().memory());
        match vcpu.upcall_vector() {
            Some(vector) if due && reasons.contains(Reason::UPCALL) => context.apic.request(vector),
            Some(_) => context.upcall_due &= due,
            None => context.upcall_due = due,
        }
    }
    if reasons.contains(Reason::APIC) {
        collect(context, around);
    }
    inject(context, around);
    if reasons.contains(Reason::APIC) || vcpu.upcall_vector().is_some() {
        offer(context);
    }
}

/// Requests of the local APIC what was posted to it, and what its timer asks for.
fn collect<P: Platform>(context: &mut Context<Hw<P>>, around: &impl Around<P>) {
    let posted = &around.vcpu().posted;
    context.apic.collect(posted);
    if posted.take_timer()
        && let Some(next) = context.apic.timer_fired(moment(around))
    {
        around.set_apic_timer(Some(next));
    }
}

/// Tells hardware that delivers the local APIC's interrupts what there is, and other hardware what waits for a lower task
/// priority.
fn offer<H: VcpuHw>(context: &mut Context<H>) {
    if context.hw.delivers_interrupts() {
        context.hw.offer(context.apic.levels());
    } else {
        take_priority(context);
        context.hw.watch_priority(context.apic.held_by_priority());
    }
}

/// The local APIC's task priority is the guest's CR8.
fn take_priority<H: VcpuHw>(context: &mut Context<H>) {
    let [cr8, ..] = context.hw.get(Reg::Cr8).to_le_bytes();
    context.apic.set_cr8(cr8);
}

/// The interrupt that is to be put in by hand.
#[inline(always)]
fn waiting<H: VcpuHw>(context: &mut Context<H>) -> Option<u8> {
    if context.hw.delivers_interrupts() || !context.apic.may_have_requests() {
        return None;
    }
    take_priority(context);
    context.apic.pending()
}

/// Puts in the non-maskable interrupt that is due, unless the guest is not done with another one: then its end is waited
/// for.
fn inject_nmi<P: Platform>(context: &mut Context<Hw<P>>, vcpu: &Vcpu<P>) {
    if context.hw.blocks_nmi() || context.hw.inject(Event::NMI).is_err() {
        context.hw.request_window(Some(Window::Nmi));
        return;
    }
    context.nmi_due = false;
    vcpu.stats.injections.add(1);
}

#[inline(always)]
fn inject<P: Platform>(context: &mut Context<Hw<P>>, around: &impl Around<P>) {
    let vcpu = around.vcpu();
    let upcall = around.callback_vector().filter(|_| context.upcall_due);
    let Some(vector) = upcall.or_else(|| waiting(context)) else { return };
    let can_take = context.hw.can_take_interrupt();
    if !can_take || context.hw.inject(Event::interrupt(vector)).is_err() {
        if can_take || !context.nmi_due {
            context.hw.request_window(Some(Window::Interrupt));
        }
        return;
    }
    vcpu.stats.injections.add(1);
    if upcall.is_some() {
        context.upcall_due = false;
    } else {
        context.apic.accept(vector);
    }
    if waiting(context).is_some() && !context.nmi_due {
        context.hw.request_window(Some(Window::Interrupt));
    }
}

/// The guest can take what was asked for: it is put in before the next entry.
pub fn on_window<P: Platform>(context: &mut Context<Hw<P>>, vcpu: &Vcpu<P>) -> Resume {
    context.hw.request_window(None);
    vcpu.attention.raise(if context.nmi_due { Reason::NMI | Reason::APIC } else { Reason::APIC });
    Resume::Continue
}

/// Whether something waits to be put into the guest: it then does not sleep. What was posted is looked at: its task
/// priority may hold it back, and hardware that takes requests while the guest runs may have delivered it.
pub fn is_deliverable<P: Platform>(context: &mut Context<Hw<P>>, around: &impl Around<P>) -> bool {
    let vcpu = around.vcpu();
    if vcpu.attention.peek().contains(Reason::APIC) {
        vcpu.attention.take(Reason::APIC);
        collect(context, around);
        offer(context);
    }
    if vcpu.attention.peek().intersects(Reason::WAKING) || context.nmi_due {
        return true;
    }
    take_priority(context);
    let upcall = context.upcall_due && around.callback_vector().is_some();
    upcall && vcpu.info.has_upcall(around.platform().memory()) || context.apic.pending().is_some()
}

/// Executes HLT. With interrupts off nothing but a non-maskable interrupt or INIT ends it: the virtual CPU stops, as
/// guests that take a CPU away rely on.
pub fn on_halt<P: Platform>(context: &mut Context<Hw<P>>, around: &impl Around<P>) -> Resume {
    context.hw.skip();
    let masked = context.hw.get(Reg::Rflags) & RFLAGS_IF == 0;
    if masked && !context.nmi_due && !around.vcpu().attention.peek().intersects(Reason::NMI | Reason::INIT) {
        return Resume::Down;
    }
    if is_deliverable(context, around) {
        around.vcpu().attention.raise(Reason::APIC);
        return Resume::Continue;
    }
    Resume::Block
}
