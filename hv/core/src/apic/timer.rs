//! The timer of the local APIC.

use super::registers::LVT_MASKED;
use crate::hw::{Nanos, TscTicks};
use crate::time::Clock;

/// The period of the timer's input clock, as Xen's guests see it.
pub(super) const CYCLE: u64 = 10;

/// The modes of the timer (bits 17 and 18 of its LVT entry).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    Deadline,
    Reserved,
}

/// The timer's registers but its LVT entry.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timer {
    pub divide: u32,
    pub initial: u32,
    /// It counts down: since it was started it did not come to its end once and for all.
    counting: bool,
    /// When it began to count down.
    started: TscTicks,
    /// IA32_TSC_DEADLINE; zero when not armed.
    pub deadline: u64,
}

pub(super) const fn mode(lvt: u32) -> Mode {
    match (lvt >> 17) & 3 {
        0 => Mode::OneShot,
        1 => Mode::Periodic,
        2 => Mode::Deadline,
        _ => Mode::Reserved,
    }
}

impl Timer {
    /// Nanoseconds per count (SDM 3, figure 11-10: bits 0, 1 and 3 of the divide configuration).
    fn cycle(&self) -> u64 {
        let code = (self.divide & 3) | ((self.divide >> 1) & 4);
        let divisor = if code == 7 { 1 } else { 2 << code };
        CYCLE * divisor
    }

    fn period(&self, clock: &Clock) -> u64 {
        clock.ticks(Nanos::new(u64::from(self.initial) * self.cycle())).raw().max(1)
    }

    /// Begins to count down from `initial`.
    pub fn start(&mut self, initial: u32, now: TscTicks) {
        self.initial = initial;
        self.counting = initial != 0;
        self.started = now;
    }

    /// The current count.
    pub fn count(&self, lvt: u32, now: TscTicks, clock: &Clock) -> u32 {
        if !self.counting || mode(lvt) == Mode::Deadline {
            return 0;
        }
        let passed = clock.nanos(now.since(self.started)).raw() / self.cycle();
        let initial = u64::from(self.initial);
        let left = match mode(lvt) {
            Mode::Periodic => initial - passed % initial,
            _ => initial.saturating_sub(passed),
        };
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    /// When it fires next, if it does. A masked timer counts but need not be watched.
    pub fn next(&self, lvt: u32, now: TscTicks, clock: &Clock) -> Option<TscTicks> {
        match mode(lvt) {
            Mode::Deadline => (self.deadline != 0).then(|| TscTicks::new(self.deadline)),
            _ if !self.counting || lvt & LVT_MASKED != 0 => None,
            Mode::Periodic => {
                let period = self.period(clock);
                let passed = now.since(self.started).raw() / period;
                Some(self.started.after(TscTicks::new(period.saturating_mul(passed + 1))))
            }
            Mode::OneShot | Mode::Reserved => {
                let end = self.started.after(TscTicks::new(self.period(clock)));
                (end > now).then_some(end)
            }
        }
    }

    /// It has fired.
    pub fn fired(&mut self, lvt: u32) {
        match mode(lvt) {
            Mode::Deadline => self.deadline = 0,
            Mode::Periodic => {}
            Mode::OneShot | Mode::Reserved => self.counting = false,
        }
    }
}
