//! What memory there is: the loader's map in `hvm_start_info`, or XENMEM_memory_map when that has none.

use pv_abi::GuestVirt;
use pv_abi::memory::{E820Entry, MemoryMap as MapCall};
use pv_abi::start_info::{HvmMemmapEntry, HvmStartInfo};

use super::ptr;
use crate::xen::{self, stub};

/// Kind of a range that is usable memory.
pub const RAM: u32 = pv_abi::start_info::memmap_type::RAM;
/// As many ranges as the kernel looks at.
const MOST: usize = 64;

/// One range of guest-physical addresses.
#[derive(Debug, Clone, Copy, Default)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Address behind the last one.
    pub end: u64,
    /// Kind (`pv_abi::start_info::memmap_type`).
    pub kind: u32,
}

/// The memory map, a copy.
#[derive(Debug, Clone, Copy)]
pub struct MemoryMap {
    ranges: [Range; MOST],
    count: usize,
}

static MAP: spin::Once<MemoryMap> = spin::Once::new();

impl MemoryMap {
    fn push(&mut self, start: u64, length: u64, kind: u32) {
        if self.count < MOST && length != 0 {
            self.ranges[self.count] = Range { start, end: start.saturating_add(length), kind };
            self.count += 1;
        }
    }

    /// Reads the map.
    pub fn read(info: &HvmStartInfo) -> MemoryMap {
        let mut map = MemoryMap { ranges: [Range::default(); MOST], count: 0 };
        if info.version >= 1 && info.memmap_paddr != 0 && info.memmap_entries != 0 {
            for i in 0..u64::from(info.memmap_entries) {
                // SAFETY: the loader promises an array of this length below 4 GiB, which the boot tables map.
                let e: HvmMemmapEntry =
                    unsafe { ptr::<HvmMemmapEntry>(info.memmap_paddr).add(i as usize).read() };
                map.push(e.addr, e.size, e.kind);
            }
        } else {
            let buffer = [E820Entry::default(); MOST];
            let mut arg = MapCall { nr_entries: MOST as u32, pad: 0, buffer: GuestVirt::of(&buffer) };
            match stub::memory_map(xen::hv(), &mut arg) {
                Ok(_) => {
                    // SAFETY: the hypervisor filled the buffer through its address; read it as changed from outside.
                    let filled = unsafe { core::ptr::read_volatile(&raw const buffer) };
                    for e in filled.iter().take(arg.nr_entries as usize) {
                        map.push(e.addr, e.size, e.kind);
                    }
                }
                Err(e) => panic!("no memory map: neither from the loader nor from the hypervisor ({e})"),
            }
        }
        map.ranges[..map.count].sort_unstable_by_key(|r| r.start);
        MAP.call_once(|| map);
        map
    }

    /// The ranges in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = &Range> {
        self.ranges[..self.count].iter()
    }
}

/// The map read at boot.
pub fn get() -> &'static MemoryMap {
    MAP.get().expect("the memory map is read first")
}
