//! What a run puts into the book, so that nobody types a figure: tables in Markdown, each between marks of its own.

use super::counters;
use super::document::Document;
use super::figure::{Figure, Lane, OWN};
use super::peers::OWN_VTX;
use super::table::{
    ARTEFACT, BESIDE, Beside, COMPARED, GOALS, HEAD, beside, cells, compared, has_xen, other_ratios, standing,
};
use super::targets::grouped;
use std::fmt::Write;

/// What can stand between marks: everything, and the services on both kinds of processor.
const PARTS: [(&str, Part); 3] = [(MAIN, all), (MAIN_VTX, all), ("both processors", processors)];
/// What makes a part.
type Part = fn(&Document) -> String;
/// The mark of everything that was measured where the goals are set, and elsewhere.
const MAIN: &str = "figures";
const MAIN_VTX: &str = "figures of VT-x";

/// The line before and the line behind a part.
fn marks(name: &str) -> [String; 2] {
    ["begin", "end"].map(|end| format!("<!-- {name}: {end} -->"))
}

/// A file with new text between the marks that it has; without marks, everything is all that is in it.
pub fn filled(old: &str, document: &Document) -> String {
    let mut text = old.to_owned();
    let mut is_marked = false;
    let not_here = if document.standings.is_empty() { MAIN } else { MAIN_VTX };
    for (name, part) in PARTS {
        is_marked |= old.contains(&marks(name)[0]);
        if name == not_here {
            continue;
        }
        if let Some(new) = between(&text, &marks(name), || part(document)) {
            text = new;
        }
    }
    if is_marked { text } else { all(document) }
}

/// Puts new text between two marks; nothing if they are not there.
fn between(old: &str, [begin, end]: &[String; 2], new: impl FnOnce() -> String) -> Option<String> {
    let (from, to) = (old.find(begin)?, old.find(end)?);
    (from < to).then(|| format!("{}{begin}\n\n{}\n{}", &old[..from], new(), &old[to..]))
}

/// Figures that stand for all: requests of disks and services of many circumstances are too many for a book.
pub fn is_chosen(figure: &Figure) -> bool {
    figure.area != "blk"
        || figure.words.contains_key("guest")
        || figure.word("size") == Some(4096) && matches!(figure.word("depth"), Some(1 | 32))
        || figure.word("size") == Some(131_072) && figure.word("depth") == Some(8)
}

/// A table in Markdown: the first column begins at the left, the others end at the right.
fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut text = format!("| {} |\n|---|{}\n", head.join(" | "), "--:|".repeat(N - 1));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

/// With what all was measured.
fn setting(document: &Document) -> String {
    let runs = match (document.runs, document.repeats()) {
        (1, _) => "one run".to_owned(),
        (runs, true) => format!("{runs} runs, identical to the last digit"),
        (runs, false) => format!("{runs} runs, which differ"),
    };
    format!(
        "```sh\n{}\n```\n\nCommit {}, {}, processor `{}`; {runs}.\n",
        document.command, document.commit, document.emulator, document.processor
    )
}

/// Everything.
fn all(document: &Document) -> String {
    let mut text = setting(document);
    for line in &document.skipped {
        let _ = writeln!(text, "\nNot measured in this run: {line}");
    }
    if has_xen(document) {
        let _ = writeln!(text, "\n{ARTEFACT}");
    }
    if !document.standings.is_empty() {
        let _ = write!(text, "\n{}", table(GOALS, document.standings.iter().map(standing)));
    }
    let rows = beside(document);
    if !rows.is_empty() {
        let cells = rows.iter().map(Beside::cells);
        let _ = write!(
            text,
            "\nBeside Xen in this run, instructions of one operation:\n\n{}",
            table(BESIDE, cells)
        );
    }
    let rows: Vec<[String; 5]> = other_ratios(document).map(compared).collect();
    if !rows.is_empty() {
        let title = "Within the run (by the clock, in ticks, they vary)";
        let _ = write!(text, "\n{title}:\n\n{}", table(COMPARED, rows.into_iter()));
    }
    for area in document.areas() {
        let own: Vec<&Figure> = of(document, OWN).filter(|figure| figure.area == area).collect();
        if own.is_empty() {
            continue;
        }
        let rows = own.iter().map(|figure| cells(figure));
        let _ = write!(text, "\n`{area}`, instructions of one operation:\n\n{}", table(HEAD, rows));
    }
    let counted: Vec<[String; 2]> = of(document, OWN)
        .filter(|figure| figure.area != "scale" && figure.area != "boot")
        .filter_map(|figure| Some([format!("{} {}", figure.area, figure.what()), counters::line(figure)?]))
        .collect();
    if !counted.is_empty() {
        let _ = writeln!(text, "\nBy name, {}:\n\n| figure | counted |\n|---|---|", counters::TITLE);
        for row in counted {
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
    }
    text
}

/// Counted figures of a system that stand for all.
fn of<'a>(document: &'a Document, system: &'a str) -> impl Iterator<Item = &'a Figure> {
    let suits = move |figure: &&Figure| figure.lane == Lane::Counted && figure.system == system;
    document.figures.iter().filter(suits).filter(|figure| is_chosen(figure))
}

/// Services on AMD-V and on VT-x.
fn processors(document: &Document) -> String {
    let rows = of(document, OWN).filter_map(|amd| {
        let vtx = of(document, OWN_VTX).find(|vtx| vtx.area == amd.area && vtx.what() == amd.what())?;
        Some([amd.what(), grouped(amd.ticks()), grouped(vtx.ticks())])
    });
    format!("{}\n{}", setting(document), table(["figure", "AMD-V, QEMU", "VT-x, Bochs"], rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::document::tests::document;
    use crate::bench::figure::OWN;

    #[test]
    fn the_book_has_every_goal() {
        let document = document();
        let text = all(&document);
        assert_eq!(
            text.matches("| not measured |").count(),
            document.standings.iter().filter(|row| row.ours.is_none()).count()
        );
        assert!(text.contains("| CPUID exit | 6,492 | - | ≤ 200 | 218 | missed | 29.8 | - | - |"), "{text}");
        assert!(text.contains("| micro cpuid | exit cpuid 1 |"), "{text}");
        assert!(text.contains("no next-RIP"));
        assert!(text.contains("\nNot measured in this run: net: no such command\n"));
    }

    #[test]
    fn differences_are_told() {
        let mut document = document();
        document.differences.push(crate::bench::difference::Difference {
            figure: "counted xenolith micro cpuid".into(),
            key: "ticks".into(),
            values: vec![Some(1), Some(2)],
        });
        assert!(all(&document).contains("2 runs, which differ"));
    }

    #[test]
    fn xen_and_vt_x_stand_beside() {
        let mut document = document();
        let cpuid = document.figures.iter().find(|figure| figure.name == "cpuid").unwrap().clone();
        let of = |system: &str, ticks: u64| {
            let mut figure = Figure { system: system.into(), ..cpuid.clone() };
            figure.each.insert("median".into(), ticks);
            figure
        };
        document.figures.extend([of("xen", 6540), of(OWN_VTX, 250), of("xen on VT-x", 1500)]);
        let text = all(&document);
        assert!(text.contains("| cpuid | 218 | 6,540 | 30.0 | 250 | 1,500 | 6.0 |"), "{text}");
        let text = processors(&document);
        assert!(text.contains("| cpuid | 218 | 250 |"), "{text}");
        assert_eq!(OWN, cpuid.system);
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let document = document();
        let old = "# A\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nB\n";
        let new = filled(old, &document);
        assert!(new.starts_with("# A\n<!-- figures: begin -->\n\n```sh\n"), "{new}");
        assert!(new.ends_with("|\n\n<!-- figures: end -->\nB\n") && !new.contains("old"), "{new}");
        assert_eq!(filled(&new, &document), new);
        assert_eq!(filled("old", &document), all(&document));
        let elsewhere = Document { standings: Vec::new(), ..document.clone() };
        assert_eq!(filled(old, &elsewhere), old);
        let other = filled("<!-- both processors: begin --><!-- both processors: end -->", &document);
        assert!(other.contains("| figure | AMD-V, QEMU | VT-x, Bochs |"), "{other}");
    }
}
