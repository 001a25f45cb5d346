//! The grant table (version 1), and operations on other domains' grants.
//!
//! The table's frames are put at frame numbers without memory and added one at a time as references run out. Entries
//! are written as `grant_table.h` prescribes: frame and domain first, then, after a barrier, the flags; ended by a
//! compare-and-swap that only succeeds while the peer does not use the page. The free list is behind one lock.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use pv_abi::grant::{
    Copy, ENTRIES_PER_FRAME, GrantFlags, GrantStatus, MapGrantRef, NR_RESERVED_ENTRIES, QuerySize,
    UnmapGrantRef,
};
use pv_abi::memory::{AddToPhysmap, space};
use pv_abi::{DomainId, Errno, Gfn, GrantRef};

use super::{hv, stub};
use crate::mm::{self, PAGE, special};
use crate::sync::IrqMutex;

/// One entry, live.
#[repr(C)]
struct Entry {
    flags: AtomicU16,
    domid: AtomicU16,
    frame: AtomicU32,
}

struct Table {
    frames: Vec<u64>,
    most: u32,
    free: Vec<u32>,
}

static TABLE: IrqMutex<Table> = IrqMutex::new(Table { frames: Vec::new(), most: 0, free: Vec::new() });
/// Address of each frame of the table, readable without the lock.
static FRAMES: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];

/// Learns the table's limits and maps its first frame.
pub fn init() {
    let mut query = QuerySize { dom: DomainId::SELF, ..QuerySize::default() };
    let status = stub::grant_query_size(hv(), core::slice::from_mut(&mut query));
    let mut table = TABLE.lock();
    table.most = match status {
        Ok(_) if query.status.is_okay() => query.max_nr_frames.min(FRAMES.len() as u32),
        _ => 1,
    };
    if let Err(e) = grow(&mut table) {
        drop(table);
        log::error!("no grant table: {e}");
    }
}

fn grow(table: &mut Table) -> Result<(), Errno> {
    let index = table.frames.len() as u32;
    if index >= table.most {
        return Err(Errno::ENOSPC);
    }
    let gfn = special::allocate(1).ok_or(Errno::ENOMEM)?;
    let arg = AddToPhysmap {
        domid: DomainId::SELF,
        size: 0,
        space: space::GRANT_TABLE,
        idx: u64::from(index),
        gpfn: Gfn::new(gfn),
    };
    if let Err(e) = stub::memory_add_to_physmap(hv(), &arg) {
        special::free(gfn);
        return Err(e);
    }
    FRAMES[index as usize].store(mm::virt(gfn * PAGE), Ordering::Release);
    table.frames.push(gfn);
    let first = (index * ENTRIES_PER_FRAME).max(NR_RESERVED_ENTRIES);
    let end = (index + 1) * ENTRIES_PER_FRAME;
    table.free.extend((first..end).rev());
    Ok(())
}

fn entry(reference: GrantRef) -> Result<&'static Entry, Errno> {
    let (frame, slot) = (reference.raw() / ENTRIES_PER_FRAME, reference.raw() % ENTRIES_PER_FRAME);
    let base = FRAMES.get(frame as usize).ok_or(Errno::EINVAL)?.load(Ordering::Acquire);
    if base == 0 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: `grow` stored the address of a mapped frame of the table, which has this many entries; all are atomics.
    Ok(unsafe { &*(base as *const Entry).add(slot as usize) })
}

/// Lets `peer` use one of our frames.
pub fn grant(peer: DomainId, gfn: u64, writable: bool) -> Result<GrantRef, Errno> {
    let frame = u32::try_from(gfn).map_err(|_| Errno::EINVAL)?;
    let reference = {
        let mut table = TABLE.lock();
        loop {
            if let Some(reference) = table.free.pop() {
                break GrantRef::new(reference);
            }
            grow(&mut table)?;
        }
    };
    let entry = entry(reference)?;
    entry.domid.store(peer.raw(), Ordering::Relaxed);
    entry.frame.store(frame, Ordering::Relaxed);
    let mut flags = GrantFlags::PERMIT_ACCESS;
    if !writable {
        flags |= GrantFlags::READONLY;
    }
    entry.flags.store(flags.bits(), Ordering::Release);
    Ok(reference)
}

/// Ends a grant; `EBUSY` while the peer uses it, and then the grant stays.
pub fn ungrant(reference: GrantRef) -> Result<(), Errno> {
    let entry = entry(reference)?;
    let mut flags = entry.flags.load(Ordering::Acquire);
    loop {
        let known = GrantFlags::from_bits_retain(flags);
        if known.is_busy() {
            return Err(Errno::EBUSY);
        }
        if known.kind() != GrantFlags::PERMIT_ACCESS {
            return Err(Errno::EINVAL);
        }
        match entry.flags.compare_exchange_weak(flags, 0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => break,
            Err(now) => flags = now,
        }
    }
    TABLE.lock().free.push(reference.raw());
    Ok(())
}

/// The flags of an entry, for reports and tests.
pub fn flags(reference: GrantRef) -> Result<GrantFlags, Errno> {
    Ok(GrantFlags::from_bits_retain(entry(reference)?.flags.load(Ordering::Acquire)))
}

/// What an entry in use says: reference, peer, frame, flags.
#[derive(Debug, Clone, core::marker::Copy)]
pub struct InUse {
    /// The reference.
    pub reference: GrantRef,
    /// Who may use it.
    pub peer: DomainId,
    /// The frame.
    pub frame: u32,
    /// Rights and state.
    pub flags: GrantFlags,
}

/// Entries in use, and how many references the present table has, and may have.
pub fn list() -> (Vec<InUse>, u32, u32) {
    let (frames, most) = {
        let table = TABLE.lock();
        (table.frames.len() as u32, table.most)
    };
    let mut out = Vec::new();
    for i in 0..frames * ENTRIES_PER_FRAME {
        let reference = GrantRef::new(i);
        let Ok(e) = entry(reference) else { break };
        let flags = GrantFlags::from_bits_retain(e.flags.load(Ordering::Acquire));
        if flags.kind() == GrantFlags::PERMIT_ACCESS {
            let peer = DomainId::new(e.domid.load(Ordering::Relaxed));
            out.push(InUse { reference, peer, frame: e.frame.load(Ordering::Relaxed), flags });
        }
    }
    (out, frames * ENTRIES_PER_FRAME, most * ENTRIES_PER_FRAME)
}

/// The errno that stands for a grant status.
pub fn errno(status: GrantStatus) -> Errno {
    match status {
        GrantStatus::BAD_DOMAIN => Errno::ESRCH,
        GrantStatus::BAD_GNTREF | GrantStatus::BAD_HANDLE => Errno::ENOENT,
        GrantStatus::PERMISSION_DENIED => Errno::EPERM,
        GrantStatus::EAGAIN => Errno::EAGAIN,
        GrantStatus::NO_SPACE | GrantStatus::NO_DEVICE_SPACE => Errno::ENOSPC,
        GrantStatus::BAD_COPY_ARG | GrantStatus::BAD_VIRT_ADDR | GrantStatus::BAD_DEV_ADDR => Errno::EINVAL,
        _ => Errno::EIO,
    }
}

/// Maps foreign grants; each element's status says how it went.
pub fn map(ops: &mut [MapGrantRef]) -> Result<(), Errno> {
    stub::grant_map(hv(), ops).map(|_| ())
}

/// Ends mappings.
pub fn unmap(ops: &mut [UnmapGrantRef]) -> Result<(), Errno> {
    stub::grant_unmap(hv(), ops).map(|_| ())
}

/// Copies between granted and own pages.
pub fn copy(ops: &mut [Copy]) -> Result<(), Errno> {
    stub::grant_copy(hv(), ops).map(|_| ())
}
