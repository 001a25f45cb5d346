//! How long a virtual CPU has been in each state: exact to the tick.

use crate::hw::TscTicks;
use pv_abi::vcpu::runstate;

/// What a virtual CPU is doing (`RUNSTATE_*` of `xen/vcpu.h`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It is on a CPU.
    Running,
    /// It waits for a CPU.
    Runnable,
    /// It waits for an event.
    Blocked,
    /// It was never started, was stopped, or is paused.
    Offline,
}

impl State {
    /// The number of this state in the ABI.
    pub const fn raw(self) -> u32 {
        match self {
            Self::Running => runstate::RUNNING,
            Self::Runnable => runstate::RUNNABLE,
            Self::Blocked => runstate::BLOCKED,
            Self::Offline => runstate::OFFLINE,
        }
    }
}

/// The present state and the ticks spent in each: their sum is the time since the beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunTimes {
    /// The present state.
    pub state: State,
    /// When it began.
    pub since: TscTicks,
    /// The ticks in each state, as the ABI numbers them, before the present one began.
    pub spent: [u64; 4],
}

impl RunTimes {
    /// Offline from `now` on.
    pub const fn new(now: TscTicks) -> Self {
        Self { state: State::Offline, since: now, spent: [0; 4] }
    }

    /// Changes the state. Time never runs backwards: a reading from a CPU that is behind counts as none.
    pub fn enter(&mut self, state: State, now: TscTicks) {
        if self.state != state {
            *self = self.at(now);
            self.state = state;
        }
    }

    /// The same with the time in the present state counted up to `now`.
    #[must_use]
    pub fn at(mut self, now: TscTicks) -> Self {
        if let Some(spent) = self.spent.get_mut(self.state.raw() as usize) {
            *spent += now.since(self.since).raw();
        }
        self.since = self.since.max(now);
        self
    }

    /// The ticks spent running.
    pub fn running(&self) -> u64 {
        let [running, ..] = self.spent;
        running
    }
}
