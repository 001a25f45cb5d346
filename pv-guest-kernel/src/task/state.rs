//! Where a task is: at rest, on its way to be polled, or being polled.
//!
//! Whoever wakes a task exchanges its state for `WOKEN`, and has found `RESTING`: then it is in no queue, and the waker
//! puts it into one; `RUNNING`: then the vCPU that polls it finds the change afterwards and puts it there; or `WOKEN`:
//! then that is done or about to be. So a task is in a queue at most once, and polled by one vCPU at a time. Whoever
//! takes it out of the queue exchanges `WOKEN` for `RUNNING` before the poll. All are exchanges, so that the poll sees
//! what was done before any wake that it answers. `pv-drivers/tests/loom.rs` tries this file in every order.

#[cfg(not(loom))]
use core::sync::atomic::AtomicU8;
use core::sync::atomic::Ordering::{AcqRel, Acquire};

#[cfg(loom)]
use loom::sync::atomic::AtomicU8;

const RESTING: u8 = 0;
/// In the queue, or about to be put there.
const WOKEN: u8 = 1;
const RUNNING: u8 = 2;

/// A task's state.
pub struct State(AtomicU8);

impl State {
    /// That of a new task, which its maker puts into the queue.
    pub fn new() -> Self {
        Self(AtomicU8::new(WOKEN))
    }

    /// Wakes the task. True: the caller puts it into the queue.
    #[inline]
    #[must_use]
    pub fn wake(&self) -> bool {
        self.0.swap(WOKEN, AcqRel) == RESTING
    }

    /// The caller has taken the task out of the queue, and polls it now.
    #[inline]
    pub fn begin(&self) {
        self.0.swap(RUNNING, AcqRel);
    }

    /// The caller has polled the task, and it waits. True: it was woken meanwhile, and the caller puts it into the
    /// queue; otherwise it may be with another vCPU already. A task that has ended is left as it is: no wake has it put
    /// into the queue again.
    #[inline]
    #[must_use]
    pub fn end(&self) -> bool {
        self.0.compare_exchange(RUNNING, RESTING, AcqRel, Acquire).is_err()
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}
