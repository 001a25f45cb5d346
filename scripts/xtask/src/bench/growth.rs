//! Plots of how a service's cost grows with the number of things.

use super::figure::Figure;
use super::plot::{self, Series};
use anyhow::Result;
use std::collections::BTreeMap;

/// What grows, and how its plot is called.
const WHAT: [(&str, &str); 5] = [
    ("ports", "event ports of the domain"),
    ("grants", "grants of the domain"),
    ("guests", "guests in the machine"),
    ("vcpus", "virtual CPUs of the domain"),
    ("memory", "MiB of a domain that is made"),
];

/// How much there is of it: a count, or MiB by the name of a domain's section.
fn count(figure: &Figure) -> Option<u64> {
    figure.word("count").or_else(|| figure.words.get("section")?.strip_prefix('m')?.parse().ok())
}

/// One plot for each thing of which there was more and more.
#[allow(clippy::cast_precision_loss)] // figures for people
pub fn plots<'a>(figures: impl Iterator<Item = &'a Figure>) -> Result<Vec<String>> {
    let figures: Vec<&Figure> = figures.collect();
    let mut plots = Vec::new();
    for (what, axis) in WHAT {
        let mut lines: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
        for figure in figures.iter().filter(|figure| figure.is("what", what)) {
            if let Some(count) = count(figure) {
                lines.entry(&figure.name).or_default().push(((count as f64).log2(), figure.ticks() as f64));
            }
        }
        let sorted = |(name, mut points): (&str, Vec<(f64, f64)>)| {
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Series { name: name.to_owned(), points }
        };
        let all: Vec<Series> = lines.into_iter().map(sorted).collect();
        if all.iter().any(|series| series.points.len() > 1) {
            plots.push(plot::lines(&format!("Growth: {axis}"), axis, "instructions of one operation", &all)?);
        }
    }
    Ok(plots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figure::{Lane, OWN};

    #[test]
    fn what_grows_has_a_plot() {
        let console = "figure scale yield what=guests count=1 : n=1 : median=400\n\
            figure scale yield what=guests count=64 : n=1 : median=410\n\
            figure scale yield what=vcpus count=1 : n=1 : median=400\n\
            figure scale domain-create what=memory section=m128 : n=1 : median=1000\n\
            figure scale domain-create what=memory section=m8192 : n=1 : median=64000\n";
        let figures = Figure::all(console, Lane::Counted, OWN).unwrap();
        let plots = plots(figures.iter()).unwrap();
        assert_eq!(plots.len(), 2, "one vCPU is no growth");
        assert!(plots[0].contains("guests in the machine") && plots[0].contains("yield"));
        assert!(plots[1].contains("8K") && plots[1].contains("domain-create"));
    }
}
