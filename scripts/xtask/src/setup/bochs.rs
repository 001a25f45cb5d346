//! Bochs, built once from Debian's source package and kept in the user's cache.

use super::{Need, need};
use crate::{process, say, workspace};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Returns the file that holds, or will hold, the Bochs of this checkout's build script and patch.
fn place() -> Result<PathBuf> {
    let scripts = workspace::root().join("scripts/bochs");
    let mut recipe = Vec::new();
    for name in ["build.sh", "vmx.patch"] {
        let file = scripts.join(name);
        recipe.extend(std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    let hash = workspace::sha256(&recipe);
    Ok(workspace::cache()?.join(format!("bochs-{}", &hash[..12])).join("bochs"))
}

/// Returns the cached Bochs if it has been built.
pub fn built() -> Result<Option<PathBuf>> {
    Ok(Some(place()?).filter(|file| file.is_file()))
}

/// Held by who builds.
static BUILDING: Mutex<()> = Mutex::new(());

/// Returns Bochs and its firmware, built and installed first if need be.
pub fn bochs() -> Result<PathBuf> {
    need(&[Need::BochsFirmware])?;
    if let Some(file) = built()? {
        return Ok(file);
    }
    let _alone = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = built()? {
        return Ok(file);
    }
    need(&[Need::BochsBuild])?;
    let file = place()?;
    let dir = file.parent().context("the cache has no folder")?;
    say::step(format!("building Bochs into {} (once; about two minutes on two processors)", dir.display()));
    process::show(Command::new(workspace::root().join("scripts/bochs/build.sh")).arg(dir))
        .context("Bochs, which the VT-x lane needs, could not be built")?;
    Ok(file)
}
