mod fairness;
mod states;
mod threads;

use super::*;
use crate::hw::{CpuId, TscTicks};
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Arc;
use std::vec::Vec;

/// A virtual CPU for tests.
pub struct Thing {
    pub name: usize,
    pub entity: Entity,
    pub preempted: AtomicBool,
}

pub type Key = Arc<Thing>;

impl Scheduled for Key {
    fn entity(&self) -> &Entity {
        &self.entity
    }

    fn preempt(&self) {
        self.preempted.store(true, SeqCst);
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(self, other)
    }
}

/// Ticks in a millisecond.
pub const MS: u64 = 1_000_000;

pub const fn t(ticks: u64) -> TscTicks {
    TscTicks::new(ticks)
}

pub const fn cpu(number: u16) -> CpuId {
    CpuId::new(number)
}

pub fn thing(name: usize, group: &Arc<Group>, affinity: CpuMask) -> Key {
    let entity = Entity::new(Arc::clone(group), affinity, t(0));
    Arc::new(Thing { name, entity, preempted: AtomicBool::new(false) })
}

/// What a virtual CPU does when it runs: computes for so long, then sleeps for so long, or yields if that is no time.
#[derive(Clone, Copy)]
pub struct Habit {
    pub work: u64,
    pub sleep: u64,
}

/// Computes for ever.
pub const SPIN: Habit = Habit { work: u64::MAX, sleep: 0 };

/// CPUs that run virtual CPUs with habits, event by event.
pub struct Machine {
    pub scheduler: Scheduler<Key>,
    pub now: u64,
    pub keys: Vec<Key>,
    pub habits: Vec<Habit>,
    /// What is left of the present piece of work.
    pub left: Vec<u64>,
    wakes: Vec<Option<u64>>,
    current: Vec<Option<usize>>,
    until: Vec<Option<u64>>,
    look: Vec<bool>,
    pub switches: usize,
    /// From each wake-up to the moment that it ran.
    pub latencies: Vec<(usize, u64)>,
    woken: Vec<Option<u64>>,
}

impl Machine {
    pub fn new(cpus: u16) -> Self {
        Self {
            scheduler: Scheduler::new(cpus, 1_000_000_000),
            now: 0,
            keys: Vec::new(),
            habits: Vec::new(),
            left: Vec::new(),
            wakes: Vec::new(),
            current: std::vec![None; cpus.into()],
            until: std::vec![None; cpus.into()],
            look: std::vec![true; cpus.into()],
            switches: 0,
            latencies: Vec::new(),
            woken: Vec::new(),
        }
    }

    pub fn add(&mut self, group: &Arc<Group>, affinity: CpuMask, habit: Habit) -> usize {
        let name = self.keys.len();
        self.keys.push(thing(name, group, affinity));
        self.habits.push(habit);
        self.left.push(habit.work);
        self.wakes.push(None);
        self.woken.push(None);
        let kick = self.scheduler.set_up(&self.keys[name], true, t(self.now));
        self.kick(kick);
        name
    }

    pub fn kick(&mut self, cpu: Option<CpuId>) {
        if let Some(cpu) = cpu {
            self.look[cpu.index()] = true;
        }
    }

    fn decide(&mut self, index: usize) {
        let number = cpu(u16::try_from(index).unwrap());
        let current = self.current[index].map(|name| Arc::clone(&self.keys[name]));
        self.look[index] = false;
        let decision = self.scheduler.schedule(number, current.as_ref(), t(self.now));
        self.kick(decision.kick);
        self.until[index] = decision.until.map(TscTicks::raw);
        match decision.next {
            Next::Stay => assert!(current.is_some()),
            Next::Run(key) => {
                self.switches += 1;
                assert!(key.entity.affinity().contains(number), "{} runs on {number}", key.name);
                let others = self.current.iter().enumerate().filter(|(other, _)| *other != index);
                assert!(others.into_iter().all(|(_, name)| *name != Some(key.name)), "runs twice");
                self.current[index] = Some(key.name);
                if let Some(at) = self.woken[key.name].take() {
                    self.latencies.push((key.name, self.now - at));
                }
            }
            Next::Idle => self.current[index] = None,
        }
        if let Some(until) = self.until[index] {
            assert!(until > self.now, "a decision for no time");
        }
    }

    /// Lets time pass up to `end`.
    pub fn run(&mut self, end: u64) {
        loop {
            while let Some(index) = self.look.iter().position(|look| *look) {
                self.decide(index);
            }
            let work = self.current.iter().flatten().map(|name| self.now.saturating_add(self.left[*name]));
            let wakes = self.wakes.iter().flatten().copied();
            let next = work.chain(wakes).chain(self.until.iter().flatten().copied()).min().unwrap_or(end);
            let next = next.min(end).max(self.now);
            for name in self.current.iter().flatten() {
                if self.left[*name] != u64::MAX {
                    self.left[*name] -= next - self.now;
                }
            }
            self.now = next;
            if self.now >= end {
                return;
            }
            for name in 0..self.keys.len() {
                if self.wakes[name].is_some_and(|at| at <= self.now) {
                    self.wakes[name] = None;
                    self.woken[name] = Some(self.now);
                    let kick = self.scheduler.wake(&self.keys[name], t(self.now));
                    self.kick(kick);
                }
            }
            for index in 0..self.current.len() {
                if let Some(name) = self.current[index] {
                    if self.left[name] == 0 {
                        self.left[name] = self.habits[name].work;
                        if self.habits[name].sleep == 0 {
                            self.keys[name].entity.yields();
                        } else {
                            self.wakes[name] = Some(self.now + self.habits[name].sleep);
                            self.keys[name].entity.block();
                        }
                        self.look[index] = true;
                    }
                    if self.keys[name].preempted.swap(false, SeqCst) {
                        self.look[index] = true;
                    }
                }
                if self.until[index].is_some_and(|until| until <= self.now) {
                    self.look[index] = true;
                }
            }
        }
    }

    /// The ticks that a virtual CPU has run.
    pub fn ran(&self, name: usize) -> u64 {
        self.keys[name].entity.times(t(self.now)).running()
    }

    /// Checks what always holds of the accounts.
    pub fn check(&self) {
        for key in &self.keys {
            let spent: u64 = key.entity.times(t(self.now)).spent.iter().sum();
            assert_eq!(spent, self.now, "{}: every tick is in one state", key.name);
        }
        let ran: u64 = (0..self.keys.len()).map(|name| self.ran(name)).sum();
        assert!(ran <= self.now * self.current.len() as u64, "more time was run than there is");
    }
}
