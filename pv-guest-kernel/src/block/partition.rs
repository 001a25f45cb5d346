//! Partitions: parts of a disk under names of their own.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;

use pv_drivers::blk::partition::{Scan, Want};

use super::{BlockDevice, Buffer, Disk, Error, Info, Promise, Request, SECTOR};

struct Part {
    name: String,
    disk: Disk,
    first: u64,
    sectors: u64,
}

impl BlockDevice for Part {
    fn info(&self) -> Info {
        let whole = self.disk.info();
        Info {
            name: self.name.clone(),
            kind: format!("part of {}", whole.name),
            sectors: self.sectors,
            ..whole
        }
    }

    fn submit(&self, mut request: Request, promise: Promise) {
        request.sector += self.first;
        self.disk.0.submit(request, promise);
    }

    fn buffer(&self, bytes: usize) -> Result<Buffer, Error> {
        self.disk.buffer(bytes)
    }
}

/// Most steps of a search: a table in circles ends here.
const STEPS: usize = 256;

/// Looks for partitions (MBR or GPT) and lists them; a disk without a table has none.
pub async fn scan(disk: &Disk) {
    let info = disk.info();
    let unit = u64::from(info.block) / SECTOR;
    let mut scan = Scan::new(info.sectors);
    for step in 0..STEPS {
        let Want::Read { sector, count } = scan.want() else { break };
        // Whole blocks around what is wanted.
        let first = sector / unit * unit;
        let end = (sector + u64::from(count)).next_multiple_of(unit);
        if end > info.sectors {
            break;
        }
        let mut bytes = vec![0; ((end - first) * SECTOR) as usize];
        if let Err(e) = disk.read_sectors(first, &mut bytes).await {
            return log::warn!("{}: cannot look for partitions: {e}", info.name);
        }
        let start = ((sector - first) * SECTOR) as usize;
        let wanted = &bytes[start..start + count as usize * SECTOR as usize];
        if step == 0 && is_fat(wanted) {
            return;
        }
        scan.give(wanted);
    }
    for part in scan.partitions() {
        let aligned = part.first.is_multiple_of(unit) && part.sectors.is_multiple_of(unit);
        if aligned {
            let name = format!("{}{}", info.name, part.number);
            let (first, sectors) = (part.first, part.sectors);
            super::register(Arc::new(Part { name, disk: disk.clone(), first, sectors }));
        }
    }
}

/// A FAT volume without a table carries the signature of one too: it begins with a jump and names itself.
fn is_fat(sector: &[u8]) -> bool {
    matches!(sector.first(), Some(0xeb | 0xe9))
        && (sector.get(54..57) == Some(b"FAT") || sector.get(82..85) == Some(b"FAT"))
}
