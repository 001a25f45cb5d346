//! Frames that have left a physmap and wait until no CPU can have a translation to them.

use super::account::PageAccount;
use super::flush::Flush;
use super::frame::Ram;
use crate::hw::{Mfn, Pages, PhysMemory};
use alloc::sync::Arc;
use core::iter;
use pv_abi::ids::DomainId;

/// How many runs of frames can wait in one batch.
pub const BATCH: usize = 32;

const NO_RUN: (Mfn, u64) = (Mfn::new(0), 0);

/// Frames of one domain that have left its physmap. They are reclaimed by [`finish`](Self::finish).
#[must_use = "frames leak unless the departure is finished"]
#[derive(Debug)]
pub struct Departures {
    owner: DomainId,
    account: Arc<PageAccount>,
    /// The first run, most often the only one, and room for the others, made with the second.
    first: (Mfn, u64),
    others: Option<[(Mfn, u64); BATCH - 1]>,
    len: usize,
    flush: Flush,
}

impl Departures {
    pub(super) const fn new(owner: DomainId, account: Arc<PageAccount>) -> Self {
        Self { owner, account, first: NO_RUN, others: None, len: 0, flush: Flush::NONE }
    }

    /// How many more runs fit.
    pub const fn room(&self) -> usize {
        BATCH - self.len
    }

    /// Adds a run; the caller has seen that there is [room](Self::room).
    pub(super) fn add(&mut self, first: Mfn, count: u64, flush: Flush) {
        self.owe(flush);
        let slot = match self.len.checked_sub(1) {
            None => Some(&mut self.first),
            Some(place) => self.others.get_or_insert([NO_RUN; BATCH - 1]).get_mut(place),
        };
        match slot {
            Some(slot) => {
                *slot = (first, count);
                self.len += 1;
            }
            None => log::error!("{count} frames from {first} of {} leaked: the batch is full", self.owner),
        }
    }

    /// Adds an obligation without frames.
    pub(super) fn owe(&mut self, flush: Flush) {
        self.flush = core::mem::replace(&mut self.flush, Flush::NONE).and(flush);
    }

    /// Makes the CPUs forget the translations, with `kick` as in [`Flush::perform`], and then frees the frames or
    /// leaves them in quarantine. No lock of a domain is held.
    pub fn finish<M: PhysMemory>(mut self, ram: Ram<'_, M>, kick: impl FnOnce(u64)) {
        let _flushed = core::mem::replace(&mut self.flush, Flush::NONE).perform(kick);
        let len = core::mem::take(&mut self.len);
        for &(first, count) in iter::once(&self.first).chain(self.others.iter().flatten()).take(len) {
            match ram.reclaim(first, count, self.owner) {
                Ok(freed) => self.account.credit(Pages::new(freed)),
                Err(_) => log::error!("{count} frames from {first} are not all memory of {}", self.owner),
            }
        }
    }
}

impl Drop for Departures {
    fn drop(&mut self) {
        if self.len > 0 || self.flush.is_needed() {
            log::error!("departures of {} were not finished", self.owner);
            #[cfg(test)]
            if std::thread::panicking() {
                return;
            }
            debug_assert!(false, "departures were not finished");
        }
    }
}
