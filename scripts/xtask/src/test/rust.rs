//! Cases that cargo runs: lints and the tests of the host.

use super::{Case, Verdict};
use crate::setup::{Need, need, toolchain};
use crate::{process, workspace};
use anyhow::Result;
use std::process::Command;
use std::time::Duration;

/// Compiling everything from nothing takes some minutes on a small machine.
const LIMIT: Duration = Duration::from_secs(1800);

/// The packages that are tested on the host, and how.
const HOST: [(&str, &[&str]); 5] =
    [("pv-abi", &[]), ("pv-drivers", &[]), ("hv-core", &[]), ("hv-x86", &["--lib"]), ("xtask", &[])];

/// The packages that run on bare metal.
const BARE: [&str; 6] = ["hv", "hv-core", "hv-x86", "pv-abi", "pv-drivers", "pv-guest-kernel"];

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::quick("clippy/host", |_| clippy_host()),
        Case::quick("clippy/bare-metal", |_| clippy_bare()),
    ];
    for (package, options) in HOST {
        cases.push(Case::quick(format!("host/{package}"), move |_| {
            if package == "pv-abi" {
                // Its probe of the ABI compiles a C program against Xen's public headers.
                need(&[Need::Compiler, Need::XenHeaders])?;
            }
            cargo_test(toolchain::own_cargo().args(["test", "-p", package]).args(options))
        }));
    }
    cases.push(Case::new("loom/pv-drivers", |_| loom("pv-drivers")));
    cases
}

fn clippy_host() -> Result<Verdict> {
    let mut cargo = toolchain::own_cargo();
    cargo.args(["clippy", "--all-targets"]);
    for (package, _) in HOST {
        cargo.args(["-p", package]);
    }
    clippy(&mut cargo)
}

fn clippy_bare() -> Result<Verdict> {
    let toolchain = toolchain::bare_metal()?;
    if toolchain != toolchain::Toolchain::Own {
        return Ok(Verdict::Skipped("Debian's toolchain has no clippy".into()));
    }
    let mut cargo = toolchain.cargo("clippy");
    for package in BARE {
        cargo.args(["-p", package]);
    }
    let verdict = clippy(&mut cargo)?;
    if !matches!(verdict, Verdict::Passed(_)) {
        return Ok(verdict);
    }
    // Alone: beside the others it would get features of its dependencies that need a heap.
    clippy(toolchain.cargo("clippy").args(["-p", crate::build::FIRST_GUEST]))
}

fn clippy(cargo: &mut Command) -> Result<Verdict> {
    let done = process::collect(cargo.args(["--quiet", "--", "-D", "warnings"]), LIMIT)?;
    Ok(if done.passed() {
        Verdict::passed()
    } else {
        Verdict::Failed { why: "clippy has objections".into(), end: done.tail(60) }
    })
}

fn cargo_test(cargo: &mut Command) -> Result<Verdict> {
    let done = process::collect(cargo, LIMIT)?;
    Ok(Verdict::of_cargo_test(&done.output, done.passed(), done.tail(60)))
}

/// Tries every interleaving of a package's shared rings.
fn loom(package: &str) -> Result<Verdict> {
    let mut cargo = toolchain::own_cargo();
    // A folder of its own: the flag would make cargo build everything anew, there and back.
    cargo.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", workspace::target().join("loom"));
    cargo_test(cargo.args(["test", "--release", "-p", package, "--test", "loom"]))
}
