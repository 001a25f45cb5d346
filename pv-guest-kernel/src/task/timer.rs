//! Sleeping: a queue of deadlines for each vCPU, served by its single-shot timer.
//!
//! The queue belongs to the vCPU where the future was first polled; it may be dropped elsewhere. Only the earliest
//! deadline is programmed, and only when it becomes earlier: a timer that fires early costs one upcall.

use alloc::collections::BTreeMap;
use core::future::Future;
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use crate::arch::cpu::{self, PerCpu};
use crate::xen::clock;

/// Deadlines of one vCPU in nanoseconds of system time.
#[derive(Default)]
pub struct TimerQueue {
    entries: BTreeMap<(u64, u64), Waker>,
    next_id: u64,
    programmed: Option<u64>,
}

impl TimerQueue {
    /// No deadlines.
    pub const fn new() -> Self {
        TimerQueue { entries: BTreeMap::new(), next_id: 0, programmed: None }
    }
}

/// The timer event of this vCPU: wakes what is due and programs the next deadline.
pub fn on_timer() {
    let me = cpu::this();
    let now = clock::now();
    loop {
        let mut queue = me.timers.lock();
        queue.programmed = None;
        let Some((&key, _)) = queue.entries.first_key_value() else { return };
        if key.0 > now {
            queue.programmed = Some(key.0);
            drop(queue);
            crate::xen::sched::set_timer(key.0);
            return;
        }
        let waker = queue.entries.remove(&key);
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Completes when system time reaches a deadline.
pub struct Sleep {
    deadline: u64,
    entry: Option<(&'static PerCpu, u64)>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if clock::now() >= self.deadline {
            return Poll::Ready(());
        }
        if let Some((cpu, id)) = self.entry {
            let mut queue = cpu.timers.lock();
            if let Some(waker) = queue.entries.get_mut(&(self.deadline, id)) {
                waker.clone_from(cx.waker());
                return Poll::Pending;
            }
            // Fired, but the clock of this vCPU is not there yet: queue again.
        }
        let cpu = cpu::this();
        let mut queue = cpu.timers.lock();
        let id = queue.next_id;
        queue.next_id += 1;
        queue.entries.insert((self.deadline, id), cx.waker().clone());
        let program = queue.programmed.is_none_or(|at| self.deadline < at);
        if program {
            queue.programmed = Some(self.deadline);
        }
        drop(queue);
        self.entry = Some((cpu, id));
        if program {
            crate::xen::sched::set_timer(self.deadline);
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((cpu, id)) = self.entry {
            cpu.timers.lock().entries.remove(&(self.deadline, id));
        }
    }
}

/// Waits for a duration.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(clock::now().saturating_add(duration.as_nanos() as u64))
}

/// Waits for a point of system time in nanoseconds.
pub fn sleep_until(deadline: u64) -> Sleep {
    Sleep { deadline, entry: None }
}

/// The time ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

/// Gives a future so much time.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = pin!(sleep(duration));
    core::future::poll_fn(|cx| {
        if let Poll::Ready(v) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(v));
        }
        sleep.as_mut().poll(cx).map(|()| Err(Elapsed))
    })
    .await
}
