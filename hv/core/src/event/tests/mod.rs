mod bindings;
mod delivery;
mod model;
mod threads;

use super::table::Peers;
use super::*;
use crate::hw::{HostPhys, Mfn, PhysMemory};
use crate::mem::PageRef;
use crate::testing::VecMemory;
use core::sync::atomic::Ordering::SeqCst;
use pv_abi::event::fifo::{LINK_MASK, LINKED, MASKED, PENDING, QUEUES, WORDS_PER_PAGE};
use pv_abi::ids::{DomainId, Pirq, Port, VcpuId};
use std::collections::BTreeMap;
use std::vec::Vec;

/// A few domains, each with a shared page at frame 16 times its number, and the pages of the FIFO ABI behind that.
pub struct World {
    pub memory: VecMemory,
    pub tables: BTreeMap<DomainId, EventTable>,
}

pub const fn d(id: u16) -> DomainId {
    DomainId::new(id)
}

pub const fn v(id: u32) -> VcpuId {
    VcpuId::new(id)
}

pub const fn p(port: u32) -> Port {
    Port::new(port)
}

impl World {
    pub fn new(domains: u16, vcpus: usize) -> Self {
        let table =
            |id| (d(id), EventTable::new(d(id), Mfn::new(u64::from(id) * 16).base(), vcpus, MAX_PORTS));
        Self {
            memory: VecMemory::new(u64::from(domains + 1) * 16),
            tables: (1..=domains).map(table).collect(),
        }
    }

    pub fn table(&self, id: u16) -> &EventTable {
        &self.tables[&d(id)]
    }

    pub fn frame(id: u16, index: u64) -> Mfn {
        Mfn::new(u64::from(id) * 16 + index)
    }

    /// Gives a domain control blocks for all its virtual CPUs, and one page of words.
    pub fn start_fifo(&self, id: u16, vcpus: u32) {
        let mut inner = self.table(id).inner.lock();
        for vcpu in 0..vcpus {
            let control = Self::frame(id, 1).at(u64::from(vcpu) * 128);
            inner.set_control(&self.memory, v(vcpu), control).unwrap();
        }
        let _ = inner.expand(&self.memory, Self::frame(id, 2)).unwrap();
    }

    /// Closes all ports of a domain and goes back to the 2-level ABI: the interrupts that were bound, and its pages.
    pub fn reset(&self, id: u16) -> (Vec<Pirq>, Vec<PageRef>) {
        let (mut next, mut pirqs) = (0, Vec::new());
        while !self.table(id).close_ports(&self.memory, self, &mut next, |pirq| pirqs.push(pirq)) {}
        (pirqs, self.table(id).reset())
    }

    /// Sends as the hypercall does.
    pub fn send(&self, from: u16, port: Port) -> Wake {
        match self.table(from).send(&self.memory, port).unwrap() {
            Sent::Here(wake) => wake,
            Sent::There { domain, port } => self.tables[&domain].deliver(&self.memory, port, d(from)),
            Sent::Nowhere => Wake::NOBODY,
        }
    }

    pub fn connect(&self, listener: u16, caller: u16) -> (Port, Port) {
        let there = self.table(listener).alloc_unbound(&self.memory, d(caller)).unwrap();
        let (here, _) =
            self.table(caller).bind_interdomain(&self.memory, self.table(listener), there).unwrap();
        (there, here)
    }
}

impl Peers for World {
    fn with_events<R>(&self, domain: DomainId, act: impl FnOnce(&EventTable) -> R) -> Option<R> {
        self.tables.get(&domain).map(act)
    }
}

/// The guest's side of the 2-level ABI, on one virtual CPU.
pub struct TwoLevelGuest<'a> {
    pub memory: &'a VecMemory,
    pub shared: HostPhys,
    pub vcpu: u64,
}

impl TwoLevelGuest<'_> {
    fn at(&self, offset: u64) -> HostPhys {
        HostPhys::new(self.shared.raw() + offset)
    }

    pub fn mask(&self, port: Port, masked: bool) {
        let word = self.memory.u64_at(self.at(0xa00 + u64::from(port.raw() / 64) * 8));
        let bit = 1 << (port.raw() % 64);
        if masked {
            word.fetch_or(bit, SeqCst)
        } else {
            word.fetch_and(!bit, SeqCst)
        };
    }

    /// Takes all events that are not masked.
    pub fn take(&self) -> Vec<Port> {
        let info = self.vcpu * 64;
        let mut taken = Vec::new();
        while self.memory.u8_at(self.at(info)).swap(0, SeqCst) != 0 {
            let mut selector = self.memory.u64_at(self.at(info + 8)).swap(0, SeqCst);
            while selector != 0 {
                let index = u64::from(selector.trailing_zeros());
                selector &= selector - 1;
                let mask = self.memory.u64_at(self.at(0xa00 + index * 8)).load(SeqCst);
                let pending = self.memory.u64_at(self.at(0x800 + index * 8));
                let mut found = pending.load(SeqCst) & !mask;
                pending.fetch_and(!found, SeqCst);
                while found != 0 {
                    taken.push(p(u32::try_from(index * 64).unwrap() + found.trailing_zeros()));
                    found &= found - 1;
                }
            }
        }
        taken
    }
}

/// The guest's side of the FIFO ABI, on one virtual CPU, as the ABI's design describes it.
pub struct FifoGuest<'a> {
    pub memory: &'a VecMemory,
    pub domain: u16,
    pub vcpu: u64,
    pub heads: [u32; QUEUES],
}

impl<'a> FifoGuest<'a> {
    pub fn new(memory: &'a VecMemory, domain: u16, vcpu: u64) -> Self {
        Self { memory, domain, vcpu, heads: [0; QUEUES] }
    }

    fn word(&self, port: u32) -> &'a core::sync::atomic::AtomicU32 {
        let page = World::frame(self.domain, 2 + u64::from(port) / WORDS_PER_PAGE as u64);
        self.memory.u32_at(page.at(u64::from(port) % WORDS_PER_PAGE as u64 * 4))
    }

    fn control(&self, offset: u64) -> &'a core::sync::atomic::AtomicU32 {
        self.memory.u32_at(World::frame(self.domain, 1).at(self.vcpu * 128 + offset))
    }

    pub fn mask(&self, port: Port) {
        self.word(port.raw()).fetch_or(MASKED, SeqCst);
    }

    pub fn upcall(&self) -> bool {
        let shared = World::frame(self.domain, 0);
        self.memory.u8_at(shared.at(self.vcpu * 64)).swap(0, SeqCst) != 0
    }

    /// Takes all events of all queues, the urgent ones first.
    pub fn take(&mut self) -> Vec<Port> {
        let mut taken = Vec::new();
        if !self.upcall() {
            return taken;
        }
        let mut ready = self.control(0).swap(0, SeqCst);
        while ready != 0 {
            let queue = ready.trailing_zeros() as usize;
            let mut head = self.heads[queue];
            if head == 0 {
                head = self.control(8 + queue as u64 * 4).load(SeqCst);
            }
            let word = self.word(head);
            let old = word.fetch_update(SeqCst, SeqCst, |w| Some(w & !(LINKED | LINK_MASK))).unwrap();
            if old & LINK_MASK == 0 {
                ready &= !(1 << queue);
            }
            self.heads[queue] = old & LINK_MASK;
            let before = word.fetch_update(SeqCst, SeqCst, |w| (w & MASKED == 0).then_some(w & !PENDING));
            if before.is_ok_and(|w| w & PENDING != 0) {
                taken.push(p(head));
            }
            ready |= self.control(0).swap(0, SeqCst);
        }
        taken
    }
}
