//! Where things are: the repository, the build products, the cache.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The target of everything that runs without an operating system.
pub const BARE_METAL: &str = "x86_64-unknown-none";

/// Returns the folder of the repository.
pub fn root() -> PathBuf {
    // The tool is built inside the checkout that it works on; `cargo run` sets the variable anew each time,
    // so a target folder shared by two checkouts does no harm.
    let own = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let own = PathBuf::from(own);
    own.ancestors().nth(2).map(Path::to_path_buf).unwrap_or(own)
}

/// Returns cargo's target folder.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => std::path::absolute(&dir).unwrap_or_else(|_| dir.into()),
        None => root().join("target"),
    }
}

/// Returns the tool's own folder of products (disks, bundles, images), made if absent.
pub fn products() -> Result<PathBuf> {
    made(target().join("xenolith"))
}

/// Returns the cache outside the repository, which survives `cargo clean`.
pub fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    made(base.join("xenolith"))
}

/// Makes a folder and those above it.
pub fn made(dir: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
    Ok(dir)
}

/// Finds a program on the search path, or in the folders of a system administrator.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Returns the SHA-256 of some bytes in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Parses a size such as `512`, `16K`, `64M` or `2G`.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        other => return Err(format!("{other} is no unit: use K, M or G")),
    };
    let count: u64 = digits.parse().map_err(|_| format!("{text} is no size: write 512M or 2G"))?;
    count.checked_mul(unit).ok_or_else(|| format!("{text} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("16K"), Ok(16 << 10));
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("2G"), Ok(2 << 30));
        assert!(
            size("2T").is_err() && size("M").is_err() && size("").is_err() && size("99999999999G").is_err()
        );
    }

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(root().join("scripts/xtask/Cargo.toml").is_file());
    }
}
