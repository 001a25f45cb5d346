//! `cargo xtask bench`: what the hypervisor's services and paravirtual I/O cost.
//!
//! A guest prints figures as lines ([`figure`]), on machines that [`suite`] describes. Counted figures are taken more than
//! once and compared. What comes of it is one [`document`]: a table on the terminal, JSON, a page, or a part of the book.

mod book;
mod counters;
mod difference;
mod document;
pub mod figure;
mod folder;
mod growth;
mod host;
mod html;
mod linux;
mod machines;
mod peers;
mod plot;
mod ratio;
mod scale;
mod suite;
mod table;
mod targets;

use crate::build::Images;
use crate::cli::{self, Area, Emulator};
use crate::{emulator, process, say, workspace};
use anyhow::{Context, Result, ensure};
use document::{Document, Setting};
use figure::{Figure, Lane};
use folder::Folder;
use machines::Machines;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How often counted figures are taken, where nothing else is said.
pub const REPEAT: usize = 2;

/// Runs `cargo xtask bench`.
pub fn verb(options: &cli::Bench) -> Result<u8> {
    let emulator = options.emulator.unwrap_or(Emulator::Qemu);
    let mut jobs = Vec::new();
    for area in areas(options) {
        jobs.extend(suite::jobs(area, options.quick, emulator)?);
    }
    jobs.extend(peers::own(options, emulator)?);
    let folder = Folder::new()?;
    let mut skipped = Vec::new();
    if options.guest.is_some() {
        ensure!(
            has(options, Area::Blk) || has(options, Area::Net),
            "--guest linux goes with blk and net: `cargo xtask bench blk --guest linux`"
        );
        ensure!(emulator == Emulator::Qemu, "--guest linux is measured in QEMU only: leave --emulator out");
        match peers::linux_jobs(options, &folder) {
            Ok(linux) => jobs.extend(linux),
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
    let machines = Machines { images, emulator, folder, verbose: options.verbose };
    let (mut counted, mut once) = (vec![Vec::new(); options.repeat], Vec::new());
    let mut fail = |name: &str, error: &anyhow::Error| {
        say::warn(format!("{name}: {error:#}"));
        // The console's end is for the terminal.
        let text = format!("{error:#}");
        skipped.push(format!("{name}: {}", text.lines().next().unwrap_or_default()));
    };
    for job in &jobs {
        let runs = if job.lane == Lane::Counted { options.repeat } else { 1 };
        let taken: Result<Vec<Vec<Figure>>> =
            (1..=runs).map(|number| machines.take(job, number, runs)).collect();
        match (taken, job.lane) {
            (Err(error), _) => fail(&job.name, &error),
            (Ok(taken), Lane::Wall | Lane::Device) => once.extend(taken.into_iter().flatten()),
            (Ok(taken), Lane::Counted) => {
                counted.iter_mut().zip(taken).for_each(|(all, run)| all.extend(run))
            }
        }
    }
    if options.peer.is_some() {
        peers::measure(&machines, options, |name, figures| match figures {
            Ok(figures) => once.extend(figures),
            Err(error) => fail(name, &error),
        });
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
    for file in &options.markdown {
        let old = std::fs::read_to_string(file).unwrap_or_default();
        put(file, &book::filled(&old, document))?;
    }
    Ok(())
}

fn put(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
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
    if options.repeat != REPEAT {
        words.push(format!("--repeat {}", options.repeat));
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
