//! The page of `--html`: one file with tables and plots that needs no other.

use super::document::Document;
use super::figure::{Figure, Lane, OWN, PARTS};
use super::plot::{self, Series};
use super::ratio::PEER;
use super::table;
use super::targets::{DRIVER_DOMAIN, MEMORY_DISK};
use super::{counters, growth};
use anyhow::Result;
use std::collections::BTreeMap;
use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}\
    table{border-collapse:collapse;margin:1rem 0}td,th{padding:.15rem .7rem;border-bottom:1px solid #ddd;text-align:right}\
    td:first-child,th:first-child{text-align:left}pre{background:#f5f5f5;padding:.6rem;overflow-x:auto}\
    .text td{text-align:left;vertical-align:top}svg{max-width:100%;height:auto;margin:.5rem 0}.met{color:#176b1b}.missed{color:#a02314}";

/// Text as it stands in HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The same, with what stands between backquotes as code.
fn prose(text: &str) -> String {
    let mut all = String::new();
    for (index, part) in text.split('`').enumerate() {
        let part = escaped(part);
        all += &if index % 2 == 1 { format!("<code>{part}</code>") } else { part };
    }
    all
}

/// The page.
pub fn page(document: &Document) -> Result<String> {
    let mut body = String::new();
    let _ = write!(
        body,
        "<h1>Xenolith: measured</h1><pre>{}</pre><p>Commit {}, {}, processor {}. {} counted runs{}.</p>",
        escaped(&document.command),
        escaped(&document.commit),
        escaped(&document.emulator),
        escaped(&document.processor),
        document.runs,
        if document.repeats() { ", the same in every number" } else { ", which differ" }
    );
    if table::has_xen(document) {
        let _ = write!(body, "<p>{}</p>", escaped(table::ARTEFACT));
    }
    let goals: Vec<_> =
        document.standings.iter().filter(|row| row.ours.is_some()).map(table::standing).collect();
    body += &section("Goals", table::GOALS, &goals);
    let rows: Vec<_> = table::beside(document).iter().map(table::Beside::cells).collect();
    body += &section("Beside Xen in this run, instructions", table::BESIDE, &rows);
    let rows: Vec<_> = table::other_ratios(document).map(table::compared).collect();
    body += &section("Ratios within the run", table::COMPARED, &rows);
    for plot in plots(document)? {
        body += &plot;
    }
    let _ = write!(body, "<h2>All figures</h2><p>{}</p>", escaped(table::COLUMNS));
    for area in document.areas() {
        for (lane, title) in table::LANES {
            let own: Vec<&Figure> =
                document.figures.iter().filter(|figure| figure.area == area && figure.lane == lane).collect();
            if !own.is_empty() {
                let _ = write!(
                    body,
                    "<h3>{}, {title}</h3><pre>{}</pre>",
                    escaped(area),
                    escaped(&table::figures(&own))
                );
            }
        }
    }
    let counted: Vec<[String; 2]> = document
        .figures
        .iter()
        .filter(|figure| figure.lane == Lane::Counted && figure.system == OWN)
        .filter_map(|figure| Some([format!("{} {}", figure.area, figure.what()), counters::line(figure)?]))
        .collect();
    body += &section(&format!("By name, {}", counters::TITLE), ["figure", "counted"], &counted)
        .replace("<table>", "<table class=\"text\">");
    for line in &document.skipped {
        let _ = write!(body, "<p>Not measured: {}</p>", escaped(line));
    }
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Xenolith: measured</title><style>{STYLE}</style></head>\n<body>{body}</body></html>\n"
    ))
}

/// A table with its title; nothing if it has no rows. A cell that is `met` or `missed` has its colour.
fn section<const N: usize>(title: &str, head: [&str; N], rows: &[[String; N]]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut text = format!("<h2>{}</h2><table><tr><th>{}</th></tr>", escaped(title), head.join("</th><th>"));
    for row in rows {
        text += "<tr>";
        for cell in row {
            let class = match cell.as_str() {
                "met" | "missed" => format!(" class=\"{cell}\""),
                _ => String::new(),
            };
            let _ = write!(text, "<td{class}>{}</td>", prose(cell));
        }
        text += "</tr>";
    }
    text + "</table>"
}

/// Counted figures of this hypervisor's in an area.
fn counted<'a>(document: &'a Document, area: &'a str) -> impl Iterator<Item = &'a Figure> {
    let is_counted = |figure: &Figure| figure.system == OWN && figure.lane == Lane::Counted;
    document.figures.iter().filter(move |figure| is_counted(figure) && figure.area == area)
}

/// Figures of the memory disk with this load.
fn reads<'a>(document: &'a Document, load: &'a str) -> impl Iterator<Item = &'a Figure> {
    counted(document, "blk").filter(move |figure| {
        figure.name == load && figure.is("disk", MEMORY_DISK) && !figure.words.contains_key("queues")
    })
}

/// Whether a figure is of random reads of the memory disk by the clock.
fn is_wall_read(figure: &Figure) -> bool {
    figure.system == OWN
        && figure.lane == Lane::Wall
        && figure.name == "read-rand"
        && figure.is("disk", MEMORY_DISK)
        && !figure.words.contains_key("processors")
}

#[allow(clippy::cast_precision_loss)] // figures for people
fn plots(document: &Document) -> Result<Vec<String>> {
    let mut plots = Vec::new();
    for load in ["read-rand", "write-rand"] {
        let throughput = |figure: &Figure| figure.bytes_per_thousand() as f64;
        for (by, over) in [("depth", "size"), ("size", "depth")] {
            let all = series(reads(document, load), by, over, &throughput);
            if all.iter().any(|series| series.points.len() > 1) {
                let title = format!("Memory disk, {load}: throughput");
                plots.push(plot::lines(&title, axis(over), "bytes in 1,000 instructions", &all)?);
            }
        }
    }
    for (by, over) in [("depth", "size"), ("size", "depth")] {
        let by_the_clock = document.figures.iter().filter(|figure| is_wall_read(figure));
        let mib = |figure: &Figure| (figure.throughput() >> 10) as f64 / 1024.0;
        let all = series(by_the_clock, by, over, &mib);
        if all.iter().any(|series| series.points.len() > 1) {
            let title = "Memory disk, read-rand: throughput by the clock";
            plots.push(plot::lines(title, axis(over), "MiB in a second", &all)?);
        }
    }
    let at_4k = |figure: &&Figure| figure.word("size") == Some(4096);
    let clock = document.figures.iter().filter(|figure| is_wall_read(figure));
    let of_count = quantiles(reads(document, "read-rand").filter(at_4k), ["median", "p99", "p999"], 1.0);
    let by_the_clock = quantiles(clock.filter(at_4k), ["ns-median", "ns-p99", "ns-p999"], 1000.0);
    for (of, y, all) in [("", "instructions", of_count), (" by the clock", "microseconds", by_the_clock)] {
        if all.iter().any(|series| series.points.len() > 1) {
            let title = format!("Memory disk, 4 KiB random read: latency{of}, from submission to answer");
            plots.push(plot::lines(&title, axis("depth"), y, &all)?);
        }
    }
    let mut chosen: Vec<&Figure> = reads(document, "read-rand").filter(at_4k).collect();
    chosen.sort_by_key(|figure| figure.word("depth"));
    if !chosen.is_empty() {
        let names: Vec<String> =
            chosen.iter().map(|figure| format!("depth {}", figure.word("depth").unwrap_or(0))).collect();
        plots.push(plot::bars(
            "Memory disk, 4 KiB random read: who is busy",
            "instructions for one request",
            &names,
            &shares(&chosen),
        )?);
        plots.push(plot::bars(
            "Memory disk, 4 KiB random read: exits by cause",
            "exits for one request",
            &names,
            &causes(&chosen),
        )?);
    }
    let micro: Vec<&Figure> = counted(document, "micro")
        .filter(|figure| figure.total("hv.ticks") > 0 && figure.ticks() < 12_000)
        .collect();
    for some in micro.chunks(4) {
        let names: Vec<String> = some.iter().map(|figure| service(figure)).collect();
        plots.push(plot::bars(
            "Services: who is busy",
            "instructions of one operation",
            &names,
            &shares(some),
        )?);
        plots.push(plot::bars("Services: exits by cause", "exits of one operation", &names, &causes(some))?);
    }
    for (what, y, wanted) in [
        ("round trips and packets", "instructions for one", &["ping", "packets"][..]),
        ("streams by TCP", "instructions for a MiB", &["tcp-stream"]),
    ] {
        let chosen: Vec<&Figure> = counted(document, "net")
            .filter(|figure| {
                !figure.words.contains_key("queues")
                    && !figure.words.contains_key("guest")
                    && wanted.contains(&figure.name.as_str())
                    && figure.total("hv.ticks") > 0
            })
            .collect();
        if !chosen.is_empty() {
            let names: Vec<String> = chosen.iter().map(|figure| way(figure)).collect();
            plots.push(plot::bars(&format!("Network, {what}: who is busy"), y, &names, &shares(&chosen))?);
            let title = format!("Network, {what}: exits by cause");
            plots.push(plot::bars(&title, &y.replace("instructions", "exits"), &names, &causes(&chosen))?);
        }
    }
    plots.extend(growth::plots(counted(document, "scale"))?);
    Ok(plots)
}

/// Lines of quantiles over the powers of two of the depth, in units.
#[allow(clippy::cast_precision_loss)] // figures for people
fn quantiles<'a>(figures: impl Iterator<Item = &'a Figure>, keys: [&str; 3], unit: f64) -> Vec<Series> {
    let figures: Vec<&Figure> = figures.collect();
    let line = |(name, key): (&str, &str)| {
        let point = |figure: &&Figure| {
            Some(((figure.word("depth")? as f64).log2(), *figure.each.get(key)? as f64 / unit))
        };
        let mut points: Vec<(f64, f64)> = figures.iter().filter_map(point).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { name: name.to_owned(), points }
    };
    ["p50", "p99", "p99.9"].into_iter().zip(keys).map(line).collect()
}

/// What an axis is called.
fn axis(word: &str) -> &'static str {
    if word == "size" { "bytes of a request" } else { "depth: requests under way" }
}

/// A service's name, and how much of it is in one operation.
fn service(figure: &Figure) -> String {
    match figure.words.get("batch") {
        Some(batch) => format!("{}, {batch}", figure.name),
        None => figure.name.clone(),
    }
}

/// What a figure of the network is about, as short as a bar is wide.
fn way(figure: &Figure) -> String {
    let to = match figure.words.get("to").map(String::as_str) {
        Some(DRIVER_DOMAIN) => "driver",
        Some(PEER) => "guest",
        _ => "host",
    };
    match (figure.words.get("direction"), figure.words.get("size")) {
        (Some(direction), _) => format!("{direction}, {to}"),
        (None, Some(size)) if figure.name == "packets" => format!("{size} B, {to}"),
        _ => format!("{}, {to}", figure.name),
    }
}

/// One line for each value of the word `by`, over the powers of two of the word `over`.
#[allow(clippy::cast_precision_loss)] // figures for people
fn series<'a>(
    figures: impl Iterator<Item = &'a Figure>,
    by: &str,
    over: &str,
    value: &dyn Fn(&Figure) -> f64,
) -> Vec<Series> {
    let mut lines: BTreeMap<u64, Vec<(f64, f64)>> = BTreeMap::new();
    for figure in figures {
        if let (Some(by), Some(over)) = (figure.word(by), figure.word(over)) {
            lines.entry(by).or_default().push(((over as f64).log2(), value(figure)));
        }
    }
    let named = |(key, mut points): (u64, Vec<(f64, f64)>)| {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { name: format!("{by} {}", plot::power((key as f64).log2())), points }
    };
    lines.into_iter().map(named).collect()
}

/// Instructions of an operation by who executes them.
fn shares(figures: &[&Figure]) -> Vec<(String, Vec<f64>)> {
    let share = |name: &str, key: &str| {
        (name.to_owned(), figures.iter().map(|figure| figure.per(key)).collect::<Vec<f64>>())
    };
    let all = [
        share("guest", "guest.ticks"),
        share("hypervisor", "hv.ticks"),
        share("driver domain", "driver.ticks"),
        share("other guest", "peer.ticks"),
    ];
    all.into_iter().filter(|(_, values)| values.iter().any(|value| *value > 0.0)).collect()
}

/// Exits of an operation by cause, of all domains.
#[allow(clippy::cast_precision_loss)] // figures for people
fn causes(figures: &[&Figure]) -> Vec<(String, Vec<f64>)> {
    let mut causes: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (index, figure) in figures.iter().enumerate() {
        for part in PARTS {
            for (key, count) in figure.named(part) {
                if let Some(cause) = key.strip_prefix(".exit.") {
                    let values = causes.entry(cause.to_owned()).or_insert_with(|| vec![0.0; figures.len()]);
                    values[index] += count as f64 / figure.n as f64;
                }
            }
        }
    }
    causes.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::document::tests::document;

    #[test]
    fn the_page_needs_no_other_file() {
        let mut document = document();
        document.command = "a <b> & \"c\"".into();
        let page = page(&document).unwrap();
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        assert!(page.contains("a &lt;b&gt; &amp; &quot;c&quot;"));
        for outside in ["<script", "<link", "<img", "url(", "src=", "href="] {
            assert!(!page.contains(outside), "{outside} is in the page");
        }
        for sign in
            ["who is busy", "exits by cause", "latency", "CPUID exit", "Not measured: net", "by the clock"]
        {
            assert!(page.contains(sign), "{sign} is not in the page");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        assert!(page.matches("<svg").count() >= 6);
    }

    #[test]
    fn code_is_marked() {
        assert_eq!(prose("a `b<c` d"), "a <code>b&lt;c</code> d");
    }

    #[test]
    fn figures_of_another_system_are_in_no_plot() {
        let mut document = document();
        let ours = reads(&document, "read-rand").count();
        let others: Vec<Figure> = reads(&document, "read-rand").cloned().collect();
        assert!(ours > 0);
        document
            .figures
            .extend(others.into_iter().map(|figure| Figure { system: "xen and linux".into(), ..figure }));
        assert_eq!(reads(&document, "read-rand").count(), ours);
    }

    #[test]
    fn exits_of_all_domains_add_up() {
        let document = document();
        let figure: Vec<&Figure> = reads(&document, "read-rand").take(1).collect();
        assert_eq!(causes(&figure), [("halt".to_owned(), vec![2.0]), ("hypercall".to_owned(), vec![1.0])]);
        let shares = shares(&figure);
        assert_eq!(
            shares.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["guest", "hypervisor", "driver domain"]
        );
    }
}
