//! Tables for people: on the terminal, and in the book.

use super::document::Document;
use super::figure::{Figure, Lane, OWN};
use super::ratio::Ratio;
use super::targets::{Standing, grouped};
use std::fmt::Write;

/// What a figure shows in a table.
fn cells(figure: &Figure) -> [String; 8] {
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

const HEAD: [&str; 8] = ["figure", "each", "guest", "hv", "other", "exits", "B/1000", "p99"];

/// A table of the figures of one area and lane.
pub fn figures(figures: &[&Figure]) -> String {
    let rows: Vec<[String; 8]> = figures.iter().map(|figure| cells(figure)).collect();
    let mut width = HEAD.map(str::len);
    for row in &rows {
        for (width, cell) in width.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |row: [&str; 8]| {
        let mut out = format!("  {:<1$}", row[0], width[0]);
        for (cell, width) in row.iter().zip(width).skip(1) {
            let _ = write!(out, "  {cell:>width$}");
        }
        let _ = writeln!(text, "{}", out.trim_end());
    };
    line(HEAD);
    for row in &rows {
        line(std::array::from_fn(|index| row[index].as_str()));
    }
    text
}

/// A comparison's cells: what, by what, ours, the other, how many times.
pub fn compared(ratio: &Ratio) -> [String; 5] {
    let lane = if ratio.lane == Lane::Wall { "clock" } else { "instructions" };
    [
        ratio.what.clone(),
        lane.into(),
        grouped(ratio.ours),
        grouped(ratio.base),
        format!("{:.2}", ratio.times()),
    ]
}

/// How a goal stands, in words.
fn verdict(standing: &Standing) -> &'static str {
    match standing.is_met() {
        Some(true) => "met",
        Some(false) => "missed",
        None => "not measured",
    }
}

fn ours(standing: &Standing) -> String {
    standing.ours.map_or("-".into(), grouped)
}

fn ratio(standing: &Standing) -> String {
    standing.ratio().map_or("-".into(), |ratio| format!("{ratio:.1}"))
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
    if document.standings.iter().any(|row| row.ours.is_some()) {
        let _ = writeln!(text, "\ngoals: Xen 4.17, wanted, measured, times better than Xen");
        for row in document.standings.iter().filter(|row| row.ours.is_some()) {
            let _ = writeln!(
                text,
                "  {:<64} {:>8} {:>9} {:>8} {:>6}  {}",
                row.what,
                grouped(row.xen),
                row.goal.to_string(),
                ours(row),
                ratio(row),
                verdict(row)
            );
        }
    }
    if !document.ratios.is_empty() {
        let _ = writeln!(text, "\nratios of this run: by what, ours, the other, ours in units of the other");
    }
    for ratio in &document.ratios {
        let [what, lane, ours, base, times] = compared(ratio);
        let _ = writeln!(text, "  {what:<64} {lane:<12} {ours:>10} {base:>10} {times:>7}");
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

/// Requests of disks are too many for a book: those of the sizes that the goals name stand for all.
fn is_for_the_book(figure: &Figure) -> bool {
    figure.area != "blk"
        || figure.words.contains_key("guest")
        || figure.word("size") == Some(4096) && matches!(figure.word("depth"), Some(1 | 32))
        || figure.word("size") == Some(131_072) && figure.word("depth") == Some(8)
}

/// The table of the goals and where the figures are from, for the book.
pub fn markdown(document: &Document) -> String {
    let mut text = format!(
        "```sh\n{}\n```\n\nCommit {}, {}, processor `{}`; {} runs, {}.\n\n",
        document.command,
        document.commit,
        document.emulator,
        document.processor,
        document.runs,
        if document.repeats() { "identical to the last digit" } else { "which differ" }
    );
    if !document.standings.is_empty() {
        text += "| what | Xen 4.17 | wanted | here | times better | |\n|---|--:|--:|--:|--:|---|\n";
    }
    for row in &document.standings {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            row.what,
            grouped(row.xen),
            row.goal,
            ours(row),
            ratio(row),
            verdict(row)
        );
    }
    if !document.ratios.is_empty() {
        text += "\nWithin the run (by the clock they vary):\n\n| what | by | ours | the other | times |\n|---|---|--:|--:|--:|\n";
    }
    for ratio in &document.ratios {
        let _ = writeln!(text, "| {} |", compared(ratio).join(" | "));
    }
    for area in document.areas() {
        let counted = document.figures.iter().filter(|figure| figure.lane == Lane::Counted);
        let own: Vec<&Figure> =
            counted.filter(|figure| figure.area == area && is_for_the_book(figure)).collect();
        if own.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n`{area}`, instructions of one operation:\n");
        let _ = writeln!(text, "| {} |\n|---|{}", HEAD.join(" | "), "--:|".repeat(HEAD.len() - 1));
        for figure in own {
            let _ = writeln!(text, "| {} |", cells(figure).join(" | "));
        }
    }
    text
}

/// The line before and the line behind what `--markdown` writes in a file that has both: one pair for each processor.
pub fn marks(vmx: bool) -> [String; 2] {
    let of = if vmx { "figures of VT-x" } else { "figures" };
    ["begin", "end"].map(|end| format!("<!-- {of}: {end} -->"))
}

/// Puts new text between the marks of an old one; without marks, the new text is all.
pub fn between_marks(old: &str, [begin, end]: &[String; 2], new: &str) -> String {
    match (old.find(begin), old.find(end)) {
        (Some(from), Some(to)) if from < to => {
            format!("{}{begin}\n\n{}\n{}", &old[..from], new, &old[to..])
        }
        _ => new.to_owned(),
    }
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
        assert!(markdown(&document).contains("which differ"));
    }

    #[test]
    fn the_book_has_every_goal() {
        let document = document();
        let text = markdown(&document);
        assert_eq!(
            text.matches("| not measured |").count(),
            document.standings.iter().filter(|row| row.ours.is_none()).count()
        );
        assert!(text.contains("| CPUID exit | 6,492 | ≤ 200 | 218 | 29.8 | missed |"), "{text}");
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let old = "# A\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nB\n";
        let both = marks(false);
        let between_marks = |old: &str, new: &str| super::between_marks(old, &both, new);
        let new = between_marks(old, "new\n");
        assert_eq!(new, "# A\n<!-- figures: begin -->\n\nnew\n\n<!-- figures: end -->\nB\n");
        assert_eq!(between_marks(&new, "new\n"), new);
        assert_eq!(between_marks("old", "new"), "new");
        assert_eq!(super::between_marks(old, &marks(true), "new"), "new");
    }
}
