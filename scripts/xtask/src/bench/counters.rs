//! What the hypervisor counted for one operation of a figure: exits by cause, hypercalls by name, events, copies, pages,
//! flushes; of all domains together. The JSON has them domain by domain.

use super::figure::{Figure, PARTS};
use super::targets::grouped;
use std::collections::BTreeMap;

/// What the tables of these are called.
pub const TITLE: &str = "counted for one operation, of all domains";

/// Totals of a part that are no counters.
const TICKS: &str = ".ticks";

/// All counters of one operation, by name: `exit.CAUSE`, `call.NAME`, and the others as they are.
pub fn of(figure: &Figure) -> BTreeMap<&str, u64> {
    let mut all: BTreeMap<&str, u64> = BTreeMap::new();
    for part in PARTS {
        for (key, count) in figure.named(part) {
            if let Some(name) = key.strip_prefix('.').filter(|_| key != TICKS) {
                *all.entry(name).or_default() += count;
            }
        }
    }
    all
}

/// A total per operation, as short as it can be read.
fn per(total: u64, n: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // a figure for people
    let value = total as f64 / n as f64;
    match value {
        _ if total.is_multiple_of(n) => grouped(total / n),
        value if value >= 1000.0 => grouped(total / n),
        value if value >= 0.1 => format!("{value:.2}"),
        value if value >= 0.001 => format!("{value:.4}"),
        value => format!("{value:.1e}"),
    }
}

/// One line with all of them; nothing if there are none.
pub fn line(figure: &Figure) -> Option<String> {
    let name = |key: &str| match key.split_once('.') {
        Some(("exit", cause)) => format!("exit {cause}"),
        Some(("call", name)) => format!("call {name}"),
        _ => key.to_owned(),
    };
    let all: Vec<String> = of(figure)
        .into_iter()
        .map(|(key, total)| format!("{} {}", name(key), per(total, figure.n)))
        .collect();
    (!all.is_empty()).then(|| all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figure::{Lane, OWN};

    #[test]
    fn domains_add_up_and_ticks_do_not_count() {
        let line = "figure micro a : n=4 ticks=7 hv.ticks=9 guest.ticks=3 guest.exit.halt=4 driver.exit.halt=2 \
            guest.call.evtchn_send=8 guest.copied=16384 peer.sent=1 : median=1";
        let figure = Figure::all(line, Lane::Counted, OWN).unwrap().remove(0);
        assert_eq!(
            super::line(&figure).unwrap(),
            "call evtchn_send 2, copied 4,096, exit halt 1.50, sent 0.25"
        );
        let none = Figure::all("figure micro a : n=4 ticks=7 :", Lane::Counted, OWN).unwrap().remove(0);
        assert_eq!(super::line(&none), None);
    }

    #[test]
    fn small_numbers_are_not_nothing() {
        assert_eq!(
            [(3, 1), (1, 8), (1, 64), (1, 100_000)].map(|(a, b)| per(a, b)),
            ["3", "0.12", "0.0156", "1.0e-5"]
        );
    }
}
