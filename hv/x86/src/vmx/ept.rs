//! The format of extended page-table entries (Intel SDM volume 3, section 29.3.2).

use hv_core::hw::{CachePolicy, Entry, EntryFormat, Mfn, PageSize, Rights};

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const EXECUTE: u64 = 1 << 2;
const ANY: u64 = READ | WRITE | EXECUTE;
/// Memory types of a leaf (bits 5:3), as the PAT encodes them (section 29.3.7).
const TYPE_SHIFT: u32 = 3;
const TYPE_UNCACHED: u64 = 0;
const TYPE_WRITE_BACK: u64 = 6;
const TYPE_MASK: u64 = 7 << TYPE_SHIFT;
/// The guest's PAT does not take part: devices stay uncached, whatever the guest says.
const IGNORE_PAT: u64 = 1 << 6;
/// The entry maps memory at level 2 or 3.
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Extended page tables.
#[derive(Debug)]
pub struct Ept;

fn rights_bits(rights: Rights) -> u64 {
    // A writable page that is not readable is a misconfiguration (section 29.3.3.1), so is execute-only where the CPU
    // lacks it: every mapping can be read.
    let mut bits = 0;
    if rights.read || rights.write || rights.execute {
        bits |= READ;
    }
    if rights.write {
        bits |= WRITE;
    }
    if rights.execute {
        bits |= EXECUTE;
    }
    bits
}

impl EntryFormat for Ept {
    const EMPTY: u64 = 0;

    fn table(mfn: Mfn) -> u64 {
        (mfn.base().raw() & ADDRESS) | ANY
    }

    fn leaf(size: PageSize, mfn: Mfn, rights: Rights, cache: CachePolicy) -> u64 {
        let kind = match cache {
            CachePolicy::Memory => TYPE_WRITE_BACK << TYPE_SHIFT,
            CachePolicy::Device => TYPE_UNCACHED << TYPE_SHIFT | IGNORE_PAT,
        };
        let large = if matches!(size, PageSize::K4) { 0 } else { LARGE };
        (mfn.base().raw() & ADDRESS) | rights_bits(rights) | kind | large
    }

    fn decode(level: u8, raw: u64) -> Entry {
        if raw & ANY == 0 {
            return Entry::Empty;
        }
        let mfn = Mfn::new((raw & ADDRESS) >> 12);
        if level > 1 && raw & LARGE == 0 {
            return Entry::Table(mfn);
        }
        let rights = Rights { read: raw & READ != 0, write: raw & WRITE != 0, execute: raw & EXECUTE != 0 };
        let cache = if raw & TYPE_MASK == TYPE_WRITE_BACK << TYPE_SHIFT {
            CachePolicy::Memory
        } else {
            CachePolicy::Device
        };
        Entry::Leaf { mfn, rights, cache }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_are_what_the_manual_draws() {
        // Table 29-7: a 4 KiB page, write-back, all rights.
        assert_eq!(Ept::leaf(PageSize::K4, Mfn::new(0x123), Rights::ALL, CachePolicy::Memory), 0x123_037);
        // Table 29-5: a 2 MiB page, uncached, PAT ignored, read and write.
        assert_eq!(
            Ept::leaf(PageSize::M2, Mfn::new(0x200), Rights::READ_WRITE, CachePolicy::Device),
            0x200_0c3
        );
        // Table 29-3: a 1 GiB page, read only.
        assert_eq!(
            Ept::leaf(PageSize::G1, Mfn::new(0x40000), Rights::READ, CachePolicy::Memory),
            0x4000_00b1
        );
        assert_eq!(Ept::table(Mfn::new(0x77)), 0x77_007);
    }

    #[test]
    fn entries_decode_to_what_they_were_made_from() {
        for size in [PageSize::K4, PageSize::M2, PageSize::G1] {
            for rights in [Rights::ALL, Rights::READ, Rights::READ_WRITE] {
                for cache in [CachePolicy::Memory, CachePolicy::Device] {
                    let mfn = Mfn::new(0x4_0000);
                    let raw = Ept::leaf(size, mfn, rights, cache);
                    assert_eq!(Ept::decode(size.level(), raw), Entry::Leaf { mfn, rights, cache });
                }
            }
        }
        assert_eq!(Ept::decode(4, Ept::table(Mfn::new(9))), Entry::Table(Mfn::new(9)));
        assert_eq!(Ept::decode(1, Ept::EMPTY), Entry::Empty);
    }

    #[test]
    fn no_right_is_no_entry_and_a_writable_page_is_readable() {
        let none = Rights { read: false, write: false, execute: false };
        assert_eq!(
            Ept::decode(1, Ept::leaf(PageSize::K4, Mfn::new(1), none, CachePolicy::Memory)),
            Entry::Empty
        );
        let write_only = Rights { read: false, write: true, execute: false };
        assert_eq!(Ept::leaf(PageSize::K4, Mfn::new(0), write_only, CachePolicy::Memory) & 3, 3);
    }
}
