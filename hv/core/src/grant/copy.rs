//! Copying between pages that others grant and the caller's own.

use super::table::Use;
use super::{Party, ranked};
use crate::hw::{HostPhys, Mfn, PAGE_BYTES, PhysMemory};
use crate::mem::pair::lock_to_read;
use crate::mem::{DomainMemory, Lookaside, Ram};
use alloc::sync::Arc;
use core::result::Result;
use pv_abi::grant::{Copy, CopyFlags, CopyPtr, GrantStatus};
use pv_abi::ids::{DomainId, Gfn};

/// Copies (`GNTTABOP_copy`); each element gets its own status. `find` finds the living domain of a number. Neighbours
/// of the same two domains share one taking of the locks. Returns how many bytes were copied.
pub fn copy_batch<M: PhysMemory, D: Party>(
    ram: Ram<'_, M>,
    caller: &D,
    find: impl Fn(DomainId) -> Option<Arc<D>>,
    ops: &mut [Copy],
) -> u64 {
    let mut copied = 0;
    for group in ops.chunk_by_mut(|a, b| a.source.domid == b.source.domid && a.dest.domid == b.dest.domid) {
        let Some((from_id, to_id)) = group.first().map(|op| (op.source.domid, op.dest.domid)) else {
            continue;
        };
        let known =
            |id| if id == DomainId::SELF || id == caller.id() { Some(None) } else { find(id).map(Some) };
        let (Some(from), Some(to)) = (known(from_id), known(to_id)) else {
            group.iter_mut().for_each(|op| op.status = GrantStatus::BAD_DOMAIN);
            continue;
        };
        copied += copy_group(
            ram,
            caller,
            from.as_deref().unwrap_or(caller),
            to.as_deref().unwrap_or(caller),
            group,
        );
    }
    copied
}

/// One side of the copies of a group: a domain, with its memory locked.
struct Side<'a, D: Party> {
    domain: &'a D,
    map: &'a DomainMemory<D::Format>,
    near: Lookaside,
}

/// A page to copy from or to, and the pin on it if it is granted.
struct Found {
    mfn: Mfn,
    pin: Option<Use>,
}

fn copy_group<M: PhysMemory, D: Party>(
    ram: Ram<'_, M>,
    caller: &D,
    from: &D,
    to: &D,
    group: &mut [Copy],
) -> u64 {
    let (from_map, to_map) = lock_to_read(ranked(from), ranked(to));
    let to_map = to_map.as_deref().unwrap_or(&from_map);
    let mut source = Side { domain: from, map: &from_map, near: Lookaside::EMPTY };
    let mut dest = Side { domain: to, map: to_map, near: Lookaside::EMPTY };
    let mut copied = 0;
    for op in group {
        op.status = match copy_one(ram, caller.id(), &mut source, &mut dest, op) {
            Ok(()) => {
                copied += u64::from(op.len);
                GrantStatus::OKAY
            }
            Err(status) => status,
        };
    }
    copied
}

#[inline]
fn copy_one<M: PhysMemory, D: Party>(
    ram: Ram<'_, M>,
    caller: DomainId,
    source: &mut Side<'_, D>,
    dest: &mut Side<'_, D>,
    op: &Copy,
) -> Result<(), GrantStatus> {
    let flags = CopyFlags::from_bits_retain(op.flags);
    let (from_grant, to_grant) =
        (flags.contains(CopyFlags::SOURCE_GREF), flags.contains(CopyFlags::DEST_GREF));
    let last = op.source.offset.max(op.dest.offset);
    if u64::from(last) + u64::from(op.len) > PAGE_BYTES {
        return Err(GrantStatus::BAD_COPY_ARG);
    }
    // Frames without a grant are the caller's own only.
    if (!from_grant && op.source.domid != DomainId::SELF) || (!to_grant && op.dest.domid != DomainId::SELF) {
        return Err(GrantStatus::PERMISSION_DENIED);
    }
    let from = source.find(ram, caller, &op.source, from_grant, false)?;
    let to = match dest.find(ram, caller, &op.dest, to_grant, true) {
        Ok(to) => to,
        Err(status) => {
            source.done(ram, from);
            return Err(status);
        }
    };
    let (from_at, to_at) = (from.mfn.at(u64::from(op.source.offset)), to.mfn.at(u64::from(op.dest.offset)));
    if from.mfn == to.mfn {
        move_within(ram.memory, to_at, from_at, usize::from(op.len));
    } else {
        ram.memory.copy(to_at, from_at, usize::from(op.len));
    }
    dest.done(ram, to);
    source.done(ram, from);
    Ok(())
}

impl<D: Party> Side<'_, D> {
    #[inline(always)] // two callers, both in the loop of each copy
    fn find<M: PhysMemory>(
        &mut self,
        ram: Ram<'_, M>,
        caller: DomainId,
        ptr: &CopyPtr,
        granted: bool,
        write: bool,
    ) -> Result<Found, GrantStatus> {
        if granted {
            let wanted = Use { gref: ptr.gref(), grantee: caller, write };
            let mfn = self.domain.grants().pin(ram, self.map, &mut self.near, wanted)?;
            return Ok(Found { mfn, pin: Some(wanted) });
        }
        let gfn = Gfn::new(ptr.ref_or_gmfn);
        let mfn =
            self.map.locate_page(ram.memory, gfn, write, &mut self.near).ok_or(GrantStatus::BAD_PAGE)?;
        Ok(Found { mfn, pin: None })
    }

    #[inline]
    fn done<M: PhysMemory>(&self, ram: Ram<'_, M>, found: Found) {
        if let Some(Use { gref, write, .. }) = found.pin {
            self.domain.grants().unpin(ram.memory, gref, write);
        }
    }
}

/// Copies within one page, where the two ranges may overlap: in pieces, from the end that is not overwritten first.
#[cold]
fn move_within<M: PhysMemory>(memory: &M, to: HostPhys, from: HostPhys, len: usize) {
    const PIECE: usize = 256;
    let mut buffer = [0; PIECE];
    let pieces = len.div_ceil(PIECE);
    for step in 0..pieces {
        let piece = if to > from { pieces - 1 - step } else { step };
        let start = piece * PIECE;
        let Some(part) = buffer.get_mut(..PIECE.min(len - start)) else { return };
        let (Some(from), Some(to)) = (from.checked_add(start as u64), to.checked_add(start as u64)) else {
            return;
        };
        memory.read(from, part);
        memory.write(to, part);
    }
}
