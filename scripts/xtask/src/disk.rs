//! The tool's own disk image: small, with a FAT file system and a few files.

use crate::{say, workspace};
use anyhow::{Context, Result};
use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The size of the image.
const SIZE: u64 = 64 << 20;

/// What the image holds. There is no folder: `fatfs` 0.3 gives `.` and `..` long names, which fsck.fat objects to.
const FILES: [(&str, &str); 3] = [
    ("README.TXT", include_str!("disk/readme.txt")),
    ("commands.txt", include_str!("disk/commands.txt")),
    ("numbers.txt", "zero\none\ntwo\nthree\nfive\neight\nthirteen\n"),
];

/// Returns the image, made first if it is absent. What a guest wrote there stays until it is removed.
pub fn own() -> Result<PathBuf> {
    let file = workspace::products()?.join("disk.img");
    if !file.is_file() {
        say::step(format!("making a disk image of {} MiB: {}", SIZE >> 20, file.display()));
        let fresh = file.with_extension(format!("new-{}", std::process::id()));
        make(&fresh, SIZE)?;
        std::fs::rename(&fresh, &file)?;
    }
    Ok(file)
}

/// Makes an image with a FAT file system and the tool's own files.
pub fn make(file: &Path, size: u64) -> Result<()> {
    make_with(file, size, FILES.iter().map(|(name, text)| (*name, text.as_bytes())))
}

/// Makes an image with a FAT file system and these files. Their paths may have folders in them.
pub fn make_with<'a>(
    file: &Path,
    size: u64,
    files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<()> {
    let disk = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(file)
        .with_context(|| format!("cannot make the disk image {}", file.display()))?;
    disk.set_len(size)?;
    fatfs::format_volume(&disk, FormatVolumeOptions::new().volume_label(*b"XENOLITH   "))?;
    let volume = FileSystem::new(&disk, FsOptions::new())?;
    let root = volume.root_dir();
    for (name, bytes) in files {
        for (slash, _) in name.match_indices('/') {
            root.create_dir(&name[..slash])?;
        }
        root.create_file(name)?.write_all(bytes)?;
    }
    drop(root);
    volume.unmount()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_image_can_be_read_again() {
        let file = std::env::temp_dir().join(format!("xenolith-disk-{}.img", std::process::id()));
        make(&file, 8 << 20).unwrap();
        let volume =
            FileSystem::new(std::fs::File::open(&file).map(ReadOnly).unwrap(), FsOptions::new()).unwrap();
        let mut text = String::new();
        volume.root_dir().open_file("commands.txt").unwrap().read_to_string(&mut text).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(text, FILES[1].1);
    }

    struct ReadOnly(std::fs::File);
    impl Read for ReadOnly {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl Write for ReadOnly {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::PermissionDenied.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    impl std::io::Seek for ReadOnly {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }
}
