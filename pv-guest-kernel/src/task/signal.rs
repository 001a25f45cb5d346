//! Something changed: a signal for any number of waiting tasks.
//!
//! Raising and waiting allocate nothing once as many tasks have waited as ever do at a time: a waiter's place and its
//! waker stay when it was woken, and the same task finds them again.
//!
//! # Why no wake-up is lost
//!
//! Who raises counts `changes` up and then exchanges `is_awaited` for false. A waiter notes itself under the lock,
//! exchanges `is_awaited` for true, and then reads `changes`. One of the two exchanges comes first. If it is the
//! waiter's, the raiser gets `true`, takes the lock and finds the waiter. If it is the raiser's, the waiter's reads
//! what the raiser's wrote, and so the waiter sees the change, and does not wait. Somebody who notes himself between
//! another's exchange and that one's lock is woken too, which does no harm. `pv-drivers/tests/loom.rs` tries this file
//! in every order.

use alloc::vec::Vec;
#[cfg(not(loom))]
use core::sync::atomic::{AtomicBool, AtomicU64};
use core::task::{Context, Poll, Waker};

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicU64};

use core::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use crate::sync::IrqMutex;

/// A task that waits, or waited last from here.
struct Waiter {
    waker: Waker,
    is_waiting: bool,
}

/// A counter of changes that tasks can wait on. Nothing is lost: a waiter remembers what it saw last.
pub struct Signal {
    changes: AtomicU64,
    /// Somebody waits whom no raiser is about to wake.
    is_awaited: AtomicBool,
    waiters: IrqMutex<Vec<Waiter>>,
}

impl Default for Signal {
    fn default() -> Self {
        Self::new()
    }
}

impl Signal {
    /// Nothing has changed yet.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self {
            changes: AtomicU64::new(0),
            is_awaited: AtomicBool::new(false),
            waiters: IrqMutex::new(Vec::new()),
        }
    }

    /// Nothing has changed yet.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            changes: AtomicU64::new(0),
            is_awaited: AtomicBool::new(false),
            waiters: IrqMutex::new(Vec::new()),
        }
    }

    /// Tells everybody. Also from an upcall.
    #[inline]
    pub fn raise(&self) {
        self.changes.fetch_add(1, Release);
        if self.is_awaited.swap(false, AcqRel) {
            self.wake();
        }
    }

    /// Wakes who waits, under the lock: a waker takes locks that are never held when this one is taken.
    fn wake(&self) {
        let mut waiters = self.waiters.lock();
        for waiter in waiters.iter_mut() {
            if core::mem::take(&mut waiter.is_waiting) {
                waiter.waker.wake_by_ref();
            }
        }
    }

    /// For hand-written futures: ready if something changed since `seen`, which is then brought up to date. Otherwise the
    /// task is woken by the next change; after "ready" nobody waits.
    #[inline]
    pub fn poll_changed(&self, seen: &mut u64, cx: &mut Context<'_>) -> Poll<()> {
        if self.changes.load(Acquire) == *seen {
            self.wait(cx.waker());
        }
        let now = self.changes.load(Acquire);
        if now == *seen {
            return Poll::Pending;
        }
        *seen = now;
        Poll::Ready(())
    }

    /// Has the task of `waker` woken by the next change.
    fn wait(&self, waker: &Waker) {
        let mut waiters = self.waiters.lock();
        if let Some(waiter) = waiters.iter_mut().find(|waiter| waiter.waker.will_wake(waker)) {
            waiter.is_waiting = true;
            self.is_awaited.swap(true, AcqRel);
            return;
        }
        drop(waiters);
        self.wait_anew(waker);
    }

    /// As [`wait`](Self::wait), for a task that has not waited of late.
    #[cold]
    #[inline(never)]
    fn wait_anew(&self, waker: &Waker) {
        let mut old = None;
        let mut waiters = self.waiters.lock();
        if let Some(free) = waiters.iter_mut().find(|waiter| !waiter.is_waiting) {
            free.is_waiting = true;
            old = Some(core::mem::replace(&mut free.waker, waker.clone()));
        } else {
            waiters.push(Waiter { waker: waker.clone(), is_waiting: true });
        }
        self.is_awaited.swap(true, AcqRel);
        drop(waiters);
        // It may have been the last that kept its task.
        drop(old);
    }
}
