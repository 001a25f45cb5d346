//! Virtual CPUs: what belongs to one, and how it starts.
//!
//! # Locks
//!
//! [`Vcpu::context`] is held by the CPU that runs the virtual CPU, from before its state is loaded until after it is
//! saved; another CPU takes it only for a virtual CPU that is down, holding nothing else. All other parts are atomic
//! or have leaf locks of their own, and are used from any CPU.

mod attention;
mod context;
mod start;

pub use attention::{Attention, Reason};
pub use context::{Context, Mtrrs, Unfinished};
pub use start::{StartState, legal_cr0, legal_cr4, legal_efer};

use crate::apic::{Address, Posted, apic_id};
use crate::event::{InfoPlace, Wake};
use crate::hw::{Backend, Platform, TscTicks};
use crate::sched::{CpuMask, Entity, Group, Scheduled, Scheduler};
use crate::stats::VcpuStats;
use crate::time::{GuestArea, Timed, TimerSlots};
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use pv_abi::ids::{DomainId, VcpuId};
use spin::Mutex;

/// The hardware's part of a virtual CPU of a platform.
pub type Hw<P> = <<P as Platform>::Backend as Backend>::Vcpu;

/// The areas of guest memory that a virtual CPU's times are written to.
#[derive(Debug, Default)]
pub struct Areas {
    /// Its run state (`VCPUOP_register_runstate_memory_area`).
    pub runstate: Option<GuestArea>,
    /// A second copy of its clock (`VCPUOP_register_vcpu_time_memory_area`).
    pub clock: Option<GuestArea>,
}

/// A virtual CPU.
pub struct Vcpu<P: Platform> {
    /// Its number.
    pub id: VcpuId,
    /// Its domain's number.
    pub domain: DomainId,
    /// Registers and interrupt controller.
    pub context: Mutex<Context<Hw<P>>>,
    /// What the scheduler knows of it.
    pub entity: Entity,
    /// What it must look at before it enters the guest again.
    pub attention: Attention,
    /// Where its `vcpu_info` is.
    pub info: Arc<InfoPlace>,
    /// Its timers.
    pub timers: TimerSlots,
    /// Interrupts that were posted to it.
    pub posted: Posted,
    /// How its local APIC is addressed.
    pub address: Arc<Address>,
    /// What is counted of it.
    pub stats: VcpuStats,
    /// Where its times are written to.
    pub areas: Mutex<Areas>,
    /// Whether `areas.runstate` is there: asked at each switch.
    pub has_runstate_area: AtomicBool,
    /// The generation of the nested tables under which it is in the guest or about to enter; 0 when it is not. See
    /// [`crate::mem::flush`].
    pub entered: AtomicU64,
    upcall_vector: AtomicU8,
    initialised: AtomicBool,
    polling: AtomicBool,
}

impl<P: Platform> Vcpu<P> {
    /// A virtual CPU that is down and has no registers yet.
    #[allow(clippy::too_many_arguments)] // its parts, each of another type
    pub fn new(
        id: VcpuId,
        domain: DomainId,
        hw: Hw<P>,
        info: Arc<InfoPlace>,
        group: Arc<Group>,
        affinity: CpuMask,
        stats: VcpuStats,
        now: TscTicks,
    ) -> Self {
        let address = Arc::new(Address::new(apic_id(id)));
        let posted = Posted::default();
        Self {
            id,
            domain,
            context: Mutex::new(Context::new(hw, Arc::clone(&address), posted.requests())),
            entity: Entity::new(group, affinity, now),
            attention: Attention::default(),
            info,
            timers: TimerSlots::default(),
            posted,
            address,
            stats,
            areas: Mutex::default(),
            has_runstate_area: AtomicBool::new(false),
            entered: AtomicU64::new(0),
            upcall_vector: AtomicU8::new(0),
            initialised: AtomicBool::new(false),
            polling: AtomicBool::new(false),
        }
    }

    /// The vector of its upcall (`HVMOP_set_evtchn_upcall_vector`); `None` is the domain's call-back.
    #[inline]
    pub fn upcall_vector(&self) -> Option<u8> {
        match self.upcall_vector.load(Ordering::Relaxed) {
            0 => None,
            vector => Some(vector),
        }
    }

    /// Whether it runs guest code, or is about to, on a CPU that takes requests without leaving it.
    #[inline]
    fn takes_requests(&self, platform: &P) -> bool {
        platform.backend().takes_requests() && self.entered.load(Ordering::SeqCst) != 0
    }

    /// Sets the vector of its upcall; 0 is none. Vectors below 16 are not interrupts: the caller refuses them. The
    /// caller then owes the virtual CPU [`Reason::UPCALL`], for events that came before.
    pub fn set_upcall_vector(&self, vector: u8) {
        self.upcall_vector.store(vector, Ordering::Relaxed);
    }

    /// Whether it was given registers, so that it can be started.
    pub fn is_initialised(&self) -> bool {
        self.initialised.load(Ordering::Acquire)
    }

    /// Claims the right to give it registers; whether nobody had done so. [`forget_start`](Self::forget_start) gives
    /// the right back.
    pub fn claim_start(&self) -> bool {
        !self.initialised.swap(true, Ordering::AcqRel)
    }

    /// It has no registers any more.
    pub fn forget_start(&self) {
        self.initialised.store(false, Ordering::Release);
    }

    /// Notes that it polls for events.
    pub fn set_polling(&self, polling: bool) {
        self.polling.store(polling, Ordering::Relaxed);
    }

    /// Whether it polled; from now on it does not. If so, the caller owes
    /// [`EventTable::poll_end`](crate::event::EventTable::poll_end) and stops the timer.
    #[inline]
    pub fn end_polling(&self) -> bool {
        self.polling.load(Ordering::Relaxed) && self.polling.swap(false, Ordering::Relaxed)
    }
}

impl<P: Platform> fmt::Display for Vcpu<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.domain, self.id)
    }
}

impl<P: Platform> Scheduled for Arc<Vcpu<P>> {
    fn entity(&self) -> &Entity {
        &self.entity
    }

    fn preempt(&self) {
        self.attention.raise(Reason::RESCHEDULE);
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(self, other)
    }
}

impl<P: Platform> Timed for Arc<Vcpu<P>> {
    fn slots(&self) -> &TimerSlots {
        &self.timers
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(self, other)
    }
}

/// Kicks a CPU that has to look again, unless it is the one that executes this.
#[inline]
pub fn kick<P: Platform>(platform: &P, cpu: Option<crate::hw::CpuId>) {
    if let Some(cpu) = cpu.filter(|cpu| *cpu != platform.current_cpu()) {
        platform.kick(cpu);
    }
}

/// Makes a virtual CPU look at something: wakes it if it sleeps, and makes it leave the guest if it runs.
#[inline]
pub fn notify<P: Platform>(
    platform: &P,
    scheduler: &Scheduler<Arc<Vcpu<P>>>,
    vcpu: &Arc<Vcpu<P>>,
    reason: Reason,
) {
    vcpu.attention.raise(reason);
    kick(platform, scheduler.wake(vcpu, platform.tsc()));
}

/// Posts an interrupt to a virtual CPU's local APIC. One that runs on another CPU takes it without leaving the guest,
/// where the hardware can.
///
/// The attention word says that there is one in any case. Should the virtual CPU be about to leave, or be gone from that
/// CPU already, it is looked at before the guest is entered again, and that the CPU is told is in vain.
pub fn post<P: Platform>(platform: &P, scheduler: &Scheduler<Arc<Vcpu<P>>>, vcpu: &Arc<Vcpu<P>>, vector: u8) {
    vcpu.posted.vector(vector);
    vcpu.attention.raise(Reason::APIC);
    let Some(cpu) = scheduler.wake(vcpu, platform.tsc()).filter(|cpu| *cpu != platform.current_cpu()) else {
        return;
    };
    if !vcpu.takes_requests(platform) {
        platform.kick(cpu);
    } else if vcpu.posted.requests().tell() {
        platform.tell(cpu);
    }
}

/// Discharges a [`Wake`] for the domain that has these virtual CPUs.
#[inline]
pub fn wake_all<P: Platform>(
    platform: &P,
    scheduler: &Scheduler<Arc<Vcpu<P>>>,
    vcpus: &[Arc<Vcpu<P>>],
    wake: Wake,
) {
    for vcpu in wake.upcalls.filter_map(|index| vcpus.get(index)) {
        match vcpu.upcall_vector() {
            Some(vector) if vcpu.takes_requests(platform) => post(platform, scheduler, vcpu, vector),
            _ => notify(platform, scheduler, vcpu, Reason::UPCALL),
        }
    }
    for vcpu in wake.pollers.filter_map(|index| vcpus.get(index)) {
        kick(platform, scheduler.wake(vcpu, platform.tsc()));
    }
}
