//! Which CPU one waits for: choosing when it wakes, and levelling what the CPUs have to do.

use super::entity::Scheduled;
use super::mask::CpuMask;
use super::queue::{Waiting, allowed, translate};
use super::scheduler::Scheduler;
use crate::hw::{CpuId, TscTicks};
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

impl<K: Scheduled> Scheduler<K> {
    /// The idle CPUs among `allowed`.
    pub(super) fn idle(&self, allowed: CpuMask) -> impl Iterator<Item = CpuId> {
        let cpus = allowed.and(self.online()).iter();
        cpus.filter(|cpu| self.cpu(*cpu).is_some_and(|cpu| cpu.idle.load(Relaxed)))
    }

    /// The CPU on whose queue a virtual CPU is put: where it was if that is idle, any idle one, or where it was.
    pub(super) fn choose(&self, key: &K, home: CpuId) -> CpuId {
        let allowed = key.entity().affinity().and(self.online());
        let is_idle = self.cpu(home).is_some_and(|cpu| cpu.idle.load(Relaxed));
        if allowed.contains(home) && is_idle {
            return home;
        }
        if let Some(cpu) = self.idle(allowed).next() {
            return cpu;
        }
        if allowed.contains(home) {
            return home;
        }
        let load = |cpu: &CpuId| self.cpu(*cpu).map_or(u64::MAX, |c| c.load.load(Relaxed));
        allowed.iter().min_by_key(load).unwrap_or_default()
    }

    /// Takes one that waits for another CPU and may run on `to`. A CPU that is `hungry` takes any; otherwise the loads
    /// must become more level by it, or, if `rotate`, as level as they were.
    pub(super) fn pull(&self, to: CpuId, now: TscTicks, hungry: bool, rotate: bool) -> Option<Waiting<K>> {
        let own = self.cpu(to)?;
        let own_load = own.load.load(Relaxed);
        let own_clock = own.clock.load(Relaxed);
        let others = self
            .cpus
            .iter()
            .enumerate()
            .filter(|(index, cpu)| *index != to.index() && cpu.waiting.load(Relaxed) > 0);
        let mut others: Vec<_> = others.map(|(_, cpu)| (cpu.load.load(Relaxed), cpu)).collect();
        others.sort_unstable_by_key(|(load, _)| core::cmp::Reverse(*load));
        if !hungry {
            others.truncate(1);
        }
        for (_, cpu) in others {
            let mut queue = cpu.queue.lock();
            let clock = queue.advance(now);
            let load = queue.load();
            let before = load.abs_diff(own_load);
            let gain = |entry: &Waiting<K>| {
                let share = entry.key.entity().group.share();
                let after = load.saturating_sub(share).abs_diff(own_load + share);
                (after < before || (after == before && rotate)).then(|| before - after)
            };
            let fits = |entry: &Waiting<K>| allowed(entry, to) && self.admits(entry, now);
            let taken = if hungry {
                queue.take(fits)
            } else {
                let best = queue.iter().filter(|entry| fits(entry)).filter_map(gain).max();
                best.and_then(|best| queue.take(|entry| fits(entry) && gain(entry) == Some(best)))
            };
            cpu.publish(&queue, clock);
            if let Some(mut entry) = taken {
                entry.vruntime = translate(entry.vruntime, clock, own_clock);
                return Some(entry);
            }
        }
        None
    }

    /// At most once in a slice: takes over one that waits for a CPU with more to do. Now and then also one whose
    /// move makes nothing more level, so that three on two CPUs take turns at being alone.
    pub(super) fn level(&self, cpu: CpuId, now: TscTicks) {
        let Some(own) = self.cpu(cpu) else { return };
        let rotate;
        {
            let mut queue = own.queue.lock();
            if now.since(queue.levelled).raw() < self.slice {
                return;
            }
            queue.levelled = now;
            // Irregularly, or it would keep step with the slices and always meet the same one.
            let pause = 2 + (queue.rotated.raw().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62);
            rotate = now.since(queue.rotated).raw() >= pause * self.slice;
            if rotate {
                queue.rotated = now;
            }
        }
        if let Some(entry) = self.pull(cpu, now, false, rotate) {
            let mut queue = own.queue.lock();
            let clock = queue.advance(now);
            queue.push(entry);
            own.publish(&queue, clock);
        }
    }
}
