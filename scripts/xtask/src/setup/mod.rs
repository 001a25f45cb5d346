//! What must be installed, and how it gets there: only what a verb needs, only when it is missing.

pub mod apt;
mod bochs;
pub mod toolchain;

pub use apt::{Need, need};
pub use bochs::bochs;

use crate::{cli, say};
use anyhow::Result;

/// Runs `cargo xtask setup`.
pub fn verb(options: &cli::Setup) -> Result<u8> {
    let mut needs = vec![Need::Qemu, Need::Compiler, Need::XenHeaders, Need::FatTools, Need::Iso];
    if options.bochs {
        needs.extend([Need::BochsBuild, Need::BochsFirmware]);
    }
    if options.check {
        let missing = apt::missing(&needs);
        for item in &missing {
            say::step(format!("missing: {item}"));
        }
        let found = toolchain::find_bare_metal();
        match &found {
            Ok(toolchain) => say::step(format!("bare-metal builds: {toolchain}")),
            Err(error) => say::step(format!("missing: {error:#}")),
        }
        let bochs = !options.bochs || bochs::built()?.is_some();
        if !bochs {
            say::step("missing: Bochs (cargo xtask setup --bochs builds it)");
        }
        return Ok(if missing.is_empty() && found.is_ok() && bochs { 0 } else { crate::FAILED });
    }
    need(&needs)?;
    toolchain::bare_metal()?;
    if options.bochs {
        bochs()?;
    }
    say::step("everything is installed");
    Ok(0)
}
