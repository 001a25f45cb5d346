//! What differs between runs that should be the same.

use super::figure::Figure;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A number that was not the same in all runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Difference {
    /// The figure.
    pub figure: String,
    /// The key of the number; `present` if a run lacks the whole figure.
    pub key: String,
    /// The numbers, run by run; nothing where it was left out.
    pub values: Vec<Option<u64>>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let values: Vec<String> =
            self.values.iter().map(|value| value.map_or("-".into(), |value| value.to_string())).collect();
        write!(f, "{}: {} is {}", self.figure, self.key, values.join(" and "))
    }
}

/// Every number of a figure.
fn numbers(figure: &Figure) -> BTreeMap<String, u64> {
    let totals = figure.totals.iter().map(|(key, value)| (key.clone(), *value));
    let each = figure.each.iter().map(|(key, value)| (format!("each {key}"), *value));
    totals.chain(each).chain([("n".to_owned(), figure.n)]).collect()
}

/// Compares runs number by number.
pub fn differences(runs: &[Vec<Figure>]) -> Vec<Difference> {
    let mut keys: Vec<String> = runs.iter().flatten().map(Figure::key).collect();
    keys.sort();
    keys.dedup();
    let mut found = Vec::new();
    for key in keys {
        let same: Vec<Option<BTreeMap<String, u64>>> =
            runs.iter().map(|run| run.iter().find(|figure| figure.key() == key).map(numbers)).collect();
        if same.iter().any(Option::is_none) {
            let values = same.iter().map(|run| run.is_some().then_some(1)).collect();
            found.push(Difference { figure: key, key: "present".into(), values });
            continue;
        }
        let mut names: Vec<&String> = same.iter().flatten().flat_map(BTreeMap::keys).collect();
        names.sort();
        names.dedup();
        for name in names {
            let values: Vec<Option<u64>> = same.iter().flatten().map(|run| run.get(name).copied()).collect();
            if values.windows(2).any(|pair| pair[0] != pair[1]) {
                found.push(Difference { figure: key.clone(), key: name.clone(), values });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figure::{Lane, OWN};

    fn run(lines: &[&str]) -> Vec<Figure> {
        Figure::all(&lines.join("\n"), Lane::Counted, OWN).unwrap()
    }

    #[test]
    fn equal_runs_have_no_differences() {
        let one = run(&["figure micro a : n=2 ticks=7 : min=3", "figure micro b : n=2 : min=3"]);
        assert_eq!(differences(&[one.clone(), one]), []);
    }

    #[test]
    fn every_difference_is_told() {
        let one = run(&["figure micro a : n=2 ticks=7 : min=3", "figure micro b : n=1 :"]);
        let two = run(&["figure micro a : n=2 ticks=8 x=1 : min=3"]);
        let found: Vec<String> = differences(&[one, two]).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "counted xenolith micro a: ticks is 7 and 8",
                "counted xenolith micro a: x is - and 1",
                "counted xenolith micro b: present is 1 and -",
            ]
        );
    }
}
