//! Those that wait for one CPU, and the one that it runs.

use super::entity::Scheduled;
use super::group::Group;
use crate::hw::{CpuId, TscTicks};
use alloc::vec::Vec;

/// One that waits.
pub(super) struct Waiting<K> {
    pub key: K,
    /// Its virtual time, by this queue's clock.
    pub vruntime: u64,
}

/// The one that runs.
pub(super) struct Running<K> {
    pub key: K,
    /// Its virtual time when `charged`.
    pub vruntime: u64,
    pub charged: TscTicks,
}

/// The queue of a CPU.
pub(super) struct Queue<K> {
    /// In order of virtual time, the furthest behind last.
    waiting: Vec<Waiting<K>>,
    pub running: Option<Running<K>>,
    /// The virtual time that newcomers start from: that of the one furthest behind; never goes back.
    clock: u64,
    /// When loads were last levelled from here.
    pub levelled: TscTicks,
    /// When one was last taken over that made nothing more level.
    pub rotated: TscTicks,
}

impl<K: Scheduled> Queue<K> {
    pub const fn new() -> Self {
        Self {
            waiting: Vec::new(),
            running: None,
            clock: 0,
            levelled: TscTicks::new(0),
            rotated: TscTicks::new(0),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Virtual time of the one that runs.
    pub fn running_vruntime(&self, now: TscTicks) -> Option<u64> {
        let running = self.running.as_ref()?;
        let ran = now.since(running.charged).raw();
        Some(running.vruntime.saturating_add(running.key.entity().group.scale(ran)))
    }

    /// Brings the clock up to date and reads it.
    pub fn advance(&mut self, now: TscTicks) -> u64 {
        let waiting = self.waiting.last().map(|entry| entry.vruntime);
        let least = match (self.running_vruntime(now), waiting) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if let Some(least) = least {
            self.clock = self.clock.max(least);
        }
        self.clock
    }

    pub fn push(&mut self, entry: Waiting<K>) {
        // Its equals stand nearer to the end, so that who waits longer goes first.
        let at = self.waiting.partition_point(|other| other.vruntime > entry.vruntime);
        self.waiting.insert(at, entry);
    }

    /// Takes the one furthest behind that `admit` lets pass.
    pub fn take(&mut self, admit: impl FnMut(&Waiting<K>) -> bool) -> Option<Waiting<K>> {
        let at = self.waiting.iter().rposition(admit)?;
        Some(self.waiting.remove(at))
    }

    /// The virtual time of the one furthest behind that `admit` lets pass.
    pub fn peek(&self, mut admit: impl FnMut(&Waiting<K>) -> bool) -> Option<u64> {
        self.waiting.iter().rev().find(|entry| admit(entry)).map(|entry| entry.vruntime)
    }

    /// Those that wait.
    pub fn iter(&self) -> impl Iterator<Item = &Waiting<K>> {
        self.waiting.iter()
    }

    /// The weight of all that wait or run here.
    pub fn load(&self) -> u64 {
        let waiting: u64 = self.waiting.iter().map(|entry| entry.key.entity().group.share()).sum();
        waiting + self.running.as_ref().map_or(0, |running| running.key.entity().group.share())
    }

    /// When the first of those that their caps hold back may run again.
    pub fn next_refill(&self, capped: impl Fn(&Group) -> bool) -> Option<TscTicks> {
        let groups = self.waiting.iter().map(|entry| &entry.key.entity().group);
        groups.filter(|group| capped(group)).map(|group| group.refill()).min()
    }
}

/// Turns virtual time by one queue's clock into the same lead or lag by another's.
pub(super) fn translate(vruntime: u64, from: u64, to: u64) -> u64 {
    if vruntime >= from { to.saturating_add(vruntime - from) } else { to.saturating_sub(from - vruntime) }
}

/// Whether this CPU may run the entry.
pub(super) fn allowed<K: Scheduled>(entry: &Waiting<K>, cpu: CpuId) -> bool {
    entry.key.entity().affinity().contains(cpu)
}
