//! How figures are told: for people, or as lines for a program.
//!
//! With the word `raw`, a benchmark prints one line for every figure:
//!
//! ```text
//! figure AREA NAME [KEY=WORD]... : n=N [KEY=INTEGER]... : [KEY=INTEGER]...
//! ```
//!
//! The first part says what was measured; no two figures of a run agree in all of it. `AREA` is `micro`, `blk`, `net`,
//! `boot` or `scale`. The second part has totals over `n` operations, the third values of a single operation. Numbers are
//! decimal and whole; what is zero may be left out. A program that does not know a key keeps it all the same.
//!
//! | totals | unit |
//! |---|---|
//! | `ticks` | ticks of the time stamp counter from the first operation's start to the last one's end |
//! | `ns` | the same in nanoseconds of system time |
//! | `bytes` | bytes of data moved |
//! | `guest.ticks`, `driver.ticks`, `peer.ticks` | ticks spent in the code of the domain that measures, of driver domains, of all others |
//! | `hv.ticks` | ticks spent in the hypervisor, for whichever domain |
//! | `guest.exit.CAUSE`, … | exits by cause, per part |
//! | `guest.call.NAME`, … | hypercalls by name |
//! | `guest.sent`, `.delivered`, `.suppressed` | notifications |
//! | `guest.copies`, `.copied` | grant copies, and their bytes |
//! | `guest.maps`, `.unmaps`, `.flushes`, `.injections` | pages mapped by grants and unmapped, nested flushes, interrupts injected |
//!
//! | single values | unit |
//! |---|---|
//! | `min`, `median`, `p99`, `p999`, `max` | ticks of one operation |
//! | `ns-median`, `ns-p99`, `ns-p999` | nanoseconds of one operation |
//!
//! Ticks of `guest`, `driver`, `peer` and `hv` leave waiting out: their sum is what anybody was busy for.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;
use core::sync::atomic::{AtomicBool, Ordering};

use super::Samples;
use crate::figures::Figures;
use crate::println;

/// Whether lines for a program are printed.
static RAW: AtomicBool = AtomicBool::new(false);

/// Chooses between lines for a program and lines for people.
pub fn set_raw(raw: bool) {
    RAW.store(raw, Ordering::Relaxed);
}

/// One figure on its way to the console.
pub struct Figure {
    area: &'static str,
    name: String,
    words: Vec<(&'static str, String)>,
    n: u64,
    totals: Vec<(String, u64)>,
    each: Vec<(&'static str, u64)>,
}

impl Figure {
    /// A figure of `n` operations.
    pub fn new(area: &'static str, name: impl Into<String>, n: u64) -> Self {
        Self { area, name: name.into(), words: Vec::new(), n: n.max(1), totals: Vec::new(), each: Vec::new() }
    }

    /// Says more of what was measured.
    #[must_use]
    pub fn with(mut self, key: &'static str, word: impl Display) -> Self {
        self.words.push((key, word.to_string().replace([' ', ':'], "_")));
        self
    }

    /// Says more, if there is more to say.
    #[must_use]
    pub fn with_some(self, key: &'static str, word: Option<impl Display>) -> Self {
        match word {
            Some(word) => self.with(key, word),
            None => self,
        }
    }

    /// Adds a total over all operations.
    #[must_use]
    pub fn total(mut self, key: &str, value: u64) -> Self {
        self.totals.push((key.to_string(), value));
        self
    }

    /// Adds a value of a single operation.
    #[must_use]
    pub fn one(mut self, key: &'static str, value: u64) -> Self {
        self.each.push((key, value));
        self
    }

    /// Adds the quantiles of samples, each of `per` operations, in ticks.
    #[must_use]
    pub fn samples(mut self, samples: &Samples) -> Self {
        for (key, value) in [
            ("min", samples.min()),
            ("median", samples.median()),
            ("p99", samples.quantile(990)),
            ("p999", samples.quantile(999)),
        ] {
            self.each.push((key, value));
        }
        self
    }

    /// Adds what the hypervisor counted meanwhile, if it could be had.
    #[must_use]
    pub fn counted(mut self, figures: Option<&Figures>) -> Self {
        let Some(figures) = figures else { return self };
        self.totals.push(("hv.ticks".into(), figures.host_ticks()));
        for (part, counters) in figures.parts() {
            if counters.guest_ticks() > 0 {
                self.totals.push((format!("{part}.ticks"), counters.guest_ticks()));
            }
            counters.each(|kind, name, count| self.totals.push((format!("{part}.{kind}{name}"), count)));
        }
        self
    }

    /// Prints it.
    pub fn print(&self) {
        if RAW.load(Ordering::Relaxed) { self.print_line() } else { self.print_text() }
    }

    fn print_line(&self) {
        let mut line = format!("figure {} {}", self.area, self.name);
        for (key, word) in &self.words {
            line += &format!(" {key}={word}");
        }
        line += &format!(" : n={}", self.n);
        for (key, value) in &self.totals {
            line += &format!(" {key}={value}");
        }
        line += " :";
        for (key, value) in &self.each {
            line += &format!(" {key}={value}");
        }
        println!("{line}");
    }

    /// One line with single values and the most telling totals per operation, and one for each part that was counted.
    fn print_text(&self) {
        let mut what = self.name.clone();
        for (key, word) in &self.words {
            what += &format!(" {key}={word}");
        }
        let mut line = format!("{:<6} {what:<44}", self.area);
        for (key, value) in &self.each {
            line += &format!(" {key} {value}");
        }
        let plain = |key: &str| !key.contains('.');
        for (key, total) in self.totals.iter().filter(|(key, _)| plain(key)) {
            line += &format!(" {key} {}", per(*total, self.n));
        }
        println!("{line}");
        for part in ["hv", "guest", "driver", "peer"] {
            let own = self.totals.iter().filter_map(|(key, total)| {
                let key = key.strip_prefix(part)?.strip_prefix('.')?;
                (*total * 1000 >= self.n).then(|| format!("{key} {}", per(*total, self.n)))
            });
            let own: Vec<_> = own.collect();
            if !own.is_empty() {
                println!("{:<6}   {part:<6} {}", self.area, own.join("  "));
            }
        }
    }
}

/// A total per operation, with two digits where it is small.
fn per(total: u64, n: u64) -> String {
    let hundredths = u128::from(total) * 100 / u128::from(n);
    match hundredths {
        0..100_000 if !hundredths.is_multiple_of(100) => {
            format!("{}.{:02}", hundredths / 100, hundredths % 100)
        }
        _ => format!("{}", hundredths / 100),
    }
}
