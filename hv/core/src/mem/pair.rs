//! Two domains' memory locks at once: always that of the lower number first.

use pv_abi::ids::DomainId;
use spin::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A domain's lock and its place in the order.
#[derive(Debug)]
pub struct Ranked<'a, T> {
    /// The domain.
    pub id: DomainId,
    /// Its lock.
    pub lock: &'a RwLock<T>,
}

impl<T> Clone for Ranked<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Ranked<'_, T> {}

/// Locks one exclusively, and the other shared unless they are the same.
pub fn lock_to_change<'a, T>(
    changed: Ranked<'a, T>,
    read: Ranked<'a, T>,
) -> (RwLockWriteGuard<'a, T>, Option<RwLockReadGuard<'a, T>>) {
    if changed.id == read.id {
        (changed.lock.write(), None)
    } else if changed.id < read.id {
        let first = changed.lock.write();
        (first, Some(read.lock.read()))
    } else {
        let first = read.lock.read();
        (changed.lock.write(), Some(first))
    }
}

/// Locks both shared; the second only if it is another.
pub fn lock_to_read<'a, T>(
    one: Ranked<'a, T>,
    other: Ranked<'a, T>,
) -> (RwLockReadGuard<'a, T>, Option<RwLockReadGuard<'a, T>>) {
    if one.id == other.id {
        (one.lock.read(), None)
    } else if one.id < other.id {
        let first = one.lock.read();
        (first, Some(other.lock.read()))
    } else {
        let first = other.lock.read();
        (one.lock.read(), Some(first))
    }
}
