//! The timers of one virtual CPU.

use crate::hw::{CpuId, TscTicks};
use spin::{Mutex, MutexGuard};

/// A timer of a virtual CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// `VCPUOP_set_singleshot_timer` and `set_timer_op`: `VIRQ_TIMER`.
    Single,
    /// `VCPUOP_set_periodic_timer`: `VIRQ_TIMER`.
    Periodic,
    /// The end of `SCHEDOP_poll`.
    Poll,
    /// The timer of the local APIC.
    Apic,
}

const SLOTS: usize = 4;

/// Which timers have fired.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Due(u8);

impl Due {
    /// Whether this one has.
    pub const fn contains(self, slot: Slot) -> bool {
        self.0 & 1 << slot as u8 != 0
    }

    /// Whether the guest gets `VIRQ_TIMER`.
    pub const fn is_virq(self) -> bool {
        self.contains(Slot::Single) || self.contains(Slot::Periodic)
    }

    /// Whether none has.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    deadlines: [Option<TscTicks>; SLOTS],
    /// The ticks between two firings of the periodic one.
    period: u64,
    /// The CPU in whose queue the earliest deadline stands.
    pub queued: Option<CpuId>,
}

impl Inner {
    pub fn set(&mut self, slot: Slot, deadline: Option<TscTicks>) {
        if let Some(place) = self.deadlines.get_mut(slot as usize) {
            *place = deadline;
        }
    }

    pub fn set_period(&mut self, period: u64) {
        self.period = period;
    }

    pub fn earliest(&self) -> Option<TscTicks> {
        self.deadlines.iter().flatten().min().copied()
    }

    /// Takes those that are due. The periodic one goes on; what it missed is missed.
    pub fn fire(&mut self, now: TscTicks) -> Due {
        let mut due = Due::default();
        for (index, deadline) in self.deadlines.iter_mut().enumerate() {
            let Some(at) = deadline.filter(|at| *at <= now) else { continue };
            due.0 |= 1 << index;
            *deadline = None;
            if index == Slot::Periodic as usize && self.period > 0 {
                let missed = now.since(at).raw() / self.period;
                *deadline = Some(at.after(TscTicks::new(self.period.saturating_mul(missed + 1))));
            }
        }
        due
    }
}

/// The timers of one virtual CPU: changed through [`TimerQueues`](super::TimerQueues).
#[derive(Debug, Default)]
pub struct TimerSlots(Mutex<Inner>);

impl TimerSlots {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock()
    }

    /// When this timer fires.
    pub fn deadline(&self, slot: Slot) -> Option<TscTicks> {
        self.lock().deadlines.get(slot as usize).copied().flatten()
    }
}
