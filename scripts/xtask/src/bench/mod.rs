//! `cargo xtask bench`: what the hypervisor's services and paravirtual I/O cost.
//!
//! A guest prints figures as lines ([`figure`]), on machines that [`suite`] describes. Counted figures are taken more than
//! once and compared. What comes of it is one [`document`]: a table on the terminal, JSON, a page, or a part of the book.

mod difference;
mod document;
mod figure;
mod html;
mod linux;
mod plot;
mod ratio;
mod scale;
mod suite;
mod table;
mod targets;

use crate::build::{GUEST_KERNEL, Images};
use crate::cli::{self, Area, Emulator};
use crate::emulator::{self, Config};
use crate::machine::{self, Console, End};
use crate::peer::{self, domu, domu::Guest};
use crate::{process, run, say, workspace};
use anyhow::{Context, Result, bail, ensure};
use document::{Document, Setting};
use figure::{Figure, Lane, OWN};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use suite::Job;
use targets::MEMORY_DISK;

/// The longest that one machine may run.
const LIMIT: Duration = Duration::from_secs(3600);
/// The machines with Xen.
const ON_XEN: [&str; 4] =
    ["micro on Xen", "blk on Xen with Linux", "net on Xen with Linux", "blk on Xen with Linux as the guest"];
/// How long a machine may run before its user is told that it does.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs `cargo xtask bench`.
pub fn verb(options: &cli::Bench) -> Result<u8> {
    let emulator = options.emulator.unwrap_or(Emulator::Qemu);
    let mut jobs = Vec::new();
    for area in areas(options) {
        jobs.extend(suite::jobs(area, options.quick, emulator)?);
    }
    let mut skipped = Vec::new();
    if options.guest.is_some() {
        ensure!(
            has(options, Area::Blk),
            "--guest linux goes with blk: `cargo xtask bench blk --guest linux`"
        );
        ensure!(emulator == Emulator::Qemu, "--guest linux is measured in QEMU only: leave --emulator out");
        match linux::job(options.quick) {
            Ok(job) => jobs.push(job),
            Err(error) => skipped.push(format!("Linux as the guest: {error:#}")),
        }
    }
    jobs.retain(|job| is_wanted(options, &job.name));
    ensure!(
        !jobs.is_empty() || options.peer.is_some(),
        "there is nothing to measure: no machine's name has the words of --only in it"
    );
    let images = Images::build()?;
    // What is measured is what was built, whatever happens to the repository in the meantime.
    let setting = setting(options, emulator)?;
    let bench = Bench { images, emulator, verbose: options.verbose };
    let (mut counted, mut once) = (vec![Vec::new(); options.repeat], Vec::new());
    for job in &jobs {
        let runs = if job.lane == Lane::Counted { options.repeat } else { 1 };
        let mut taken = Vec::new();
        for number in 1..=runs {
            match bench.take(job, number, runs) {
                Ok(figures) => taken.push(figures),
                Err(error) => {
                    say::warn(format!("{}: {error:#}", job.name));
                    // The console's end is for the terminal.
                    let text = format!("{error:#}");
                    skipped.push(format!("{}: {}", job.name, text.lines().next().unwrap_or_default()));
                    break;
                }
            }
        }
        match job.lane {
            Lane::Wall | Lane::Device => once.extend(taken.into_iter().flatten()),
            Lane::Counted if taken.len() == runs => {
                counted.iter_mut().zip(taken).for_each(|(all, run)| all.extend(run));
            }
            Lane::Counted => {}
        }
    }
    if options.peer.is_some() {
        let mut note = |figures: Result<Vec<Figure>>| match figures {
            Ok(figures) => once.extend(figures),
            Err(error) => {
                say::warn(format!("Xen: {error:#}"));
                let text = format!("{error:#}");
                skipped.push(format!("Xen: {}", text.lines().next().unwrap_or_default()));
            }
        };
        let wanted = |area: Area, name: &str| has(options, area) && is_wanted(options, name);
        if wanted(Area::Micro, ON_XEN[0]) {
            note(bench.on_xen(options.quick));
        }
        if wanted(Area::Blk, ON_XEN[1]) {
            let commands = suite::requests_below_linux(options.quick);
            note(bench.below_linux(ON_XEN[1], || Ok(Guest::own(&bench.images, MEMORY_DISK, &commands))));
        }
        if wanted(Area::Net, ON_XEN[2]) {
            let commands = suite::packets_below_linux(options.quick, domu::SERVER, domu::SERVER_MAC);
            note(bench.below_linux(ON_XEN[2], || Ok(Guest::own(&bench.images, MEMORY_DISK, &commands))));
        }
        if options.guest.is_some() && wanted(Area::Blk, ON_XEN[3]) {
            note(bench.below_linux(ON_XEN[3], || {
                let (kernel, ramdisk) = linux::guest(options.quick)?;
                Ok(Guest::linux(kernel, ramdisk, linux::MEMORY))
            }));
        }
    }
    let document = Document::new(setting, &counted, once, skipped);
    write(options, &document)?;
    print!("{}", table::terminal(&document));
    Ok(if document.repeats() && document.skipped.is_empty() { 0 } else { crate::FAILED })
}

/// The areas that are asked for.
fn areas(options: &cli::Bench) -> Vec<Area> {
    if options.areas.is_empty() || options.areas.contains(&Area::All) {
        return vec![Area::All];
    }
    options.areas.clone()
}

/// Whether an area is asked for, by its name or with all of them.
fn has(options: &cli::Bench, area: Area) -> bool {
    areas(options).into_iter().any(|chosen| chosen == area || chosen == Area::All)
}

/// Whether a machine is asked for, by its name.
fn is_wanted(options: &cli::Bench, name: &str) -> bool {
    options.only.as_ref().is_none_or(|words| name.contains(words.as_str()))
}

/// Writes the files that are asked for.
fn write(options: &cli::Bench, document: &Document) -> Result<()> {
    if let Some(file) = &options.json {
        document.write(file)?;
    }
    if let Some(file) = &options.html {
        put(file, &html::page(document)?)?;
    }
    if let Some(file) = &options.markdown {
        let old = std::fs::read_to_string(file).unwrap_or_default();
        let marks = table::marks(options.emulator == Some(Emulator::Bochs));
        put(file, &table::between_marks(&old, &marks, &table::markdown(document)))?;
    }
    Ok(())
}

fn put(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Takes figures.
pub struct Bench {
    images: Images,
    emulator: Emulator,
    verbose: bool,
}

impl Bench {
    /// Boots a job's machine and reads its figures.
    fn take(&self, job: &Job, number: usize, of: usize) -> Result<Vec<Figure>> {
        let run = if of > 1 { format!(", run {number} of {of}") } else { String::new() };
        say::step(format!("measuring {}{run}", job.name));
        let bundle = self.images.bundle(&job.set, "bench.bundle")?;
        let config = Config {
            processors: job.processors,
            memory: job.memory,
            disks: if job.disk { vec![suite::scratch_disk()?] } else { Vec::new() },
            icount: job.lane != Lane::Wall && self.emulator == Emulator::Qemu,
            network: job.network.clone(),
            in_turn: job.set.may_load_x87(),
            // The plain one has its processors take turns, which the clock would see.
            plain: job.lane != Lane::Wall,
            ..Config::bare(self.emulator, run::boot(&self.images, &bundle, self.emulator, "bench")?)
        };
        let begin = Instant::now();
        let report =
            patiently(&job.name, || machine::run(&config, Console::Hidden, Some(LIMIT), self.verbose))?;
        let figures = Figure::all(&report.console, job.lane, OWN)?;
        say::step(format!("{} figures after {:.0} s", figures.len(), begin.elapsed().as_secs_f64()));
        if report.end != End::PowerOff(0) {
            bail!("{}\n{}", report.end, process::tail(&report.console, 12));
        }
        ensure!(!figures.is_empty(), "the guest printed no figure:\n{}", process::tail(&report.console, 12));
        Ok(figures)
    }
}

impl Bench {
    /// The same guest kernel as the first domain of Debian's Xen, on the same emulated machine: single services only, for
    /// there is no other domain.
    fn on_xen(&self, quick: bool) -> Result<Vec<Figure>> {
        say::step(format!("measuring {}: Debian's {}", ON_XEN[0], peer::hypervisor()?));
        let machine = peer::xen::Options {
            icount: true,
            plain: true,
            limit: LIMIT,
            verbose: self.verbose,
            ..Default::default()
        };
        let cmdline = format!("role=guest {}", run::exec(&suite::services(quick)));
        let kernel = self.images.guest(GUEST_KERNEL);
        let report = patiently(ON_XEN[0], || peer::xen::run(&kernel, &cmdline, &machine))?;
        let figures = Figure::all(&report.console, Lane::Counted, "xen")?;
        ensure!(
            !figures.is_empty(),
            "no figure, and {}:\n{}",
            report.end,
            process::tail(&report.console, 12)
        );
        say::step(format!("{} figures of Xen", figures.len()));
        Ok(figures)
    }
}

impl Bench {
    /// A guest on Debian's Xen below Debian's Linux, which serves its disk, a loop device on a file in memory, by blkback,
    /// and its network by netback. Ticks are of everything, with what Xen and Linux do besides.
    fn below_linux(&self, what: &str, guest: impl FnOnce() -> Result<Guest>) -> Result<Vec<Figure>> {
        say::step(format!("measuring {what}: Debian's {}", peer::hypervisor()?));
        let guest = guest()?;
        let work = || domu::measure(&guest, LIMIT, self.verbose);
        let report = patiently(what, work)?;
        let figures = Figure::all(&report.console, Lane::Counted, "xen and linux")?;
        ensure!(
            !figures.is_empty(),
            "{what}: no figure, and {}:\n{}",
            report.end,
            process::tail(&report.console, 12)
        );
        say::step(format!("{} figures of Xen and Linux", figures.len()));
        Ok(figures)
    }
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

/// With what is measured.
fn setting(options: &cli::Bench, emulator: Emulator) -> Result<Setting> {
    let has_goals = emulator == Emulator::Qemu;
    let (emulator, processor) = match emulator {
        Emulator::Qemu => (
            first_line(Command::new("qemu-system-x86_64").arg("--version"))?,
            emulator::qemu::PLAIN_CPU.to_owned(),
        ),
        Emulator::Bochs => ("Bochs 3.0, built by this tool".into(), emulator::bochs::PROCESSOR.into()),
    };
    let root = workspace::root();
    let mut commit =
        first_line(Command::new("git").arg("-C").arg(&root).args(["rev-parse", "--short=12", "HEAD"]))
            .unwrap_or_else(|_| "unknown".into());
    let changed = Command::new("git")
        .arg("-C")
        .arg(&root)
        .args(["diff", "--quiet", "HEAD", "--", ".", ":!docs"])
        .status();
    if changed.is_ok_and(|status| status.code() == Some(1)) {
        commit.push('+');
    }
    Ok(Setting { command: command(options), commit, emulator, processor, has_goals })
}

/// The command that measures the same, without the files it writes.
fn command(options: &cli::Bench) -> String {
    let mut words = vec!["cargo xtask bench".to_owned()];
    words.extend(options.areas.iter().map(|area| format!("{area:?}").to_lowercase()));
    if options.quick {
        words.push("--quick".into());
    }
    if let Some(only) = &options.only {
        words.push(format!("--only '{only}'"));
    }
    if options.emulator == Some(Emulator::Bochs) {
        words.push("--emulator bochs".into());
    }
    if options.peer.is_some() {
        words.push("--peer xen".into());
    }
    if options.guest.is_some() {
        words.push("--guest linux".into());
    }
    words.join(" ")
}

fn first_line(command: &mut Command) -> Result<String> {
    let done = process::collect(command, Duration::from_secs(60))?;
    ensure!(done.passed(), "{} ended with {:?}", process::line(command), done.code);
    done.output.lines().next().map(str::to_owned).context("no output")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn options(words: &[&str]) -> cli::Bench {
        match cli::Cli::parse_from(["xtask", "bench"].iter().chain(words)).verb {
            cli::Verb::Bench(bench) => bench,
            _ => unreachable!("the verb is bench"),
        }
    }

    #[test]
    fn no_area_means_all() {
        assert_eq!(areas(&options(&[])), [Area::All]);
        assert_eq!(areas(&options(&["micro", "all"])), [Area::All]);
        assert_eq!(areas(&options(&["blk", "micro"])), [Area::Blk, Area::Micro]);
    }

    #[test]
    fn the_command_can_be_typed_again() {
        assert_eq!(
            command(&options(&["micro", "--quick", "--json", "x"])),
            "cargo xtask bench micro --quick"
        );
        assert_eq!(command(&options(&["--emulator", "bochs"])), "cargo xtask bench --emulator bochs");
        assert_eq!(
            command(&options(&["blk", "--only", "by the", "--peer", "xen", "--guest", "linux"])),
            "cargo xtask bench blk --only 'by the' --peer xen --guest linux"
        );
    }

    #[test]
    fn only_some_machines_are_wanted() {
        let some = options(&["net", "--only", "queues"]);
        assert!(is_wanted(&some, "net with 2 queues") && !is_wanted(&some, "net to the host"));
        assert!(has(&some, Area::Net) && !has(&some, Area::Blk) && has(&options(&[]), Area::Blk));
    }

    #[test]
    fn every_area_has_machines() {
        for area in areas(&options(&[])) {
            for quick in [false, true] {
                for job in suite::jobs(area, quick, Emulator::Qemu).unwrap() {
                    job.set.manifest().unwrap();
                    assert!(
                        job.lane == Lane::Wall || job.processors == 1 || area == Area::Scale,
                        "{}",
                        job.name
                    );
                }
                let bochs = suite::jobs(area, quick, Emulator::Bochs).unwrap();
                assert!(bochs.iter().all(|job| job.lane != Lane::Wall && job.network.is_none()));
            }
        }
    }
}
