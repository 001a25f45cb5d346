//! Tables for people: on the terminal, and in the book.

use super::document::Document;
use super::figure::{Figure, Lane, OWN};
use super::peers::is_peer;
use super::ratio::{Ratio, both};
use super::targets::{Standing, grouped};
use super::{book, counters};
use std::fmt::Write;

/// What a figure shows in a table.
pub fn cells(figure: &Figure) -> [String; 8] {
    let ticks = match figure.lane {
        Lane::Wall if figure.total("ns") > 0 => {
            format!("{} us", grouped(figure.total("ns") / figure.n / 1000))
        }
        _ => grouped(figure.ticks()),
    };
    let part = |key: &str| match figure.total(key) {
        0 => "-".to_owned(),
        total => grouped(total / figure.n),
    };
    let other = match figure.total("driver.ticks") {
        0 => part("peer.ticks"),
        _ => part("driver.ticks"),
    };
    let exits = figure.exits();
    let moved = match (figure.total("bytes"), figure.lane) {
        (0, _) => "-".to_owned(),
        (_, Lane::Counted | Lane::Device) => grouped(figure.bytes_per_thousand()),
        (_, Lane::Wall) => format!("{} MiB/s", grouped(figure.throughput() >> 20)),
    };
    let quantile = |key: &str| match figure.each.get(key) {
        Some(value) if figure.lane != Lane::Device => grouped(*value),
        _ => "-".to_owned(),
    };
    let exits = if exits == 0.0 { "-".to_owned() } else { format!("{exits:.2}") };
    let what = match figure.system.as_str() {
        OWN => figure.what(),
        system => format!("{system}: {}", figure.what()),
    };
    [what, ticks, part("guest.ticks"), part("hv.ticks"), other, exits, moved, quantile("p99")]
}

/// The lanes, and how a title names them.
pub const LANES: [(Lane, &str); 3] = [
    (Lane::Counted, "instructions"),
    (Lane::Device, "instructions without the waiting for a device"),
    (Lane::Wall, "ticks, and by the clock"),
];

/// What the columns are, for the terminal and the page.
pub const COLUMNS: &str = "each: ticks of one operation; guest, hv, other: who executes them (the domain that measures, \
    the hypervisor,\nthe driver domain or the partner); exits: of all domains, for one operation; B/1000: bytes in a thousand \
    instructions\n(by the clock: in a second); p99: ticks that 99 of 100 operations do not exceed";

/// The columns' names.
pub const HEAD: [&str; 8] = ["figure", "each", "guest", "hv", "other", "exits", "B/1000", "p99"];

/// A table of the figures of one area and lane.
pub fn figures(figures: &[&Figure]) -> String {
    let rows: Vec<[String; 8]> = figures.iter().map(|figure| cells(figure)).collect();
    aligned(HEAD, &rows)
}

/// Columns as wide as they must be: the first begins at the left, the others end at the right.
fn aligned<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut width = head.map(str::len);
    for row in rows {
        for (width, cell) in width.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |row: [&str; N]| {
        let mut out = String::new();
        for (index, (cell, width)) in row.iter().zip(width).enumerate() {
            let _ =
                if index == 0 { write!(out, "  {cell:<width$}") } else { write!(out, "  {cell:>width$}") };
        }
        let _ = writeln!(text, "{}", out.trim_end());
    };
    line(head);
    for row in rows {
        line(std::array::from_fn(|index| row[index].as_str()));
    }
    text
}

/// What was counted for one operation, by name: of the figures that stand for all.
fn counted(document: &Document) -> String {
    let mut text = String::new();
    let own = document.figures.iter().filter(|figure| figure.lane == Lane::Counted && figure.system == OWN);
    for figure in own.filter(|figure| book::is_chosen(figure)) {
        if let Some(line) = counters::line(figure) {
            let _ = writeln!(text, "  {} {}: {line}", figure.area, figure.what());
        }
    }
    if text.is_empty() { text } else { format!("\n{}\n{text}", counters::TITLE) }
}

/// The columns' names of the goals.
pub const GOALS: [&str; 9] = [
    "what",
    "Xen 4.17",
    "Xen, this run",
    "wanted",
    "here",
    "",
    "times better",
    "VT-x: here, Xen",
    "times better",
];

/// A goal's cells.
pub fn standing(row: &Standing) -> [String; 9] {
    let vtx = row.vtx.map_or("-".into(), |[ours, xen]| format!("{}, {}", grouped(ours), grouped(xen)));
    [
        row.what.clone(),
        grouped(row.xen),
        number(row.peer),
        row.goal.to_string(),
        number(row.ours),
        verdict(row).into(),
        times(row.ratio()),
        vtx,
        times(row.vtx_ratio()),
    ]
}

/// The columns' names of comparisons.
pub const COMPARED: [&str; 5] = ["what", "by", "ours", "the other", "times"];

/// A comparison's cells: what, by what, ours, the other, how many times.
pub fn compared(ratio: &Ratio) -> [String; 5] {
    let by = match ratio.lane {
        Lane::Wall => format!("clock, {}", ratio.of),
        Lane::Counted | Lane::Device => "instructions".into(),
    };
    [ratio.what.clone(), by, grouped(ratio.ours), grouped(ratio.base), format!("{:.2}", ratio.times())]
}

/// What is to be known of every ratio to Xen.
pub const ARTEFACT: &str = "Part of Xen's cost in QEMU is the emulator's: its AMD-V does not tell where the next instruction is (no next-RIP), \
    so that Xen\ndecodes the one after a hypercall or CPUID, about 4,900 instructions. On VT-x nothing is decoded: what Xen takes \
    there stands\nbeside, where it was measured.";

/// Whether anything is compared with Xen.
pub fn has_xen(document: &Document) -> bool {
    document.standings.iter().any(|row| row.ours.is_some())
        || document.figures.iter().any(|figure| is_peer(&figure.system))
}

/// A figure beside Xen: its area and name, here, on Xen, how many times better, and the same on VT-x.
pub struct Beside {
    /// The area.
    pub area: String,
    /// What was measured.
    pub what: String,
    /// Ticks of one operation here and on Xen, in QEMU.
    pub amd: Option<[u64; 2]>,
    /// The same on VT-x.
    pub vtx: Option<[u64; 2]>,
}

impl Beside {
    /// The cells of a table.
    pub fn cells(&self) -> [String; 7] {
        let [ours, xen, times] = three(self.amd);
        let [vtx_ours, vtx_xen, vtx_times] = three(self.vtx);
        [self.what.clone(), ours, xen, times, vtx_ours, vtx_xen, vtx_times]
    }
}

/// Two numbers, and how many times the first the second is.
#[allow(clippy::cast_precision_loss)] // a figure for people
fn three(pair: Option<[u64; 2]>) -> [String; 3] {
    pair.map_or_else(
        || ["-", "-", "-"].map(str::to_owned),
        |[ours, other]| {
            let times = other as f64 / ours.max(1) as f64;
            let digits = if times < 1.0 { 3 } else { 1 };
            [grouped(ours), grouped(other), format!("{times:.digits$}")]
        },
    )
}

/// The columns' names of those.
pub const BESIDE: [&str; 7] =
    ["figure", "here", "on Xen", "times less", "VT-x: here", "on Xen", "times less"];

/// Every counted figure that was taken here and on Xen.
pub fn beside(document: &Document) -> Vec<Beside> {
    let mut all: Vec<Beside> = Vec::new();
    for (own, peer) in super::ratio::beside(&document.figures) {
        if peer.lane != Lane::Counted {
            continue;
        }
        let (what, pair) = (own.what(), both(own, peer));
        let known = all.iter_mut().find(|row| row.area == own.area && row.what == what);
        match (known, own.system == OWN) {
            (Some(row), true) => row.amd = pair,
            (Some(row), false) => row.vtx = pair,
            (None, true) => all.push(Beside { area: own.area.clone(), what, amd: pair, vtx: None }),
            (None, false) => all.push(Beside { area: own.area.clone(), what, amd: None, vtx: pair }),
        }
    }
    all
}

/// Comparisons that are in no table of figures beside Xen's.
pub fn other_ratios(document: &Document) -> impl Iterator<Item = &Ratio> {
    let is_beside = |ratio: &Ratio| ratio.lane == Lane::Counted && ratio.what.contains(": here to ");
    document.ratios.iter().filter(move |ratio| !is_beside(ratio))
}

/// How a goal stands, in words.
pub fn verdict(standing: &Standing) -> &'static str {
    match standing.is_met() {
        Some(true) => "met",
        Some(false) => "missed",
        None => "not measured",
    }
}

/// A number, if there is one.
pub fn number(value: Option<u64>) -> String {
    value.map_or("-".into(), grouped)
}

/// A ratio, if there is one.
pub fn times(ratio: Option<f64>) -> String {
    ratio.map_or("-".into(), |ratio| format!("{ratio:.1}"))
}

/// Everything, for the terminal.
pub fn terminal(document: &Document) -> String {
    let mut text = format!("{}, commit {}\n{COLUMNS}\n", document.emulator, document.commit);
    for area in document.areas() {
        for (lane, title) in LANES {
            let own: Vec<&Figure> =
                document.figures.iter().filter(|figure| figure.area == area && figure.lane == lane).collect();
            if !own.is_empty() {
                let _ = write!(text, "\n{area}, {title}\n{}", figures(&own));
            }
        }
    }
    text += &counted(document);
    if has_xen(document) {
        let _ = writeln!(text, "\n{ARTEFACT}");
    }
    let rows: Vec<[String; 9]> =
        document.standings.iter().filter(|row| row.ours.is_some()).map(standing).collect();
    if !rows.is_empty() {
        let _ = write!(text, "\ngoals\n{}", aligned(GOALS, &rows));
    }
    let rows: Vec<[String; 7]> = beside(document).iter().map(Beside::cells).collect();
    if !rows.is_empty() {
        let _ = write!(text, "\nbeside Xen in this run, instructions\n{}", aligned(BESIDE, &rows));
    }
    let rows: Vec<[String; 5]> = other_ratios(document).map(compared).collect();
    if !rows.is_empty() {
        let _ = write!(text, "\nratios of this run\n{}", aligned(COMPARED, &rows));
    }
    for line in &document.skipped {
        let _ = writeln!(text, "not measured: {line}");
    }
    let is_counted = |figure: &Figure| figure.lane == Lane::Counted && figure.system == OWN;
    match (document.runs, document.differences.as_slice()) {
        (0 | 1, _) => {}
        _ if !document.figures.iter().any(is_counted) => {}
        (runs, []) => {
            let _ = writeln!(text, "{runs} runs gave the same counted figures");
        }
        (runs, all) => {
            let _ = writeln!(text, "{runs} runs differ in {} numbers:", all.len());
            for difference in all.iter().take(20) {
                let _ = writeln!(text, "  {difference}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::document::tests::document;

    #[test]
    fn the_terminal_shows_all_figures() {
        let text = terminal(&document());
        for sign in [
            "micro, instructions",
            "blk, ticks, and by the clock",
            "read-rand depth=32 disk=xvdb size=4096",
            "24,500",
            "100 us",
            "39 MiB/s",
            "2 runs gave the same counted figures",
            "not measured: net: no such command",
        ] {
            assert!(text.contains(sign), "{sign} is not in\n{text}");
        }
    }

    #[test]
    fn differences_are_shown() {
        let mut document = document();
        document.differences.push(crate::bench::difference::Difference {
            figure: "counted xenolith micro cpuid".into(),
            key: "ticks".into(),
            values: vec![Some(1), Some(2)],
        });
        assert!(
            terminal(&document)
                .contains("2 runs differ in 1 numbers:\n  counted xenolith micro cpuid: ticks is 1 and 2")
        );
    }
}
