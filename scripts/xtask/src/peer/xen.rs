//! Debian's Xen in the emulated machine.

use super::packages;
use crate::cli::Emulator;
use crate::emulator::{Boot, Config};
use crate::machine::{self, Console, Report};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::Duration;

/// How Xen is booted: it shows its messages, leaves the absent IOMMU alone, and halts when its first domain has ended.
const XEN: &str = "console=com1 com1=115200,8n1 dom0-iommu=none iommu=no ucode=no noreboot loglvl=warning";

/// The machine and its limits.
#[derive(Clone, Debug)]
pub struct Options {
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
    let mut list = Vec::new();
    for (file, cmdline) in modules {
        let file = file.to_str().context("a file whose name is no text")?;
        ensure!(!file.contains(' '), "a file with a space in its name cannot be a module: {file}");
        list.push(format!("{file} {cmdline}").trim().replace(',', ",,"));
    }
    let boot = Boot::Direct {
        hypervisor: packages::hypervisor()?.image,
        bundle: Some(list.join(",").into()),
        cmdline: format!("{XEN} {words} {}", options.xen),
    };
    let config = Config {
        processors: options.processors,
        memory: options.memory,
        icount: options.icount,
        // Xen loads its guests' x87 state.
        in_turn: true,
        plain: options.plain,
        ..Config::bare(Emulator::Qemu, boot)
    };
    machine::run(&config, options.console, Some(options.limit), options.verbose)
}

/// Finds the exit status that our kernel prints where no XenStore takes it.
pub fn status(console: &str) -> Option<u32> {
    console.lines().rev().find_map(|line| line.trim().strip_prefix("exit status ")?.parse().ok())
}
