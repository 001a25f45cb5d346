//! What the scheduler knows of one virtual CPU.

use super::group::Group;
use super::mask::CpuMask;
use super::runstate::{RunTimes, State};
use crate::hw::{CpuId, TscTicks};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::{Mutex, MutexGuard};

/// The handle of a virtual CPU: cheap to clone.
pub trait Scheduled: Clone {
    /// What the scheduler knows of it.
    fn entity(&self) -> &Entity;
    /// Asks it, while it runs, to call [`Scheduler::schedule`](super::Scheduler::schedule) at its next exit.
    fn preempt(&self);
    /// Whether both are the same virtual CPU.
    fn is(&self, other: &Self) -> bool;
}

/// Where a virtual CPU is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// In no queue and on no CPU.
    Nowhere,
    /// In a queue, or on the way to or from one.
    Queued,
    /// On a CPU.
    On(CpuId),
}

pub(super) struct Inner {
    pub down: bool,
    pub blocked: bool,
    pub paused: u32,
    pub yielded: bool,
    pub place: Place,
    /// Virtual time, by the clock of `home`.
    pub vruntime: u64,
    /// The CPU that it ran on last, or waits for.
    pub home: CpuId,
    /// Up to when its running time has been charged.
    pub charged: TscTicks,
    /// When it was last put on a CPU in place of another.
    pub began: TscTicks,
    pub times: RunTimes,
}

impl Inner {
    pub fn runnable(&self) -> bool {
        !self.down && !self.blocked && self.paused == 0
    }

    /// Brings the run state up to date.
    pub fn account(&mut self, now: TscTicks) {
        let state = match self.place {
            Place::On(_) => State::Running,
            _ if self.runnable() => State::Runnable,
            _ if self.blocked && !self.down => State::Blocked,
            _ => State::Offline,
        };
        self.times.enter(state, now);
    }
}

/// What the scheduler knows of one virtual CPU. It begins down.
pub struct Entity {
    pub(super) group: Arc<Group>,
    affinity: AtomicU64,
    inner: Mutex<Inner>,
}

impl Entity {
    /// A virtual CPU of `group` that may run on the CPUs of `affinity`.
    pub fn new(group: Arc<Group>, affinity: CpuMask, now: TscTicks) -> Self {
        let inner = Inner {
            down: true,
            blocked: false,
            paused: 0,
            yielded: false,
            place: Place::Nowhere,
            vruntime: 0,
            home: affinity.first().unwrap_or_default(),
            charged: now,
            began: now,
            times: RunTimes::new(now),
        };
        Self { group, affinity: AtomicU64::new(affinity.raw()), inner: Mutex::new(inner) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// What its domain's virtual CPUs share.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The CPUs that it may run on.
    pub fn affinity(&self) -> CpuMask {
        CpuMask::new(self.affinity.load(Ordering::Relaxed))
    }

    pub(super) fn set_affinity(&self, affinity: CpuMask) {
        self.affinity.store(affinity.raw(), Ordering::Relaxed);
    }

    /// Marks the virtual CPU, which runs here, as waiting for an event. It must then look whether what it waits for
    /// is there already, and call [`unblock`](Self::unblock) if so.
    pub fn block(&self) {
        self.lock().blocked = true;
    }

    /// Takes [`block`](Self::block) back, before the scheduler was called.
    pub fn unblock(&self) {
        self.lock().blocked = false;
    }

    /// Marks the virtual CPU, which runs here, as willing to let another run first.
    pub fn yields(&self) {
        self.lock().yielded = true;
    }

    /// Whether it is blocked.
    pub fn is_blocked(&self) -> bool {
        self.lock().blocked
    }

    /// Whether it is up: started and not stopped since.
    pub fn is_up(&self) -> bool {
        !self.lock().down
    }

    /// How often it is paused.
    pub fn pauses(&self) -> u32 {
        self.lock().paused
    }

    /// The CPU that it runs on.
    pub fn running_on(&self) -> Option<CpuId> {
        match self.lock().place {
            Place::On(cpu) => Some(cpu),
            _ => None,
        }
    }

    /// The CPU that it ran on last.
    pub fn last_cpu(&self) -> CpuId {
        self.lock().home
    }

    /// The time spent in each state up to `now`.
    pub fn times(&self, now: TscTicks) -> RunTimes {
        let times = self.lock().times;
        RunTimes { since: times.since, ..times.at(now) }
    }

    /// The present state and when it began, with the time before it: what a guest's run state area shows.
    pub fn times_before(&self) -> RunTimes {
        self.lock().times
    }
}
