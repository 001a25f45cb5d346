//! Copies that are to be done together, and what depends on each.

use alloc::vec::Vec;

use smallvec::SmallVec;

use super::super::back::{Packet, Piece, advance};
use super::PortId;
use crate::platform::{CopyEnd, GrantCopy};

/// A piece of a packet in a guest's receive buffer, to be answered when the copies are done.
pub(super) struct RxSlot {
    pub id: u16,
    pub len: usize,
}

/// A packet on its way into a guest.
pub(super) struct Delivery {
    pub port: PortId,
    pub queue: usize,
    pub slots: SmallVec<[RxSlot; 2]>,
    pub has_extra: bool,
    pub len: usize,
    pub offload: super::super::Offload,
    /// All of its bytes are among the copies.
    pub is_whole: bool,
    /// How many copies are its own.
    pub copies: usize,
}

/// Copies bytes `from..from + len` of a packet to `to`, page by page: `to` gives a place and how many bytes fit there.
/// `header` stands for the packet's first bytes if it is given.
pub(super) fn copy_range(
    packet: &Packet,
    from: usize,
    len: usize,
    mut to: impl FnMut(usize) -> Option<(CopyEnd, usize)>,
    copies: &mut Vec<GrantCopy>,
) -> Option<()> {
    let head = Piece { end: packet.header_source, len: packet.header.len() };
    let (mut skip, mut done) = (from, 0);
    for piece in core::iter::once(&head).chain(&packet.body) {
        if skip >= piece.len {
            skip -= piece.len;
            continue;
        }
        let mut at = skip;
        skip = 0;
        while at < piece.len && done < len {
            let (place, room) = to(done)?;
            let count = (piece.len - at).min(len - done).min(room);
            copies.push(GrantCopy {
                from: advance(piece.end, at),
                to: place,
                len: u16::try_from(count).ok().filter(|&count| count > 0)?,
                result: Ok(()),
            });
            at += count;
            done += count;
        }
    }
    (done == len).then_some(())
}
