//! Partitions: parts of a disk under names of their own (MBR, four primary ones; a protective entry is skipped).

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use super::{BlockDevice, Disk, Info, Promise, Request, SECTOR};

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
}

/// Kinds in the table that are not partitions of our concern: empty, extended, protective GPT.
const NOT_DATA: [u8; 5] = [0, 5, 0xf, 0x85, 0xee];

/// Looks for partitions and lists them; a disk without a table has none.
pub async fn scan(disk: &Disk) {
    let info = disk.info();
    let mut sector = [0u8; 4096];
    let length = (info.block as usize).clamp(512, 4096);
    if info.sectors * SECTOR < length as u64 || disk.read_sectors(0, &mut sector[..length]).await.is_err() {
        return;
    }
    // A FAT volume without a table carries the same signature: its first bytes are a jump.
    if sector[510..512] != [0x55, 0xaa]
        || matches!(sector[0], 0xeb | 0xe9) && &sector[54..57] == b"FAT"
        || &sector[82..85] == b"FAT"
    {
        return;
    }
    for i in 0..4 {
        let entry = &sector[446 + 16 * i..462 + 16 * i];
        let word = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
        let (first, sectors) = (u64::from(word(8)), u64::from(word(12)));
        let valid = matches!(entry[0], 0 | 0x80) && sectors != 0 && first + sectors <= info.sectors;
        if valid && !NOT_DATA.contains(&entry[4]) {
            let name = format!("{}{}", info.name, i + 1);
            super::register(Arc::new(Part { name, disk: disk.clone(), first, sectors }));
        }
    }
}
