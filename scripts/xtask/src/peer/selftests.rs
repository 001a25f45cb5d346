//! The conformance guests on both hypervisors, side by side.
//!
//! Here a guest is an ordinary domain beside the driver domain; on Xen it is the first domain and alone. What needs the other
//! place says so and is skipped.

use super::{packages, xen};
use crate::build::Images;
use crate::cli::Emulator;
use crate::emulator::Config;
use crate::machine::{self, Console, End, Report};
use crate::test::{guests, live};
use crate::{run, say, workspace};
use anyhow::{Context, Result};
use std::fmt::Write;
use std::time::Duration;

/// Where the table is in the book.
const PAGE: &str = "docs/src/compatibility.md";
/// What stands around it there.
const BEGIN: &str = "<!-- self-tests: made by `cargo xtask peer xen --docs` -->\n";
const END: &str = "<!-- end of self-tests -->\n";

/// As many processors as the guests are given, on both.
const PROCESSORS: u32 = 2;

/// What came of one guest on one hypervisor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All checks held: their number.
    Pass(u32),
    /// The reason why it cannot be tried there.
    Skip(String),
    /// What went wrong.
    Fail(String),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Pass(checks) => write!(f, "pass ({checks} checks)"),
            Outcome::Skip(why) => write!(f, "skip: {why}"),
            Outcome::Fail(why) => write!(f, "**fail**: {why}"),
        }
    }
}

/// Reads the verdict that a guest prints.
pub fn verdict(report: &Report) -> Outcome {
    let behind = |sign: &str| {
        report.console.lines().find_map(|line| line.split_once(sign).map(|(_, rest)| rest.trim().to_owned()))
    };
    if let Some(rest) = behind("SUCCESS: ") {
        let checks = rest.split_whitespace().nth(1).and_then(|count| count.parse().ok());
        return Outcome::Pass(checks.unwrap_or(0));
    }
    if let Some(why) = behind("SKIP: ") {
        return Outcome::Skip(why);
    }
    let why = behind("FAILURE: ").or(behind("ERROR: ")).or(behind("PANIC "));
    let first = behind("failed: ").map(|line| format!(" ({line})")).unwrap_or_default();
    Outcome::Fail(why.map_or_else(|| report.end.to_string(), |why| format!("{why}{first}")))
}

/// Runs a guest as the first domain of Xen.
pub fn on_xen(images: &Images, guest: &str, verbose: bool) -> Result<(Outcome, Report)> {
    let limit = Duration::from_secs(600);
    let options = xen::Options { processors: PROCESSORS, limit, verbose, ..xen::Options::default() };
    let report = xen::run(&images.guest(guest), "role=guest name=guest", &options)?;
    let verdict = match (verdict(&report), &report.end) {
        (pass @ (Outcome::Pass(_) | Outcome::Skip(_)), End::Halted) => pass,
        (Outcome::Fail(why), _) => Outcome::Fail(why),
        (_, end) => Outcome::Fail(end.to_string()),
    };
    Ok((verdict, report))
}

/// Runs a guest here.
fn here(images: &Images, guest: &str, verbose: bool) -> Result<Outcome> {
    let mut set = live::set("conformance.toml")?;
    guest.clone_into(&mut set.guest()?.kernel);
    let bundle = images.bundle(&set, "peer.bundle")?;
    let boot = run::boot(images, &bundle, Emulator::Qemu, "peer")?;
    let config =
        Config { processors: PROCESSORS, in_turn: set.may_load_x87(), ..Config::bare(Emulator::Qemu, boot) };
    let report = machine::run(&config, Console::Hidden, Some(Duration::from_secs(240)), verbose)?;
    Ok(verdict(&report))
}

/// One guest on both.
struct Line {
    guest: String,
    here: Outcome,
    there: Outcome,
}

/// All guests on both.
pub struct Table {
    version: String,
    lines: Vec<Line>,
}

/// Runs every conformance guest on both hypervisors.
pub fn table(images: &Images, verbose: bool) -> Result<Table> {
    let mut lines = Vec::new();
    for guest in guests() {
        let here = here(images, &guest, verbose)?;
        let there = on_xen(images, &guest, verbose)?.0;
        say::step(format!("{guest}: here {here}; on Xen {there}"));
        lines.push(Line { guest, here, there });
    }
    let package = packages::hypervisor()?.version;
    let version = package.split('_').nth(1).unwrap_or(&package).to_owned();
    Ok(Table { version, lines })
}

impl Table {
    /// Whether nothing failed on either.
    pub fn passed(&self) -> bool {
        self.lines.iter().all(|line| ![&line.here, &line.there].iter().any(|o| matches!(o, Outcome::Fail(_))))
    }

    /// The table as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("| self-test | Xenolith | Xen {} |\n|---|---|---|\n", self.version);
        for line in &self.lines {
            let _ = writeln!(text, "| `{}` | {} | {} |", line.guest, line.here, line.there);
        }
        text
    }

    /// Puts the table into the book.
    pub fn write(&self) -> Result<()> {
        let file = workspace::root().join(PAGE);
        let page = std::fs::read_to_string(&file).with_context(|| format!("cannot read {PAGE}"))?;
        let (before, rest) =
            page.split_once(BEGIN).with_context(|| format!("{PAGE} has no place for the table"))?;
        let (_, after) = rest.split_once(END).with_context(|| format!("{PAGE} has no end of the table"))?;
        std::fs::write(&file, format!("{before}{BEGIN}\n{}\n{END}{after}", self.markdown()))?;
        say::step(format!("wrote {PAGE}"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(console: &str) -> Report {
        Report { end: End::Halted, console: console.into(), took: Duration::ZERO }
    }

    #[test]
    fn verdicts_are_read_from_the_console() {
        assert_eq!(verdict(&report("(XEN) x\n[guest] SUCCESS: conf-a: 12 checks\r\n")), Outcome::Pass(12));
        assert_eq!(verdict(&report("SKIP: no store\n")), Outcome::Skip("no store".into()));
        assert_eq!(
            verdict(&report("failed: it: got 1, want 2\nFAILURE: conf-a: 1 of 2 checks failed\n")),
            Outcome::Fail("conf-a: 1 of 2 checks failed (it: got 1, want 2)".into())
        );
        assert_eq!(verdict(&report("nothing\n")), Outcome::Fail(End::Halted.to_string()));
    }
}
