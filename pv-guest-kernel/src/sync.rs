//! Locks.
//!
//! [`IrqMutex`] masks event upcalls while held, so it may be taken from an upcall; hold it for a few instructions only,
//! never across an `await` or a hypercall that can block.

use core::ops::{Deref, DerefMut};

use crate::arch::instr;

/// A spin lock that masks event upcalls on this vCPU while it is held.
#[derive(Debug)]
pub struct IrqMutex<T>(spin::Mutex<T>);

/// Unlocks, then restores the upcall mask, on drop.
pub struct IrqGuard<'a, T> {
    guard: core::mem::ManuallyDrop<spin::MutexGuard<'a, T>>,
    restore: bool,
}

impl<T> IrqMutex<T> {
    /// A new, unlocked mutex.
    pub const fn new(value: T) -> Self {
        IrqMutex(spin::Mutex::new(value))
    }

    /// Masks upcalls and takes the lock.
    #[inline]
    pub fn lock(&self) -> IrqGuard<'_, T> {
        let restore = instr::interrupts_on();
        if restore {
            instr::cli();
        }
        IrqGuard { guard: core::mem::ManuallyDrop::new(self.0.lock()), restore }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<IrqGuard<'_, T>> {
        let restore = instr::interrupts_on();
        if restore {
            instr::cli();
        }
        match self.0.try_lock() {
            Some(guard) => Some(IrqGuard { guard: core::mem::ManuallyDrop::new(guard), restore }),
            None => {
                if restore {
                    instr::sti();
                }
                None
            }
        }
    }

    /// Frees the lock whoever holds it: for the last words of a dying kernel.
    ///
    /// # Safety
    /// Nothing else may run afterwards that relies on the lock.
    pub unsafe fn force_unlock(&self) {
        // SAFETY: by the caller's promise.
        unsafe { self.0.force_unlock() };
    }
}

impl<T> Deref for IrqGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for IrqGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T> Drop for IrqGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: dropped exactly once, here, before upcalls are let in again.
        unsafe { core::mem::ManuallyDrop::drop(&mut self.guard) };
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
