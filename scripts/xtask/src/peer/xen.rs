//! Debian's Xen in the emulated machine.

use super::packages;
use crate::cli::Emulator;
use crate::emulator::{Boot, Config};
use crate::image;
use crate::machine::{self, Console, Report};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How Xen is booted: it shows its messages, leaves the absent IOMMU alone, and halts when its first domain has ended.
const XEN: &str = "console=com1 com1=115200,8n1 dom0-iommu=none iommu=no ucode=no noreboot loglvl=warning";

/// The machine and its limits.
#[derive(Clone, Debug)]
pub struct Options {
    /// The emulator.
    pub emulator: Emulator,
    /// Where the CD image is made that Bochs boots from.
    pub iso: Option<PathBuf>,
    /// The number of processors.
    pub processors: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Whether virtual time follows executed instructions.
    pub icount: bool,
    /// Whether the processor is the plain one of the figures that other systems are compared by.
    pub plain: bool,
    /// Words for Xen's command line, behind those that are always there.
    pub xen: String,
    /// After how long the machine has failed.
    pub limit: Duration,
    /// Who sees the console.
    pub console: Console,
    /// Whether the emulator's command line is printed.
    pub verbose: bool,
}

impl Default for Options {
    /// One processor, 512 MiB, 240 s, nobody at the console.
    fn default() -> Options {
        Options {
            emulator: Emulator::Qemu,
            iso: None,
            processors: 1,
            memory: 512 << 20,
            icount: false,
            plain: false,
            xen: String::new(),
            limit: Duration::from_secs(240),
            console: Console::Hidden,
            verbose: false,
        }
    }
}

/// Boots Xen with a PVH kernel as its first and only domain, and waits for the domain's end.
///
/// The kernel's console is Xen's: what it writes is in the report among the lines that begin with `(XEN)`.
pub fn run(kernel: &Path, cmdline: &str, options: &Options) -> Result<Report> {
    let memory = "dom0=pvh dom0_mem=128M";
    let processors = format!("dom0_max_vcpus={}", options.processors);
    boot(&[(kernel, cmdline)], &format!("{memory} {processors}"), options)
}

/// Boots Xen with modules: the first domain's kernel, and what that is to find in memory.
pub fn boot(modules: &[(&Path, &str)], words: &str, options: &Options) -> Result<Report> {
    let words = format!("{XEN} {words} {}", options.xen);
    let boot = match options.emulator {
        Emulator::Qemu => direct(modules, words)?,
        Emulator::Bochs => iso(modules, words.trim(), options.iso.as_deref())?,
    };
    let config = Config {
        processors: options.processors,
        memory: options.memory,
        icount: options.icount,
        // Xen loads its guests' x87 state.
        in_turn: true,
        plain: options.plain,
        ..Config::bare(options.emulator, boot)
    };
    machine::run(&config, options.console, Some(options.limit), options.verbose)
}

/// Xen and its modules by its PVH entry.
fn direct(modules: &[(&Path, &str)], cmdline: String) -> Result<Boot> {
    let mut list = Vec::new();
    for (file, cmdline) in modules {
        let file = file.to_str().context("a file whose name is no text")?;
        ensure!(!file.contains(' '), "a file with a space in its name cannot be a module: {file}");
        list.push(format!("{file} {cmdline}").trim().replace(',', ",,"));
    }
    Ok(Boot::Direct {
        hypervisor: packages::hypervisor()?.image,
        bundle: Some(list.join(",").into()),
        cmdline,
    })
}

/// Xen and a module on a CD.
fn iso(modules: &[(&Path, &str)], cmdline: &str, file: Option<&Path>) -> Result<Boot> {
    let [module] = modules else { bail!("on a CD there is room for one module") };
    let file = file.context("no name for Xen's CD image")?;
    image::make_with(&packages::hypervisor()?.image, Some(*module), cmdline, file)?;
    Ok(Boot::Iso(file.into()))
}

/// Finds the exit status that our kernel prints where no XenStore takes it.
pub fn status(console: &str) -> Option<u32> {
    console.lines().rev().find_map(|line| line.trim().strip_prefix("exit status ")?.parse().ok())
}
