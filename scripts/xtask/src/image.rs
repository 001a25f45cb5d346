//! A bootable ISO for BIOS and UEFI: GRUB loads the hypervisor by multiboot2, with the boot bundle as its module.

use crate::build::{Images, default_domains};
use crate::bundle::DomainSet;
use crate::cli;
use crate::setup::{Need, need};
use crate::{process, say, workspace};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What GRUB does: it says so on the screen and on the first serial port, and boots at once.
const GRUB: &str = "\
set timeout=0
set default=0
menuentry \"Xenolith\" {
    multiboot2 /boot/hv @CMDLINE@
    module2 /boot/bundle @WORDS@
    boot
}
";

/// Runs `cargo xtask image`.
pub fn verb(options: &cli::Image) -> Result<u8> {
    need(&[Need::Iso])?;
    let images = Images::build()?;
    let file = options.domains.clone().unwrap_or_else(default_domains);
    let set = DomainSet::read(&file)?;
    let bundle = images.bundle(&set, "image.bundle")?;
    let output = match &options.output {
        Some(file) => std::path::absolute(file)?,
        None => workspace::products()?.join("xenolith.iso"),
    };
    make(&images.hypervisor(), Some(&bundle), "", &output)?;
    let size = std::fs::metadata(&output)?.len();
    say::step(format!(
        "{} ({} MiB): boots from BIOS and from UEFI, as a CD or copied onto a USB stick",
        output.display(),
        size >> 20
    ));
    Ok(0)
}

/// Makes an ISO from a hypervisor and a bundle.
pub fn make(hypervisor: &Path, bundle: Option<&Path>, cmdline: &str, output: &Path) -> Result<()> {
    make_with(hypervisor, bundle.map(|bundle| (bundle, "")), cmdline, output)
}

/// Makes an ISO from a hypervisor and a module with words for it, in which GRUB must find nothing to be quoted.
pub fn make_with(
    hypervisor: &Path,
    module: Option<(&Path, &str)>,
    cmdline: &str,
    output: &Path,
) -> Result<()> {
    need(&[Need::Iso])?;
    let tree = PathBuf::from(format!("{}.tree", output.display()));
    let _ = std::fs::remove_dir_all(&tree);
    let grub = workspace::made(tree.join("boot/grub"))?;
    copy(hypervisor, &tree.join("boot/hv"))?;
    let mut menu = GRUB.replace("@CMDLINE@", cmdline);
    match module {
        Some((file, words)) => {
            copy(file, &tree.join("boot/bundle"))?;
            menu = menu.replace("@WORDS@", words);
        }
        None => menu = menu.replace("    module2 /boot/bundle @WORDS@\n", ""),
    }
    std::fs::write(grub.join("grub.cfg"), menu)?;
    let mut command = Command::new("grub-mkrescue");
    // Not compressed: unpacking costs the machine more than reading does.
    command.args(["--fonts=", "--themes=", "--locales="]);
    command.arg("-o").arg(output).arg(&tree);
    let done = process::collect(&mut command, Duration::from_secs(300))?;
    std::fs::remove_dir_all(&tree)?;
    if !done.passed() {
        bail!("grub-mkrescue failed:\n{}", done.tail(12));
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {}", from.display()))
}
