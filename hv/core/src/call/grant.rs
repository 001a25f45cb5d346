//! `grant_table_op`: sharing pages (`xen/grant_table.h`).
//!
//! Arrays are copied in batches, worked on, and copied back; a long array is preempted between two batches.

use super::args::GuestArray;
use super::cx::Cx;
use super::{Reply, Stop};
use crate::grant::{copy_batch, map_batch, unmap_batch};
use crate::hw::Platform;
use alloc::sync::Arc;
use pv_abi::Errno;
use pv_abi::errno::Result;
use pv_abi::grant::{
    Copy, GetVersion, GrantStatus, MapGrantRef, QuerySize, SetVersion, SetupTable, UnmapGrantRef,
};
use pv_abi::ids::{DomainId, Gfn};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Elements that are copied from the guest at a time.
const BATCH: usize = 16;
/// Batches after which a call looks whether others wait.
const BATCHES: u32 = 8;

/// Works on an array batch by batch.
#[inline(always)]
fn each<T, P: Platform>(
    cx: &mut Cx<'_, P>,
    array: GuestArray<T>,
    work: impl Fn(&Cx<'_, P>, &mut [T]),
) -> Reply
where
    T: FromBytes + IntoBytes + Immutable + Default + core::marker::Copy,
{
    // One element is the usual case besides full batches: it needs no room for sixteen.
    if array.count == 1 {
        one(cx, array, |cx, element| {
            work(cx, core::slice::from_mut(element));
            Ok(())
        })
    } else {
        several(cx, array, work)
    }
}

#[inline(always)]
fn one<T, P: Platform>(
    cx: &mut Cx<'_, P>,
    array: GuestArray<T>,
    work: impl FnOnce(&mut Cx<'_, P>, &mut T) -> Result<()>,
) -> Reply
where
    T: FromBytes + IntoBytes + Immutable,
{
    let mut element: T = cx.guest(|memory| memory.read(array.at))?;
    work(cx, &mut element)?;
    cx.guest(|memory| memory.write(array.at, &element))?;
    Ok(0)
}

#[inline(never)]
fn several<T, P: Platform>(
    cx: &mut Cx<'_, P>,
    array: GuestArray<T>,
    work: impl Fn(&Cx<'_, P>, &mut [T]),
) -> Reply
where
    T: FromBytes + IntoBytes + Immutable + Default + core::marker::Copy,
{
    let count = u64::from(array.count);
    let mut index = cx.cursor;
    let mut room = [T::default(); BATCH];
    let mut batches = 0;
    while index < count {
        let left = usize::try_from(count - index).unwrap_or(BATCH);
        let Some(batch) = room.get_mut(..left.min(BATCH)) else { break };
        cx.guest(|memory| memory.read_slice(array.at, index, batch))?;
        work(cx, batch);
        cx.guest(|memory| memory.write_slice(array.at, index, batch))?;
        index += batch.len() as u64;
        batches += 1;
        if batches == BATCHES && index < count {
            return Err(Stop::Preempted(index));
        }
    }
    Ok(0)
}

pub(super) fn grant_map<P: Platform>(cx: &mut Cx<'_, P>, maps: GuestArray<MapGrantRef>) -> Reply {
    each(cx, maps, |cx, batch| {
        let find = |id| cx.system.domain(cx.domain, id).ok();
        map_batch(cx.system.ram(), &**cx.domain, find, batch);
        cx.stats().maps.add(batch.iter().filter(|op| op.status.is_okay()).count() as u64);
    })
}

pub(super) fn grant_unmap<P: Platform>(cx: &mut Cx<'_, P>, unmaps: GuestArray<UnmapGrantRef>) -> Reply {
    each(cx, unmaps, |cx, batch| {
        unmap_batch(cx.system.ram(), &**cx.domain, batch, cx.flusher(cx.domain));
        cx.stats().unmaps.add(batch.iter().filter(|op| op.status.is_okay()).count() as u64);
    })
}

pub(super) fn grant_copy<P: Platform>(cx: &mut Cx<'_, P>, copies: GuestArray<Copy>) -> Reply {
    each(cx, copies, |cx, batch| {
        let find = |id| cx.system.domain(cx.domain, id).ok();
        let bytes = copy_batch(cx.system.ram(), &**cx.domain, find, batch);
        cx.stats().copies.add(batch.len() as u64);
        cx.stats().copied_bytes.add(bytes);
    })
}

/// The caller's own table only, by either of its names.
fn check_own<P: Platform>(cx: &Cx<'_, P>, dom: DomainId) -> core::result::Result<(), GrantStatus> {
    if dom == DomainId::SELF || dom == cx.domain.id { Ok(()) } else { Err(GrantStatus::PERMISSION_DENIED) }
}

/// The calls that take one element only, although they take an array.
fn single<T>(array: GuestArray<T>) -> Result<GuestArray<T>> {
    if array.count == 1 { Ok(array) } else { Err(Errno::EINVAL) }
}

pub(super) fn grant_setup_table<P: Platform>(cx: &mut Cx<'_, P>, setup: GuestArray<SetupTable>) -> Reply {
    let array = single(setup)?;
    one(cx, array, |cx, setup| {
        setup.status = GrantStatus::OKAY;
        let grants = &cx.domain.grants;
        if let Err(status) = check_own(cx, setup.dom) {
            setup.status = status;
        } else if grants.grow(cx.system.ram(), setup.nr_frames).is_err() {
            setup.status = GrantStatus::GENERAL_ERROR;
        } else {
            for index in 0..setup.nr_frames {
                let gfn = grants.frame_gfn(cx.system.ram(), index).unwrap_or(Gfn::new(u64::MAX));
                cx.guest(|memory| memory.write_element(setup.frame_list, u64::from(index), &gfn))?;
            }
        }
        Ok(())
    })
}

pub(super) fn grant_query_size<P: Platform>(cx: &mut Cx<'_, P>, query: GuestArray<QuerySize>) -> Reply {
    let array = single(query)?;
    one(cx, array, |cx, query| {
        query.status = match check_own(cx, query.dom) {
            Err(status) => status,
            Ok(()) => {
                query.nr_frames = cx.domain.grants.frames();
                query.max_nr_frames = cx.domain.grants.most_frames();
                GrantStatus::OKAY
            }
        };
        Ok(())
    })
}

/// There is version 1 only; asking for it succeeds.
pub(super) fn grant_set_version<P: Platform>(cx: &mut Cx<'_, P>, version: GuestArray<SetVersion>) -> Reply {
    let array = single(version)?;
    one(cx, array, |_, version| match version.version {
        1 => Ok(()),
        2 => Err(Errno::ENOSYS),
        _ => Err(Errno::EINVAL),
    })
}

pub(super) fn grant_get_version<P: Platform>(cx: &mut Cx<'_, P>, version: GuestArray<GetVersion>) -> Reply {
    let array = single(version)?;
    one(cx, array, |cx, version| {
        let _: Arc<_> = cx.subject(version.dom)?;
        version.version = 1;
        Ok(())
    })
}
