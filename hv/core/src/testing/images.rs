//! Files that tests make: archives and kernels.

use std::vec::Vec;

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

/// A cpio archive of the format `newc` with these regular files.
pub fn cpio(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, data) in files.iter().copied().chain([("TRAILER!!!", &[][..])]) {
        let numbers = [1, 0o100_644, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0];
        archive.extend(b"070701");
        numbers.iter().for_each(|number| archive.extend(std::format!("{number:08x}").bytes()));
        archive.extend(name.bytes());
        archive.push(0);
        pad(&mut archive, 4);
        archive.extend(data);
        pad(&mut archive, 4);
    }
    archive
}

/// A loadable segment of a [`elf64`] file.
pub struct Load<'a> {
    /// Its physical address.
    pub at: u64,
    /// Its contents.
    pub data: &'a [u8],
    /// Its size in memory.
    pub bytes: u64,
}

/// A 64-bit ELF executable with these loadable segments and, in a note segment, these notes of the owner `Xen`.
pub fn elf64(loads: &[Load<'_>], notes: &[(u32, &[u8])]) -> Vec<u8> {
    let mut note = Vec::new();
    for (kind, desc) in notes {
        note.extend(4_u32.to_le_bytes());
        note.extend(u32::try_from(desc.len()).unwrap().to_le_bytes());
        note.extend(kind.to_le_bytes());
        note.extend(b"Xen\0");
        note.extend(*desc);
        pad(&mut note, 4);
    }
    let count = loads.len() + 1;
    let mut offset = 64 + 56 * count;
    let mut headers = Vec::new();
    let mut data = Vec::new();
    let segments = loads.iter().map(|load| (1_u32, load.at, load.data, load.bytes));
    for (kind, at, contents, bytes) in segments.chain([(4, 0, &note[..], note.len() as u64)]) {
        headers.extend(kind.to_le_bytes());
        headers.extend(7_u32.to_le_bytes());
        for word in [offset as u64, at, at, contents.len() as u64, bytes, 4] {
            headers.extend(word.to_le_bytes());
        }
        data.extend(contents);
        let before = data.len();
        pad(&mut data, 4);
        offset += contents.len() + data.len() - before;
    }
    let mut file = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [0_u64, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend([0, 0, 0, 0]);
    for half in [64_u16, 56, u16::try_from(count).unwrap(), 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend(headers);
    file.extend(data);
    file
}

/// A small kernel at 16 MiB, which can be moved if `relocatable`.
pub fn small_kernel(relocatable: bool) -> Vec<u8> {
    let entry = 0x100_0040_u64.to_le_bytes();
    let mut notes: Vec<(u32, &[u8])> = std::vec![(18, &entry)];
    if relocatable {
        notes.push((19, &[]));
    }
    elf64(&[Load { at: 0x100_0000, data: &[0x90; 5000], bytes: 0x3000 }], &notes)
}
