//! The deadlines that each CPU watches.
//!
//! A virtual CPU stands in the queue of at most one CPU: that on which it last set a timer, with its earliest
//! deadline. The lock of its slots is taken before that of a queue.

use super::slots::{Due, Slot, TimerSlots};
use crate::hw::{CpuId, TscTicks};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use spin::Mutex;

/// The handle of a virtual CPU that has timers.
pub trait Timed: Clone {
    /// Its timers.
    fn slots(&self) -> &TimerSlots;
    /// Whether both are the same virtual CPU.
    fn is_same(&self, other: &Self) -> bool;
}

struct Queue<K> {
    entries: Mutex<Vec<(TscTicks, K)>>,
    /// The earliest deadline; `u64::MAX` for none.
    next: AtomicU64,
}

impl<K: Timed> Queue<K> {
    fn set(&self, key: &K, deadline: Option<TscTicks>) {
        let mut entries = self.entries.lock();
        let place = entries.iter().position(|(_, other)| other.is_same(key));
        match (place, deadline) {
            (Some(index), Some(deadline)) => {
                if let Some(entry) = entries.get_mut(index) {
                    entry.0 = deadline;
                }
            }
            (Some(index), None) => drop(entries.swap_remove(index)),
            (None, Some(deadline)) => entries.push((deadline, key.clone())),
            (None, None) => return,
        }
        self.publish(&entries);
    }

    fn publish(&self, entries: &[(TscTicks, K)]) {
        let next = entries.iter().map(|(deadline, _)| deadline.raw()).min();
        self.next.store(next.unwrap_or(u64::MAX), Relaxed);
    }

    fn take_due(&self, now: TscTicks) -> Option<K> {
        if self.next.load(Relaxed) > now.raw() {
            return None;
        }
        let mut entries = self.entries.lock();
        let index = entries.iter().position(|(deadline, _)| *deadline <= now)?;
        let (_, key) = entries.swap_remove(index);
        self.publish(&entries);
        Some(key)
    }
}

/// The deadlines that each CPU watches.
pub struct TimerQueues<K> {
    cpus: Vec<Queue<K>>,
}

impl<K: Timed> TimerQueues<K> {
    /// Queues for `cpus` CPUs.
    pub fn new(cpus: u16) -> Self {
        let queue = |_| Queue { entries: Mutex::new(Vec::new()), next: AtomicU64::new(u64::MAX) };
        Self { cpus: (0..cpus).map(queue).collect() }
    }

    /// Sets or stops a timer of a virtual CPU; `cpu` is the one that executes this, and watches it from now on.
    pub fn set(&self, cpu: CpuId, key: &K, slot: Slot, deadline: Option<TscTicks>) {
        let mut slots = key.slots().lock();
        slots.set(slot, deadline);
        self.watch(cpu, key, &mut slots);
    }

    /// Stops all timers of a virtual CPU.
    pub fn forget(&self, key: &K) {
        let mut slots = key.slots().lock();
        let queued = slots.queued;
        *slots = super::slots::Inner::default();
        if let Some(queue) = queued.and_then(|cpu| self.cpus.get(cpu.index())) {
            queue.set(key, None);
        }
    }

    fn watch(&self, cpu: CpuId, key: &K, slots: &mut super::slots::Inner) {
        let earliest = slots.earliest();
        let old = slots.queued.filter(|old| *old != cpu);
        if let Some(queue) = old.and_then(|old| self.cpus.get(old.index())) {
            queue.set(key, None);
        }
        slots.queued = earliest.map(|_| cpu);
        if let Some(queue) = self.cpus.get(cpu.index()) {
            queue.set(key, earliest);
        }
    }

    /// The word that says when `cpu` has to look next: the reading of the time-stamp counter, all ones for never. For
    /// the run loop of that CPU, which compares it with what it saw last.
    pub fn word(&self, cpu: CpuId) -> &AtomicU64 {
        static NEVER: AtomicU64 = AtomicU64::new(u64::MAX);
        self.cpus.get(cpu.index()).map_or(&NEVER, |queue| &queue.next)
    }

    /// When `cpu` has to look next.
    pub fn next(&self, cpu: CpuId) -> Option<TscTicks> {
        match self.cpus.get(cpu.index())?.next.load(Relaxed) {
            u64::MAX => None,
            ticks => Some(TscTicks::new(ticks)),
        }
    }

    /// Fires what is due on `cpu`.
    pub fn expire(&self, cpu: CpuId, now: TscTicks, mut fired: impl FnMut(&K, Due)) {
        let Some(queue) = self.cpus.get(cpu.index()) else { return };
        while let Some(key) = queue.take_due(now) {
            let due = {
                let mut slots = key.slots().lock();
                // It may have been set again in the meantime, on another CPU: then that one watches it.
                if slots.queued != Some(cpu) {
                    continue;
                }
                let due = slots.fire(now);
                self.watch(cpu, &key, &mut slots);
                due
            };
            if !due.is_empty() {
                fired(&key, due);
            }
        }
    }
}
