//! Lists of the hypervisor's own that grow on behalf of a guest.
//!
//! The heap does not grow, and an allocation that cannot fail ends the machine where there is no room. So whatever a guest
//! can make longer grows by [`make_room`] only, which fails while there is still enough for all else.

use super::frame::OutOfMemory;
use crate::hw::PhysMemory;
use alloc::vec::Vec;

/// Makes room for `more` elements in a list that a guest makes longer.
#[inline]
pub fn make_room<T, M: PhysMemory>(memory: &M, list: &mut Vec<T>, more: usize) -> Result<(), OutOfMemory> {
    if list.capacity() - list.len() >= more { Ok(()) } else { grow(memory, list, more) }
}

#[cold]
fn grow<T, M: PhysMemory>(memory: &M, list: &mut Vec<T>, more: usize) -> Result<(), OutOfMemory> {
    // As much as `Vec` takes; the old list is there until the new one is filled.
    let wanted = list.len().saturating_add(more).max(list.capacity().saturating_mul(2)).max(4);
    if wanted.saturating_mul(size_of::<T>()) > memory.heap_room() {
        return Err(OutOfMemory);
    }
    list.try_reserve_exact(wanted - list.len()).map_err(|_| OutOfMemory)
}
