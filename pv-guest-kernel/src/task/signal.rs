//! Something changed: a signal for any number of waiting tasks.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};

use crate::sync::IrqMutex;

/// A counter of changes that tasks can wait on. Nothing is lost: a waiter remembers what it saw last.
pub struct Signal {
    changes: AtomicU64,
    waiting: IrqMutex<Vec<Waker>>,
}

impl Default for Signal {
    fn default() -> Self {
        Self::new()
    }
}

impl Signal {
    /// Nothing has changed yet.
    pub const fn new() -> Self {
        Self { changes: AtomicU64::new(0), waiting: IrqMutex::new(Vec::new()) }
    }

    /// Tells everybody. Also from an upcall.
    pub fn raise(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        let wakers = core::mem::take(&mut *self.waiting.lock());
        for waker in wakers {
            waker.wake();
        }
    }

    /// For hand-written futures: ready if something changed since `seen`, which is then brought up to date.
    pub fn poll_changed(&self, seen: &mut u64, cx: &mut Context<'_>) -> Poll<()> {
        {
            let mut waiting = self.waiting.lock();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
        }
        let now = self.changes.load(Ordering::Acquire);
        if now == *seen {
            return Poll::Pending;
        }
        *seen = now;
        Poll::Ready(())
    }
}
