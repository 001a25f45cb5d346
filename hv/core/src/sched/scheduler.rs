//! Choosing who runs.

use super::entity::{Inner, Place, Scheduled};
use super::mask::CpuMask;
use super::queue::{Queue, Running, Waiting, translate};
use crate::hw::{CpuId, TscTicks};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use spin::Mutex;

/// What a CPU does next.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next<K> {
    /// It goes on with the one that it runs.
    Stay,
    /// It saves the one that it runs, if any, and then runs this one.
    Run(K),
    /// It saves the one that it runs, if any, and idles.
    Idle,
}

/// What a CPU does next, and when it has to ask again.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision<K> {
    /// What it does.
    pub next: Next<K>,
    /// When it asks again at the latest; `None` is when something happens.
    pub until: Option<TscTicks>,
    /// Another CPU that was given something to do and must be kicked.
    pub kick: Option<CpuId>,
}

pub(super) struct PerCpu<K> {
    pub(super) queue: Mutex<Queue<K>>,
    // What other CPUs look at without the lock; written with it.
    pub(super) load: AtomicU64,
    pub(super) waiting: AtomicU32,
    pub(super) clock: AtomicU64,
    pub(super) idle: AtomicBool,
}

impl<K: Scheduled> PerCpu<K> {
    pub(super) fn publish(&self, queue: &Queue<K>, clock: u64) {
        self.load.store(queue.load(), Relaxed);
        self.waiting.store(u32::try_from(queue.len()).unwrap_or(u32::MAX), Relaxed);
        self.clock.store(clock, Relaxed);
        self.idle.store(queue.is_empty() && queue.running.is_none(), Relaxed);
    }
}

/// The scheduler of all CPUs.
///
/// Where a method returns a CPU, that CPU has to look again: the caller kicks it unless it is the caller's own.
pub struct Scheduler<K> {
    pub(super) cpus: Vec<PerCpu<K>>,
    /// How long one runs while others wait.
    pub(super) slice: u64,
    /// How long one runs at least before one that wakes takes its place.
    grace: u64,
    /// How far behind the others one that wakes starts at most.
    bonus: u64,
    /// The period over which caps count.
    period: u64,
}

impl<K: Scheduled> Scheduler<K> {
    /// A scheduler for `cpus` CPUs (at most [`CpuMask::CPUS`]) whose time-stamp counters run at `hz`.
    pub fn new(cpus: u16, hz: u64) -> Self {
        let cpu = |_| PerCpu {
            queue: Mutex::new(Queue::new()),
            load: AtomicU64::new(0),
            waiting: AtomicU32::new(0),
            clock: AtomicU64::new(0),
            idle: AtomicBool::new(true),
        };
        Self {
            cpus: (0..cpus.clamp(1, CpuMask::CPUS)).map(cpu).collect(),
            slice: (hz / 100).max(1),
            grace: hz / 10_000,
            bonus: hz / 200,
            period: (hz / 33).max(1),
        }
    }

    /// The ticks for which one runs while others wait.
    pub const fn slice(&self) -> u64 {
        self.slice
    }

    pub(super) fn cpu(&self, cpu: CpuId) -> Option<&PerCpu<K>> {
        self.cpus.get(cpu.index())
    }

    /// The CPUs that schedule.
    pub(super) fn online(&self) -> CpuMask {
        CpuMask::new(u64::MAX >> (64 - self.cpus.len().clamp(1, 64)))
    }

    pub(super) fn admits(&self, entry: &Waiting<K>, now: TscTicks) -> bool {
        entry.key.entity().group.allowance(now, self.period) != Some(0)
    }

    // ---- Changes of state ----

    /// Wakes a virtual CPU if it is blocked; in any case returns the CPU that has to look again: the one that runs it,
    /// or that shall.
    pub fn wake(&self, key: &K, now: TscTicks) -> Option<CpuId> {
        let mut inner = key.entity().lock();
        inner.blocked = false;
        match inner.place {
            Place::On(cpu) => Some(cpu),
            Place::Queued => None,
            Place::Nowhere => self.enqueue_if_runnable(key, &mut inner, now),
        }
    }

    /// Starts or stops a virtual CPU.
    pub fn set_up(&self, key: &K, up: bool, now: TscTicks) -> Option<CpuId> {
        let mut inner = key.entity().lock();
        inner.down = !up;
        if up {
            inner.blocked = false;
        }
        self.changed(key, &mut inner, now)
    }

    /// Keeps a virtual CPU from running until [`unpause`](Self::unpause) was called as often.
    pub fn pause(&self, key: &K, now: TscTicks) -> Option<CpuId> {
        let mut inner = key.entity().lock();
        inner.paused = inner.paused.saturating_add(1);
        self.changed(key, &mut inner, now)
    }

    /// Takes one [`pause`](Self::pause) back.
    pub fn unpause(&self, key: &K, now: TscTicks) -> Option<CpuId> {
        let mut inner = key.entity().lock();
        inner.paused = inner.paused.saturating_sub(1);
        self.changed(key, &mut inner, now)
    }

    /// Changes the CPUs that a virtual CPU may run on. A set without any CPU of the machine counts as all.
    pub fn set_affinity(&self, key: &K, affinity: CpuMask) -> Option<CpuId> {
        let affinity = if affinity.and(self.online()).is_empty() { CpuMask::ALL } else { affinity };
        let inner = key.entity().lock();
        key.entity().set_affinity(affinity);
        match inner.place {
            Place::On(cpu) if !affinity.contains(cpu) => {
                key.preempt();
                Some(cpu)
            }
            _ => None, // whoever takes it out of a queue looks
        }
    }

    fn changed(&self, key: &K, inner: &mut Inner, now: TscTicks) -> Option<CpuId> {
        match inner.place {
            Place::On(_) if inner.runnable() => None,
            Place::On(cpu) => {
                key.preempt();
                Some(cpu)
            }
            Place::Queued => {
                inner.account(now);
                None
            }
            Place::Nowhere => self.enqueue_if_runnable(key, inner, now),
        }
    }

    /// Forgets a virtual CPU that is down for good, so that no queue holds its handle.
    pub fn forget(&self, key: &K) {
        for cpu in &self.cpus {
            let mut queue = cpu.queue.lock();
            if queue.take(|entry| entry.key.is(key)).is_some() {
                let clock = queue.advance(TscTicks::new(0));
                cpu.publish(&queue, clock);
                drop(queue);
                key.entity().lock().place = Place::Nowhere;
                key.entity().group.deactivate();
                return;
            }
        }
    }

    // ---- Queues ----

    fn enqueue_if_runnable(&self, key: &K, inner: &mut Inner, now: TscTicks) -> Option<CpuId> {
        if !inner.runnable() {
            inner.account(now);
            return None;
        }
        inner.place = Place::Queued;
        key.entity().group.activate();
        inner.account(now);
        self.place(key.clone(), inner, now)
    }

    /// Puts one that says `Queued` into a queue. Returns the CPU that has to look again.
    fn place(&self, key: K, inner: &mut Inner, now: TscTicks) -> Option<CpuId> {
        let target = self.choose(&key, inner.home);
        let from = self.cpu(inner.home).map(|cpu| cpu.clock.load(Relaxed));
        let cpu = self.cpu(target)?;
        let mut queue = cpu.queue.lock();
        let clock = queue.advance(now);
        let vruntime = match from {
            Some(from) if inner.home != target => translate(inner.vruntime, from, clock),
            _ => inner.vruntime,
        };
        inner.vruntime = vruntime.max(clock.saturating_sub(self.bonus));
        inner.home = target;
        let first = queue.is_empty();
        let running = queue.running_vruntime(now);
        let look = running.is_none_or(|v| first || inner.vruntime < v);
        if let Some(running) = queue.running.as_ref().filter(|_| look) {
            running.key.preempt();
        }
        queue.push(Waiting { key, vruntime: inner.vruntime });
        cpu.publish(&queue, clock);
        look.then_some(target)
    }

    // ---- The decision ----

    /// Decides what `cpu` does next. `current` is the virtual CPU that it runs, if any; on another answer than
    /// [`Next::Stay`] it is no longer its own, and as soon as this returns another CPU may wait for its registers: the
    /// caller saves them and lets go of them before it does anything that waits.
    pub fn schedule(&self, cpu: CpuId, current: Option<&K>, now: TscTicks) -> Decision<K> {
        if self.cpus.len() > 1 {
            self.level(cpu, now);
        }
        let mut kick = None;
        let mut yielded = false;
        if let Some(key) = current {
            match self.leave(cpu, key, now) {
                Left::Stays(until) => return Decision { next: Next::Stay, until, kick: None },
                Left::Gone { moved, yields } => {
                    kick = moved;
                    yielded = yields;
                }
            }
        }
        loop {
            let Some(entry) = self.pick(cpu, current.filter(|_| yielded), now) else {
                let until = self.cpu(cpu).and_then(|own| {
                    let queue = own.queue.lock();
                    queue.next_refill(|group| group.cap() != 0)
                });
                return Decision { next: Next::Idle, until, kick };
            };
            let mut inner = entry.key.entity().lock();
            if !inner.runnable() {
                inner.place = Place::Nowhere;
                inner.account(now);
                entry.key.entity().group.deactivate();
                continue;
            }
            inner.vruntime = entry.vruntime;
            inner.home = cpu;
            if !entry.key.entity().affinity().contains(cpu) {
                let key = entry.key.clone();
                kick = self.place(key, &mut inner, now).or(kick);
                continue;
            }
            inner.place = Place::On(cpu);
            inner.charged = now;
            inner.began = now;
            inner.account(now);
            let until = self.run(cpu, &entry, now);
            drop(inner);
            return Decision { next: Next::Run(entry.key), until, kick };
        }
    }

    /// Charges the one that runs, and takes it off the CPU unless it goes on.
    fn leave(&self, cpu: CpuId, key: &K, now: TscTicks) -> Left {
        let entity = key.entity();
        let mut inner = entity.lock();
        let ran = now.since(inner.charged).raw();
        inner.vruntime = inner.vruntime.saturating_add(entity.group.scale(ran));
        inner.charged = inner.charged.max(now);
        entity.group.charge(ran);
        let yields = core::mem::take(&mut inner.yielded);
        let Some(own) = self.cpu(cpu) else {
            return Left::Gone { moved: None, yields };
        };
        let mut queue = own.queue.lock();
        if inner.runnable() && entity.affinity().contains(cpu) {
            let allowance = entity.group.allowance(now, self.period);
            let rival = queue.peek(|entry| self.admits(entry, now));
            if let Some(rival) = rival.filter(|_| yields) {
                // It gives the time away for good: if it could claim it later, it might keep the others from running.
                inner.vruntime = inner.vruntime.max(rival);
            }
            let ran_for = now.since(inner.began).raw();
            let stays = match rival {
                _ if allowance == Some(0) => false,
                None => true,
                Some(_) if yields => false,
                Some(rival) => rival >= inner.vruntime || ran_for < self.grace,
            };
            if stays {
                if let Some(running) = &mut queue.running {
                    running.vruntime = inner.vruntime;
                    running.charged = inner.charged;
                }
                let clock = queue.advance(now);
                own.clock.store(clock, Relaxed);
                let slice = match rival {
                    Some(rival) if rival < inner.vruntime => self.grace - ran_for,
                    _ => self.slice,
                };
                return Left::Stays(self.until(now, slice, allowance, queue.is_empty()));
            }
            inner.place = Place::Queued;
            inner.account(now);
            let clock = queue.advance(now);
            queue.running = None;
            queue.push(Waiting { key: key.clone(), vruntime: inner.vruntime });
            own.publish(&queue, clock);
            drop(queue);
            // It had to make room: an idle CPU that may run it takes it over.
            let moved = self.idle(entity.affinity()).next();
            return Left::Gone { moved, yields };
        }
        let clock = queue.advance(now);
        queue.running = None;
        let mut moved = None;
        if inner.runnable() {
            own.publish(&queue, clock);
            drop(queue);
            inner.place = Place::Queued;
            inner.account(now);
            moved = self.place(key.clone(), &mut inner, now);
        } else {
            drop(queue); // whatever is decided next is published
            inner.place = Place::Nowhere;
            inner.account(now);
            entity.group.deactivate();
        }
        Left::Gone { moved, yields }
    }

    /// Takes the next one out of this CPU's queue, or else out of another's. One that just yielded comes last. What is
    /// left is published when somebody runs.
    fn pick(&self, cpu: CpuId, avoid: Option<&K>, now: TscTicks) -> Option<Waiting<K>> {
        let own = self.cpu(cpu)?;
        let mut queue = own.queue.lock();
        let clock = queue.advance(now);
        let willing =
            |entry: &Waiting<K>| avoid.is_none_or(|key| !entry.key.is(key)) && self.admits(entry, now);
        let entry = queue.take(willing).or_else(|| queue.take(|entry| self.admits(entry, now)));
        if entry.is_none() {
            own.publish(&queue, clock);
        }
        drop(queue);
        entry.or_else(|| if self.cpus.len() > 1 { self.pull(cpu, now, true, false) } else { None })
    }

    /// Notes who runs, and says for how long.
    fn run(&self, cpu: CpuId, entry: &Waiting<K>, now: TscTicks) -> Option<TscTicks> {
        let own = self.cpu(cpu)?;
        let mut queue = own.queue.lock();
        queue.running = Some(Running { key: entry.key.clone(), vruntime: entry.vruntime, charged: now });
        let clock = queue.advance(now);
        own.publish(&queue, clock);
        let allowance = entry.key.entity().group.allowance(now, self.period);
        self.until(now, self.slice, allowance, queue.is_empty())
    }

    /// When the CPU asks again: at the end of the slice if others wait for it, or might be taken over by it; and
    /// before a cap is exceeded.
    fn until(&self, now: TscTicks, slice: u64, allowance: Option<u64>, alone: bool) -> Option<TscTicks> {
        let slice = (!alone || self.cpus.len() > 1).then_some(slice);
        let ticks = match (slice, allowance) {
            (Some(slice), Some(allowance)) => slice.min(allowance),
            (slice, allowance) => slice.or(allowance)?,
        };
        Some(now.after(TscTicks::new(ticks.max(1))))
    }
}

/// What became of the one that ran.
enum Left {
    /// It goes on, until then.
    Stays(Option<TscTicks>),
    /// It is off the CPU.
    Gone { moved: Option<CpuId>, yields: bool },
}
