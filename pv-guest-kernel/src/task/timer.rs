//! Sleeping: deadlines for each vCPU, served by its single-shot timer.
//!
//! A sleeper's deadline is at the vCPU where the future was polled first, or was polled when it had been moved; it may be
//! dropped elsewhere. Only the earliest deadline is programmed, and only when it becomes earlier: a timer that fires early
//! costs one upcall. A sleeper that waits is woken by the timer and by nothing else: polling it meanwhile does not read
//! the clock.

use core::future::Future;
use core::pin::{Pin, pin};
use core::task::{Context, Poll};
use core::time::Duration;

use super::deadlines::{NEVER, Place};
use crate::arch::cpu::{self, PerCpu};
use crate::xen::{clock, sched};

/// The timer event of this vCPU: wakes what is due and programs the next deadline. The wakers run under the lock; they
/// take locks that are never held when this one is taken.
pub fn on_timer() {
    let now = clock::now();
    let next = cpu::this().timers.lock().expire(now);
    if let Some(deadline) = next {
        sched::set_timer(deadline);
    }
}

/// Completes when system time reaches a deadline.
pub struct Sleep {
    /// Before `NEVER`.
    deadline: u64,
    place: Option<(&'static PerCpu, Place)>,
    /// The deadline is not the one at `place`.
    is_moved: bool,
    /// The deadline was in the future when it was made: a wait may begin without looking at the clock.
    is_ahead: bool,
}

impl Sleep {
    fn new(deadline: u64, is_ahead: bool) -> Self {
        let deadline = deadline.min(NEVER - 1);
        Self { deadline, place: None, is_moved: false, is_ahead }
    }

    /// Sleeps until another point of system time, in nanoseconds, or for ever; `now` is the time. The place in the queue
    /// stays: moving a deadline again and again costs next to nothing.
    pub fn reset(&mut self, deadline: Option<u64>, now: u64) {
        let deadline = deadline.unwrap_or(NEVER).min(NEVER - 1);
        if deadline != self.deadline {
            self.deadline = deadline;
            self.is_moved = true;
            self.is_ahead = deadline > now;
        }
    }

    /// Begins to wait.
    #[inline(never)]
    fn begin(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !core::mem::take(&mut self.is_ahead) && clock::now() >= self.deadline {
            return Poll::Ready(());
        }
        let here = cpu::this();
        if let Some((cpu, place)) = self.place.take_if(|(cpu, _)| !core::ptr::eq(*cpu, here)) {
            cpu.timers.lock().remove(place);
        }
        let mut timers = here.timers.lock();
        let (place, old) = match self.place {
            Some((_, place)) => (place, timers.set(place, self.deadline, cx.waker())),
            None => timers.add(self.deadline, cx.waker()),
        };
        let needs_timer = timers.needs_timer(self.deadline);
        drop(timers);
        drop(old);
        self.place = Some((here, place));
        self.is_moved = false;
        if needs_timer {
            sched::set_timer(self.deadline);
        }
        Poll::Pending
    }
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some((cpu, place)) = self.place.filter(|_| !self.is_moved) {
            let mut timers = cpu.timers.lock();
            if timers.is_set(place) {
                let old = timers.set_waker(place, cx.waker());
                drop(timers);
                drop(old);
                return Poll::Pending;
            }
            // Woken; but the clock of this vCPU may not be there yet.
        }
        self.begin(cx)
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((cpu, place)) = self.place {
            cpu.timers.lock().remove(place);
        }
    }
}

/// Waits for a duration.
pub fn sleep(duration: Duration) -> Sleep {
    Sleep::new(clock::now().saturating_add(duration.as_nanos() as u64), !duration.is_zero())
}

/// Waits for a point of system time in nanoseconds.
pub fn sleep_until(deadline: u64) -> Sleep {
    Sleep::new(deadline, false)
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
