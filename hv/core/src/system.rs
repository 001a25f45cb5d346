//! The whole system: the machine, its frames, its CPUs and the domains on it.
//!
//! # Lock order
//!
//! Locks are taken in this order and never the other way round; of two of a kind that of the lower domain number is
//! taken first:
//!
//! 1. creation and destruction of domains
//! 2. a slot of the domain table
//! 3. a domain's life
//! 4. a domain's memory (the nested page tables)
//! 5. a domain's grant table
//! 6. a domain's event table
//! 7. a vCPU's timers, then a CPU's timer queue; a vCPU's entity in the scheduler, then a CPU's run queue
//! 8. the frame table's free lists
//! 9. leaves: console buffers, trace rings, the list of counter pages, the PCI configuration ports
//!
//! The lock around a vCPU's registers ([`Vcpu::context`]) is outside of this order: the run loop of the CPU that runs
//! the vCPU holds it throughout, and another CPU takes it only for a vCPU that is down, holding nothing else.
//!
//! Interrupts are masked in the hypervisor, so no lock is ever taken by an interrupt handler. There is no global lock
//! on the paths of hypercall, event, grant copy and exit. Nobody waits for another CPU to leave the hypervisor, only
//! for it to leave a guest: so two that wait for each other do not wait for ever.

use crate::boot::Bundle;
use crate::domain::console::TypedInput;
use crate::domain::{Change, Domain, DomainTable, Phase, ShutdownReason};
use crate::event::{EventTable, Peers, Wake};
use crate::hw::{CpuId, Platform, PowerAction};
use crate::mem::{FrameTable, Ram};
use crate::pci::{LineTable, Pci};
use crate::sched::Scheduler;
use crate::stats::CounterPages;
use crate::time::{Clock, TimerQueues};
use crate::trace::Trace;
use crate::vcpu::{self, Reason, Vcpu};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use pv_abi::errno::{Errno, Result};
use pv_abi::ids::{DomainId, VcpuId, Virq};
use pv_abi::manifest::Manifest;
use spin::Mutex;

/// The status of a machine whose control domain crashed.
const CRASHED: u32 = 1;

/// The whole system. There is one, shared by reference between all CPUs, for as long as the machine runs.
pub struct System<P: Platform> {
    /// The machine.
    pub platform: P,
    /// The table of the machine's frames.
    pub frames: FrameTable,
    /// What domains are made from.
    pub bundle: Bundle<'static>,
    manifest: Manifest<'static>,
    /// All domains.
    pub domains: DomainTable<P>,
    /// Held while a domain is entered into the table.
    pub(crate) creation: Mutex<()>,
    /// Who runs where.
    pub scheduler: Scheduler<Arc<Vcpu<P>>>,
    /// The timers of all vCPUs.
    pub timers: TimerQueues<Arc<Vcpu<P>>>,
    /// The clock that guests see.
    pub clock: Clock,
    /// What happened last.
    pub trace: Trace,
    /// How often what happened.
    pub counters: CounterPages,
    /// The machine's PCI functions.
    pub pci: Pci,
    /// Whose the device interrupts are.
    pub lines: LineTable,
    /// What was typed on the machine's console.
    pub typed: Mutex<TypedInput>,
}

impl<P: Platform> System<P> {
    /// Makes a system without domains; `manifest` is that of the bundle.
    pub fn new(
        platform: P,
        frames: FrameTable,
        bundle: Bundle<'static>,
        manifest: Manifest<'static>,
    ) -> Self {
        let (cpus, hz) = (platform.cpu_count(), platform.tsc_hz());
        let pci = Pci::scan(&platform);
        Self {
            platform,
            frames,
            bundle,
            manifest,
            domains: DomainTable::default(),
            creation: Mutex::new(()),
            scheduler: Scheduler::new(cpus, hz),
            timers: TimerQueues::new(cpus),
            clock: Clock::new(hz),
            trace: Trace::new(cpus),
            counters: CounterPages::default(),
            pci,
            lines: LineTable::default(),
            typed: Mutex::default(),
        }
    }

    /// The manifest of the bundle.
    pub const fn manifest(&self) -> &Manifest<'static> {
        &self.manifest
    }

    /// The machine's memory.
    #[inline]
    pub fn memory(&self) -> &P::Memory {
        self.platform.memory()
    }

    /// The machine's memory with its frame table.
    #[inline]
    pub fn ram(&self) -> Ram<'_, P::Memory> {
        Ram::new(&self.frames, self.platform.memory())
    }

    /// The domain that a call names: `DomainId::SELF` is the caller; `ESRCH` if there is none or it is dying.
    pub fn domain(&self, caller: &Arc<Domain<P>>, id: DomainId) -> Result<Arc<Domain<P>>> {
        if id == DomainId::SELF || id == caller.id {
            return Ok(caller.clone());
        }
        self.domains.get(id).filter(|domain| !domain.life.is_dying()).ok_or(Errno::ESRCH)
    }

    // ---- Waking and stopping vCPUs ----

    /// Kicks a CPU that has to look again, unless it is the one that executes this.
    #[inline]
    pub fn kick(&self, cpu: Option<CpuId>) {
        vcpu::kick(&self.platform, cpu);
    }

    /// Wakes whom an event in a domain's table wakes.
    #[inline]
    pub fn wake(&self, domain: &Domain<P>, wake: Wake) {
        if !wake.is_nobody() {
            vcpu::wake_all(&self.platform, &self.scheduler, &domain.vcpus, wake);
        }
    }

    /// Raises a virtual interrupt that exists once in a domain.
    pub fn raise(&self, domain: &Domain<P>, virq: Virq) {
        let wake = domain.events.raise_virq(self.memory(), VcpuId::new(0), virq);
        self.wake(domain, wake);
    }

    /// Makes a domain's vCPUs follow a change of its life. Those that run stop at their next exit, which a kick causes.
    pub fn follow(&self, domain: &Domain<P>, change: Change) {
        for vcpu in &domain.vcpus {
            let now = self.platform.tsc();
            let look = match change {
                Change::None => None,
                Change::Start => self.scheduler.unpause(vcpu, now),
                Change::Stop => {
                    vcpu.attention.raise(Reason::STOP);
                    self.scheduler.pause(vcpu, now)
                }
            };
            self.kick(look);
        }
    }

    /// Returns when no vCPU of a domain runs guest code with nested translations from before `generation`.
    pub fn flush(&self, domain: &Domain<P>, generation: u64) {
        let stale = |vcpu: &Vcpu<P>| {
            // 0 is outside of the guest.
            let entered = vcpu.entered.load(Ordering::SeqCst);
            entered != 0 && entered < generation
        };
        for vcpu in domain.vcpus.iter().filter(|vcpu| stale(vcpu)) {
            vcpu.attention.raise(Reason::FLUSH);
            self.kick(vcpu.entity.running_on());
        }
        for vcpu in &domain.vcpus {
            while stale(vcpu) {
                core::hint::spin_loop();
            }
        }
    }

    // ---- Ends ----

    /// A domain shuts down: its vCPUs stop, and the control domains are told.
    pub fn shut_down(&self, domain: &Domain<P>, reason: ShutdownReason) {
        if let Some(change) = domain.life.shut_down(reason) {
            self.follow(domain, change);
            domain.console.lock().finish(&self.platform, domain.id);
            log::info!("{domain}: {reason}");
            self.tell_control_domains();
            self.end_if_uncontrolled(reason);
        }
    }

    /// Ends the machine when no control domain is left: nobody could end it any more, or start anything.
    fn end_if_uncontrolled(&self, reason: ShutdownReason) {
        let alive = |phase| matches!(phase, Phase::Created | Phase::Alive);
        let all = self.domains.all();
        let mut controlling = all.iter().filter(|domain| domain.is_control()).peekable();
        if controlling.peek().is_none() || controlling.any(|domain| alive(domain.life.phase())) {
            return;
        }
        log::error!("no control domain is left");
        self.power(match reason {
            ShutdownReason::PowerOff => PowerAction::Off(0),
            ShutdownReason::Reboot | ShutdownReason::SoftReset => PowerAction::Reset,
            ShutdownReason::Suspend | ShutdownReason::Crash | ShutdownReason::Watchdog => {
                PowerAction::Off(CRASHED)
            }
        });
    }

    /// Tells the control domains that a domain's state has changed.
    pub fn tell_control_domains(&self) {
        for domain in self.domains.all().iter().filter(|domain| domain.is_control()) {
            self.raise(domain, Virq::DOM_EXC);
        }
    }

    /// Ends the machine. The last line on the console says so, whatever the level of the log.
    pub fn power(&self, action: PowerAction) {
        let line = match action {
            PowerAction::Off(status) => alloc::format!("(hv) power off, status {status}\n"),
            PowerAction::Reset => alloc::string::String::from("(hv) restart\n"),
        };
        self.platform.console_write(line.as_bytes());
        self.platform.power(action);
    }

    /// Gives back what is left of domains that were destroyed and that nobody uses any more.
    pub fn reap(&self) {
        while let Some(domain) = self.domains.exhume() {
            domain.dismantle(self);
        }
    }
}

impl<P: Platform> Peers for System<P> {
    fn with_events<R>(&self, domain: DomainId, act: impl FnOnce(&EventTable) -> R) -> Option<R> {
        self.domains.get(domain).map(|domain| act(&domain.events))
    }
}
