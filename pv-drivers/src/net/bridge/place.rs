//! Places in memory of our own.

use crate::platform::{CopyEnd, PAGE_SIZE, SharedMemory};

/// A place in a run of our own pages, and how many bytes there are up to the end of its page.
pub(super) fn place<M: SharedMemory>(memory: &M, at: usize) -> Option<(CopyEnd, usize)> {
    if at >= memory.pages() * PAGE_SIZE {
        return None;
    }
    let offset = at % PAGE_SIZE;
    let end = CopyEnd::Local { gfn: memory.gfn(at / PAGE_SIZE), offset: u16::try_from(offset).ok()? };
    Some((end, PAGE_SIZE - offset))
}
