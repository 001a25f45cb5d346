//! Places in memory of our own.

use super::super::Offload;
use super::super::back::{PEEK, Packet, Piece, Pieces};
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

/// A packet in memory that only we can reach.
pub(super) fn local_packet<M: SharedMemory>(
    memory: &M,
    offset: usize,
    len: usize,
    offload: Offload,
) -> Packet {
    // The looked-at bytes must lie in one page, as a copy does.
    let header_len = len.min(PEEK).min(PAGE_SIZE - offset % PAGE_SIZE);
    let mut header = smallvec::smallvec![0; header_len];
    memory.copy_out(offset, &mut header);
    let mut body = Pieces::new();
    let mut at = header_len;
    while at < len {
        let Some((end, room)) = place(memory, offset + at) else { break };
        let count = room.min(len - at);
        body.push(Piece { end, len: count });
        at += count;
    }
    let header_source =
        place(memory, offset).map_or(CopyEnd::Local { gfn: memory.gfn(0), offset: 0 }, |(end, _)| end);
    Packet { header, header_source, body, len, offload }
}
