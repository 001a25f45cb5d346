//! Entries of AMD's nested page tables: they have the format of ordinary long-mode page tables (AMD64 manual
//! volume 2, section 15.25.5).

use hv_core::hw::{CachePolicy, Entry, EntryFormat, Mfn, PageSize, Rights};

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
/// Every access of a guest counts as one of user mode.
const USER: u64 = 1 << 2;
const WRITE_THROUGH: u64 = 1 << 3;
const NO_CACHE: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The format of nested paging.
#[derive(Clone, Copy, Debug)]
pub struct Npt;

impl EntryFormat for Npt {
    const EMPTY: u64 = 0;

    fn table(mfn: Mfn) -> u64 {
        mfn.base().raw() | PRESENT | WRITE | USER | ACCESSED
    }

    fn leaf(size: PageSize, mfn: Mfn, rights: Rights, cache: CachePolicy) -> u64 {
        let mut entry = mfn.base().raw() | USER | ACCESSED | DIRTY;
        // There is no bit for "read": what is present can be read.
        if rights.read || rights.write || rights.execute {
            entry |= PRESENT;
        }
        if rights.write {
            entry |= WRITE;
        }
        if !rights.execute {
            entry |= NO_EXECUTE;
        }
        if size != PageSize::K4 {
            entry |= LARGE;
        }
        match cache {
            CachePolicy::Memory => entry,
            CachePolicy::Device => entry | NO_CACHE | WRITE_THROUGH,
        }
    }

    fn decode(level: u8, raw: u64) -> Entry {
        if raw & PRESENT == 0 {
            return Entry::Empty;
        }
        let leaf = level == 1 || (level < 4 && raw & LARGE != 0);
        // Bit 12 of a large entry is an attribute, not part of the address; the address is aligned to the
        // size.
        let address = raw & ADDRESS & !((1 << (12 + 9 * (u32::from(level.clamp(1, 4)) - 1))) - 1);
        if leaf {
            Entry::Leaf {
                mfn: Mfn::new(address >> 12),
                rights: Rights { read: true, write: raw & WRITE != 0, execute: raw & NO_EXECUTE == 0 },
                cache: if raw & NO_CACHE != 0 { CachePolicy::Device } else { CachePolicy::Memory },
            }
        } else {
            Entry::Table(Mfn::new((raw & ADDRESS) >> 12))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_of_the_manual() {
        assert_eq!(Npt::table(Mfn::new(0x1234)), 0x123_4027);
        assert_eq!(Npt::leaf(PageSize::K4, Mfn::new(5), Rights::ALL, CachePolicy::Memory), 0x5067);
        assert_eq!(
            Npt::leaf(PageSize::M2, Mfn::new(0x200), Rights::READ, CachePolicy::Memory),
            0x8000_0000_0020_00e5
        );
        assert_eq!(
            Npt::leaf(PageSize::K4, Mfn::new(0xfee00), Rights::READ_WRITE, CachePolicy::Device),
            0x8000_0000_fee0_007f
        );
    }

    #[test]
    fn what_is_written_is_read() {
        for (size, mfn) in [(PageSize::K4, 0xabcde), (PageSize::M2, 0xabc00), (PageSize::G1, 0x80000)] {
            for rights in [Rights::ALL, Rights::READ, Rights::READ_WRITE] {
                for cache in [CachePolicy::Memory, CachePolicy::Device] {
                    let mfn = Mfn::new(mfn);
                    let raw = Npt::leaf(size, mfn, rights, cache);
                    assert_eq!(Npt::decode(size.level(), raw), Entry::Leaf { mfn, rights, cache });
                }
            }
        }
        for level in 2..=4 {
            assert_eq!(Npt::decode(level, Npt::table(Mfn::new(7))), Entry::Table(Mfn::new(7)));
        }
        assert_eq!(Npt::decode(4, Npt::EMPTY), Entry::Empty);
        let none = Rights { read: false, write: false, execute: false };
        assert_eq!(
            Npt::decode(1, Npt::leaf(PageSize::K4, Mfn::new(1), none, CachePolicy::Memory)),
            Entry::Empty
        );
    }
}
