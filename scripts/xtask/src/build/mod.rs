//! Builds the images with cargo, and the boot bundle from them.

use crate::bundle::{self, DomainSet};
use crate::setup::toolchain::{self, Toolchain};
use crate::{cli, process, say, workspace};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

/// The images for the bare-metal target.
pub struct Images {
    toolchain: Toolchain,
}

/// The package of the guest kernel, and the name of its image.
pub const GUEST_KERNEL: &str = "pv-guest-kernel";
/// The package of the least guest, and the name of its image.
pub const FIRST_GUEST: &str = "first-guest";

impl Images {
    /// Builds the hypervisor and every image of the guest kernel's package.
    pub fn build() -> Result<Images> {
        let toolchain = toolchain::bare_metal()?;
        say::step("building the hypervisor and the guest kernel");
        process::show(toolchain.cargo("build").args(["--profile", "image", "-p", "hv"]))
            .context("the hypervisor does not build")?;
        process::show(toolchain.cargo("build").args(["--release", "-p", GUEST_KERNEL, "--bins"]))
            .context("the guest kernel does not build")?;
        Ok(Images { toolchain })
    }

    /// Builds the least guest, and returns its image.
    pub fn first_guest(&self) -> Result<PathBuf> {
        process::show(self.toolchain.cargo("build").args(["--release", "-p", FIRST_GUEST]))
            .context("the first guest does not build")?;
        Ok(self.guest(FIRST_GUEST))
    }

    /// Returns the image of the hypervisor.
    pub fn hypervisor(&self) -> PathBuf {
        self.toolchain.products("image").join("hv")
    }

    /// Returns an image of the guest kernel's package.
    pub fn guest(&self, name: &str) -> PathBuf {
        self.toolchain.products("release").join(name)
    }

    /// Finds the file that a domain set calls `name`: an image of the guest kernel's package if the name is a bare
    /// word, else a path, relative to the folder of the set.
    pub fn find(&self, name: &str, folder: &Path) -> Result<PathBuf> {
        let file = if name.contains('/') { folder.join(name) } else { self.guest(name) };
        ensure!(
            file.is_file(),
            "there is no file {} (a kernel of one's own is written with a /)",
            file.display()
        );
        Ok(file)
    }

    /// Writes the boot bundle of a domain set, and returns its file.
    pub fn bundle(&self, set: &DomainSet, name: &str) -> Result<PathBuf> {
        let bytes = bundle::write(set, self)?;
        let file = workspace::products()?.join(name);
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        std::fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }
}

/// Returns the domain set that is used when none is named.
pub fn default_domains() -> PathBuf {
    workspace::root().join("scripts/domains/default.toml")
}

/// Returns the domain set for Linux as the guest.
pub fn linux_domains() -> PathBuf {
    workspace::root().join("scripts/domains/linux.toml")
}

/// Runs `cargo xtask build`.
pub fn verb(options: &cli::Build) -> Result<u8> {
    let images = Images::build()?;
    let file = options.domains.clone().unwrap_or_else(default_domains);
    let set = DomainSet::read(&file)?;
    let bundle = images.bundle(&set, "boot.bundle")?;
    for file in [images.hypervisor(), images.guest(GUEST_KERNEL), bundle] {
        let size = std::fs::metadata(&file).with_context(|| format!("no {}", file.display()))?.len();
        say::step(format!("{:>9} bytes  {}", size, file.display()));
    }
    Ok(0)
}
