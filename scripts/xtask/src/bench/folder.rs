//! The files of one run of the tool, in a folder of its own, so that two runs at once share none.

use crate::workspace;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Where the folders are, below the tool's products.
const PLACE: &str = "bench";

/// The folder, which goes when this goes.
pub struct Folder {
    name: String,
    path: PathBuf,
}

impl Folder {
    /// Makes it, named after this process. What killed processes left behind is removed.
    pub fn new() -> Result<Folder> {
        let place = workspace::made(workspace::products()?.join(PLACE))?;
        remove_old(&place, |process| Path::new("/proc").join(process).exists())?;
        let name = format!("{PLACE}/{}", std::process::id());
        let path = workspace::made(workspace::products()?.join(&name))?;
        Ok(Folder { name, path })
    }

    /// A file's name, below the tool's products.
    pub fn name(&self, file: &str) -> String {
        format!("{}/{file}", self.name)
    }

    /// A file's path.
    pub fn file(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Removes the folders of processes that are no more.
fn remove_old(place: &Path, is_alive: impl Fn(&str) -> bool) -> Result<()> {
    for entry in std::fs::read_dir(place).with_context(|| format!("cannot read {}", place.display()))? {
        let entry = entry?;
        if !is_alive(&entry.file_name().to_string_lossy()) {
            // Another process may be doing the same.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_dead_processes_go() {
        let place = std::env::temp_dir().join(format!("xenolith-folders-{}", std::process::id()));
        for name in ["1", "2"] {
            std::fs::create_dir_all(place.join(name).join("inside")).unwrap();
        }
        remove_old(&place, |process| process == "2").unwrap();
        let left: Vec<_> =
            std::fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        std::fs::remove_dir_all(&place).unwrap();
        assert_eq!(left, ["2"]);
    }
}
