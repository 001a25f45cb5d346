//! Flushes: what is owed to the hardware after a translation was taken away or weakened.
//!
//! CPUs keep translations that nested tables once gave. A change that removes one counts the physmap's *generation* up
//! and returns a [`Flush`]. Each vCPU remembers the generation for which its CPU last forgot its translations, and the
//! run loop compares before every entry, *after* it has announced that it is about to enter. A flush is performed when
//! no vCPU of the domain runs guest code under an older generation: those that do are kicked out and waited for. Only
//! then may the frame be given to somebody else, which the type [`Flushed`] proves.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

/// The generation of a physmap, from 1 on. Cloning makes another handle on the same count.
#[derive(Clone, Debug)]
pub struct Generation(Arc<AtomicU64>);

impl Default for Generation {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(1)))
    }
}

impl Generation {
    /// The count now: a vCPU that last forgot its translations under a lower one must forget them before it enters.
    #[inline]
    pub fn now(&self) -> u64 {
        // With the sequentially consistent store of "I am about to enter" on one side and the change below on the
        // other, either the vCPU sees the new count or the changer sees the vCPU.
        self.0.load(Ordering::SeqCst)
    }

    /// A translation was taken away or weakened.
    pub(super) fn advance(&self) -> Flush {
        Flush { target: Some(self.0.fetch_add(1, Ordering::SeqCst) + 1) }
    }
}

/// An obligation: translations must be forgotten.
#[must_use = "CPUs still use translations that are gone"]
#[derive(Debug)]
pub struct Flush {
    target: Option<u64>,
}

/// The proof that a flush was performed.
#[derive(Debug)]
pub struct Flushed(());

impl Flush {
    /// Nothing is owed.
    pub const NONE: Self = Self { target: None };

    /// Whether anything is owed.
    pub const fn is_needed(&self) -> bool {
        self.target.is_some()
    }

    /// Both obligations in one.
    pub fn and(self, other: Self) -> Self {
        Self { target: self.target.max(other.target) }
    }

    /// Discharges the obligation: `kick` returns when no vCPU runs guest code under a generation below the one it is
    /// given. Not called when nothing is owed. Call it without holding locks that a CPU may spin on before it enters.
    pub fn perform(self, kick: impl FnOnce(u64)) -> Flushed {
        if let Some(target) = self.target {
            kick(target);
        }
        Flushed(())
    }

    /// Discharges the obligation for a domain none of whose vCPUs has run or will run again.
    pub fn nobody_runs(self) -> Flushed {
        Flushed(())
    }
}
