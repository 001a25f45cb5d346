//! Pages of a domain that the hypervisor uses for as long as the domain wants it: event arrays, control blocks,
//! registered places of `vcpu_info`.
//!
//! Lock rule: the list is a leaf.

use crate::hw::{Mfn, PhysMemory};
use crate::mem::{PageAccount, PageRef, Ram};
use alloc::vec::Vec;
use spin::Mutex;

/// References that keep pages from being given to somebody else.
#[derive(Debug, Default)]
pub struct Pins {
    pages: Mutex<Vec<PageRef>>,
}

impl Pins {
    /// Keeps a reference until [`remove`](Self::remove) or the domain's end.
    pub fn add(&self, page: PageRef) {
        self.pages.lock().push(page);
    }

    /// Puts one reference to the page back, if there is one.
    pub fn remove<M: PhysMemory>(&self, ram: Ram<'_, M>, account: &PageAccount, page: Mfn) {
        let mut pages = self.pages.lock();
        let index = pages.iter().position(|present| present.mfn() == page);
        if let Some(page) = index.map(|index| pages.swap_remove(index)) {
            drop(pages);
            account.put(ram, page);
        }
    }

    /// Puts all references back.
    pub fn clear<M: PhysMemory>(&self, ram: Ram<'_, M>, account: &PageAccount) {
        let pages = core::mem::take(&mut *self.pages.lock());
        pages.into_iter().for_each(|page| account.put(ram, page));
    }
}
