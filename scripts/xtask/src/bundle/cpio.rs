//! The `newc` format of cpio archives (cpio(5), "New ASCII Format").

use anyhow::{Context, Result, ensure};

/// An archive under construction.
pub struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

impl Archive {
    /// Returns an archive without files.
    pub fn new() -> Archive {
        Archive { bytes: Vec::new(), files: 0 }
    }

    /// Appends a regular file.
    pub fn add(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.add_as(name, content, 0o100_644)
    }

    /// Appends a file that can be executed.
    pub fn add_program(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.add_as(name, content, 0o100_755)
    }

    /// Appends a folder.
    pub fn add_folder(&mut self, name: &str) -> Result<()> {
        self.add_as(name, &[], 0o040_755)
    }

    fn add_as(&mut self, name: &str, content: &[u8], mode: u32) -> Result<()> {
        ensure!(
            !name.is_empty() && !name.contains('\0') && name != "TRAILER!!!",
            "{name:?} is no file name for an archive"
        );
        self.files += 1;
        self.entry(name, content, self.files, mode)
    }

    /// Appends a file that may be executed.
    pub fn program(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.files += 1;
        self.entry(name, content, self.files, 0o100_755)
    }

    /// Appends a folder, which must come before what is in it.
    pub fn folder(&mut self, name: &str) -> Result<()> {
        self.files += 1;
        self.entry(name, &[], self.files, 0o040_755)
    }

    /// Writes the end mark and returns the archive.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", &[], 0, 0)?;
        Ok(self.bytes)
    }

    fn entry(&mut self, name: &str, content: &[u8], inode: u32, mode: u32) -> Result<()> {
        let size = u32::try_from(content.len())
            .with_context(|| format!("{name} is too large for a cpio archive"))?;
        let name_size = u32::try_from(name.len() + 1).context("the name is too long")?;
        // magic; inode, mode, uid, gid, links, mtime, size, device major and minor, special major and minor, name size, check
        self.bytes.extend_from_slice(b"070701");
        for field in [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_headers_of_110_bytes_and_pads_to_four() {
        let mut archive = Archive::new();
        archive.add("manifest", b"xenolith 1\n").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[6 + 6 * 8..6 + 7 * 8], b"0000000B", "size");
        assert_eq!(&bytes[6 + 11 * 8..6 + 12 * 8], b"00000009", "length of the name with its end");
        assert_eq!(&bytes[110..119], b"manifest\0");
        assert_eq!(&bytes[120..131], b"xenolith 1\n");
        assert_eq!(&bytes[132..138], b"070701");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn a_name_that_would_end_the_archive_is_refused() {
        assert!(Archive::new().add("TRAILER!!!", b"").is_err());
        assert!(Archive::new().add("", b"").is_err());
    }
}
