//! Booting the machines, ours and those with Xen, and reading what their guests print.

use super::figure::{Figure, Lane};
use super::folder::Folder;
use super::suite::{self, Job};
use crate::build::{GUEST_KERNEL, Images};
use crate::cli::Emulator;
use crate::emulator::Config;
use crate::machine::{self, Console, End, Report};
use crate::peer::{self, domu, domu::Guest};
use crate::{process, run, say};
use anyhow::{Result, bail, ensure};
use std::time::{Duration, Instant};

/// The longest that one machine may run.
const LIMIT: Duration = Duration::from_secs(3600);
/// How long a machine may run before its user is told that it does.
const PATIENCE: Duration = Duration::from_secs(15);

/// What all of them have in common.
pub struct Machines {
    /// What they boot.
    pub images: Images,
    /// The emulator, where nothing else is said.
    pub emulator: Emulator,
    /// Where their files are.
    pub folder: Folder,
    /// Whether the emulators' command lines are printed.
    pub verbose: bool,
}

impl Machines {
    /// Boots a job's machine and reads its figures.
    pub fn take(&self, job: &Job, number: usize, of: usize) -> Result<Vec<Figure>> {
        let run = if of > 1 { format!(", run {number} of {of}") } else { String::new() };
        say::step(format!("measuring {}{run}", job.name));
        let emulator = job.emulator.unwrap_or(self.emulator);
        let bundle = self.images.bundle(&job.set, &self.folder.name("bundle"))?;
        let disk = || suite::scratch_disk(self.folder.file("disk.img"));
        let boot = run::boot(&self.images, &bundle, emulator, &self.folder.name("boot"))?;
        let config = Config {
            processors: job.processors,
            memory: job.memory,
            disks: if job.disk { vec![disk()?] } else { Vec::new() },
            icount: job.lane != Lane::Wall && emulator == Emulator::Qemu,
            network: job.network.clone(),
            in_turn: job.set.may_load_x87(),
            // Two plain ones take turns, which the clock would see.
            plain: job.lane != Lane::Wall || job.alone,
            ..Config::bare(emulator, boot)
        };
        let begin = Instant::now();
        let report =
            patiently(&job.name, || machine::run(&config, Console::Hidden, Some(LIMIT), self.verbose))?;
        let mut figures = Figure::all(&report.console, job.lane, job.system)?;
        say::step(format!("{} figures after {:.0} s", figures.len(), begin.elapsed().as_secs_f64()));
        if report.end != End::PowerOff(0) {
            let lines = if self.verbose { usize::MAX } else { 12 };
            bail!("{}\n{}", report.end, process::tail(&report.console, lines));
        }
        ensure!(!figures.is_empty(), "the guest printed no figure:\n{}", process::tail(&report.console, 12));
        if job.alone {
            figures.iter_mut().for_each(mark_alone);
        }
        Ok(figures)
    }

    /// The same guest kernel as the first domain of Debian's Xen, on the same emulated machine: single services only, for
    /// there is no other domain.
    pub fn services_on_xen(
        &self,
        what: &str,
        emulator: Emulator,
        system: &str,
        quick: bool,
    ) -> Result<Vec<Figure>> {
        let machine = peer::xen::Options {
            emulator,
            iso: Some(self.folder.file("xen.iso")),
            icount: emulator == Emulator::Qemu,
            plain: true,
            limit: LIMIT,
            verbose: self.verbose,
            ..Default::default()
        };
        let cmdline = format!("role=guest {}", run::exec(&suite::services(quick)));
        let kernel = self.images.guest(GUEST_KERNEL);
        self.peer(what, Lane::Counted, system, || peer::xen::run(&kernel, &cmdline, &machine))
    }

    /// A guest on Debian's Xen below Debian's Linux, which serves its disk, a loop device on a file in memory, by blkback,
    /// and its network by netback. Ticks are of everything, with what Xen and Linux do besides.
    pub fn below_linux(&self, what: &str, lane: Lane, guest: &Guest, system: &str) -> Result<Vec<Figure>> {
        let ramdisk = self.folder.file("peer.cpio");
        let counted = lane == Lane::Counted;
        let mut figures = self.peer(what, lane, system, || {
            domu::measure(guest, &domu::Measuring { counted, ramdisk, limit: LIMIT, verbose: self.verbose })
        })?;
        if !counted {
            figures.iter_mut().for_each(mark_alone);
        }
        Ok(figures)
    }

    /// Boots a machine with Xen and reads its figures.
    fn peer(
        &self,
        what: &str,
        lane: Lane,
        system: &str,
        work: impl FnOnce() -> Result<Report>,
    ) -> Result<Vec<Figure>> {
        say::step(format!("measuring {what}: Debian's {}", peer::hypervisor()?));
        let begin = Instant::now();
        let report = patiently(what, work)?;
        let figures = Figure::all(&report.console, lane, system)?;
        ensure!(
            !figures.is_empty(),
            "no figure, and {}:\n{}",
            report.end,
            process::tail(&report.console, 12)
        );
        say::step(format!("{} figures after {:.0} s", figures.len(), begin.elapsed().as_secs_f64()));
        Ok(figures)
    }
}

/// Tells figures of one plain processor from those of the machine that otherwise stands for the clock.
fn mark_alone(figure: &mut Figure) {
    figure.words.insert("processors".into(), "1".into());
}

/// Does something long, and says from time to time that it is being done.
fn patiently<R>(name: &str, work: impl FnOnce() -> R) -> R {
    let begin = Instant::now();
    let (done, still) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while still.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                say::step(format!("{name} is running, {} s", begin.elapsed().as_secs()));
            }
        });
        let result = work();
        drop(done);
        result
    })
}
