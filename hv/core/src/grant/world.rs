//! Domains with grant tables, for tests.

use super::{GrantLimits, GrantTable, Party, copy_batch, end_mappings, map_batch, unmap_batch};
use crate::hw::{Mfn, Order, PAGE_BYTES, PhysMemory};
use crate::mem::fixture::Fixture;
use crate::mem::{DomainMemory, op};
use crate::testing::PlainFormat;
use alloc::sync::Arc;
use pv_abi::grant::{Copy, CopyPtr, GrantFlags, GrantStatus, MapFlags, MapGrantRef, UnmapGrantRef};
use pv_abi::ids::{DomainId, Gfn, GrantHandle, GrantRef, GuestPhys};
use spin::RwLock;
use std::vec::Vec;

/// Own pages of each domain: places 0 to 15.
pub const PAGES: u64 = 16;
/// Mappings that each domain may have.
pub const MOST_MAPPINGS: u32 = 6;

pub struct TestDomain {
    id: DomainId,
    pub memory: RwLock<DomainMemory<PlainFormat>>,
    pub grants: Arc<GrantTable>,
}

impl Party for TestDomain {
    type Format = PlainFormat;

    fn id(&self) -> DomainId {
        self.id
    }

    fn memory(&self) -> &RwLock<DomainMemory<PlainFormat>> {
        &self.memory
    }

    fn grants(&self) -> &Arc<GrantTable> {
        &self.grants
    }
}

/// A machine with three domains: 1, 2 and 3.
pub struct World {
    pub fixture: Fixture,
    domains: Vec<Option<Arc<TestDomain>>>,
}

impl World {
    pub fn new() -> Self {
        let fixture = Fixture::new(256);
        let domains = (1..=3)
            .map(|id| {
                let mut memory = fixture.domain(id, PAGES);
                memory.populate(fixture.ram(), Gfn::new(0), Order::new(4).unwrap()).unwrap();
                let limits = GrantLimits { frames: 2, mappings: MOST_MAPPINGS };
                let account = memory.account().clone();
                let grants = GrantTable::new(fixture.ram(), DomainId::new(id), account, limits).unwrap();
                let (memory, grants) = (RwLock::new(memory), Arc::new(grants));
                Some(Arc::new(TestDomain { id: DomainId::new(id), memory, grants }))
            })
            .collect();
        Self { fixture, domains }
    }

    pub fn find(&self, id: DomainId) -> Option<Arc<TestDomain>> {
        self.domains.get(usize::from(id.raw()).checked_sub(1)?)?.clone()
    }

    pub fn domain(&self, id: u16) -> Arc<TestDomain> {
        self.find(DomainId::new(id)).unwrap()
    }

    /// Where a domain has a place.
    pub fn mfn(&self, id: u16, gfn: u64) -> Option<Mfn> {
        let domain = self.domain(id);
        let memory = domain.memory.read();
        memory.translate(&self.fixture.memory, Gfn::new(gfn)).map(|mapping| mapping.mfn)
    }

    /// The address of an entry, as the granter sees it in its first grant frame.
    fn entry(&self, id: u16, gref: u32) -> crate::hw::HostPhys {
        self.domain(id)
            .grants
            .with_frame(self.fixture.ram(), 0, |page| Ok(page.mfn().at(u64::from(gref) * 8)))
            .unwrap()
    }

    /// The granter writes an entry.
    pub fn set_entry(&self, id: u16, gref: u32, flags: GrantFlags, to: u16, gfn: u64) {
        let entry = self.entry(id, gref);
        self.fixture.memory.write(entry.checked_add(4).unwrap(), &u32::try_from(gfn).unwrap().to_le_bytes());
        self.fixture.memory.write(entry.checked_add(2).unwrap(), &to.to_le_bytes());
        self.fixture.memory.write(entry, &flags.bits().to_le_bytes());
    }

    /// The granter permits access.
    pub fn grant(&self, id: u16, gref: u32, to: u16, gfn: u64) {
        self.set_entry(id, gref, GrantFlags::PERMIT_ACCESS, to, gfn);
    }

    /// The flags of an entry.
    pub fn flags(&self, id: u16, gref: u32) -> GrantFlags {
        let bytes = self.fixture.memory.bytes(self.entry(id, gref), 2);
        GrantFlags::from_bits_retain(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    pub fn map(&self, mapper: u16, op: MapGrantRef) -> MapGrantRef {
        let mut ops = [op];
        map_batch(self.fixture.ram(), &*self.domain(mapper), |id| self.find(id), &mut ops);
        ops[0]
    }

    /// Maps an entry for the processor.
    pub fn map_at(&self, mapper: u16, (granter, gref): (u16, u32), gfn: u64, write: bool) -> MapGrantRef {
        self.map(mapper, map_op((granter, gref), gfn, write))
    }

    pub fn unmap_all(&self, mapper: u16, ops: &mut [UnmapGrantRef], kick: impl FnMut(u64)) {
        unmap_batch(self.fixture.ram(), &*self.domain(mapper), ops, kick);
    }

    pub fn unmap(&self, mapper: u16, handle: GrantHandle, gfn: u64) -> GrantStatus {
        let mut ops = [unmap_op(handle, gfn)];
        self.unmap_all(mapper, &mut ops, |_| ());
        ops[0].status
    }

    pub fn copy(&self, caller: u16, source: CopyPtr, dest: CopyPtr, len: u16, flags: u16) -> GrantStatus {
        let mut ops = [Copy { source, dest, len, flags, status: GrantStatus::new(77), pad: 0 }];
        self.copy_all(caller, &mut ops);
        ops[0].status
    }

    pub fn copy_all(&self, caller: u16, ops: &mut [Copy]) -> u64 {
        copy_batch(self.fixture.ram(), &*self.domain(caller), |id| self.find(id), ops)
    }

    pub fn decrease(&self, id: u16, gfn: u64) -> bool {
        op::decrease(self.fixture.ram(), &self.domain(id).memory, Order::PAGE, &[Gfn::new(gfn)], |_| ()) == 1
    }

    pub fn populate(&self, id: u16, gfn: u64) -> bool {
        op::populate(self.fixture.ram(), &self.domain(id).memory, Order::PAGE, &[Gfn::new(gfn)]) == 1
    }

    /// Fills a page of a domain's.
    pub fn fill(&self, id: u16, gfn: u64, byte: u8) {
        self.fixture.memory.write(self.mfn(id, gfn).unwrap().base(), &[byte; PAGE_BYTES as usize]);
    }

    /// Some bytes of a page of a domain's.
    pub fn bytes(&self, id: u16, gfn: u64, offset: u64, len: usize) -> Vec<u8> {
        self.fixture.memory.bytes(self.mfn(id, gfn).unwrap().at(offset), len)
    }

    /// Destroys a domain.
    pub fn destroy(&mut self, id: u16) {
        let domain = self.domains[usize::from(id) - 1].take().unwrap();
        let ram = self.fixture.ram();
        domain.grants.close();
        while !end_mappings(ram, &*domain, 1) {}
        let mut next = Gfn::new(0);
        while !domain.memory.write().tear_down(ram, &mut next, 16) {}
        domain.grants.free_frames(ram);
        let Ok(domain) = Arc::try_unwrap(domain) else { panic!("somebody holds the domain") };
        domain.memory.into_inner().free_root(ram);
    }

    /// Destroys the domains that are left; all memory must be free then.
    pub fn end(mut self) {
        for id in 1..=3 {
            if self.domains[id - 1].is_some() {
                self.destroy(u16::try_from(id).unwrap());
            }
        }
        self.fixture.check();
        assert_eq!(self.fixture.free(), self.fixture.frames.total().raw(), "{:?}", self.fixture.census());
    }
}

pub fn map_op((granter, gref): (u16, u32), gfn: u64, write: bool) -> MapGrantRef {
    let flags = if write { MapFlags::HOST_MAP } else { MapFlags::HOST_MAP | MapFlags::READONLY };
    MapGrantRef {
        host_addr: GuestPhys::new(gfn << 12),
        flags: flags.bits(),
        gref: GrantRef::new(gref),
        dom: DomainId::new(granter),
        status: GrantStatus::new(77),
        ..MapGrantRef::default()
    }
}

pub fn unmap_op(handle: GrantHandle, gfn: u64) -> UnmapGrantRef {
    let status = GrantStatus::new(77);
    UnmapGrantRef { host_addr: GuestPhys::new(gfn << 12), handle, status, ..UnmapGrantRef::default() }
}
