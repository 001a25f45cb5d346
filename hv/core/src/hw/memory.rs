//! The machine's memory as policy may touch it.

use super::addr::{HostPhys, Mfn};
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

/// Access to the machine's physical memory.
///
/// Guests run while the hypervisor reads and writes their pages, so there are copies and atomic words, and no plain
/// references. Every method panics on an address outside of the memory that was handed to the frame table: that is a
/// bug of the hypervisor, since guest-physical addresses never come here untranslated.
pub trait PhysMemory: Send + Sync + 'static {
    /// Copies memory at `from` into `into`. The range must not cross into memory that is not contiguous.
    fn read(&self, from: HostPhys, into: &mut [u8]);
    /// Copies `bytes` to memory at `to`.
    fn write(&self, to: HostPhys, bytes: &[u8]);
    /// Copies `bytes` bytes of memory from `from` to `to`; the ranges do not overlap, unless they are the same.
    fn copy(&self, to: HostPhys, from: HostPhys, bytes: usize);
    /// The 64-bit words from `from` on, which must be aligned; each is read once and whole.
    fn read_words<const N: usize>(&self, from: HostPhys) -> [u64; N];
    /// Fills a whole frame with zeroes.
    fn zero(&self, frame: Mfn);
    /// The byte at `at`.
    fn u8_at(&self, at: HostPhys) -> &AtomicU8;
    /// The 16-bit word at `at`, which must be aligned.
    fn u16_at(&self, at: HostPhys) -> &AtomicU16;
    /// The 32-bit word at `at`, which must be aligned.
    fn u32_at(&self, at: HostPhys) -> &AtomicU32;
    /// The 64-bit word at `at`, which must be aligned.
    fn u64_at(&self, at: HostPhys) -> &AtomicU64;
    /// How many bytes of the hypervisor's own heap may still be filled on behalf of guests: what is free beyond the
    /// part that is kept for the hypervisor itself, so that none of its own small allocations ever fails.
    fn heap_room(&self) -> usize;
}
