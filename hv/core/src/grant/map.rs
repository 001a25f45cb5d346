//! Mapping others' grants, and ending that.

use super::table::{GrantTable, Use};
use super::track::{Mapping, NotTaken};
use super::{Party, ranked};
use crate::hw::{EntryFormat, PhysMemory, Rights};
use crate::mem::frame::WrongFrame;
use crate::mem::pair::lock_to_change;
use crate::mem::{BATCH, DomainMemory, Flush, Flushed, Lookaside, Ram};
use alloc::sync::Arc;
use pv_abi::Errno;
use pv_abi::grant::{GrantStatus, MapFlags, MapGrantRef, UnmapGrantRef};
use pv_abi::ids::{DomainId, Gfn, GrantHandle, GuestPhys};

type Outcome<T> = core::result::Result<T, GrantStatus>;

/// Maps grants into the caller's physmap (`GNTTABOP_map_grant_ref`); each element gets its own status. `find` finds the
/// living domain of a number. Neighbours of the same granter share one taking of the locks.
pub fn map_batch<M: PhysMemory, D: Party>(
    ram: Ram<'_, M>,
    caller: &D,
    find: impl Fn(DomainId) -> Option<Arc<D>>,
    ops: &mut [MapGrantRef],
) {
    for group in ops.chunk_by_mut(|a, b| a.dom == b.dom) {
        let granter = group.first().and_then(|op| find(op.dom));
        let Some(granter) = granter else {
            group.iter_mut().for_each(|op| op.status = GrantStatus::BAD_DOMAIN);
            continue;
        };
        let (mut mine, theirs) = lock_to_change(ranked(caller), ranked(&*granter));
        let mut near = Lookaside::EMPTY;
        for op in group {
            let mapper = Mapper { ram, id: caller.id(), grants: caller.grants(), table: granter.grants() };
            match mapper.map(&mut mine, theirs.as_deref(), &mut near, op) {
                Ok((handle, address)) => {
                    (op.handle, op.dev_bus_addr, op.status) = (handle, address, GrantStatus::OKAY);
                }
                Err(status) => op.status = status,
            }
            if theirs.is_none() {
                // The tables that the memory of the last look-up is about have just changed.
                near = Lookaside::EMPTY;
            }
        }
    }
}

/// Who maps, and from which table.
struct Mapper<'a, M> {
    ram: Ram<'a, M>,
    id: DomainId,
    grants: &'a GrantTable,
    table: &'a Arc<GrantTable>,
}

impl<M: PhysMemory> Mapper<'_, M> {
    fn map<F: EntryFormat>(
        &self,
        mine: &mut DomainMemory<F>,
        theirs: Option<&DomainMemory<F>>,
        near: &mut Lookaside,
        op: &MapGrantRef,
    ) -> Outcome<(GrantHandle, u64)> {
        let flags = MapFlags::from_bits_retain(op.flags);
        if !flags.intersects(MapFlags::HOST_MAP.union(MapFlags::DEVICE_MAP)) {
            return Err(GrantStatus::BAD_GNTREF);
        }
        // As for every guest with a physmap: the mapping is for the processor, and for all of the guest.
        if flags.difference(MapFlags::READONLY) != MapFlags::HOST_MAP {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        let gfn = place(op.host_addr)?;
        let write = !flags.contains(MapFlags::READONLY);
        let handle = self.grants.mappings.lock().reserve(self.ram.memory).ok_or(GrantStatus::NO_SPACE)?;
        let made = self.make(mine, theirs, near, Use { gref: op.gref, grantee: self.id, write }, gfn);
        let mut mappings = self.grants.mappings.lock();
        match made {
            Ok(mapping) => {
                let address = mapping.page.base().raw();
                mappings.fill(handle, mapping);
                Ok((handle, address))
            }
            Err(status) => {
                mappings.release(handle);
                Err(status)
            }
        }
    }

    fn make<F: EntryFormat>(
        &self,
        mine: &mut DomainMemory<F>,
        theirs: Option<&DomainMemory<F>>,
        near: &mut Lookaside,
        wanted: Use,
        gfn: Gfn,
    ) -> Outcome<Mapping> {
        let Use { gref, write, .. } = wanted;
        let mfn = self.table.pin(self.ram, theirs.unwrap_or(mine), near, wanted)?;
        let page = match self.table.refer(self.ram, mfn) {
            Ok(page) => page,
            Err(status) => {
                self.table.unpin(self.ram.memory, gref, write);
                return Err(status);
            }
        };
        let rights = if write { Rights::READ_WRITE } else { Rights::READ };
        if let Err(error) = mine.map_foreign(self.ram, gfn, &page, rights) {
            self.table.unpin(self.ram.memory, gref, write);
            self.table.account().put(self.ram, page);
            return Err(if error == Errno::ENOMEM {
                GrantStatus::NO_SPACE
            } else {
                GrantStatus::BAD_VIRT_ADDR
            });
        }
        Ok(Mapping { table: self.table.clone(), gref, write, gfn, page })
    }
}

/// The place that a call names: whole pages only.
fn place(address: GuestPhys) -> Outcome<Gfn> {
    if address.offset() != 0 { Err(GrantStatus::BAD_VIRT_ADDR) } else { Ok(address.gfn()) }
}

/// Ends mappings of the caller's (`GNTTABOP_unmap_grant_ref`); each element gets its own status. `kick` as in
/// [`Flush::perform`]; it is called without locks, at most once per [`BATCH`] elements.
pub fn unmap_batch<M: PhysMemory, D: Party>(
    ram: Ram<'_, M>,
    caller: &D,
    ops: &mut [UnmapGrantRef],
    mut kick: impl FnMut(u64),
) {
    for batch in ops.chunks_mut(BATCH) {
        let mut taken: [Option<(GrantHandle, Mapping)>; BATCH] = [const { None }; BATCH];
        let mut flush = Flush::NONE;
        {
            let mut memory = caller.memory().write();
            for (op, slot) in batch.iter_mut().zip(&mut taken) {
                op.status = match take(ram, &mut memory, caller.grants(), op) {
                    Ok((mapping, owed)) => {
                        *slot = Some((op.handle, mapping));
                        flush = flush.and(owed);
                        GrantStatus::OKAY
                    }
                    Err(status) => status,
                };
            }
        }
        // Only after the flush may the granter and the frame table learn that the mappings are gone.
        let flushed = flush.perform(&mut kick);
        for (handle, mapping) in taken.into_iter().flatten() {
            finish(ram, mapping, &flushed);
            caller.grants().mappings.lock().release(handle);
        }
    }
}

/// Takes one mapping out of the list and out of the physmap.
fn take<F: EntryFormat, M: PhysMemory>(
    ram: Ram<'_, M>,
    memory: &mut DomainMemory<F>,
    grants: &GrantTable,
    op: &UnmapGrantRef,
) -> Outcome<(Mapping, Flush)> {
    let gfn = place(op.host_addr)?;
    let mut mappings = grants.mappings.lock();
    let mapping = mappings.take(op.handle, gfn).map_err(|error| match error {
        NotTaken::NoMapping => GrantStatus::BAD_HANDLE,
        NotTaken::Elsewhere => GrantStatus::BAD_VIRT_ADDR,
    })?;
    if op.dev_bus_addr != 0 && op.dev_bus_addr != mapping.page.base().raw() {
        mappings.fill(op.handle, mapping);
        return Err(GrantStatus::BAD_DEV_ADDR);
    }
    match memory.unmap_foreign(ram.memory, gfn, &mapping.page) {
        Ok(flush) => Ok((mapping, flush)),
        Err(_) => {
            log::error!("the mapping of {} at {gfn} is not there", mapping.gref);
            mappings.fill(op.handle, mapping);
            Err(GrantStatus::GENERAL_ERROR)
        }
    }
}

/// Ends a mapping to which no CPU has a translation any more.
fn finish<M: PhysMemory>(ram: Ram<'_, M>, mapping: Mapping, _: &Flushed) {
    let Mapping { table, gref, write, page, .. } = mapping;
    table.unpin(ram.memory, gref, write);
    table.account().put(ram, page);
}

/// Ends up to `budget` of the mappings of a dying domain, none of whose vCPUs will run again and whose table was
/// [closed](GrantTable::close). True when none is left.
pub fn end_mappings<M: PhysMemory, D: Party>(ram: Ram<'_, M>, dying: &D, budget: u32) -> bool {
    for _ in 0..budget {
        let Some(mapping) = dying.grants().mappings.lock().pop() else { return true };
        let flush = dying.memory().write().unmap_foreign(ram.memory, mapping.gfn, &mapping.page);
        let flush = flush.unwrap_or_else(|_| {
            log::error!("the mapping of {} at {} is not there", mapping.gref, mapping.gfn);
            Flush::NONE
        });
        finish(ram, mapping, &flush.nobody_runs());
    }
    false
}

impl From<WrongFrame> for GrantStatus {
    fn from(WrongFrame: WrongFrame) -> Self {
        Self::BAD_PAGE
    }
}
