//! What the virtual CPUs of a domain share: weight and cap.

use crate::hw::TscTicks;
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};

/// The share of CPU time of a domain.
///
/// All members are independent counters: a reader that sees an older one decides as it would have a moment before.
#[derive(Debug)]
pub struct Group {
    weight: AtomicU32,
    /// Percent of one CPU; 0 is no cap.
    cap: AtomicU32,
    /// How many of its virtual CPUs run or wait for a CPU.
    active: AtomicU32,
    /// The ticks left in this period. Negative when a slice ran over; the next period pays for that.
    budget: AtomicI64,
    /// When the next period begins.
    refill: AtomicU64,
}

impl Group {
    /// A group with this weight (1 to 65,535) and cap (percent of one CPU, 0 for none).
    pub fn new(weight: u32, cap: u32) -> Self {
        let group = Self {
            weight: AtomicU32::new(0),
            cap: AtomicU32::new(0),
            active: AtomicU32::new(0),
            budget: AtomicI64::new(0),
            refill: AtomicU64::new(0),
        };
        group.set(weight, cap);
        group
    }

    /// Changes weight and cap.
    pub fn set(&self, weight: u32, cap: u32) {
        self.weight.store(weight.clamp(1, 65_535), Relaxed);
        self.cap.store(cap, Relaxed);
    }

    /// The weight.
    pub fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    /// The cap in percent of one CPU; 0 for none.
    pub fn cap(&self) -> u32 {
        self.cap.load(Relaxed)
    }

    pub(super) fn activate(&self) {
        self.active.fetch_add(1, Relaxed);
    }

    pub(super) fn deactivate(&self) {
        self.active.fetch_sub(1, Relaxed);
    }

    fn active(&self) -> u64 {
        u64::from(self.active.load(Relaxed).max(1))
    }

    /// The weight of one of its virtual CPUs: an equal part of the group's, in 1/1024.
    pub(super) fn share(&self) -> u64 {
        u64::from(self.weight()) * 1024 / self.active()
    }

    /// Turns the ticks that one virtual CPU ran into virtual time.
    #[inline]
    pub(super) fn scale(&self, ticks: u64) -> u64 {
        let weight = u64::from(self.weight());
        let active = self.active();
        if weight == 256 && active == 1 {
            return ticks;
        }
        ticks.saturating_mul(256 * active) / weight
    }

    /// Counts ticks that one virtual CPU ran against the cap.
    #[inline]
    pub(super) fn charge(&self, ticks: u64) {
        if self.cap() != 0 {
            self.budget.fetch_sub(i64::try_from(ticks).unwrap_or(i64::MAX / 2), Relaxed);
        }
    }

    /// How long one of its virtual CPUs may run now: `None` is as long as it likes; `Some(0)` is not before
    /// [`refill`](Self::refill).
    #[inline]
    pub(super) fn allowance(&self, now: TscTicks, period: u64) -> Option<u64> {
        let cap = self.cap();
        if cap == 0 {
            return None;
        }
        self.begin_period(cap, now.raw(), period);
        let left = u64::try_from(self.budget.load(Relaxed)).unwrap_or(0);
        // Several may use it up at once: each gets a part, but not so little that nothing but switching is done.
        Some(if left == 0 { 0 } else { (left / self.active()).max(period / 64) })
    }

    #[cold]
    fn begin_period(&self, cap: u32, now: u64, period: u64) {
        let begun = self.refill.load(Relaxed);
        if now < begun || period == 0 {
            return;
        }
        let periods = (now - begun) / period + 1;
        let next = begun.saturating_add(periods.saturating_mul(period));
        if self.refill.compare_exchange(begun, next, Relaxed, Relaxed).is_err() {
            return; // another CPU did it
        }
        let quota = i64::try_from(period.saturating_mul(u64::from(cap)) / 100).unwrap_or(i64::MAX / 2);
        let periods = i64::try_from(periods).unwrap_or(i64::MAX);
        // What was not used is gone; what was used too much is paid back.
        let paid = |budget: i64| Some(budget.saturating_add(quota.saturating_mul(periods)).min(quota));
        let _ = self.budget.fetch_update(Relaxed, Relaxed, paid);
    }

    /// When the next period of the cap begins.
    pub(super) fn refill(&self) -> TscTicks {
        TscTicks::new(self.refill.load(Relaxed))
    }
}
