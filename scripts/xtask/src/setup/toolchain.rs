//! The compiler for the bare-metal target: rustup's, or Debian's with the library built from source.

use super::apt;
use crate::workspace::{BARE_METAL, program};
use crate::{process, say};
use anyhow::{Context, Result, bail};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Debian's packages of a current compiler, which has no linker of its own. (`cargo` and `rustc` alone are years older.)
const DEBIAN: [&str; 4] = ["cargo-web", "rustc-web", "rust-web-src", "lld"];

/// A compiler that can build for the bare-metal target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Toolchain {
    /// The one that runs the tool: it has the target's library.
    Own,
    /// Debian's, which builds the library itself.
    Debian {
        /// The folder of its `cargo` and `rustc`.
        bin: PathBuf,
    },
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Toolchain::Own => f.write_str("this toolchain, with its library for the target"),
            Toolchain::Debian { bin } => {
                write!(f, "Debian's toolchain in {}, which builds the library", bin.display())
            }
        }
    }
}

impl Toolchain {
    /// Returns a cargo command line for the bare-metal target: `cargo VERB --target ...`.
    pub fn cargo(&self, verb: &str) -> Command {
        let mut command;
        match self {
            Toolchain::Own => {
                command = own_cargo();
                command.args([verb, "--target", BARE_METAL]);
            }
            Toolchain::Debian { bin } => {
                command = Command::new(bin.join("cargo"));
                let path = std::env::var_os("PATH").unwrap_or_default();
                let path =
                    std::env::join_paths(std::iter::once(bin.clone()).chain(std::env::split_paths(&path)));
                command.env("PATH", path.unwrap_or_default()).env("RUSTC_BOOTSTRAP", "1");
                command.env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC").env_remove("CARGO");
                command.args([verb, "--target", BARE_METAL, "-Zbuild-std=core,alloc,compiler_builtins"]);
                command.env("CARGO_TARGET_X86_64_UNKNOWN_NONE_LINKER", "ld.lld");
                // The products of the two compilers must not mix.
                command.env("CARGO_TARGET_DIR", crate::workspace::target().join("debian"));
            }
        }
        command
    }

    /// Returns the folder that holds the products of a profile.
    pub fn products(&self, profile: &str) -> PathBuf {
        let target = crate::workspace::target();
        let target = match self {
            Toolchain::Own => target,
            Toolchain::Debian { .. } => target.join("debian"),
        };
        target.join(BARE_METAL).join(profile)
    }
}

/// Returns the cargo that runs the tool.
pub fn own_cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What `cargo run` has set for this tool means nothing to the packages it builds.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_")
            || name == "CARGO_MANIFEST_DIR"
            || name == "CARGO_MANIFEST_PATH"
        {
            command.env_remove(name);
        }
    }
    command.current_dir(crate::workspace::root());
    command
}

/// Returns whether the compiler that runs the tool has the library of the bare-metal target.
fn own_has_target() -> bool {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--print", "target-libdir", "--target", BARE_METAL]).current_dir(crate::workspace::root());
    match process::collect(&mut rustc, Duration::from_secs(60)) {
        Ok(done) if done.passed() => std::fs::read_dir(done.output.trim()).is_ok_and(|mut files| {
            files.any(|file| file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("libcore")))
        }),
        _ => false,
    }
}

fn debian() -> Option<Toolchain> {
    DEBIAN
        .iter()
        .all(|name| Path::new("/usr/share/doc").join(name).exists())
        .then(|| Toolchain::Debian { bin: "/usr/bin".into() })
}

/// Returns whether the user asked for Debian's toolchain.
fn debian_is_forced() -> bool {
    std::env::var_os("XENOLITH_TOOLCHAIN").is_some_and(|value| value == "debian")
}

/// Finds a compiler for the bare-metal target among what is installed.
pub fn find_bare_metal() -> Result<Toolchain> {
    if !debian_is_forced() && own_has_target() {
        return Ok(Toolchain::Own);
    }
    debian().with_context(|| format!("no compiler for {BARE_METAL}"))
}

/// Returns a compiler for the bare-metal target, installed first if need be.
pub fn bare_metal() -> Result<Toolchain> {
    if let Ok(toolchain) = find_bare_metal() {
        return Ok(toolchain);
    }
    if !debian_is_forced() && program("rustup").is_some() {
        let mut rustup = Command::new("rustup");
        rustup.args(["target", "add", BARE_METAL]).current_dir(crate::workspace::root());
        say::step(process::line(&rustup));
        if process::show(&mut rustup).is_ok() && own_has_target() {
            return Ok(Toolchain::Own);
        }
        say::warn("rustup could not add the target; falling back to Debian's toolchain");
    }
    if program("apt-get").is_none() {
        bail!("please run: rustup target add {BARE_METAL}");
    }
    let by_sudo = !nix::unistd::geteuid().is_root();
    apt::install(&DEBIAN, by_sudo).with_context(|| {
        format!(
            "please run one of: rustup target add {BARE_METAL} | sudo apt-get install {}",
            DEBIAN.join(" ")
        )
    })?;
    debian().context("Debian's toolchain is not where it was expected")
}
