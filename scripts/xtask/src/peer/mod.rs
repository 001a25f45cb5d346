//! `cargo xtask peer`: our guest kernel on a hypervisor that is not ours.
//!
//! Real Xen comes from Debian's packages, unpacked into the cache and not installed. It boots in the same emulated machine as
//! the hypervisor of this repository, so that what two consoles show can be compared.

pub mod domu;
mod packages;
pub mod selftests;
pub mod xen;

use crate::build::{GUEST_KERNEL, Images};
use crate::cli::{self, Part};
use crate::machine::{Console, End};
use crate::test::Verdict;
use crate::{run, say};
use anyhow::Result;

/// Runs `cargo xtask peer`.
pub fn verb(options: &cli::Peer) -> Result<u8> {
    let cli::Hypervisor::Xen = options.hypervisor;
    say::step(format!("Debian's {}", hypervisor()?));
    let images = Images::build()?;
    if options.exec.is_some() || options.kernel.is_some() {
        return alone(options, &images);
    }
    let mut passed = true;
    if options.part != Some(Part::Domu) {
        let table = selftests::table(&images, options.verbose)?;
        println!("{}", table.markdown());
        if options.docs {
            table.write()?;
        }
        passed &= table.passed();
    }
    if options.part != Some(Part::Selftests) {
        let verdict = domu::run(&images, Console::Shown, options.verbose)?;
        passed &= matches!(verdict, Verdict::Passed(_));
        match verdict {
            Verdict::Passed(note) => say::step(format!("below Linux: passed, {note}")),
            Verdict::Skipped(why) => say::step(format!("below Linux: skipped, {why}")),
            Verdict::Failed { why, .. } => say::step(format!("below Linux: FAILED, {why}")),
            Verdict::Tests { .. } => {}
        }
    }
    Ok(if passed { 0 } else { crate::FAILED })
}

/// Returns the version of Xen, downloaded first if need be.
pub fn hypervisor() -> Result<String> {
    packages::hypervisor().map(|xen| xen.version)
}

/// Boots one kernel as Xen's first domain, with its console shown.
fn alone(options: &cli::Peer, images: &Images) -> Result<u8> {
    let (kernel, cmdline) = match (&options.kernel, &options.exec) {
        (Some(kernel), _) => (std::path::absolute(kernel)?, options.cmdline.clone().unwrap_or_default()),
        (None, commands) => {
            let commands = commands.as_deref().unwrap_or_default();
            (images.guest(GUEST_KERNEL), format!("role=guest {}", run::exec(commands)))
        }
    };
    let machine = xen::Options {
        icount: options.icount,
        console: Console::Shown,
        verbose: options.verbose,
        ..xen::Options::default()
    };
    let report = xen::run(&kernel, &cmdline, &machine)?;
    say::step(format!("{} (after {:.1} s)", report.end, report.took.as_secs_f64()));
    Ok(match (&report.end, xen::status(&report.console)) {
        (End::Halted, status) => u8::try_from(status.unwrap_or(0)).unwrap_or(u8::MAX),
        _ => crate::FAILED,
    })
}
