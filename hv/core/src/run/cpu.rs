//! The run loop of a CPU.
//!
//! One turn runs one virtual CPU, from when the scheduler gives it to this CPU until it takes it away, or idles. What
//! happens at each exit is short: the route to a handler, and one look at the virtual CPU's attention word. All else,
//! such as delivering events, asking the scheduler and going on with a call that was left, waits behind that word.

use super::around::Surroundings;
use super::host;
use crate::apic::Message;
use crate::call::{self, After, Cx};
use crate::domain::ShutdownReason;
use crate::exit::{self, GuestFault, PortAccess, Resume};
use crate::hw::{CpuId, Exit, HostEvent, Platform, TscTicks, VcpuHw};
use crate::ioreq::Answer;
use crate::sched::{Decision, Next};
use crate::system::System;
use crate::time::{Slot, publish_runstate};
use crate::vcpu::{Context, Hw, Reason, Unfinished, Vcpu};
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use pv_abi::control::{ExitCause, TraceRecord, trace};
use pv_abi::counters::CounterPage;

/// How many records of the trace are shown when a domain is crashed.
const TRACED: usize = 16;

/// What a CPU did in one turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Turn {
    /// It ran a virtual CPU.
    Ran,
    /// It had nothing to run, and waited for something to happen.
    Idled,
}

/// What a CPU knows between two turns.
pub struct Cpu<'a, P: Platform> {
    system: &'a System<P>,
    id: CpuId,
    /// When the scheduler must be asked at the latest.
    until: Option<TscTicks>,
    /// The earliest of the guests' timers that this CPU watches.
    timer: &'a AtomicU64,
    /// What that word was when the machine's timer was set; anything else when it must be set again.
    seen: u64,
    /// The virtual CPU's own hardware watches the time instead of the machine's timer.
    watched: bool,
    /// The scheduler's last answer, if it was a virtual CPU to run.
    next: Option<Arc<Vcpu<P>>>,
}

/// What comes after a look at the attention word, or after an exit.
enum Then {
    /// The guest is entered.
    Enter,
    /// The scheduler has given this CPU to somebody else, or to nobody.
    Leave,
}

impl<'a, P: Platform> Cpu<'a, P> {
    /// The CPU that executes this.
    pub fn new(system: &'a System<P>) -> Self {
        let id = system.platform.current_cpu();
        let mut cpu = Self {
            system,
            id,
            until: None,
            timer: system.timers.word(id),
            seen: 0,
            watched: false,
            next: None,
        };
        cpu.disarmed();
        cpu
    }

    /// Runs one virtual CPU, or idles.
    pub fn turn(&mut self) -> Turn {
        let next = match self.next.take() {
            Some(vcpu) => Some(vcpu),
            None => {
                if host::drain(self.system) {
                    self.disarmed();
                }
                let decision = self.system.scheduler.schedule(self.id, None, self.system.platform.tsc());
                self.note(decision);
                self.next.take()
            }
        };
        match next {
            Some(vcpu) => {
                self.run(&vcpu);
                Turn::Ran
            }
            None => {
                self.system.reap();
                self.arm(|_| false);
                self.system.platform.idle();
                Turn::Idled
            }
        }
    }

    /// Notes what the scheduler said; whether the virtual CPU that runs goes on.
    fn note(&mut self, decision: Decision<Arc<Vcpu<P>>>) -> bool {
        if self.until != decision.until {
            self.until = decision.until;
            self.disarmed();
        }
        self.system.kick(decision.kick);
        match decision.next {
            Next::Stay => return true,
            Next::Run(vcpu) => self.next = Some(vcpu),
            Next::Idle => self.next = None,
        }
        false
    }

    /// The machine's timer is not set to what it should be.
    fn disarmed(&mut self) {
        self.seen = !self.timer.load(Ordering::Relaxed);
    }

    /// Sets a timer to whatever comes first: a guest's timer, or the end of the time slice. It is the machine's, unless
    /// `own` has one that serves better.
    #[inline]
    fn arm(&mut self, own: impl FnOnce(Option<TscTicks>) -> bool) {
        let timer = self.timer.load(Ordering::Relaxed);
        if timer != self.seen {
            self.seen = timer;
            let timer = (timer != u64::MAX).then_some(TscTicks::new(timer));
            let first = match (timer, self.until) {
                (Some(timer), Some(until)) => Some(timer.min(until)),
                (timer, until) => timer.or(until),
            };
            self.watched = own(first);
            if !self.watched {
                self.set_timer(first);
            }
        }
    }

    #[cold]
    fn set_timer(&self, deadline: Option<TscTicks>) {
        self.system.platform.arm_timer(deadline);
    }

    fn run(&mut self, vcpu: &Arc<Vcpu<P>>) {
        let Some(domain) = self.system.domains.get(vcpu.domain) else {
            // It cannot be gone: destroying waits for its virtual CPUs to be on no CPU. Were it, nothing would run.
            self.retire(vcpu);
            return;
        };
        let around = Surroundings { system: self.system, domain: &domain, vcpu };
        let mut context = vcpu.context.lock();
        vcpu.stats.arrive(self.system.platform.tsc());
        context.hw.load();
        self.publish(vcpu);
        if vcpu.end_polling() {
            domain.events.poll_end(vcpu.id);
            self.system.timers.set(self.id, vcpu, Slot::Poll, None);
        }
        self.run_loaded(&mut context, &around);
        context.hw.save();
        drop(context);
        vcpu.stats.leave(self.system.platform.tsc());
        if self.watched {
            self.watched = false;
            self.disarmed();
        }
        self.publish(vcpu);
    }

    fn retire(&mut self, vcpu: &Arc<Vcpu<P>>) {
        let now = self.system.platform.tsc();
        let _here = self.system.scheduler.set_up(vcpu, false, now);
        let decision = self.system.scheduler.schedule(self.id, Some(vcpu), now);
        self.note(decision);
    }

    /// Writes the run state where the guest wants it.
    fn publish(&self, vcpu: &Vcpu<P>) {
        if vcpu.has_runstate_area.load(Ordering::Relaxed)
            && let Some(area) = &vcpu.areas.lock().runstate
        {
            let times = vcpu.entity.times_before();
            publish_runstate(self.system.memory(), area, &self.system.clock, &times);
        }
    }

    /// Runs a virtual CPU whose state is loaded, until it leaves this CPU.
    fn run_loaded(&mut self, context: &mut Context<Hw<P>>, around: &Surroundings<'_, P>) {
        let Surroundings { system, domain, vcpu } = *around;
        let generation = domain.memory.read().generation().clone();
        if context.unfinished.is_some() {
            vcpu.attention.raise(Reason::RESCHEDULE);
        }
        let stats = vcpu.stats.page();
        loop {
            if vcpu.attention.is_wanted() {
                if Reason::DELIVER.contains(vcpu.attention.peek()) && context.unfinished.is_none() {
                    exit::deliver(context, around);
                } else if let Then::Leave = self.attend(context, around) {
                    return;
                }
            }
            self.arm(|deadline| context.hw.set_deadline(deadline));
            // See `mem::flush`: what is announced here is looked at after the generation was counted up, or the new
            // generation is seen here.
            vcpu.entered.store(context.flushed, Ordering::SeqCst);
            let now = generation.now();
            if now != context.flushed {
                vcpu.entered.store(0, Ordering::SeqCst);
                context.hw.flush_nested();
                context.flushed = now;
                continue;
            }
            let guest_since = system.platform.tsc();
            stats.entered.set(guest_since.raw());
            let exit = context.hw.run();
            vcpu.entered.store(0, Ordering::Release);
            let guest_until = system.platform.tsc();
            stats.guest_ticks.add(guest_until.raw().wrapping_sub(guest_since.raw()));
            // Noted in each arm, where the cause is known.
            let then = match exit {
                Exit::Hypercall => {
                    if self.note_exit(system, stats, ExitCause::Hypercall, context, vcpu) {
                        self.hypercall(context, around, stats, call::traced_hypercall)
                    } else {
                        self.hypercall(context, around, stats, call::hypercall)
                    }
                }
                Exit::Cpuid => {
                    self.note_exit(system, stats, ExitCause::Cpuid, context, vcpu);
                    exit::on_cpuid(context, vcpu.id, &domain.cpuid);
                    Then::Enter
                }
                Exit::Interrupted => {
                    self.note_exit(system, stats, ExitCause::HostEvent, context, vcpu);
                    self.interrupted(vcpu)
                }
                Exit::Deadline => {
                    self.note_exit(system, stats, ExitCause::Deadline, context, vcpu);
                    host::host_event(system, HostEvent::Timer);
                    self.timer_fired(vcpu)
                }
                exit => {
                    self.note_exit(system, stats, crate::stats::cause(&exit), context, vcpu);
                    let resume = exit::handle(exit, context, around);
                    if let Resume::Continue = resume {
                        Then::Enter
                    } else {
                        self.resume(resume, context, around)
                    }
                }
            };
            if let Then::Leave = then {
                return;
            }
        }
    }

    /// Counts an exit, and traces it where that is on, which it returns.
    #[inline(always)]
    fn note_exit(
        &self,
        system: &System<P>,
        stats: &CounterPage,
        cause: ExitCause,
        context: &Context<Hw<P>>,
        vcpu: &Vcpu<P>,
    ) -> bool {
        stats.count_exit(cause);
        let is_traced = system.trace.is_on();
        if is_traced {
            self.record(cause, context, vcpu);
        }
        is_traced
    }

    #[cold]
    fn record(&self, cause: ExitCause, context: &Context<Hw<P>>, vcpu: &Vcpu<P>) {
        self.system.trace.record(self.id, || TraceRecord {
            tsc: self.system.platform.tsc().raw(),
            kind: trace::EXIT,
            domid: vcpu.domain,
            vcpu: vcpu.id.raw(),
            a: cause as u64,
            b: context.hw.get(crate::hw::Reg::Rip),
        });
    }

    /// Makes a hypercall, or goes on with one.
    #[inline]
    fn hypercall(
        &mut self,
        context: &mut Context<Hw<P>>,
        around: &Surroundings<'_, P>,
        stats: &'static CounterPage,
        make: impl FnOnce(&mut Cx<'_, P>) -> After,
    ) -> Then {
        let mut cx = Cx::new(around.system, around.domain, around.vcpu, context, stats);
        match make(&mut cx) {
            After::Continue => {
                context.hw.skip_call();
                Then::Enter
            }
            After::Reschedule => {
                context.hw.skip_call();
                self.reschedule(around.vcpu)
            }
            After::Preempted => {
                let cursor = cx.cursor;
                context.unfinished = Some(Unfinished::Call(cursor));
                // It goes on at the next look at the attention word.
                around.vcpu.attention.raise(Reason::RESCHEDULE);
                self.look_around(around.vcpu);
                Then::Enter
            }
        }
    }

    /// Takes what happened on the host in the middle of something long.
    #[cold]
    fn look_around(&mut self, vcpu: &Vcpu<P>) {
        self.system.platform.take_interrupts();
        let _enters_again = self.interrupted(vcpu);
    }

    /// Takes what happened on the host.
    fn interrupted(&mut self, vcpu: &Vcpu<P>) -> Then {
        if host::drain(self.system) { self.timer_fired(vcpu) } else { Then::Enter }
    }

    /// The machine's timer fired, or the virtual CPU's own: neither is set any more.
    fn timer_fired(&mut self, vcpu: &Vcpu<P>) -> Then {
        self.disarmed();
        let now = self.system.platform.tsc();
        if self.until.is_some_and(|until| until <= now) {
            vcpu.attention.raise(Reason::RESCHEDULE);
        }
        Then::Enter
    }

    /// Does what a handler said, unless it said that the guest goes on.
    #[cold]
    fn resume(&mut self, resume: Resume, context: &mut Context<Hw<P>>, around: &Surroundings<'_, P>) -> Then {
        let Surroundings { system, domain, vcpu } = *around;
        match resume {
            Resume::Continue => return Then::Enter,
            Resume::Block => {
                // Marked first, looked at second: who sends in between sees the mark, or this sees the event.
                vcpu.entity.block();
                if exit::is_deliverable(context, around) {
                    vcpu.entity.unblock();
                    vcpu.attention.raise(Reason::APIC);
                    return Then::Enter;
                }
            }
            Resume::Emulated(access) => return self.emulated(context, around, access),
            Resume::Yield => vcpu.entity.yields(),
            Resume::Down => {
                let _here = system.scheduler.set_up(vcpu, false, system.platform.tsc());
                vcpu.forget_start();
                // Nobody is left to start one again: as on Xen, that is a power-off.
                if domain.vcpus.iter().all(|vcpu| !vcpu.entity.is_up()) {
                    log::info!("{domain}: its last virtual CPU halted with interrupts off");
                    system.shut_down(domain, ShutdownReason::PowerOff);
                }
            }
            Resume::Shutdown(reason) => system.shut_down(domain, reason),
            Resume::Crash(fault) => self.crash(&fault, context, around),
        }
        self.reschedule(vcpu)
    }

    /// Ends an access that another domain emulates, or waits for its end.
    fn emulated(
        &mut self,
        context: &mut Context<Hw<P>>,
        around: &Surroundings<'_, P>,
        access: PortAccess,
    ) -> Then {
        let Surroundings { system, domain, vcpu } = *around;
        // Marked first, looked at second: who answers in between sees the mark, or this sees the answer.
        vcpu.entity.block();
        let answer = match domain.emulation.answer(system.memory(), vcpu.id) {
            Answer::Done(value) => value,
            Answer::Nobody => u32::MAX,
            Answer::Waits => {
                context.unfinished = Some(Unfinished::Port(access));
                let then = self.reschedule(vcpu);
                // It looks again before it enters the guest.
                vcpu.attention.raise(Reason::RESCHEDULE);
                return then;
            }
        };
        vcpu.entity.unblock();
        exit::finish_port(&mut context.hw, access, answer);
        Then::Enter
    }

    /// Ends the domain of a virtual CPU that broke the contract, and says why.
    #[cold]
    fn crash(&self, fault: &GuestFault, context: &mut Context<Hw<P>>, around: &Surroundings<'_, P>) {
        let trace = self.system.trace.last(self.id, TRACED);
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = exit::dump(&mut text, context, around, fault, &trace);
        log::error!("{} crashed", around.domain);
        text.lines().for_each(|line| log::error!("{line}"));
        self.system.shut_down(around.domain, ShutdownReason::Crash);
    }

    /// Asks the scheduler.
    fn reschedule(&mut self, vcpu: &Arc<Vcpu<P>>) -> Then {
        vcpu.attention.take(Reason::RESCHEDULE | Reason::STOP);
        let decision = self.system.scheduler.schedule(self.id, Some(vcpu), self.system.platform.tsc());
        if self.note(decision) { Then::Enter } else { Then::Leave }
    }

    /// Looks at what the attention word says, and goes on with a call that was left.
    #[cold]
    fn attend(&mut self, context: &mut Context<Hw<P>>, around: &Surroundings<'_, P>) -> Then {
        let vcpu = around.vcpu;
        loop {
            let reasons = vcpu.attention.peek();
            // The generation says what there is to flush: the bit only made it look.
            vcpu.attention.take(Reason::FLUSH);
            if reasons.intersects(Reason::INIT)
                && let Then::Leave = self.messages(context, around)
            {
                return Then::Leave;
            }
            if reasons.intersects(Reason::RESCHEDULE | Reason::STOP)
                && let Then::Leave = self.reschedule(vcpu)
            {
                return Then::Leave;
            }
            if let Some(unfinished) = context.unfinished.take() {
                let then = match unfinished {
                    Unfinished::Call(cursor) => {
                        self.hypercall(context, around, vcpu.stats.page(), |cx| call::resume(cx, cursor))
                    }
                    Unfinished::Port(access) => self.emulated(context, around, access),
                };
                if let Then::Leave = then {
                    return Then::Leave;
                }
                continue;
            }
            if vcpu.attention.peek().intersects(Reason::DELIVER) {
                exit::deliver(context, around);
            }
            return Then::Enter;
        }
    }

    /// INIT from another virtual CPU stops this one; a start-up message after it starts it again.
    fn messages(&mut self, context: &mut Context<Hw<P>>, around: &Surroundings<'_, P>) -> Then {
        let Surroundings { system, domain, vcpu } = *around;
        vcpu.attention.take(Reason::INIT);
        let mut stopped = false;
        for message in vcpu.posted.messages() {
            match message {
                Message::Init => {
                    context.reset();
                    context.waits_for_start = true;
                    vcpu.forget_start();
                    stopped = true;
                }
                Message::Start(page) if context.waits_for_start && vcpu.claim_start() => {
                    crate::vcpu::StartState::real_mode(page, domain.cpuid.signature()).apply(context);
                    stopped = false;
                }
                Message::Start(_) => {}
            }
        }
        if !stopped {
            return Then::Enter;
        }
        let _here = system.scheduler.set_up(vcpu, false, system.platform.tsc());
        self.reschedule(vcpu)
    }
}
