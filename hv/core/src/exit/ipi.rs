//! Messages between the local APICs of a domain.

use crate::apic::{Ipi, IpiKind};
use crate::hw::Platform;
use crate::sched::Scheduler;
use crate::vcpu::{Context, Hw, Reason, StartState, Vcpu, kick, notify, post};
use alloc::sync::Arc;
use spin::MutexGuard;

/// Sends a message from the local APIC of `sender` to those of `vcpus` that it addresses. `signature` is what CPUID
/// says of the CPU: who starts finds it in RDX.
///
/// INIT to the sender itself does nothing: the message is only defined between CPUs. One that is up ignores start-up
/// messages, as hardware does, unless INIT comes before.
pub fn send_ipi<P: Platform>(
    platform: &P,
    scheduler: &Scheduler<Arc<Vcpu<P>>>,
    vcpus: &[Arc<Vcpu<P>>],
    sender: &Vcpu<P>,
    ipi: Ipi,
    signature: u32,
) {
    let addressed = vcpus.iter().filter(|vcpu| vcpu.address.matches(ipi.destination, sender.address.id()));
    for vcpu in addressed {
        let own = vcpu.address.id() == sender.address.id();
        match ipi.kind {
            IpiKind::Fixed(vector) | IpiKind::LowestPriority(vector) => {
                post(platform, scheduler, vcpu, vector);
                if matches!(ipi.kind, IpiKind::LowestPriority(_)) {
                    return;
                }
            }
            IpiKind::Nmi => notify(platform, scheduler, vcpu, Reason::NMI),
            IpiKind::Init if own => {}
            IpiKind::Init if vcpu.entity.is_up() => {
                vcpu.posted.init();
                notify(platform, scheduler, vcpu, Reason::INIT);
            }
            IpiKind::Init => {
                let Some(mut context) = lock(vcpu, sender) else { return };
                context.reset();
                context.waits_for_start = true;
                vcpu.forget_start();
            }
            IpiKind::Start(page) if !own && !vcpu.entity.is_up() => {
                if vcpu.claim_start() {
                    StartState::real_mode(page, signature).apply(&mut vcpu.context.lock());
                    kick(platform, scheduler.set_up(vcpu, true, platform.tsc()));
                }
            }
            // It may have INIT before it that has not been seen yet; otherwise it is ignored.
            IpiKind::Start(page) if !own => {
                vcpu.posted.start(page);
                vcpu.attention.raise(Reason::INIT);
            }
            IpiKind::Start(_) => {}
        }
    }
}

/// Locks the registers of a vCPU that is down, once it has left its CPU; `None` if the sender was taken down as well.
///
/// The sender's own registers are locked meanwhile. Of vCPUs that wait for each other in a ring all are down, and give up.
fn lock<'a, P: Platform>(vcpu: &'a Vcpu<P>, sender: &Vcpu<P>) -> Option<MutexGuard<'a, Context<Hw<P>>>> {
    loop {
        let locked = vcpu.context.try_lock();
        if locked.is_some() || !sender.entity.is_up() {
            return locked;
        }
        core::hint::spin_loop();
    }
}
