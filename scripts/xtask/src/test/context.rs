//! What the cases share: images that are built once, when the first case asks for them.

use crate::build::Images;
use crate::workspace;
use anyhow::{Result, anyhow};
use std::path::PathBuf;
use std::sync::OnceLock;

/// What the cases share.
pub struct Context {
    /// Whether commands are printed.
    pub verbose: bool,
    images: OnceLock<Result<Images, String>>,
}

impl Context {
    /// Returns a context in which nothing is built yet.
    pub fn new(verbose: bool) -> Context {
        Context { verbose, images: OnceLock::new() }
    }

    /// Returns the images, built by the first caller.
    pub fn images(&self) -> Result<&Images> {
        let images = self.images.get_or_init(|| Images::build().map_err(|error| format!("{error:#}")));
        images.as_ref().map_err(|error| anyhow!("{error}"))
    }

    /// Returns the file for a test's own product of this name, in a folder made for them.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        Ok(workspace::made(workspace::products()?.join("test"))?.join(name))
    }
}
