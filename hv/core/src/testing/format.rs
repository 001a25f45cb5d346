//! Nested-table entries of a plain make.

use crate::hw::{CachePolicy, Entry, EntryFormat, Mfn, PageSize, Rights};

/// A format that no hardware has: bit 0 present, bit 1 leaf, bits 2-4 read, write, execute, bit 5 device; from bit 12
/// on the frame.
pub struct PlainFormat;

impl EntryFormat for PlainFormat {
    const EMPTY: u64 = 0;

    fn table(mfn: Mfn) -> u64 {
        mfn.base().raw() | 1
    }

    fn leaf(_: PageSize, mfn: Mfn, rights: Rights, cache: CachePolicy) -> u64 {
        let device = u64::from(cache == CachePolicy::Device);
        let rights = u64::from(rights.read) | u64::from(rights.write) << 1 | u64::from(rights.execute) << 2;
        mfn.base().raw() | 3 | rights << 2 | device << 5
    }

    fn decode(level: u8, raw: u64) -> Entry {
        let mfn = Mfn::new(raw >> 12);
        match (raw & 1 != 0, raw & 2 != 0) {
            (false, _) => Entry::Empty,
            (true, false) => {
                assert!(level > 1, "a table below the lowest level");
                Entry::Table(mfn)
            }
            (true, true) => {
                assert!(level < 4, "a leaf in the root");
                let rights = Rights { read: raw & 4 != 0, write: raw & 8 != 0, execute: raw & 16 != 0 };
                let cache = if raw & 32 != 0 { CachePolicy::Device } else { CachePolicy::Memory };
                Entry::Leaf { mfn, rights, cache }
            }
        }
    }
}
