//! A machine for tests: domains with memory, grants and event channels, and counters of all that happens.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::vec;
use std::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, Gfn, GrantRef, Port};

use crate::platform::{Access, BusAddress, CopyEnd, GrantCopy, Nanos, PAGE_SIZE, Platform, SharedMemory};
use crate::share::Quarantine;

struct Page {
    gfn: u64,
    owner: DomainId,
    bytes: Mutex<Vec<u8>>,
}

struct Grant {
    peer: DomainId,
    page: Arc<Page>,
    access: Access,
    maps: u32,
}

#[derive(Default)]
struct PortState {
    peer: Option<(DomainId, Port)>,
    wanted: Option<DomainId>,
    pending: bool,
}

/// What happened, and what there is.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counts {
    pub grants: usize,
    pub maps: usize,
    pub ports: usize,
    pub pages: usize,
    pub retired: usize,
}

#[derive(Default)]
struct Inner {
    next_gfn: u64,
    next_port: u32,
    /// Number of live pages by owner.
    pages: BTreeMap<DomainId, usize>,
    frames: BTreeMap<u64, std::sync::Weak<Page>>,
    grants: BTreeMap<(DomainId, u32), Grant>,
    next_grant: u32,
    ports: BTreeMap<(DomainId, Port), PortState>,
    retired: BTreeMap<DomainId, Quarantine<Memory>>,
    now: u64,
    grant_limit: usize,
}

/// The machine.
#[derive(Clone)]
pub struct Machine {
    inner: Arc<Mutex<Inner>>,
    meters: Arc<Meters>,
}

/// Running totals.
#[derive(Default)]
pub struct Meters {
    pub bytes_copied: AtomicU64,
    pub grant_copies: AtomicU64,
    pub map_calls: AtomicU64,
    pub pages_mapped: AtomicU64,
}

impl Machine {
    pub fn new() -> Self {
        let inner =
            Inner { next_gfn: 0x100, next_port: 1, next_grant: 8, grant_limit: 100_000, ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)), meters: Arc::default() }
    }

    pub fn domain(&self, id: u16) -> Domain {
        Domain { machine: self.clone(), id: DomainId::new(id) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    pub fn advance(&self, nanos: u64) {
        self.lock().now += nanos;
    }

    /// What a device does: reads memory at a bus address, within a page, which must be there.
    pub fn dma_read(&self, address: u64, len: usize) -> Vec<u8> {
        let page = self.lock().frames[&(address >> 12)].upgrade().expect("a device reads freed memory");
        page.bytes.lock().unwrap()[address as usize % PAGE_SIZE..][..len].to_vec()
    }

    /// What a device does: writes memory at a bus address, within a page, which must be there.
    pub fn dma_write(&self, address: u64, bytes: &[u8]) {
        let page = self.lock().frames[&(address >> 12)].upgrade().expect("a device writes freed memory");
        page.bytes.lock().unwrap()[address as usize % PAGE_SIZE..][..bytes.len()].copy_from_slice(bytes);
    }

    /// Refuses grants beyond this many in the machine.
    pub fn limit_grants(&self, limit: usize) {
        self.lock().grant_limit = limit;
    }
}

/// One domain of the machine.
#[derive(Clone)]
pub struct Domain {
    machine: Machine,
    pub id: DomainId,
}

/// Own or mapped pages.
pub struct Memory {
    machine: Machine,
    pages: Vec<Arc<Page>>,
    kind: Kind,
}

enum Kind {
    Own(DomainId),
    /// Another view of own pages.
    Borrowed,
    Mapped {
        granter: DomainId,
        grants: Vec<GrantRef>,
        access: Access,
    },
}

impl Memory {
    fn assert_writable(&self) {
        if let Kind::Mapped { access, .. } = &self.kind {
            assert_eq!(*access, Access::ReadWrite, "a write through a read-only mapping");
        }
    }

    fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
        assert_eq!(offset % N, 0, "misaligned access");
        let bytes = self.pages[offset / PAGE_SIZE].bytes.lock().unwrap();
        bytes[offset % PAGE_SIZE..][..N].try_into().unwrap()
    }

    /// Another object for the same own pages, of which only one may be dropped.
    pub fn clone_for_test(&self) -> Self {
        assert!(matches!(self.kind, Kind::Own(_)), "not own memory");
        Self { machine: self.machine.clone(), pages: self.pages.clone(), kind: Kind::Borrowed }
    }

    pub fn copy_in_for_test(&self, bytes: &[u8]) {
        SharedMemory::copy_in(self, 0, bytes);
    }

    fn write<const N: usize>(&self, offset: usize, bytes: [u8; N]) {
        assert_eq!(offset % N, 0, "misaligned access");
        self.assert_writable();
        let mut page = self.pages[offset / PAGE_SIZE].bytes.lock().unwrap();
        page[offset % PAGE_SIZE..][..N].copy_from_slice(&bytes);
    }
}

impl SharedMemory for Memory {
    fn pages(&self) -> usize {
        self.pages.len()
    }

    fn read_u8(&self, offset: usize) -> u8 {
        u8::from_le_bytes(self.read(offset))
    }

    fn read_u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.read(offset))
    }

    fn read_u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.read(offset))
    }

    fn read_u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.read(offset))
    }

    fn write_u8(&self, offset: usize, value: u8) {
        self.write(offset, value.to_le_bytes());
    }

    fn write_u16(&self, offset: usize, value: u16) {
        self.write(offset, value.to_le_bytes());
    }

    fn write_u32(&self, offset: usize, value: u32) {
        self.write(offset, value.to_le_bytes());
    }

    fn write_u64(&self, offset: usize, value: u64) {
        self.write(offset, value.to_le_bytes());
    }

    fn copy_out(&self, offset: usize, to: &mut [u8]) {
        let (mut to, mut at) = (to, offset);
        while !to.is_empty() {
            let count = to.len().min(PAGE_SIZE - at % PAGE_SIZE);
            let (part, rest) = to.split_at_mut(count);
            let page = self.pages[at / PAGE_SIZE].bytes.lock().unwrap();
            part.copy_from_slice(&page[at % PAGE_SIZE..][..count]);
            (to, at) = (rest, at + count);
        }
    }

    fn copy_in(&self, offset: usize, from: &[u8]) {
        self.assert_writable();
        let (mut from, mut at) = (from, offset);
        while !from.is_empty() {
            let count = from.len().min(PAGE_SIZE - at % PAGE_SIZE);
            let (part, rest) = from.split_at(count);
            let mut page = self.pages[at / PAGE_SIZE].bytes.lock().unwrap();
            page[at % PAGE_SIZE..][..count].copy_from_slice(part);
            (from, at) = (rest, at + count);
        }
    }

    fn copy_to(&self, offset: usize, to: &Self, to_offset: usize, len: usize) {
        let mut bytes = vec![0; len];
        self.copy_out(offset, &mut bytes);
        to.copy_in(to_offset, &bytes);
        self.machine.meters.bytes_copied.fetch_add(len as u64, Ordering::SeqCst);
    }

    fn zero(&self, offset: usize, len: usize) {
        self.copy_in(offset, &vec![0; len]);
    }

    fn gfn(&self, page: usize) -> Gfn {
        Gfn::new(self.pages[page].gfn)
    }

    fn bus_address(&self, page: usize) -> Option<BusAddress> {
        Some(BusAddress::new(self.pages[page].gfn << 12))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut inner = self.machine.lock();
        match &self.kind {
            Kind::Borrowed => {}
            Kind::Own(owner) => {
                for page in &self.pages {
                    assert!(
                        !inner.grants.values().any(|grant| Arc::ptr_eq(&grant.page, page)),
                        "a granted page of {owner} went back to the allocator"
                    );
                    inner.frames.remove(&page.gfn);
                }
                *inner.pages.get_mut(owner).unwrap() -= self.pages.len();
            }
            Kind::Mapped { granter, grants, .. } => {
                for grant in grants {
                    inner.grants.get_mut(&(*granter, grant.raw())).expect("a mapped grant lives").maps -= 1;
                }
            }
        }
    }
}

impl Domain {
    pub fn machine_for_test(&self) -> Machine {
        self.machine.clone()
    }

    /// Whether the port fired since the last call.
    pub fn take_event(&self, port: Port) -> bool {
        let mut inner = self.machine.lock();
        match inner.ports.get_mut(&(self.id, port)) {
            Some(state) => core::mem::take(&mut state.pending),
            None => false,
        }
    }

    /// What this domain holds.
    pub fn counts(&self) -> Counts {
        let inner = self.machine.lock();
        Counts {
            grants: inner.grants.keys().filter(|key| key.0 == self.id).count(),
            maps: inner.grants.values().filter(|g| g.peer == self.id).map(|g| g.maps as usize).sum(),
            ports: inner.ports.keys().filter(|key| key.0 == self.id).count(),
            pages: inner.pages.get(&self.id).copied().unwrap_or(0),
            retired: inner.retired.get(&self.id).map_or(0, Quarantine::pages),
        }
    }

    /// Tries again to free retired pages.
    pub fn retry_retired(&self) {
        let mut quarantine = self.machine.lock().retired.remove(&self.id).unwrap_or_default();
        let free = quarantine.retry(|grant| self.ungrant(grant));
        drop(free);
        self.machine.lock().retired.insert(self.id, quarantine);
    }

    /// Takes a grant away under the peer's feet, as a hostile front end does.
    pub fn revoke(&self, grant: GrantRef) {
        let mut inner = self.machine.lock();
        if let Some(entry) = inner.grants.get(&(self.id, grant.raw()))
            && entry.maps == 0
        {
            inner.grants.remove(&(self.id, grant.raw()));
        }
    }

    fn resolve(&self, inner: &Inner, end: CopyEnd, write: bool) -> Result<(Arc<Page>, u16), Errno> {
        match end {
            CopyEnd::Local { gfn, offset } => {
                let page = inner.frames.get(&gfn.raw()).and_then(std::sync::Weak::upgrade);
                let page = page.filter(|page| page.owner == self.id).ok_or(Errno::EINVAL)?;
                Ok((page, offset))
            }
            CopyEnd::Foreign { domain, grant, offset } => {
                let entry = inner.grants.get(&(domain, grant.raw())).ok_or(Errno::EINVAL)?;
                if entry.peer != self.id || (write && entry.access == Access::ReadOnly) {
                    return Err(Errno::EACCES);
                }
                Ok((entry.page.clone(), offset))
            }
        }
    }

    fn map_pages(&self, peer: DomainId, grants: &[GrantRef], access: Access) -> Result<Memory, Errno> {
        let mut inner = self.machine.lock();
        let mut pages = Vec::new();
        for grant in grants {
            let entry = inner.grants.get(&(peer, grant.raw())).ok_or(Errno::EINVAL)?;
            if entry.peer != self.id || (access == Access::ReadWrite && entry.access == Access::ReadOnly) {
                return Err(Errno::EACCES);
            }
            pages.push(entry.page.clone());
        }
        for grant in grants {
            inner.grants.get_mut(&(peer, grant.raw())).unwrap().maps += 1;
        }
        self.machine.meters.pages_mapped.fetch_add(grants.len() as u64, Ordering::SeqCst);
        let kind = Kind::Mapped { granter: peer, grants: grants.to_vec(), access };
        Ok(Memory { machine: self.machine.clone(), pages, kind })
    }
}

impl Platform for Domain {
    type Memory = Memory;

    fn allocate(&self, pages: usize) -> Result<Memory, Errno> {
        let mut inner = self.machine.lock();
        *inner.pages.entry(self.id).or_default() += pages;
        let mut run = Vec::new();
        for _ in 0..pages {
            // Frames are scattered, so that nobody counts on neighbours.
            inner.next_gfn += 3;
            let bytes = Mutex::new(vec![0; PAGE_SIZE]);
            let page = Arc::new(Page { gfn: inner.next_gfn, owner: self.id, bytes });
            inner.frames.insert(page.gfn, Arc::downgrade(&page));
            run.push(page);
        }
        Ok(Memory { machine: self.machine.clone(), pages: run, kind: Kind::Own(self.id) })
    }

    fn retire(&self, memory: Memory, grants: Vec<GrantRef>) {
        self.machine.lock().retired.entry(self.id).or_default().add(memory, grants);
    }

    fn grant(&self, peer: DomainId, memory: &Memory, page: usize, access: Access) -> Result<GrantRef, Errno> {
        let mut inner = self.machine.lock();
        if inner.grants.len() >= inner.grant_limit {
            return Err(Errno::ENOSPC);
        }
        let number = inner.next_grant;
        inner.next_grant += 1;
        let grant = Grant { peer, page: memory.pages[page].clone(), access, maps: 0 };
        inner.grants.insert((self.id, number), grant);
        Ok(GrantRef::new(number))
    }

    fn ungrant(&self, grant: GrantRef) -> Result<(), Errno> {
        let mut inner = self.machine.lock();
        match inner.grants.get(&(self.id, grant.raw())) {
            Some(entry) if entry.maps > 0 => Err(Errno::EBUSY),
            _ => {
                inner.grants.remove(&(self.id, grant.raw()));
                Ok(())
            }
        }
    }

    fn map(&self, peer: DomainId, grants: &[GrantRef], access: Access) -> Result<Memory, Errno> {
        self.machine.meters.map_calls.fetch_add(1, Ordering::SeqCst);
        self.map_pages(peer, grants, access)
    }

    fn map_each(&self, peer: DomainId, grants: &[GrantRef], access: Access) -> Vec<Result<Memory, Errno>> {
        self.machine.meters.map_calls.fetch_add(1, Ordering::SeqCst);
        grants.iter().map(|grant| self.map_pages(peer, &[*grant], access)).collect()
    }

    fn unmap(&self, mappings: Vec<Memory>) {
        drop(mappings);
    }

    fn grant_copy(&self, copies: &mut [GrantCopy]) {
        let inner = self.machine.lock();
        for copy in copies {
            self.machine.meters.grant_copies.fetch_add(1, Ordering::SeqCst);
            copy.result = (|| {
                let (from, from_offset) = self.resolve(&inner, copy.from, false)?;
                let (to, to_offset) = self.resolve(&inner, copy.to, true)?;
                let len = usize::from(copy.len);
                let (from_offset, to_offset) = (usize::from(from_offset), usize::from(to_offset));
                if from_offset + len > PAGE_SIZE || to_offset + len > PAGE_SIZE {
                    return Err(Errno::EINVAL);
                }
                let bytes = from.bytes.lock().unwrap()[from_offset..][..len].to_vec();
                to.bytes.lock().unwrap()[to_offset..][..len].copy_from_slice(&bytes);
                self.machine.meters.bytes_copied.fetch_add(len as u64, Ordering::SeqCst);
                Ok(())
            })();
        }
    }

    fn alloc_unbound(&self, peer: DomainId) -> Result<Port, Errno> {
        let mut inner = self.machine.lock();
        let port = Port::new(inner.next_port);
        inner.next_port += 1;
        inner.ports.insert((self.id, port), PortState { wanted: Some(peer), ..PortState::default() });
        Ok(port)
    }

    fn bind_interdomain(&self, peer: DomainId, remote: Port) -> Result<Port, Errno> {
        let mut inner = self.machine.lock();
        let port = Port::new(inner.next_port);
        let state = inner.ports.get_mut(&(peer, remote)).ok_or(Errno::EINVAL)?;
        if state.wanted != Some(self.id) || state.peer.is_some() {
            return Err(Errno::EINVAL);
        }
        state.peer = Some((self.id, port));
        inner.next_port += 1;
        let bound = PortState { peer: Some((peer, remote)), wanted: None, pending: true };
        inner.ports.insert((self.id, port), bound);
        Ok(port)
    }

    fn notify(&self, port: Port) {
        let mut inner = self.machine.lock();
        let peer = inner.ports.get(&(self.id, port)).and_then(|state| state.peer);
        if let Some(peer) = peer.and_then(|key| inner.ports.get_mut(&key)) {
            peer.pending = true;
        }
    }

    fn unmask(&self, _port: Port) {}

    fn close(&self, port: Port) {
        let mut inner = self.machine.lock();
        let Some(state) = inner.ports.remove(&(self.id, port)) else { return };
        if let Some(peer) = state.peer.and_then(|key| inner.ports.get_mut(&key)) {
            peer.peer = None;
            peer.wanted = Some(self.id);
        }
    }

    fn now(&self) -> Nanos {
        Nanos::new(self.machine.lock().now)
    }
}
