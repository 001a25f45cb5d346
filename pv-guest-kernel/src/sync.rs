//! Locks.
//!
//! [`IrqMutex`] masks event upcalls while held, so it may be taken from an upcall; hold it for a few instructions only,
//! never across an `await` or a hypercall that can block. Taking and giving back are a dozen instructions, inlined: much
//! of what a small task does is done under such a lock.

use core::cell::UnsafeCell;
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::arch::instr;

/// A spin lock that masks event upcalls on this vCPU while it is held.
pub struct IrqMutex<T> {
    is_locked: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through a guard only, and there is one guard at a time.
unsafe impl<T: Send> Sync for IrqMutex<T> {}

/// Unlocks, then restores the upcall mask, on drop.
pub struct IrqGuard<'a, T> {
    mutex: &'a IrqMutex<T>,
    restore: bool,
}

// SAFETY: a shared guard gives shared references to the value and nothing else.
unsafe impl<T: Sync> Sync for IrqGuard<'_, T> {}

impl<T> IrqMutex<T> {
    /// A new, unlocked mutex.
    pub const fn new(value: T) -> Self {
        Self { is_locked: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Masks upcalls and takes the lock.
    #[inline(always)]
    pub fn lock(&self) -> IrqGuard<'_, T> {
        let restore = instr::interrupts_on();
        instr::cli();
        while self.is_locked.swap(true, Ordering::Acquire) {
            self.wait();
        }
        IrqGuard { mutex: self, restore }
    }

    /// Waits until the lock looks free.
    #[cold]
    fn wait(&self) {
        while self.is_locked.load(Ordering::Relaxed) {
            core::hint::spin_loop();
        }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<IrqGuard<'_, T>> {
        let restore = instr::interrupts_on();
        instr::cli();
        if !self.is_locked.swap(true, Ordering::Acquire) {
            return Some(IrqGuard { mutex: self, restore });
        }
        if restore {
            instr::sti();
        }
        None
    }

    /// Frees the lock whoever holds it: for the last words of a dying kernel.
    ///
    /// # Safety
    /// Nothing else may run afterwards that relies on the lock.
    pub unsafe fn force_unlock(&self) {
        self.is_locked.store(false, Ordering::Release);
    }
}

impl<T> fmt::Debug for IrqMutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IrqMutex")
    }
}

impl<T> Deref for IrqGuard<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: this guard holds the lock, and lends what it has.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T> DerefMut for IrqGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as `deref`; the guard is borrowed for as long as the reference lives.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T> Drop for IrqGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.mutex.is_locked.store(false, Ordering::Release);
        if self.restore {
            instr::sti();
        }
    }
}

/// Runs `f` with upcalls masked on this vCPU.
pub fn without_upcalls<R>(f: impl FnOnce() -> R) -> R {
    let restore = instr::interrupts_on();
    if restore {
        instr::cli();
    }
    let r = f();
    if restore {
        instr::sti();
    }
    r
}
