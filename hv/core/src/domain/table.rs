//! All domains by their numbers.
//!
//! Lock rule: each slot has its own reader-writer lock, held only while an `Arc` is cloned or replaced, so that a
//! look-up on a hypercall's path never waits for another domain's creation. Nothing else is locked under a slot.

use super::Domain;
use crate::hw::Platform;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use pv_abi::ids::DomainId;
use spin::{Mutex, RwLock};

/// How many domains there can be at a time.
pub const SLOTS: u16 = 256;

/// The first number that names no ordinary domain (`DOMID_FIRST_RESERVED` of `xen.h`).
const FIRST_RESERVED: u16 = 0x7ff0;

/// The domains. A number is not used again before all others were.
pub struct DomainTable<P: Platform> {
    slots: Vec<RwLock<Option<Arc<Domain<P>>>>>,
    next: AtomicU16,
    buried: Mutex<Vec<Arc<Domain<P>>>>,
    has_buried: AtomicBool,
}

impl<P: Platform> Default for DomainTable<P> {
    fn default() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| RwLock::new(None)).collect(),
            next: AtomicU16::new(0),
            buried: Mutex::default(),
            has_buried: AtomicBool::new(false),
        }
    }
}

impl<P: Platform> DomainTable<P> {
    fn slot(&self, id: DomainId) -> Option<&RwLock<Option<Arc<Domain<P>>>>> {
        self.slots.get(usize::from(id.raw() % SLOTS))
    }

    /// The domain with this number, whatever its phase.
    pub fn get(&self, id: DomainId) -> Option<Arc<Domain<P>>> {
        let slot = self.slot(id)?.read();
        slot.as_ref().filter(|domain| domain.id == id).cloned()
    }

    /// Makes a domain under the next free number with `make`, which may refuse.
    pub fn insert<E>(
        &self,
        make: impl FnOnce(DomainId) -> Result<Domain<P>, E>,
        full: E,
    ) -> Result<Arc<Domain<P>>, E> {
        for _ in 0..SLOTS {
            let id = self.next_id();
            let Some(slot) = self.slot(id) else { continue };
            let mut slot = slot.write();
            if slot.is_none() {
                let domain = Arc::new(make(id)?);
                *slot = Some(domain.clone());
                return Ok(domain);
            }
        }
        Err(full)
    }

    fn next_id(&self) -> DomainId {
        let step = |id: u16| Some(if id + 1 < FIRST_RESERVED { id + 1 } else { 1 });
        let id = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
        DomainId::new(id.unwrap_or_default())
    }

    /// Takes a dead domain out of the table; it waits until nobody uses it any more.
    pub fn bury(&self, domain: &Arc<Domain<P>>) {
        if let Some(slot) = self.slot(domain.id) {
            let mut slot = slot.write();
            if slot.as_ref().is_some_and(|present| Arc::ptr_eq(present, domain))
                && let Some(domain) = slot.take()
            {
                let mut buried = self.buried.lock();
                buried.push(domain);
                self.has_buried.store(true, Ordering::Release);
            }
        }
    }

    /// A buried domain that nobody uses any more.
    pub fn exhume(&self) -> Option<Domain<P>> {
        if !self.has_buried.load(Ordering::Acquire) {
            return None;
        }
        let mut buried = self.buried.lock();
        let index = buried.iter().position(|domain| Arc::strong_count(domain) == 1)?;
        let domain = Arc::into_inner(buried.swap_remove(index));
        self.has_buried.store(!buried.is_empty(), Ordering::Release);
        domain
    }

    /// All domains at one moment per slot, in the order of their numbers.
    pub fn all(&self) -> Vec<Arc<Domain<P>>> {
        let mut all: Vec<_> = self.slots.iter().filter_map(|slot| slot.read().clone()).collect();
        all.sort_unstable_by_key(|domain| domain.id);
        all
    }

    /// The domain with the smallest number that is `from` or more.
    pub fn first_from(&self, from: DomainId) -> Option<Arc<Domain<P>>> {
        self.all().into_iter().find(|domain| domain.id >= from)
    }
}
