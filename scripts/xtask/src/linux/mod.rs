//! Linux as a guest: Debian's own kernel, the ELF file in a compressed kernel image, and an initial RAM disk.

mod debian;
mod initramfs;
mod payload;

pub use debian::{Linux, Suite};
pub use initramfs::initramfs;

use crate::workspace;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Returns the kernel that the hypervisor can load: the file itself, or what is packed in it if it is a compressed
/// Linux image, in the tool's folder of products.
pub fn loadable(kernel: &Path) -> Result<PathBuf> {
    let bytes = std::fs::read(kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    let unpacked = payload::unpack(&bytes).with_context(|| format!("in the kernel {}", kernel.display()))?;
    let Some(elf) = unpacked else { return Ok(kernel.into()) };
    // Named by its content: tests may use several at a time.
    let hash = workspace::sha256(&bytes);
    let file = workspace::products()?.join(format!("vmlinux-{}", &hash[..12]));
    if !file.is_file() {
        let new = file.with_extension(format!("new-{}", std::process::id()));
        std::fs::write(&new, elf).with_context(|| format!("cannot write {}", new.display()))?;
        std::fs::rename(&new, &file)?;
    }
    Ok(file)
}

/// Whether a file is a compressed Linux image.
pub fn is_image(kernel: &Path) -> bool {
    let mut head = [0; payload::HEADER];
    let read =
        std::fs::File::open(kernel).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head));
    read.is_ok() && payload::is_image(&head)
}
