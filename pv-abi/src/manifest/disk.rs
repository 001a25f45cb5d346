//! The value of `disk`: `SOURCE[:START+LENGTH][,ro]` with SOURCE `machine` (every disk of the machine), `machine0` or `memory:16M`;
//! a disk of memory may also be `,emulated`.

use super::parse_size;

/// Where a disk's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskSource {
    /// Every disk of the machine, in the order in which the driver domain finds them.
    Machine,
    /// The disk of the machine with this number, in the same order.
    MachineDisk(u32),
    /// Memory of the driver domain, this many bytes, zero at first.
    Memory(u64),
}

/// A disk of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Where its bytes are.
    pub source: DiskSource,
    /// The part that it shows: first byte and length; `None` for all of it.
    pub range: Option<(u64, u64)>,
    /// Whether the guest can only read it.
    pub read_only: bool,
    /// Whether the guest has it as an emulated ATA disk, to measure paravirtual ones against.
    pub emulated: bool,
}

/// Bytes in a sector, of which ranges and sizes are multiples.
const SECTOR: u64 = 512;

impl Disk {
    /// Reads a value.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(',').map(str::trim);
        let (source, range) = source(words.next()?)?;
        let mut disk = Self { source, range, read_only: false, emulated: false };
        for word in words {
            match word {
                "ro" if !disk.read_only => disk.read_only = true,
                "emulated" if !disk.emulated && matches!(source, DiskSource::Memory(_)) => {
                    disk.emulated = true
                }
                _ => return None,
            }
        }
        Some(disk)
    }
}

fn source(text: &str) -> Option<(DiskSource, Option<(u64, u64)>)> {
    let (name, place) = match text.split_once(':') {
        Some((name, place)) => (name, Some(place)),
        None => (text, None),
    };
    if name == "memory" {
        let size = parse_size(place?).filter(|size| *size > 0 && size % SECTOR == 0)?;
        return Some((DiskSource::Memory(size), None));
    }
    let range = match place {
        Some(place) => Some(range(place)?),
        None => None,
    };
    match name.strip_prefix("machine")? {
        "" if range.is_none() => Some((DiskSource::Machine, None)),
        number if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => {
            Some((DiskSource::MachineDisk(number.parse().ok()?), range))
        }
        _ => None,
    }
}

fn range(text: &str) -> Option<(u64, u64)> {
    let (start, length) = text.split_once('+')?;
    let (start, length) = (parse_size(start)?, parse_size(length)?);
    let right = length > 0
        && start.is_multiple_of(SECTOR)
        && length.is_multiple_of(SECTOR)
        && start.checked_add(length).is_some();
    right.then_some((start, length))
}
