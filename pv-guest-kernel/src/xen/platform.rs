//! The drivers' [`Platform`]: this kernel's memory, grants and event channels.
//!
//! [`Pages`] is a run of adjacent frames, reached through the direct map: own frames, or frame numbers without memory at
//! which foreign pages are mapped.

use alloc::vec;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use pv_abi::grant::{Copy, CopyFlags, CopyPtr, MapFlags, MapGrantRef, UnmapGrantRef};
use pv_abi::{DomainId, Errno, Gfn, GrantHandle, GrantRef, GuestPhys, Port};
use pv_drivers::platform::{Access, BusAddress, CopyEnd, GrantCopy, Nanos, Platform, SharedMemory};
use pv_drivers::share::Quarantine;

use super::{clock, events, grants};
use crate::mm::{self, PAGE, frames, special};
use crate::sync::IrqMutex;

/// The handle that drivers hold.
#[derive(Debug, Clone, core::marker::Copy, Default)]
pub struct Xen;

enum Kind {
    Own,
    /// Mapped foreign pages: handles and device addresses.
    Mapped(Vec<(GrantHandle, u64)>),
}

/// A run of pages: own, or mapped.
///
/// Invariant: nobody but the holder of a run of [`Kind::Own`] writes it unless `is_open` says so, devices aside, to which
/// a driver gives only what it does not touch meanwhile.
pub struct Pages {
    base: u64,
    count: usize,
    kind: Kind,
    /// A page was granted to a peer that may write it.
    is_open: AtomicBool,
}

impl Pages {
    /// Allocates zeroed pages with adjacent frames.
    pub fn new(count: usize) -> Result<Pages, Errno> {
        Pages::aligned(count, PAGE)
    }

    /// As [`Pages::new`], the first page aligned to `align` bytes.
    pub fn aligned(count: usize, align: u64) -> Result<Pages, Errno> {
        let run =
            if count == 1 { frames::allocate() } else { frames::allocate_run(count as u64, align, u64::MAX) };
        let base = run.ok_or(Errno::ENOMEM)?.0;
        // SAFETY: the frames are ours alone and in the direct map.
        unsafe { ptr::write_bytes(mm::ptr::<u8>(base), 0, count * PAGE as usize) };
        Ok(Pages::of(base, count, Kind::Own))
    }

    /// Makes an object of one frame of our own that stays reserved for ever (a ring that the toolstack set up).
    pub fn of_frame(gfn: Gfn) -> Pages {
        Pages::of(gfn.raw() * PAGE, 1, Kind::Mapped(Vec::new()))
    }

    fn of(base: u64, count: usize, kind: Kind) -> Pages {
        Pages { base, count, kind, is_open: AtomicBool::new(false) }
    }

    /// Bytes of the run.
    pub fn len(&self) -> usize {
        self.count * PAGE as usize
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Physical address of the first byte.
    pub fn phys(&self) -> u64 {
        self.base
    }

    /// The address of the first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        mm::ptr(self.base)
    }

    #[inline(always)]
    fn at<T>(&self, offset: usize) -> *mut T {
        // All that fit are multiples of their size, of which the run is a multiple too.
        if !offset.is_multiple_of(size_of::<T>()) || offset >= self.len() {
            self.outside(offset, size_of::<T>());
        }
        mm::ptr(self.base + offset as u64)
    }

    #[inline(always)]
    fn span(&self, offset: usize, length: usize) -> *mut u8 {
        if offset.checked_add(length).is_none_or(|end| end > self.len()) {
            self.outside(offset, length);
        }
        mm::ptr(self.base + offset as u64)
    }

    #[cold]
    #[inline(never)]
    fn outside(&self, offset: usize, length: usize) -> ! {
        panic!("{length} bytes at {offset} of {}", self.len())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        match &mut self.kind {
            Kind::Own => frames::free_run(frames::Frame(self.base), self.count as u64),
            Kind::Mapped(handles) => {
                if !handles.is_empty() {
                    let run = (self.base, core::mem::take(handles));
                    unmap_runs(core::slice::from_ref(&run));
                }
            }
        }
    }
}

fn unmap_runs(runs: &[(u64, Vec<(GrantHandle, u64)>)]) {
    let mut ops = Vec::new();
    for (base, handles) in runs {
        for (i, (handle, _)) in handles.iter().enumerate() {
            ops.push(UnmapGrantRef {
                host_addr: GuestPhys::new(base + i as u64 * PAGE),
                handle: *handle,
                ..UnmapGrantRef::default()
            });
        }
    }
    if ops.is_empty() {
        return;
    }
    if let Err(e) = grants::unmap(&mut ops) {
        // The numbers stay out of use: something may still be mapped there.
        log::error!("cannot unmap {} pages: {e}", ops.len());
        return;
    }
    for op in &ops {
        match op.status.ok() {
            Ok(()) => special::free(op.host_addr.gfn().raw()),
            Err(e) => log::error!("cannot unmap {}: {e}", op.host_addr),
        }
    }
}

impl SharedMemory for Pages {
    fn pages(&self) -> usize {
        self.count
    }

    fn read_u8(&self, offset: usize) -> u8 {
        // SAFETY: `at` checks the place; the memory is mapped for the life of `self`; volatile, for a peer may write.
        unsafe { ptr::read_volatile(self.at::<u8>(offset)) }
    }

    fn read_u16(&self, offset: usize) -> u16 {
        // SAFETY: as `read_u8`.
        unsafe { ptr::read_volatile(self.at::<u16>(offset)) }
    }

    #[inline(always)]
    fn read_u32(&self, offset: usize) -> u32 {
        // SAFETY: as `read_u8`; an atomic, for its ordering.
        unsafe { (*self.at::<AtomicU32>(offset)).load(Ordering::Acquire) }
    }

    fn read_u64(&self, offset: usize) -> u64 {
        // SAFETY: as `read_u8`.
        unsafe { ptr::read_volatile(self.at::<u64>(offset)) }
    }

    fn write_u8(&self, offset: usize, value: u8) {
        // SAFETY: as `read_u8`; no reference into the memory exists anywhere.
        unsafe { ptr::write_volatile(self.at::<u8>(offset), value) };
    }

    fn write_u16(&self, offset: usize, value: u16) {
        // SAFETY: as `write_u8`.
        unsafe { ptr::write_volatile(self.at::<u16>(offset), value) };
    }

    #[inline(always)]
    fn write_u32(&self, offset: usize, value: u32) {
        // SAFETY: as `write_u8`; an atomic, for its ordering.
        unsafe {
            (*self.at::<AtomicU32>(offset)).store(value, Ordering::Release);
        }
    }

    fn write_u64(&self, offset: usize, value: u64) {
        // SAFETY: as `write_u8`.
        unsafe { ptr::write_volatile(self.at::<u64>(offset), value) };
    }

    fn copy_out(&self, offset: usize, to: &mut [u8]) {
        // SAFETY: `span` checks the place. A peer may write meanwhile: the bytes are then any mixture, which the caller
        // checks as untrusted; `to` is private.
        unsafe { ptr::copy_nonoverlapping(self.span(offset, to.len()), to.as_mut_ptr(), to.len()) };
    }

    fn append_out(&self, offset: usize, len: usize, to: &mut Vec<u8>) {
        to.reserve(len);
        let from = to.len();
        // SAFETY: as `copy_out`; the bytes behind the vector's end are reserved, and all of them written before they
        // count.
        unsafe {
            ptr::copy_nonoverlapping(self.span(offset, len), to.as_mut_ptr().add(from), len);
            to.set_len(from + len);
        }
    }

    fn copy_in(&self, offset: usize, from: &[u8]) {
        // SAFETY: as `copy_out`, in the other direction.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.span(offset, from.len()), from.len()) };
    }

    fn fill_in(&mut self, offset: usize, len: usize, fill: &mut dyn FnMut(&mut [u8])) {
        if matches!(self.kind, Kind::Own) && !self.is_open.load(Ordering::Relaxed) {
            // SAFETY: `span` checks the place, which is initialized (zeroed when it was allocated). By the invariant of
            // `Pages` nobody else writes it; `self` is borrowed alone, so that no other method reaches it meanwhile.
            // A peer to which it is granted may read it, which is not this program's access.
            return fill(unsafe { core::slice::from_raw_parts_mut(self.span(offset, len), len) });
        }
        let mut bytes = vec![0; len];
        self.copy_out(offset, &mut bytes);
        fill(&mut bytes);
        self.copy_in(offset, &bytes);
    }

    fn copy_to(&self, offset: usize, to: &Self, to_offset: usize, len: usize) {
        // SAFETY: both places are checked; the runs do not overlap by the trait's contract.
        unsafe { ptr::copy(self.span(offset, len), to.span(to_offset, len), len) };
    }

    fn zero(&self, offset: usize, len: usize) {
        // SAFETY: `span` checks the place.
        unsafe { ptr::write_bytes(self.span(offset, len), 0, len) };
    }

    fn gfn(&self, page: usize) -> Gfn {
        assert!(page < self.count, "page {page} of {}", self.count);
        Gfn::new(self.base / PAGE + page as u64)
    }

    fn bus_address(&self, page: usize) -> Option<BusAddress> {
        match &self.kind {
            Kind::Own => mm::bus_address(self.gfn(page).raw() * PAGE).map(BusAddress::new),
            Kind::Mapped(handles) => handles.get(page).map(|h| BusAddress::new(h.1)),
        }
    }
}

static QUARANTINE: IrqMutex<Quarantine<Pages>> = IrqMutex::new(Quarantine::new());

/// Frees retired pages whose peers have let go meanwhile. Called now and then.
pub fn retry_retired() {
    let free = QUARANTINE.lock().retry(grants::ungrant);
    drop(free);
}

/// Pages that wait for a peer to let go.
pub fn retired_pages() -> usize {
    QUARANTINE.lock().pages()
}

fn map_flags(access: Access) -> u32 {
    // A translated guest maps for the processor; the device address comes back all the same (`grant_table.h`).
    let mut flags = MapFlags::HOST_MAP;
    if access == Access::ReadOnly {
        flags |= MapFlags::READONLY;
    }
    flags.bits()
}

fn copy_ptr(end: CopyEnd) -> (CopyPtr, bool) {
    match end {
        CopyEnd::Local { gfn, offset } => (CopyPtr::own(gfn, offset), false),
        CopyEnd::Foreign { domain, grant, offset } => (CopyPtr::granted(domain, grant, offset), true),
    }
}

/// Copies for which a call's operations lie on the stack: in a page that the hypervisor has mostly just looked up.
const FEW: usize = 2;

/// Has the hypervisor copy; `ops` has room for as many.
fn copy_with(copies: &mut [GrantCopy], ops: &mut [Copy]) {
    let ops = &mut ops[..copies.len()];
    for (op, copy) in ops.iter_mut().zip(copies.iter()) {
        let (source, from_grant) = copy_ptr(copy.from);
        let (dest, to_grant) = copy_ptr(copy.to);
        let mut flags = CopyFlags::empty();
        flags.set(CopyFlags::SOURCE_GREF, from_grant);
        flags.set(CopyFlags::DEST_GREF, to_grant);
        *op = Copy { source, dest, len: copy.len, flags: flags.bits(), ..Copy::default() };
    }
    let called = grants::copy(ops);
    for (copy, op) in copies.iter_mut().zip(ops) {
        copy.result = called.and_then(|()| op.status.ok().map_err(grants::errno));
    }
}

impl Platform for Xen {
    type Memory = Pages;

    fn allocate(&self, pages: usize) -> Result<Pages, Errno> {
        Pages::new(pages)
    }

    fn retire(&self, memory: Pages, grants: Vec<GrantRef>) {
        QUARANTINE.lock().add(memory, grants);
    }

    fn grant(&self, peer: DomainId, memory: &Pages, page: usize, access: Access) -> Result<GrantRef, Errno> {
        let is_open = access == Access::ReadWrite;
        if is_open {
            memory.is_open.store(true, Ordering::Relaxed);
        }
        grants::grant(peer, memory.gfn(page).raw(), is_open)
    }

    fn ungrant(&self, grant: GrantRef) -> Result<(), Errno> {
        grants::ungrant(grant)
    }

    fn map(&self, peer: DomainId, refs: &[GrantRef], access: Access) -> Result<Pages, Errno> {
        let first = special::allocate(refs.len() as u64).ok_or(Errno::ENOSPC)?;
        let flags = map_flags(access);
        let mut ops: Vec<MapGrantRef> = refs
            .iter()
            .enumerate()
            .map(|(i, &gref)| MapGrantRef {
                host_addr: GuestPhys::new((first + i as u64) * PAGE),
                flags,
                gref,
                dom: peer,
                ..MapGrantRef::default()
            })
            .collect();
        if let Err(e) = grants::map(&mut ops) {
            (0..refs.len() as u64).for_each(|i| special::free(first + i));
            return Err(e);
        }
        let failed = ops.iter().find(|op| !op.status.is_okay()).map(|op| op.status);
        let Some(status) = failed else {
            let handles = ops.iter().map(|op| (op.handle, op.dev_bus_addr)).collect();
            return Ok(Pages::of(first * PAGE, refs.len(), Kind::Mapped(handles)));
        };
        log::debug!("map {} pages of {peer}: {status}", refs.len());
        for op in &ops {
            if op.status.is_okay() {
                unmap_runs(&[(op.host_addr.raw(), vec![(op.handle, 0)])]);
            } else {
                special::free(op.host_addr.gfn().raw());
            }
        }
        Err(grants::errno(status))
    }

    fn map_each(&self, peer: DomainId, refs: &[GrantRef], access: Access) -> Vec<Result<Pages, Errno>> {
        let flags = map_flags(access);
        let mut ops = Vec::with_capacity(refs.len());
        for &gref in refs {
            let Some(gfn) = special::allocate(1) else { break };
            ops.push(MapGrantRef {
                host_addr: GuestPhys::new(gfn * PAGE),
                flags,
                gref,
                dom: peer,
                ..MapGrantRef::default()
            });
        }
        let called = if ops.is_empty() { Ok(()) } else { grants::map(&mut ops) };
        let mut out = Vec::with_capacity(refs.len());
        for op in &ops {
            let result = called.and_then(|()| op.status.ok().map_err(grants::errno));
            out.push(match result {
                Ok(()) => {
                    let kind = Kind::Mapped(vec![(op.handle, op.dev_bus_addr)]);
                    Ok(Pages::of(op.host_addr.raw(), 1, kind))
                }
                Err(e) => {
                    special::free(op.host_addr.gfn().raw());
                    Err(e)
                }
            });
        }
        out.resize_with(refs.len(), || Err(Errno::ENOSPC));
        out
    }

    fn unmap(&self, mappings: Vec<Pages>) {
        let mut runs = Vec::new();
        for mut pages in mappings {
            if let Kind::Mapped(handles) = &mut pages.kind {
                runs.push((pages.base, core::mem::take(handles)));
            }
        }
        unmap_runs(&runs);
    }

    fn grant_copy(&self, copies: &mut [GrantCopy]) {
        // Most calls are for one or two.
        if copies.len() <= FEW {
            return copy_with(copies, &mut [Copy::default(); FEW]);
        }
        copy_with(copies, &mut vec![Copy::default(); copies.len()]);
    }

    fn alloc_unbound(&self, peer: DomainId) -> Result<Port, Errno> {
        events::alloc_unbound(peer)
    }

    fn bind_interdomain(&self, peer: DomainId, remote: Port) -> Result<Port, Errno> {
        events::bind_interdomain(peer, remote)
    }

    fn notify(&self, port: Port) {
        events::notify(port);
    }

    fn unmask(&self, port: Port) {
        events::unmask(port);
    }

    fn close(&self, port: Port) {
        events::close(port);
    }

    fn now(&self) -> Nanos {
        Nanos::new(clock::now())
    }
}
