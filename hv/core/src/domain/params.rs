//! The words by which a domain and its tools agree on special pages, ports and upcalls (`hvm/params.h`).

use core::sync::atomic::{AtomicU64, Ordering};
use pv_abi::errno::{Errno, Result};

/// How many words there are (`HVM_NR_PARAMS` of `hvm/params.h`, 4.17).
pub const COUNT: usize = 39;

/// A domain's words. Each is an atomic of its own: no lock.
#[derive(Debug)]
pub struct HvmParams {
    words: [AtomicU64; COUNT],
}

impl Default for HvmParams {
    fn default() -> Self {
        Self { words: [const { AtomicU64::new(0) }; COUNT] }
    }
}

impl HvmParams {
    fn word(&self, index: u32) -> Result<&AtomicU64> {
        usize::try_from(index).ok().and_then(|index| self.words.get(index)).ok_or(Errno::EINVAL)
    }

    /// Reads a word.
    pub fn get(&self, index: u32) -> Result<u64> {
        Ok(self.word(index)?.load(Ordering::Relaxed))
    }

    /// Writes a word.
    pub fn set(&self, index: u32, value: u64) -> Result<()> {
        self.word(index)?.store(value, Ordering::Relaxed);
        Ok(())
    }
}
