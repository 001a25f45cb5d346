//! Partition tables: MBR (with logical partitions) and GPT.
//!
//! [`Scan`] is asked which sectors it wants, is given them, and at the end names the partitions; it waits for nothing,
//! so that it works over any way of reading. A table may be made by anybody: every number in it is checked against
//! the size of the disk, and loops end.

use alloc::string::String;
use alloc::vec::Vec;

use super::device::SECTOR_SIZE;

/// One partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Partition {
    /// Its number, from 1; logical partitions count from 5.
    pub number: u32,
    /// The first sector.
    pub first: u64,
    /// How many sectors.
    pub sectors: u64,
    /// The name in a GPT, empty in an MBR.
    pub name: String,
}

/// What a scan wants next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// The contents of these sectors.
    Read {
        /// The first.
        sector: u64,
        /// How many.
        count: u32,
    },
    /// Nothing: [`Scan::partitions`] has the result.
    Nothing,
}

/// The type of an MBR entry that covers a GPT.
const TYPE_PROTECTIVE: u8 = 0xee;
/// GPT entries that are looked at.
const GPT_ENTRIES_MAX: u32 = 128;
/// Logical partitions that are looked at.
const LOGICAL_MAX: u32 = 60;

#[derive(Clone, Copy)]
enum Step {
    Mbr,
    GptHeader,
    GptEntries { count: u32, size: u32, checksum: u32 },
    Logical { extended: u64, number: u32 },
    Done,
}

/// A search for partitions.
pub struct Scan {
    disk_sectors: u64,
    step: Step,
    want: Want,
    found: Vec<Partition>,
}

fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// CRC-32 as the GPT uses it (UEFI specification, section 5.3.2).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

impl Scan {
    /// Starts a search on a disk of this size.
    #[must_use]
    pub fn new(disk_sectors: u64) -> Self {
        Self { disk_sectors, step: Step::Mbr, want: Want::Read { sector: 0, count: 1 }, found: Vec::new() }
    }

    /// What to read next.
    #[must_use]
    pub fn want(&self) -> Want {
        self.want
    }

    /// The partitions found so far; all of them when nothing is wanted.
    #[must_use]
    pub fn partitions(&self) -> &[Partition] {
        &self.found
    }

    /// Takes what was read. A table that makes no sense ends the search with what was found until there.
    pub fn give(&mut self, bytes: &[u8]) {
        let next = match self.step {
            Step::Mbr => self.on_mbr(bytes),
            Step::GptHeader => self.on_gpt_header(bytes),
            Step::GptEntries { count, size, checksum } => self.on_gpt_entries(bytes, count, size, checksum),
            Step::Logical { extended, number } => self.on_logical(bytes, extended, number),
            Step::Done => None,
        };
        (self.step, self.want) = next.unwrap_or((Step::Done, Want::Nothing));
    }

    fn add(&mut self, number: u32, first: u64, sectors: u64, name: String) {
        let is_inside = first.checked_add(sectors).is_some_and(|end| end <= self.disk_sectors);
        if sectors > 0 && first > 0 && is_inside {
            self.found.push(Partition { number, first, sectors, name });
        }
    }

    fn on_mbr(&mut self, bytes: &[u8]) -> Option<(Step, Want)> {
        if le16(bytes, 510)? != 0xaa55 {
            return None;
        }
        let mut extended = None;
        for number in 1..=4u32 {
            let (kind, first, sectors) = mbr_entry(bytes, number)?;
            match kind {
                0 => {}
                TYPE_PROTECTIVE => {
                    self.found.clear();
                    return Some((Step::GptHeader, Want::Read { sector: 1, count: 1 }));
                }
                0x05 | 0x0f | 0x85 => extended = extended.or(Some(u64::from(first))),
                _ => self.add(number, first.into(), sectors.into(), String::new()),
            }
        }
        let extended = extended.filter(|&sector| sector > 0 && sector < self.disk_sectors)?;
        Some((Step::Logical { extended, number: 5 }, Want::Read { sector: extended, count: 1 }))
    }

    fn on_logical(&mut self, bytes: &[u8], extended: u64, number: u32) -> Option<(Step, Want)> {
        let Want::Read { sector: here, .. } = self.want else { return None };
        if le16(bytes, 510)? != 0xaa55 || number >= 5 + LOGICAL_MAX {
            return None;
        }
        let (kind, first, sectors) = mbr_entry(bytes, 1)?;
        if kind != 0 {
            self.add(number, here.checked_add(first.into())?, sectors.into(), String::new());
        }
        let (kind, next, _) = mbr_entry(bytes, 2)?;
        let next = extended.checked_add(next.into())?;
        // A chain only leads forward.
        if !matches!(kind, 0x05 | 0x0f | 0x85) || next <= here || next >= self.disk_sectors {
            return None;
        }
        Some((Step::Logical { extended, number: number + 1 }, Want::Read { sector: next, count: 1 }))
    }

    fn on_gpt_header(&mut self, bytes: &[u8]) -> Option<(Step, Want)> {
        if bytes.get(..8)? != b"EFI PART" {
            return None;
        }
        let header_size = usize::try_from(le32(bytes, 12)?).ok()?;
        let mut header = bytes.get(..header_size.clamp(92, SECTOR_SIZE))?.to_vec();
        let checksum = le32(bytes, 16)?;
        header.get_mut(16..20)?.fill(0);
        if crc32(&header) != checksum {
            log::warn!("the GPT's header has a wrong checksum");
            return None;
        }
        let (sector, count, size) = (le64(bytes, 72)?, le32(bytes, 80)?, le32(bytes, 84)?);
        if !(128..=4096).contains(&size) || !size.is_power_of_two() || count > GPT_ENTRIES_MAX {
            return None;
        }
        let sectors = (count * size).div_ceil(u32::try_from(SECTOR_SIZE).ok()?);
        if sectors == 0 || sector.checked_add(sectors.into()).is_none_or(|end| end > self.disk_sectors) {
            return None;
        }
        let step = Step::GptEntries { count, size, checksum: le32(bytes, 88)? };
        Some((step, Want::Read { sector, count: sectors }))
    }

    fn on_gpt_entries(&mut self, bytes: &[u8], count: u32, size: u32, checksum: u32) -> Option<(Step, Want)> {
        let (count_bytes, size) = (usize::try_from(count * size).ok()?, usize::try_from(size).ok()?);
        let table = bytes.get(..count_bytes)?;
        if crc32(table) != checksum {
            log::warn!("the GPT's entries have a wrong checksum");
            return None;
        }
        for (number, entry) in (1..).zip(table.chunks_exact(size)) {
            if entry.get(..16)?.iter().all(|&byte| byte == 0) {
                continue;
            }
            let (first, last) = (le64(entry, 32)?, le64(entry, 40)?);
            let units = entry.get(56..128)?.chunks_exact(2).filter_map(|unit| le16(unit, 0));
            let name = char::decode_utf16(units.take_while(|&unit| unit != 0))
                .map(|decoded| decoded.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect();
            if let Some(sectors) = last.checked_sub(first).and_then(|length| length.checked_add(1)) {
                self.add(number, first, sectors, name);
            }
        }
        None
    }
}

/// Type, first sector and size of an MBR entry.
fn mbr_entry(bytes: &[u8], number: u32) -> Option<(u8, u32, u32)> {
    let at = 446 + 16 * (usize::try_from(number).ok()? - 1);
    Some((*bytes.get(at + 4)?, le32(bytes, at + 8)?, le32(bytes, at + 12)?))
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    fn scan(disk: &[u8]) -> Vec<Partition> {
        let mut scan = Scan::new((disk.len() / 512) as u64);
        for _ in 0..200 {
            match scan.want() {
                Want::Nothing => return scan.partitions().to_vec(),
                Want::Read { sector, count } => {
                    let start = sector as usize * 512;
                    scan.give(&disk[start..start + count as usize * 512]);
                }
            }
        }
        panic!("the scan does not end");
    }

    fn entry(disk: &mut [u8], sector: usize, number: usize, kind: u8, first: u32, sectors: u32) {
        let at = sector * 512 + 446 + 16 * (number - 1);
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        disk[sector * 512 + 510] = 0x55;
        disk[sector * 512 + 511] = 0xaa;
    }

    #[test]
    fn primary_and_logical_partitions_are_found() {
        let mut disk = vec![0; 512 * 1000];
        entry(&mut disk, 0, 1, 0x83, 10, 100);
        entry(&mut disk, 0, 2, 0x05, 200, 500);
        entry(&mut disk, 0, 4, 0x83, 990, 11);
        entry(&mut disk, 200, 1, 0x83, 10, 20);
        entry(&mut disk, 200, 2, 0x05, 50, 50);
        entry(&mut disk, 250, 1, 0x83, 5, 7);
        let found: Vec<_> = scan(&disk).iter().map(|p| (p.number, p.first, p.sectors)).collect();
        // The fourth reaches beyond the end.
        assert_eq!(found, [(1, 10, 100), (5, 210, 20), (6, 255, 7)]);
    }

    #[test]
    fn a_chain_that_turns_back_ends() {
        let mut disk = vec![0; 512 * 1000];
        entry(&mut disk, 0, 1, 0x05, 200, 500);
        entry(&mut disk, 200, 1, 0x83, 10, 20);
        entry(&mut disk, 200, 2, 0x05, 0, 50);
        assert_eq!(scan(&disk).len(), 1);
        assert_eq!(scan(&vec![0; 1024]), []);
        assert_eq!(scan(&vec![0xff; 4096]), []);
    }

    fn gpt() -> Vec<u8> {
        let mut disk = vec![0; 512 * 1000];
        entry(&mut disk, 0, 1, TYPE_PROTECTIVE, 1, 999);
        let at = 2 * 512 + 128;
        disk[at..at + 16].fill(0x11);
        disk[at + 32..at + 40].copy_from_slice(&100u64.to_le_bytes());
        disk[at + 40..at + 48].copy_from_slice(&199u64.to_le_bytes());
        disk[at + 56] = b'R';
        disk[at + 58] = b'o';
        let entries = crc32(&disk[1024..1024 + 128 * 128]);
        let header = &mut disk[512..1024];
        header[..8].copy_from_slice(b"EFI PART");
        header[12..16].copy_from_slice(&92u32.to_le_bytes());
        header[72..80].copy_from_slice(&2u64.to_le_bytes());
        header[80..84].copy_from_slice(&128u32.to_le_bytes());
        header[84..88].copy_from_slice(&128u32.to_le_bytes());
        header[88..92].copy_from_slice(&entries.to_le_bytes());
        let checksum = crc32(&header[..92]);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        disk
    }

    #[test]
    fn a_gpt_is_read_and_its_checksums_count() {
        let disk = gpt();
        let wanted = Partition { number: 2, first: 100, sectors: 100, name: "Ro".into() };
        assert_eq!(scan(&disk), [wanted]);
        for flipped in [512 + 40, 1024 + 200] {
            let mut bad = disk.clone();
            bad[flipped] ^= 1;
            assert_eq!(scan(&bad), [], "byte {flipped}");
        }
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
