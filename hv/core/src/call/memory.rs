//! `memory_op`: a domain's memory and what is at which place of it (`xen/memory.h`).

use super::cx::Cx;
use super::{Reply, Stop};
use crate::domain::{Domain, Format};
use crate::hw::{Order, Platform};
use crate::mem::op::{self, Specials};
use alloc::sync::Arc;
use pv_abi::Errno;
use pv_abi::errno::Result;
use pv_abi::ids::Gfn;
use pv_abi::memory::{
    AddToPhysmap, AddToPhysmapBatch, DomainArg, E820Entry, MemoryMap, RemoveFromPhysmap, Reservation, space,
};

/// Extents that are copied from the guest at a time.
const EXTENTS: usize = 32;
/// Pages after which a call looks whether others wait.
const PAGES: u64 = 1024;

/// Translated guests choose the places themselves, by `memory_populate`.
pub(super) fn memory_increase<P: Platform>(cx: &mut Cx<'_, P>, reservation: &Reservation) -> Reply {
    cx.subject(reservation.domid)?;
    Err(Errno::EOPNOTSUPP.into())
}

pub(super) fn memory_populate<P: Platform>(cx: &mut Cx<'_, P>, reservation: &Reservation) -> Reply {
    extents(cx, reservation, |cx, domain, order, batch| {
        op::populate(cx.system.ram(), &domain.memory, order, batch)
    })
}

pub(super) fn memory_decrease<P: Platform>(cx: &mut Cx<'_, P>, reservation: &Reservation) -> Reply {
    extents(cx, reservation, |cx, domain, order, batch| {
        op::decrease::<Format<P>, _>(cx.system.ram(), &domain.memory, order, batch, cx.flusher(domain))
    })
}

/// Does something with each extent, in batches, until one fails; returns how many were done, as the ABI wants it. An
/// array that cannot be read from its start on is an error.
fn extents<P: Platform>(
    cx: &mut Cx<'_, P>,
    reservation: &Reservation,
    work: impl Fn(&Cx<'_, P>, &Arc<Domain<P>>, Order, &[Gfn]) -> usize,
) -> Reply {
    let domain = cx.subject(reservation.domid)?;
    let order = op::extent_order(reservation.extent_order)?;
    let count = u32::try_from(reservation.nr_extents).map_err(|_| Errno::E2BIG)?;
    let most = usize::try_from((PAGES >> order.raw()).clamp(1, EXTENTS as u64)).unwrap_or(1);
    let mut spent = 0;
    let mut done = cx.cursor;
    // One extent, which is the most frequent, pays for no more.
    let (mut one, mut many) = ([Gfn::default()], None);
    let batch = match count {
        0 | 1 => one.as_mut_slice(),
        _ => many.insert([Gfn::default(); EXTENTS]),
    };
    while done < u64::from(count) {
        let left = usize::try_from(u64::from(count) - done).unwrap_or(most);
        let Some(batch) = batch.get_mut(..left.min(most)) else { break };
        match cx.guest(|memory| memory.read_slice(reservation.extent_start, done, batch)) {
            Err(errno) if done == 0 => return Err(errno.into()),
            Err(_) => break,
            Ok(()) => {}
        }
        let now = work(cx, &domain, order, batch);
        done += now as u64;
        if now < batch.len() {
            break;
        }
        spent += now as u64 * order.pages();
        if spent >= PAGES && done < u64::from(count) {
            return Err(Stop::Preempted(done));
        }
    }
    Ok(done)
}

pub(super) fn memory_maximum_ram_page<P: Platform>(cx: &mut Cx<'_, P>) -> Reply {
    Ok(cx.system.frames.end().raw().saturating_sub(1))
}

pub(super) fn memory_current_reservation<P: Platform>(cx: &mut Cx<'_, P>, arg: &DomainArg) -> Reply {
    Ok(cx.subject(arg.domid)?.memory.read().account().total().raw())
}

pub(super) fn memory_maximum_reservation<P: Platform>(cx: &mut Cx<'_, P>, arg: &DomainArg) -> Reply {
    Ok(cx.subject(arg.domid)?.memory.read().account().maximum().raw())
}

pub(super) fn memory_maximum_gpfn<P: Platform>(cx: &mut Cx<'_, P>, arg: &DomainArg) -> Reply {
    Ok(cx.subject(arg.domid)?.memory.read().highest().raw())
}

pub(super) fn memory_add_to_physmap<P: Platform>(cx: &mut Cx<'_, P>, add: &AddToPhysmap) -> Reply {
    let domain = cx.subject(add.domid)?;
    if add.space != space::GMFN_RANGE {
        put(cx, &domain, add.space, add.idx, add.gpfn)?;
        return Ok(0);
    }
    for step in cx.cursor..u64::from(add.size) {
        let from = add.idx.checked_add(step).ok_or(Errno::EINVAL)?;
        let to = add.gpfn.checked_add(step).ok_or(Errno::EINVAL)?;
        put(cx, &domain, add.space, from, to)?;
        if step % EXTENTS as u64 == EXTENTS as u64 - 1 && step + 1 < u64::from(add.size) {
            return Err(Stop::Preempted(step + 1));
        }
    }
    Ok(0)
}

pub(super) fn memory_add_to_physmap_batch<P: Platform>(cx: &mut Cx<'_, P>, add: &AddToPhysmapBatch) -> Reply {
    let domain = cx.subject(add.domid)?;
    let size = u64::from(add.size);
    for index in cx.cursor..size {
        let (idx, gpfn) = cx.guest(|memory| {
            memory.check_write(add.errs, size * 4)?;
            Ok((memory.read_element(add.idxs, index)?, memory.read_element(add.gpfns, index)?))
        })?;
        let result = match put(cx, &domain, u32::from(add.space), idx, gpfn) {
            Ok(()) => 0,
            Err(errno) => -i32::from(errno.code().cast_signed()),
        };
        cx.guest(|memory| memory.write_element(add.errs, index, &result))?;
        if index % EXTENTS as u64 == EXTENTS as u64 - 1 && index + 1 < size {
            return Err(Stop::Preempted(index + 1));
        }
    }
    Ok(0)
}

fn put<P: Platform>(
    cx: &Cx<'_, P>,
    domain: &Arc<Domain<P>>,
    map_space: u32,
    idx: u64,
    gpfn: Gfn,
) -> Result<()> {
    let specials = Specials { shared_info: &domain.shared_info, grants: &domain.grants };
    op::add_to_physmap::<Format<P>, _>(
        cx.system.ram(),
        &domain.memory,
        &specials,
        (map_space, idx),
        gpfn,
        cx.flusher(domain),
    )
}

pub(super) fn memory_remove_from_physmap<P: Platform>(
    cx: &mut Cx<'_, P>,
    remove: &RemoveFromPhysmap,
) -> Reply {
    let domain = cx.subject(remove.domid)?;
    let flusher = cx.flusher(&domain);
    op::remove_from_physmap::<Format<P>, _>(cx.system.ram(), &domain.memory, remove.gpfn, flusher)?;
    Ok(0)
}

pub(super) fn memory_map<P: Platform>(cx: &mut Cx<'_, P>, map: &mut MemoryMap) -> Reply {
    let entries = {
        let memory = cx.domain.memory.read();
        let room = usize::try_from(map.nr_entries).unwrap_or(usize::MAX);
        memory.map().iter().take(room).copied().collect::<alloc::vec::Vec<E820Entry>>()
    };
    cx.guest(|memory| memory.write_slice(map.buffer, 0, &entries))?;
    map.nr_entries = u32::try_from(entries.len()).map_err(|_| Errno::EINVAL)?;
    Ok(0)
}
