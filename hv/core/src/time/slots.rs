//! The timers of one virtual CPU.

use crate::hw::{CpuId, TscTicks};
use spin::{Mutex, MutexGuard};

/// A timer of a virtual CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// `VCPUOP_set_singleshot_timer` and `set_timer_op`: `VIRQ_TIMER`.
    Single,
    /// The end of `SCHEDOP_poll`.
    Poll,
    /// The timer of the local APIC.
    Apic,
}

const SLOTS: usize = 3;

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
        self.contains(Slot::Single)
    }

    /// Whether none has.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    deadlines: [Option<TscTicks>; SLOTS],
    /// The CPU in whose queue the earliest deadline stands.
    pub queued: Option<CpuId>,
}

impl Inner {
    pub fn set(&mut self, slot: Slot, deadline: Option<TscTicks>) {
        if let Some(place) = self.deadlines.get_mut(slot as usize) {
            *place = deadline;
        }
    }

    pub fn earliest(&self) -> Option<TscTicks> {
        self.deadlines.iter().flatten().min().copied()
    }

    /// Takes those that are due.
    pub fn fire(&mut self, now: TscTicks) -> Due {
        let mut due = Due::default();
        for (index, deadline) in self.deadlines.iter_mut().enumerate() {
            if deadline.take_if(|at| *at <= now).is_some() {
                due.0 |= 1 << index;
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
