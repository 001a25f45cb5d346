//! One figure, as a guest tells it: see `pv-guest-kernel/src/bench/report.rs` for the line, and the book for the keys.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a figure was taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Ticks are instructions: the same in every run.
    Counted,
    /// Ticks are instructions, but the emulated device takes its own time: only what anybody was busy for means anything,
    /// and it varies a little.
    Device,
    /// By the clock of the computer that emulates.
    Wall,
}

/// One figure.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// How it was taken.
    pub lane: Lane,
    /// The system it was taken on: `xenolith`, or the peer's name.
    pub system: String,
    /// `micro`, `blk`, `net`, `boot` or `scale`.
    pub area: String,
    /// What was measured.
    pub name: String,
    /// More of what was measured.
    pub words: BTreeMap<String, String>,
    /// Number of operations.
    pub n: u64,
    /// Totals over all operations.
    pub totals: BTreeMap<String, u64>,
    /// Values of a single operation.
    pub each: BTreeMap<String, u64>,
    /// The totals of one operation, to four digits behind the point.
    #[serde(default)]
    pub per: BTreeMap<String, f64>,
}

/// The system of figures that are our own.
pub const OWN: &str = "xenolith";

impl Figure {
    /// Reads a line of a console; `None` if it is not about a figure.
    pub fn parse(line: &str, lane: Lane, system: &str) -> Option<Result<Figure>> {
        let line = line.trim_end();
        // A guest's lines have its name before them where dom0 shows them.
        let own = match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
            Some((_, rest)) => rest,
            None => line,
        };
        let text = own.strip_prefix("figure ")?;
        Some(Self::read(text, lane, system).with_context(|| format!("in the line `{line}`")))
    }

    fn read(text: &str, lane: Lane, system: &str) -> Result<Figure> {
        let parts: Vec<&str> = text.split(" :").collect();
        let [what, totals, each] = parts[..] else { bail!("a figure has three parts, not {}", parts.len()) };
        let mut words = what.split_whitespace();
        let (Some(area), Some(name)) = (words.next(), words.next()) else { bail!("no name") };
        let pair = |word: &str| -> Result<(String, String)> {
            let (key, value) = word.split_once('=').with_context(|| format!("`{word}` has no ="))?;
            Ok((key.to_owned(), value.to_owned()))
        };
        let numbers = |text: &str| -> Result<BTreeMap<String, u64>> {
            let number = |word: &str| {
                let (key, value) = pair(word)?;
                let value = value.parse().with_context(|| format!("`{word}` is no whole number"))?;
                Ok((key, value))
            };
            text.split_whitespace().map(number).collect()
        };
        let mut totals = numbers(totals)?;
        let n = totals.remove("n").context("no n")?;
        if n == 0 {
            bail!("n is 0");
        }
        let words = words.map(pair).collect::<Result<_>>()?;
        let (area, name, system) = (area.to_owned(), name.to_owned(), system.to_owned());
        Ok(Figure { lane, system, area, name, words, n, totals, each: numbers(each)?, per: BTreeMap::new() })
    }

    /// Finds the totals of one operation.
    pub fn divide(&mut self) {
        let per = |key: &String| (key.clone(), (self.per(key) * 1e4).round() / 1e4);
        self.per = self.totals.keys().map(per).collect();
    }

    /// All figures of a console.
    pub fn all(console: &str, lane: Lane, system: &str) -> Result<Vec<Figure>> {
        console.lines().filter_map(|line| Figure::parse(line, lane, system)).collect()
    }

    /// What was measured, as one text.
    pub fn what(&self) -> String {
        let mut text = self.name.clone();
        for (key, word) in &self.words {
            text += &format!(" {key}={word}");
        }
        text
    }

    /// What tells it from all others.
    pub fn key(&self) -> String {
        format!("{:?} {} {} {}", self.lane, self.system, self.area, self.what()).to_lowercase()
    }

    /// A word as a number.
    pub fn word(&self, key: &str) -> Option<u64> {
        self.words.get(key)?.parse().ok()
    }

    /// Whether a word has this value.
    pub fn is(&self, key: &str, value: &str) -> bool {
        self.words.get(key).is_some_and(|word| word == value)
    }

    /// A total, 0 if it was left out.
    pub fn total(&self, key: &str) -> u64 {
        self.totals.get(key).copied().unwrap_or(0)
    }

    /// A total per operation.
    #[allow(clippy::cast_precision_loss)] // a figure for people
    pub fn per(&self, key: &str) -> f64 {
        self.total(key) as f64 / self.n as f64
    }

    /// Ticks that count: where somebody waits for a device's own time, or for a timer as TCP does, those in which anybody was
    /// busy, for virtual time passes over the waiting in leaps.
    pub fn all_ticks(&self) -> u64 {
        let waits = self.lane == Lane::Device || self.lane == Lane::Counted && self.area == "net";
        let key = if waits && self.totals.contains_key("busy") { "busy" } else { "ticks" };
        self.total(key)
    }

    /// Ticks of one operation: the median where single operations were timed one after another, else the mean.
    pub fn ticks(&self) -> u64 {
        match self.area.as_str() {
            "micro" | "scale" => self.each.get("median").copied().unwrap_or(self.all_ticks() / self.n),
            _ => self.all_ticks() / self.n,
        }
    }

    /// Bytes in a thousand ticks.
    pub fn bytes_per_thousand(&self) -> u64 {
        let product = u128::from(self.total("bytes")) * 1000 / u128::from(self.all_ticks().max(1));
        u64::try_from(product).unwrap_or(u64::MAX)
    }

    /// Bytes a second.
    pub fn throughput(&self) -> u64 {
        let product = u128::from(self.total("bytes")) * 1_000_000_000 / u128::from(self.total("ns").max(1));
        u64::try_from(product).unwrap_or(u64::MAX)
    }

    /// Totals whose keys begin and end so, with what is between.
    pub fn named<'a>(&'a self, before: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
        self.totals.iter().filter_map(move |(key, value)| Some((key.strip_prefix(before)?, *value)))
    }

    /// Exits of all domains, per operation.
    #[allow(clippy::cast_precision_loss)] // a figure for people
    pub fn exits(&self) -> f64 {
        let all: u64 = PARTS
            .iter()
            .flat_map(|part| self.named(part))
            .filter(|(key, _)| key.starts_with(".exit."))
            .map(|(_, n)| n)
            .sum();
        all as f64 / self.n as f64
    }
}

/// The parts that domains play.
pub const PARTS: [&str; 3] = ["guest", "driver", "peer"];

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "[guest] figure blk read-rand disk=xvdb size=4096 depth=1 : n=512 ticks=12782366 bytes=2097152 ns=1000000 guest.exit.halt=512 driver.exit.halt=256 : median=24757 p99=24800\r";

    fn figure() -> Figure {
        Figure::parse(LINE, Lane::Counted, OWN).unwrap().unwrap()
    }

    #[test]
    fn a_line_is_read() {
        let figure = figure();
        assert_eq!(figure.key(), "counted xenolith blk read-rand depth=1 disk=xvdb size=4096");
        assert_eq!((figure.n, figure.total("bytes"), figure.each["p99"]), (512, 2_097_152, 24_800));
        assert_eq!(
            (figure.word("size"), figure.is("disk", "xvdb"), figure.total("none")),
            (Some(4096), true, 0)
        );
        assert_eq!(figure.ticks(), 12_782_366 / 512);
        assert_eq!(figure.bytes_per_thousand(), 164);
        assert_eq!(figure.throughput(), 2_097_152_000);
        assert!((figure.exits() - 1.5).abs() < 1e-9);
    }

    #[test]
    fn other_lines_are_left_alone() {
        for line in ["(hv) power off", "[guest] blk  figure", "", "[guest figure a b : n=1 :"] {
            assert!(Figure::parse(line, Lane::Wall, OWN).is_none(), "{line}");
        }
    }

    #[test]
    fn broken_lines_are_not_passed_over() {
        for line in [
            "figure blk",
            "figure blk read : n=0 : ",
            "figure blk read : ticks=1 :",
            "figure blk read : n=1 ticks=many :",
            "figure blk read size : n=1 :",
            "figure blk read size=1 : n=1 ti",
        ] {
            assert!(Figure::parse(line, Lane::Wall, OWN).unwrap().is_err(), "{line}");
        }
        assert!(Figure::all(&format!("{LINE}\nfigure x\n"), Lane::Wall, OWN).is_err());
    }

    #[test]
    fn a_figure_survives_json() {
        let text = serde_json::to_string(&figure()).unwrap();
        assert_eq!(serde_json::from_str::<Figure>(&text).unwrap(), figure());
    }
}
