//! The boot bundle: a `cpio` archive whose first file is the manifest, with the kernels and RAM disks behind it.

pub mod cpio;
mod domains;

pub use cpio::Archive;
pub use domains::{Domain, DomainSet, append};

use crate::build::Images;
use anyhow::{Context, Result};

/// Builds the archive of a domain set.
pub fn write(set: &DomainSet, images: &Images) -> Result<Vec<u8>> {
    let mut archive = cpio::Archive::new();
    archive.add("manifest", set.manifest()?.as_bytes())?;
    for (name, file) in set.files() {
        let path = images.find(file, set.folder())?;
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        archive.add(&name, &bytes)?;
    }
    archive.finish()
}

/// Builds an archive of some files as they are, good or bad.
pub fn archive(files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut archive = cpio::Archive::new();
    for (name, content) in files {
        archive.add(name, content)?;
    }
    archive.finish()
}
