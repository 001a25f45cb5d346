//! What a run leaves: everything it measured, and what it was measured with. This is the JSON of `--json`, whose schema
//! is in the book (`docs/src/bench-schema.md`).

use super::difference::{Difference, differences};
use super::figure::Figure;
use super::ratio::{Ratio, ratios};
use super::targets::{Standing, standings};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The name and version of the schema; the number grows when a reader of the old one would go wrong.
pub const SCHEMA: &str = "xenolith-bench/1";

/// All of a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: String,
    /// The command, as it can be typed again.
    pub command: String,
    /// The commit, with `+` behind it if files were changed.
    pub commit: String,
    /// The emulator and its version.
    pub emulator: String,
    /// The emulated processor of the counted figures.
    pub processor: String,
    /// How often counted figures were taken.
    pub runs: usize,
    /// The figures of the first run.
    pub figures: Vec<Figure>,
    /// Where the other runs differ from it.
    pub differences: Vec<Difference>,
    /// The goals, and how they stand.
    pub standings: Vec<Standing>,
    /// What is compared within the run.
    pub ratios: Vec<Ratio>,
    /// What was not measured, and why.
    pub skipped: Vec<String>,
}

/// With what a run measured.
pub struct Setting {
    /// See [`Document::command`].
    pub command: String,
    /// See [`Document::commit`].
    pub commit: String,
    /// See [`Document::emulator`].
    pub emulator: String,
    /// See [`Document::processor`].
    pub processor: String,
    /// Whether it is the machine for which the goals are set.
    pub has_goals: bool,
}

impl Document {
    /// Puts runs together: counted ones that should agree, and those taken once.
    pub fn new(
        setting: Setting,
        counted: &[Vec<Figure>],
        once: Vec<Figure>,
        skipped: Vec<String>,
    ) -> Document {
        let differences = differences(counted);
        let mut figures = counted.first().cloned().unwrap_or_default();
        figures.extend(once);
        figures.iter_mut().for_each(Figure::divide);
        let standings = if setting.has_goals { standings(&figures) } else { Vec::new() };
        let ratios = ratios(&figures);
        let Setting { command, commit, emulator, processor, .. } = setting;
        Document {
            schema: SCHEMA.into(),
            command,
            commit,
            emulator,
            processor,
            runs: counted.len(),
            figures,
            differences,
            standings,
            ratios,
            skipped,
        }
    }

    /// Writes it as JSON.
    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
    }

    /// Whether all counted runs gave the same.
    pub fn repeats(&self) -> bool {
        self.differences.is_empty()
    }

    /// The areas that have figures, in the order in which they were taken.
    pub fn areas(&self) -> Vec<&str> {
        let mut areas: Vec<&str> = Vec::new();
        for figure in &self.figures {
            if !areas.contains(&figure.area.as_str()) {
                areas.push(&figure.area);
            }
        }
        areas
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::bench::figure::{Lane, OWN};
    use crate::bench::ratio::Measure;

    /// A document with a figure of each kind.
    pub fn document() -> Document {
        let console = "figure micro cpuid : n=10 ticks=2180 hv.ticks=1370 guest.ticks=1064 guest.exit.cpuid=10 : min=218 median=218 p99=218\n\
            figure micro grant-copy-4096 batch=16 : n=10 ticks=144140 : median=14414\n\
            figure blk read-rand disk=xvdb size=4096 depth=1 : n=8 ticks=196000 ns=196000 bytes=32768 busy=190000 hv.ticks=70000 guest.ticks=48000 driver.ticks=72000 guest.exit.halt=8 guest.exit.hypercall=8 driver.exit.halt=8 : median=24376 p99=24400 p999=24500\n\
            figure blk read-rand disk=xvdb size=4096 depth=32 : n=8 ticks=59000 ns=59000 bytes=32768 busy=58000 hv.ticks=2400 guest.ticks=22000 driver.ticks=35000 : median=240000 p99=250000 p999=250000\n\
            figure blk read-rand disk=xvdb size=65536 depth=1 : n=8 ticks=396000 ns=396000 bytes=524288 busy=390000 hv.ticks=70000 guest.ticks=148000 driver.ticks=172000 : median=50000 p99=50000 p999=50000\n";
        let wall = "figure blk read-seq disk=xvdb size=4096 depth=32 : n=8 ticks=9 ns=800000 bytes=32768 : median=1 ns-median=100000\n";
        let counted = Figure::all(console, Lane::Counted, OWN).unwrap();
        let wall = Figure::all(wall, Lane::Wall, OWN).unwrap();
        let setting = Setting {
            command: "cargo xtask bench micro blk".into(),
            commit: "0123abcd".into(),
            emulator: "QEMU 7.2.22".into(),
            processor: "qemu64,+svm".into(),
            has_goals: true,
        };
        Document::new(setting, &[counted.clone(), counted], wall, vec!["net: no such command".into()])
    }

    #[test]
    fn a_document_survives_its_file() {
        let file = std::env::temp_dir().join(format!("xenolith-report-{}.json", std::process::id()));
        let document = document();
        document.write(&file).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(serde_json::from_str::<Document>(&text).unwrap(), document);
        assert!(document.repeats());
        assert_eq!(document.areas(), ["micro", "blk"]);
        assert_eq!((document.runs, document.figures.len()), (2, 6));
    }

    /// The book's description of the schema names every key.
    #[test]
    fn the_schema_is_described() {
        let book = include_str!("../../../../docs/src/bench-schema.md");
        let value = serde_json::to_value(document()).unwrap();
        let mut names: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        names.extend(value["figures"][0].as_object().unwrap().keys().cloned());
        names.extend(value["standings"][0].as_object().unwrap().keys().cloned());
        let ratio = Ratio { what: String::new(), lane: Lane::Wall, of: Measure::Mean, ours: 1, base: 1 };
        names.extend(serde_json::to_value(ratio).unwrap().as_object().unwrap().keys().cloned());
        let difference = Difference { figure: String::new(), key: String::new(), values: Vec::new() };
        names.extend(serde_json::to_value(difference).unwrap().as_object().unwrap().keys().cloned());
        for name in names {
            assert!(book.contains(&format!("`{name}`")), "docs/src/bench-schema.md does not describe {name}");
        }
        assert!(book.contains(SCHEMA));
    }
}
