//! Machine memory for tests.

use crate::hw::{HostPhys, Mfn, PAGE_BYTES, PhysMemory};
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::vec::Vec;
use vm_memory::{AtomicInteger, MmapRegion, VolatileMemory};

/// Memory of a number of frames from a frame on, zeroed, and touched by the host only where it is used.
///
/// Like the machine's, it may be read and written by several threads at a time; an access outside of it panics.
pub struct VecMemory {
    region: MmapRegion,
    first: u64,
    /// What [`PhysMemory::heap_room`] says.
    pub heap_room: AtomicUsize,
}

impl VecMemory {
    /// Memory of `frames` frames from address zero on.
    pub fn new(frames: u64) -> Self {
        Self::at(Mfn::new(0), frames)
    }

    /// Memory of `frames` frames from `first` on.
    pub fn at(first: Mfn, frames: u64) -> Self {
        let bytes = usize::try_from(frames * PAGE_BYTES).unwrap();
        let heap_room = AtomicUsize::new(usize::MAX);
        Self { region: MmapRegion::new(bytes).unwrap(), first: first.base().raw(), heap_room }
    }

    /// The frame after the last.
    pub fn end(&self) -> Mfn {
        HostPhys::new(self.first + self.region.size() as u64).mfn()
    }

    /// Reads `len` bytes.
    pub fn bytes(&self, from: HostPhys, len: usize) -> Vec<u8> {
        let mut bytes = std::vec![0; len];
        self.read(from, &mut bytes);
        bytes
    }

    fn offset(&self, at: HostPhys) -> usize {
        let offset = at.raw().checked_sub(self.first).unwrap_or_else(|| panic!("{at} is below the memory"));
        usize::try_from(offset).unwrap()
    }

    fn atomic<T: AtomicInteger>(&self, at: HostPhys) -> &T {
        self.region.get_atomic_ref(self.offset(at)).unwrap_or_else(|error| panic!("{at}: {error}"))
    }
}

impl PhysMemory for VecMemory {
    fn read(&self, from: HostPhys, into: &mut [u8]) {
        let slice = self.region.get_slice(self.offset(from), into.len());
        slice.unwrap_or_else(|error| panic!("{from}: {error}")).copy_to(into);
    }

    fn write(&self, to: HostPhys, bytes: &[u8]) {
        let slice = self.region.get_slice(self.offset(to), bytes.len());
        slice.unwrap_or_else(|error| panic!("{to}: {error}")).copy_from(bytes);
    }

    fn copy(&self, to: HostPhys, from: HostPhys, bytes: usize) {
        let mut buffer = std::vec![0; bytes];
        self.read(from, &mut buffer);
        self.write(to, &buffer);
    }

    fn read_words<const N: usize>(&self, from: HostPhys) -> [u64; N] {
        core::array::from_fn(|index| {
            self.u64_at(HostPhys::new(from.raw() + 8 * index as u64)).load(Ordering::Relaxed)
        })
    }

    fn zero(&self, frame: Mfn) {
        self.write(frame.base(), &[0; PAGE_BYTES as usize]);
    }

    fn u8_at(&self, at: HostPhys) -> &AtomicU8 {
        self.atomic(at)
    }

    fn u16_at(&self, at: HostPhys) -> &AtomicU16 {
        self.atomic(at)
    }

    fn u32_at(&self, at: HostPhys) -> &AtomicU32 {
        self.atomic(at)
    }

    fn u64_at(&self, at: HostPhys) -> &AtomicU64 {
        self.atomic(at)
    }

    fn heap_room(&self) -> usize {
        self.heap_room.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_of_all_widths_see_the_same_bytes() {
        let memory = VecMemory::at(Mfn::new(16), 2);
        let at = HostPhys::new(0x10008);
        memory.u64_at(at).store(0x1122_3344_5566_7788, Ordering::Relaxed);
        assert_eq!(memory.u32_at(HostPhys::new(0x1000c)).load(Ordering::Relaxed), 0x1122_3344);
        assert_eq!(memory.u16_at(HostPhys::new(0x1000a)).load(Ordering::Relaxed), 0x5566);
        assert_eq!(memory.u8_at(at).load(Ordering::Relaxed), 0x88);
        memory.copy(HostPhys::new(0x11000), HostPhys::new(0x10000), 16);
        assert_eq!(memory.bytes(HostPhys::new(0x11008), 2), [0x88, 0x77]);
        memory.zero(Mfn::new(17));
        assert_eq!(memory.bytes(HostPhys::new(0x11000), 4096), [0; 4096]);
        assert_eq!(memory.end(), Mfn::new(18));
    }

    #[test]
    #[should_panic(expected = "below the memory")]
    fn an_access_outside_panics() {
        VecMemory::at(Mfn::new(16), 2).read(HostPhys::new(0xfff8), &mut [0; 8]);
    }
}
