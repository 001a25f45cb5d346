//! How many pages a domain has and may have.

use super::frame::{Fate, PageRef, Ram};
use crate::hw::{Pages, PhysMemory};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A domain has all the pages that it may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OverQuota;

/// The count of a domain's pages. A page in quarantine still counts: it is not free.
#[derive(Debug)]
pub struct PageAccount {
    total: AtomicU64,
    maximum: Pages,
}

impl PageAccount {
    /// An account without pages.
    pub const fn new(maximum: Pages) -> Self {
        Self { total: AtomicU64::new(0), maximum }
    }

    /// How many pages the domain has.
    pub fn total(&self) -> Pages {
        Pages::new(self.total.load(Relaxed))
    }

    /// How many it may have.
    pub const fn maximum(&self) -> Pages {
        self.maximum
    }

    /// The domain gets `pages` more.
    pub fn charge(&self, pages: Pages) -> Result<(), OverQuota> {
        let maximum = self.maximum.raw();
        let more = |total: u64| total.checked_add(pages.raw()).filter(|total| *total <= maximum);
        self.total.fetch_update(Relaxed, Relaxed, more).map(drop).map_err(|_| OverQuota)
    }

    /// `pages` of the domain's are free now.
    pub fn credit(&self, pages: Pages) {
        // An update that always succeeds.
        let _ = self.total.fetch_update(Relaxed, Relaxed, |total| Some(total.saturating_sub(pages.raw())));
    }

    /// Puts back a reference to one of the domain's pages.
    pub fn put<M: PhysMemory>(&self, ram: Ram<'_, M>, page: PageRef) {
        if let Fate::Freed(_) = ram.put(page) {
            self.credit(Pages::new(1));
        }
    }
}
