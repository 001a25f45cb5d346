//! Machines for cases: lanes, boots, and what a console must show.

use super::{Context, Verdict};
use crate::bundle::{self, DomainSet};
use crate::cli::Emulator;
use crate::emulator::{Boot, Config, Network};
use crate::machine::{self, Console, End, Report};
use crate::{process, run, workspace};
use anyhow::{Context as _, Result, bail};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The shortest time-out of a machine, whatever it does: many times what it takes on a slow computer.
pub const LIMIT: Duration = Duration::from_secs(240);

/// A kind of processor, and how many of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lane {
    /// QEMU with AMD-V, or Bochs with VT-x.
    pub emulator: Emulator,
    /// The number of processors.
    pub processors: u32,
}

/// One processor with AMD-V.
pub const SVM: Lane = Lane { emulator: Emulator::Qemu, processors: 1 };
/// One processor with VT-x.
pub const VMX: Lane = Lane { emulator: Emulator::Bochs, processors: 1 };

impl Lane {
    /// Returns the lane with another number of processors.
    pub const fn at(self, processors: u32) -> Lane {
        Lane { processors, ..self }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.emulator {
            Emulator::Qemu => "svm",
            Emulator::Bochs => "vmx",
        };
        write!(f, "{kind}@{}", self.processors)
    }
}

/// A machine for a case.
pub struct Machine<'a> {
    context: &'a Context,
    /// The case's name, for the files it leaves.
    name: String,
    lane: Lane,
    disks: Vec<PathBuf>,
    network: Option<Network>,
    memory: u64,
    limit: Duration,
    counted: bool,
}

impl<'a> Machine<'a> {
    /// Returns a machine without disks.
    pub fn new(context: &'a Context, name: &str, lane: Lane) -> Machine<'a> {
        let name = format!("{name}-{lane}").replace(['/', '@'], "-");
        Machine {
            context,
            name,
            lane,
            disks: Vec::new(),
            network: None,
            memory: 512 << 20,
            limit: LIMIT,
            counted: false,
        }
    }

    /// Gives the machine disks.
    pub fn disks(mut self, disks: &[PathBuf]) -> Machine<'a> {
        self.disks = disks.to_vec();
        self
    }

    /// Gives the machine another amount of memory, in bytes.
    pub fn memory(mut self, bytes: u64) -> Machine<'a> {
        self.memory = bytes;
        self
    }

    /// Gives the machine a network.
    pub fn network(mut self, network: Network) -> Machine<'a> {
        self.network = Some(network);
        self
    }

    /// Makes the machine's clock count instructions, where it does not anyway.
    pub fn counted(mut self) -> Machine<'a> {
        self.counted = self.lane.emulator == Emulator::Qemu;
        self
    }

    /// Gives the machine more time.
    pub fn limit(mut self, seconds: u64) -> Machine<'a> {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Boots a domain set and waits for the end. The console is kept in a file.
    pub fn boot(&self, set: &DomainSet) -> Result<Report> {
        set.check_disks(self.disks.len())?;
        // Makes the folder of the cases, if this is the first one.
        self.context.file(&self.name)?;
        let images = self.context.images()?;
        let bundle = images.bundle(set, &format!("test/{}.bundle", self.name))?;
        let boot = run::boot(images, &bundle, self.lane.emulator, &format!("test/{}", self.name))?;
        let report = self.start_with(boot, set.may_load_x87());
        let _ = std::fs::remove_file(bundle);
        report
    }

    /// Boots something and waits for the end. The console is kept in a file.
    pub fn start(&self, boot: Boot) -> Result<Report> {
        self.start_with(boot, false)
    }

    fn start_with(&self, boot: Boot, in_turn: bool) -> Result<Report> {
        let iso = match &boot {
            Boot::Iso(iso) => Some(iso.clone()),
            _ => None,
        };
        let config = Config {
            processors: self.lane.processors,
            memory: self.memory,
            disks: self.disks.clone(),
            icount: self.counted,
            in_turn,
            network: self.network.clone(),
            ..Config::bare(self.lane.emulator, boot)
        };
        self.run(&config, iso)
    }

    /// Runs a machine of any configuration.
    pub fn run(&self, config: &Config, litter: Option<PathBuf>) -> Result<Report> {
        let report = machine::run(config, Console::Hidden, Some(self.limit), self.context.verbose);
        if let Some(file) = litter {
            let _ = std::fs::remove_file(file);
        }
        let report = report?;
        std::fs::write(self.context.file(&format!("{}.log", self.name))?, &report.console)?;
        Ok(report)
    }
}

/// Judges a machine that should have ended with status 0, with all of `signs` on its console.
pub fn judge(report: &Report, signs: &[&str]) -> Verdict {
    if report.end != End::PowerOff(0) {
        return failed(report, report.end.to_string());
    }
    match signs.iter().find(|sign| !report.console.contains(**sign)) {
        Some(sign) => failed(report, format!("the console never shows {sign:?}")),
        None => Verdict::passed(),
    }
}

/// Returns a failure with the console's end.
pub fn failed(report: &Report, why: impl Into<String>) -> Verdict {
    Verdict::Failed { why: why.into(), end: process::tail(&report.console, 30) }
}

/// Reads a domain set of the repository.
pub fn set(name: &str) -> Result<DomainSet> {
    let file = workspace::root().join("scripts/domains").join(name);
    if !file.is_file() {
        bail!("there is no domain set {}", file.display());
    }
    DomainSet::read(&file)
}

/// Gives one domain of a set shell commands to run.
pub fn command(set: &mut DomainSet, domain: &str, commands: &str) -> Result<()> {
    let domain = set.domains.get_mut(domain).with_context(|| format!("the set has no domain {domain}"))?;
    bundle::append(&mut domain.cmdline, &run::exec(commands));
    Ok(())
}

/// Lets the machine end when all guests have.
pub fn until_guests(set: &mut DomainSet) -> Result<()> {
    bundle::append(&mut set.control()?.cmdline, run::UNTIL_GUESTS);
    Ok(())
}
