//! What happens on the host: timers, kicks, the console, devices.

use crate::hw::{HostEvent, LineId, Platform};
use crate::system::System;
use crate::time::{Due, Slot};
use crate::vcpu::{Reason, Vcpu, notify};
use alloc::sync::Arc;
use pv_abi::ids::Virq;

/// Takes everything that happened on this CPU; whether its timer fired.
pub(super) fn drain<P: Platform>(system: &System<P>) -> bool {
    let mut timer = false;
    while let Some(event) = system.platform.next_host_event() {
        timer |= event == HostEvent::Timer;
        host_event(system, event);
    }
    timer
}

/// Takes one thing that happened on this CPU.
pub fn host_event<P: Platform>(system: &System<P>, event: HostEvent) {
    match event {
        HostEvent::Timer => expire(system),
        // Whoever kicked has left a note where the run loop looks.
        HostEvent::Kick => {}
        HostEvent::ConsoleInput => console_input(system),
        HostEvent::Line(line) => device(system, line),
    }
}

/// Fires the timers of vCPUs that are due.
fn expire<P: Platform>(system: &System<P>) {
    let now = system.platform.tsc();
    system.timers.expire(system.platform.current_cpu(), now, |vcpu, due| fired(system, vcpu, due));
}

fn fired<P: Platform>(system: &System<P>, vcpu: &Arc<Vcpu<P>>, due: Due) {
    if due.is_virq()
        && let Some(domain) = system.domains.get(vcpu.domain)
    {
        let wake = domain.events.raise_virq(system.memory(), vcpu.id, Virq::TIMER);
        system.wake(&domain, wake);
    }
    if due.contains(Slot::Apic) {
        vcpu.posted.timer();
        notify(&system.platform, &system.scheduler, vcpu, Reason::APIC);
    }
    if due.contains(Slot::Poll) {
        system.kick(system.scheduler.wake(vcpu, system.platform.tsc()));
    }
}

/// Tells those who have the console that something was typed.
fn console_input<P: Platform>(system: &System<P>) {
    if system.typed.lock().fetch(&system.platform) {
        for domain in system.domains.all().iter().filter(|domain| domain.is_control()) {
            system.raise(domain, Virq::CONSOLE);
        }
    }
}

/// Makes the port pending that is bound to a device's interrupt. One that nobody waits for any more is ended, so that
/// the line is free for whom it is given next.
fn device<P: Platform>(system: &System<P>, line: LineId) {
    let owner = system.lines.find(line).and_then(|(domain, pirq)| Some((system.domains.get(domain)?, pirq)));
    let wake = owner.and_then(|(domain, pirq)| {
        let wake = domain.events.raise_pirq(system.memory(), pirq)?;
        Some((domain, wake))
    });
    match wake {
        Some((domain, wake)) => system.wake(&domain, wake),
        None => system.platform.mask_line(line, true),
    }
}
