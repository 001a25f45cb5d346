//! Copies of a packet's bytes: done at once where both ends can be reached, planned for the hypervisor where not.

use alloc::vec::Vec;

use super::super::back::{NetBack, Queue, advance};
use super::super::transit::{Packet, Source, Transit};
use super::place::place;
use crate::platform::{CopyEnd, GrantCopy, PAGE_SIZE, Platform, SharedMemory};

/// Where copies go that are not done at once.
pub(super) struct Copies<'a> {
    pub list: &'a mut Vec<GrantCopy>,
    /// Bytes that were copied at once.
    pub bytes: &'a mut u64,
}

/// Where bytes go to.
pub(super) enum Target<'a, M> {
    /// Memory of our own, from this place on.
    Own(&'a M, usize),
    /// A page of a guest's, and where it is mapped if it is.
    Guest { end: CopyEnd, memory: Option<&'a M> },
}

impl<'a, M: SharedMemory> Target<'a, M> {
    /// Where it can be reached without the hypervisor.
    fn near(&self) -> Option<(&'a M, usize)> {
        match self {
            Self::Own(memory, at) => Some((memory, *at)),
            Self::Guest { memory, .. } => memory.map(|memory| (memory, 0)),
        }
    }

    /// The place `skip` bytes on, and how many bytes fit there.
    fn end(&self, skip: usize) -> Option<(CopyEnd, usize)> {
        match self {
            Self::Own(memory, at) => place(*memory, at + skip),
            Self::Guest { end, .. } => Some((advance(*end, skip), PAGE_SIZE.checked_sub(skip)?)),
        }
    }
}

/// Where the bytes of a packet are.
enum Origin<'a, P: Platform> {
    /// In memory of our own, from this place on.
    Own(&'a P::Memory, usize),
    /// In pages of a guest's, the header in this place of its queue.
    Guest(&'a Queue<P>, u16),
}

/// Reads a packet from its start, or from where it is told, to its end.
pub(super) struct Reader<'a, P: Platform> {
    origin: Origin<'a, P>,
    packet: &'a Packet,
    /// How far it has come in the packet.
    at: usize,
    /// The piece it is at, and where that starts in the packet.
    piece: usize,
    start: usize,
}

impl<'a, P: Platform> Reader<'a, P> {
    /// Of a packet that came from a card or a guest of a bridge.
    pub fn new(transit: &'a Transit<P::Memory>, vif: Option<&'a NetBack<P>>) -> Option<Self> {
        let origin = match &transit.source {
            Source::None => return None,
            Source::Card(_, buffer) => Origin::Own(&*buffer.memory, buffer.offset),
            Source::Vif(_, queue, slot) => Origin::Guest(vif?.queues.get(*queue)?, *slot),
        };
        Some(Self { origin, packet: &transit.packet, at: 0, piece: 0, start: 0 })
    }

    /// Of a packet at the start of memory of our own.
    pub fn own(memory: &'a P::Memory, packet: &'a Packet) -> Self {
        Self { origin: Origin::Own(memory, 0), packet, at: 0, piece: 0, start: 0 }
    }

    /// Goes on to a place further on.
    pub fn skip_to(&mut self, at: usize) {
        self.at = self.at.max(at);
    }

    /// Copies the next `len` bytes. `None`: the packet is at its end before.
    pub fn copy(&mut self, len: usize, to: &Target<'_, P::Memory>, copies: &mut Copies<'_>) -> Option<()> {
        if len > self.packet.len.saturating_sub(self.at) {
            return None;
        }
        match self.origin {
            Origin::Own(memory, base) => self.copy_own(memory, base, len, to, copies),
            Origin::Guest(queue, slot) => self.copy_guest(queue, slot, len, to, copies),
        }
    }

    fn copy_own(
        &mut self,
        memory: &P::Memory,
        base: usize,
        len: usize,
        to: &Target<'_, P::Memory>,
        copies: &mut Copies<'_>,
    ) -> Option<()> {
        let from = base + self.at;
        self.at += len;
        if let Some((near, offset)) = to.near() {
            memory.copy_to(from, near, offset, len);
            *copies.bytes += len as u64;
            return Some(());
        }
        let mut done = 0;
        while done < len {
            let (source, room) = place(memory, from + done)?;
            done += plan(source, to, done, room.min(len - done), copies.list)?;
        }
        Some(())
    }

    fn copy_guest(
        &mut self,
        queue: &Queue<P>,
        slot: u16,
        len: usize,
        to: &Target<'_, P::Memory>,
        copies: &mut Copies<'_>,
    ) -> Option<()> {
        let near = to.near();
        let mut done = 0;
        // What was looked at comes from the private copy.
        let header = self.packet.header();
        if let Some(rest) = header.get(self.at..).filter(|rest| !rest.is_empty()) {
            let count = rest.len().min(len);
            match near {
                Some((memory, offset)) => {
                    memory.copy_in(offset, rest.get(..count)?);
                    *copies.bytes += count as u64;
                }
                None => {
                    queue.stage_header(slot, self.packet);
                    let planned = plan(advance(queue.header_end(slot), self.at), to, 0, count, copies.list);
                    planned.filter(|planned| *planned == count)?;
                }
            }
            self.at += count;
            done += count;
        }
        while done < len {
            let piece = self.packet.pieces.get(self.piece)?;
            let skip = self.at - self.start;
            let Some(left) = usize::from(piece.len).checked_sub(skip).filter(|left| *left > 0) else {
                self.start += usize::from(piece.len);
                self.piece += 1;
                continue;
            };
            let mut count = left.min(len - done);
            match (near, queue.mapped.readable(piece.grant)) {
                (Some((to, offset)), Some(from)) => {
                    from.copy_to(usize::from(piece.offset) + skip, to, offset + done, count);
                    *copies.bytes += count as u64;
                }
                _ => count = plan(queue.end_of(piece, skip), to, done, count, copies.list)?,
            }
            self.at += count;
            done += count;
        }
        Some(())
    }
}

/// Adds a copy of up to `len` bytes, and returns how many it copies.
fn plan<M: SharedMemory>(
    from: CopyEnd,
    to: &Target<'_, M>,
    skip: usize,
    len: usize,
    copies: &mut Vec<GrantCopy>,
) -> Option<usize> {
    let (to, room) = to.end(skip)?;
    let count = len.min(room);
    let len = u16::try_from(count).ok().filter(|&count| count > 0)?;
    copies.push(GrantCopy { from, to, len, result: Ok(()) });
    Some(count)
}
