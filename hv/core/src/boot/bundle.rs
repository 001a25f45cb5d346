//! The boot bundle: a cpio archive of the format `newc` whose first file is the manifest.
//!
//! The format is that of GNU cpio 2.13, `cpio(5)`: each file has a header of 110 bytes, thirteen numbers of eight
//! hexadecimal digits after the magic `070701`, then its name, ended by a zero byte, and its data, both padded to a
//! multiple of 4 bytes. A file named `TRAILER!!!` ends the archive.

use alloc::vec::Vec;
use core::fmt;

/// The name of the first file.
pub const MANIFEST: &str = "manifest";

const HEADER_BYTES: usize = 110;
const MAGIC: &[u8] = b"070701";
const TRAILER: &str = "TRAILER!!!";
/// The bit of the mode that says "regular file" among those of the file's kind.
const KIND_MASK: u32 = 0o170_000;
const KIND_REGULAR: u32 = 0o100_000;

/// Why a bundle cannot be used, in a sentence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the sentences below say it
pub enum BundleError {
    Missing,
    Compressed(&'static str),
    NotAnArchive,
    Truncated { at: usize },
    BadMagic { at: usize },
    BadNumber { at: usize },
    BadName { at: usize },
    Twice { at: usize },
    NoManifest,
    Unsorted,
    ManifestNotText { at: usize },
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the boot bundle ")?;
        match self {
            Self::Missing => f.write_str("is missing: start the hypervisor with it as its only module"),
            Self::Compressed(how) => write!(f, "is compressed with {how}: it must be a plain cpio archive"),
            Self::NotAnArchive => f.write_str("is not a cpio archive of the format newc"),
            Self::Truncated { at } => {
                write!(f, "is truncated: it ends in the middle of the file at byte {at}")
            }
            Self::BadMagic { at } => write!(f, "is damaged: there is no file header at byte {at}"),
            Self::BadNumber { at } => write!(f, "is damaged: the file header at byte {at} has a bad number"),
            Self::BadName { at } => write!(f, "is damaged: the file at byte {at} has no proper name"),
            Self::Twice { at } => write!(f, "has two files of the same name: the second is at byte {at}"),
            Self::NoManifest => f.write_str("has no file named `manifest`"),
            Self::Unsorted => f.write_str("is not in order: `manifest` must be its first file"),
            Self::ManifestNotText { at } => write!(f, "has a manifest that is not text: see its byte {at}"),
        }
    }
}

/// A file of the bundle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct File<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its contents.
    pub data: &'a [u8],
}

/// A bundle whose archive was checked from its start to its trailer.
#[derive(Clone, Debug)]
pub struct Bundle<'a> {
    manifest: &'a str,
    files: Vec<File<'a>>,
}

impl<'a> Bundle<'a> {
    /// Reads a whole archive.
    pub fn parse(archive: &'a [u8]) -> Result<Self, BundleError> {
        check_kind(archive)?;
        let mut files: Vec<File<'a>> = Vec::new();
        let mut at = 0;
        loop {
            let (header, file) = read_file(archive, at)?;
            if file.name == TRAILER {
                break;
            }
            if header.regular {
                if files.iter().any(|present| present.name == file.name) {
                    return Err(BundleError::Twice { at });
                }
                files.push(file);
            }
            at = header.next;
        }
        let first = files.first().ok_or(BundleError::NoManifest)?;
        if first.name != MANIFEST {
            let present = files.iter().any(|file| file.name == MANIFEST);
            return Err(if present { BundleError::Unsorted } else { BundleError::NoManifest });
        }
        let manifest = core::str::from_utf8(first.data)
            .map_err(|error| BundleError::ManifestNotText { at: error.valid_up_to() })?;
        Ok(Self { manifest, files })
    }

    /// The text of the manifest.
    pub fn manifest(&self) -> &'a str {
        self.manifest
    }

    /// The contents of the file with this name.
    pub fn file(&self, name: &str) -> Option<&'a [u8]> {
        self.files.iter().find(|file| file.name == name).map(|file| file.data)
    }

    /// All files, the manifest first.
    pub fn files(&self) -> &[File<'a>] {
        &self.files
    }
}

/// Says what an archive of another kind is.
fn check_kind(archive: &[u8]) -> Result<(), BundleError> {
    const COMPRESSED: [(&[u8], &str); 5] = [
        (b"\x1f\x8b", "gzip"),
        (b"\xfd7zXZ", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh", "bzip2"),
        (b"\x04\x22\x4d\x18", "lz4"),
    ];
    if archive.is_empty() {
        return Err(BundleError::Missing);
    }
    if let Some((_, how)) = COMPRESSED.iter().find(|(magic, _)| archive.starts_with(magic)) {
        return Err(BundleError::Compressed(how));
    }
    let start = archive.get(..MAGIC.len().min(archive.len())).unwrap_or_default();
    if MAGIC.starts_with(start) { Ok(()) } else { Err(BundleError::NotAnArchive) }
}

/// What the parser needs of a header.
struct Header {
    regular: bool,
    next: usize,
}

fn read_file(archive: &[u8], at: usize) -> Result<(Header, File<'_>), BundleError> {
    let truncated = BundleError::Truncated { at };
    let bytes = |from: usize, len: usize| {
        from.checked_add(len).and_then(|end| archive.get(from..end)).ok_or(truncated)
    };
    let header = bytes(at, HEADER_BYTES)?;
    let (magic, numbers) = header.split_at_checked(MAGIC.len()).ok_or(truncated)?;
    if magic != MAGIC {
        return Err(BundleError::BadMagic { at });
    }
    // The numbers are: inode, mode, uid, gid, links, mtime, size, device (2), special device (2), size of the name
    // with its zero byte, checksum.
    let number = |index: usize| {
        let digits = numbers.get(8 * index..8 * index + 8).ok_or(truncated)?;
        hexadecimal(digits).ok_or(BundleError::BadNumber { at })
    };
    let (mode, size, name_size) = (number(1)?, number(6)? as usize, number(11)? as usize);
    let name_at = at.checked_add(HEADER_BYTES).ok_or(truncated)?;
    let name = bytes(name_at, name_size)?;
    let (zero, name) = name.split_last().ok_or(BundleError::BadName { at })?;
    let name = core::str::from_utf8(name).map_err(|_| BundleError::BadName { at })?;
    if *zero != 0 || name.is_empty() || name.contains('\0') {
        return Err(BundleError::BadName { at });
    }
    let data_at = padded(name_at + name_size);
    let data = if size == 0 { &[][..] } else { bytes(data_at, size)? };
    let regular = mode & KIND_MASK == KIND_REGULAR;
    Ok((Header { regular, next: padded(data_at + size) }, File { name, data }))
}

const fn padded(at: usize) -> usize {
    at.saturating_add(3) & !3
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0_u32, |value, digit| Some((value << 4) | char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests;
