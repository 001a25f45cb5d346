//! The machine's memory, as the firmware described it, and what of it is free.
//!
//! Pure arithmetic on ranges of fixed number; it runs before there is a heap.

/// Entries that a map can hold; UEFI firmware on large machines reports about a hundred.
pub const MAX_ENTRIES: usize = 256;

/// A range of physical addresses: `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl Range {
    /// The range of `len` bytes from `start`; what would pass the end of the address space is cut off.
    pub const fn sized(start: u64, len: u64) -> Self {
        Self { start, end: start.saturating_add(len) }
    }

    /// Number of bytes.
    pub const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether nothing is in it.
    pub const fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// The whole pages of 4 KiB inside it.
    pub const fn inner_pages(&self) -> Self {
        Self { start: self.start.saturating_add(0xfff) & !0xfff, end: self.end & !0xfff }
    }

    /// The whole pages of 4 KiB that it touches.
    pub const fn outer_pages(&self) -> Self {
        Self { start: self.start & !0xfff, end: self.end.saturating_add(0xfff) & !0xfff }
    }
}

/// What a range of memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Free RAM.
    Usable,
    /// RAM that holds ACPI tables.
    Acpi,
    /// Not for us: devices, firmware, faulty RAM.
    Reserved,
}

/// The list of ranges of one kind each, in the order in which the firmware gave them.
pub struct MemoryMap {
    entries: [(Range, Kind); MAX_ENTRIES],
    len: usize,
}

impl MemoryMap {
    /// An empty map.
    pub const fn new() -> Self {
        Self { entries: [(Range { start: 0, end: 0 }, Kind::Reserved); MAX_ENTRIES], len: 0 }
    }

    /// Adds a range. What finds no room is left out: less memory is found, none too much.
    pub fn push(&mut self, range: Range, kind: Kind) {
        if let Some(slot) = self.entries.get_mut(self.len)
            && !range.is_empty()
        {
            *slot = (range, kind);
            self.len += 1;
        }
    }

    /// All ranges.
    pub fn iter(&self) -> impl Iterator<Item = (Range, Kind)> + '_ {
        self.entries.iter().take(self.len).copied()
    }

    /// Bytes of usable RAM.
    pub fn usable_bytes(&self) -> u64 {
        self.iter().filter(|(_, kind)| *kind == Kind::Usable).map(|(range, _)| range.len()).sum()
    }

    /// Calls `found` for every range of whole usable pages that lies within no range of `taken` and no range
    /// that the map itself describes otherwise (firmware sometimes overlaps its entries).
    pub fn free_ranges(&self, taken: &[Range], mut found: impl FnMut(Range)) {
        for (usable, kind) in self.iter() {
            if kind == Kind::Usable {
                self.subtract(usable.inner_pages(), taken, &mut found);
            }
        }
    }

    fn subtract(&self, range: Range, taken: &[Range], found: &mut impl FnMut(Range)) {
        let mut at = range.start;
        while at < range.end {
            let others = self.iter().filter(|(_, kind)| *kind != Kind::Usable).map(|(other, _)| other);
            let blockers = others
                .chain(taken.iter().copied().filter(|other| !other.is_empty()))
                .map(|r| r.outer_pages());
            // Where the next blocker begins, and where the blocker on this very spot ends.
            let mut next = range.end;
            let mut skip = None;
            for blocker in blockers {
                if blocker.start <= at && at < blocker.end {
                    skip = Some(skip.unwrap_or(0).max(blocker.end));
                } else if blocker.start > at {
                    next = next.min(blocker.start);
                }
            }
            match skip {
                Some(end) => at = end,
                None => {
                    found(Range { start: at, end: next });
                    at = next;
                }
            }
        }
    }
}

impl Default for MemoryMap {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    fn free(map: &MemoryMap, taken: &[Range]) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        map.free_ranges(taken, |range| out.push((range.start, range.end)));
        out
    }

    #[test]
    fn takes_whole_pages_only() {
        let mut map = MemoryMap::new();
        map.push(Range { start: 0x1001, end: 0x3fff }, Kind::Usable);
        assert_eq!(free(&map, &[]), [(0x2000, 0x3000)]);
    }

    #[test]
    fn cuts_out_what_is_taken() {
        let mut map = MemoryMap::new();
        map.push(Range { start: 0, end: 0x10000 }, Kind::Usable);
        let taken = [
            Range { start: 0x2800, end: 0x3001 },
            Range { start: 0x3800, end: 0x5000 },
            Range { start: 0, end: 0x1000 },
        ];
        assert_eq!(free(&map, &taken), [(0x1000, 0x2000), (0x5000, 0x10000)]);
    }

    #[test]
    fn believes_the_stricter_of_two_overlapping_entries() {
        let mut map = MemoryMap::new();
        map.push(Range { start: 0, end: 0x10000 }, Kind::Usable);
        map.push(Range { start: 0x8000, end: 0x20000 }, Kind::Reserved);
        assert_eq!(free(&map, &[]), [(0, 0x8000)]);
    }

    #[test]
    fn keeps_what_it_has_when_the_firmware_reports_too_much() {
        let mut map = MemoryMap::new();
        for n in 0..(MAX_ENTRIES as u64 + 5) {
            map.push(Range::sized(n * 0x10000, 0x1000), Kind::Usable);
        }
        assert_eq!(free(&map, &[]).len(), MAX_ENTRIES);
        assert_eq!(map.usable_bytes(), MAX_ENTRIES as u64 * 0x1000);
    }

    #[test]
    fn a_range_past_the_end_of_the_address_space_is_cut() {
        assert_eq!(Range::sized(u64::MAX - 1, 10).end, u64::MAX);
    }
}
