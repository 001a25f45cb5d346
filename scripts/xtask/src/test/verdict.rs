//! What comes of a case, and the sum of it all.

use std::fmt;
use std::ops::AddAssign;

/// What came of one case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It passed, with a remark or none.
    Passed(String),
    /// It could not be tried here.
    Skipped(String),
    /// It failed.
    Failed {
        /// Why, in a sentence.
        why: String,
        /// The end of the console or of the output.
        end: String,
    },
    /// It was made of many tests, of which so many passed, failed and were skipped.
    Tests {
        /// Tests that passed.
        passed: u32,
        /// Tests that failed.
        failed: u32,
        /// Tests that were not tried.
        skipped: u32,
        /// The end of the output.
        end: String,
    },
}

impl Verdict {
    /// Returns a pass without a remark.
    pub fn passed() -> Verdict {
        Verdict::Passed(String::new())
    }

    /// Returns a failure without a console.
    pub fn failed(why: impl Into<String>) -> Verdict {
        Verdict::Failed { why: why.into(), end: String::new() }
    }

    /// Reads the output of `cargo test`: the sum over all its programs. A run that ended badly without a failed test
    /// (it did not compile, or a program died) counts as one failure.
    pub fn of_cargo_test(output: &str, ended_well: bool, end: String) -> Verdict {
        let (mut passed, mut failed, mut skipped) = (0, 0, 0);
        for line in output.lines() {
            let Some((_, counts)) =
                line.split_once("test result: ").and_then(|(_, rest)| rest.split_once(". "))
            else {
                continue;
            };
            for part in counts.split("; ") {
                let mut words = part.split_whitespace();
                let Some(count) = words.next().and_then(|word| word.parse::<u32>().ok()) else { continue };
                match words.next() {
                    Some("passed") => passed += count,
                    Some("failed") => failed += count,
                    Some("ignored") => skipped += count,
                    _ => {}
                }
            }
        }
        if !ended_well && failed == 0 {
            return Verdict::Failed { why: format!("it ended badly after {passed} passed tests"), end };
        }
        if passed + failed == 0 {
            return Verdict::Failed { why: "it ran no test".into(), end };
        }
        Verdict::Tests { passed, failed, skipped, end }
    }
}

/// The sum over all cases.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Sum {
    passed: u32,
    /// Tests that failed.
    pub failed: u32,
    skipped: u32,
}

impl Sum {
    /// Adds what came of a case.
    pub fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Passed(_) => self.passed += 1,
            Verdict::Failed { .. } => self.failed += 1,
            Verdict::Skipped(_) => self.skipped += 1,
            Verdict::Tests { passed, failed, skipped, .. } => {
                self.passed += passed;
                self.failed += failed;
                self.skipped += skipped;
            }
        }
    }
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Sum) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
test result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.00s
";

    #[test]
    fn the_results_of_all_programs_are_summed() {
        let verdict = Verdict::of_cargo_test(OUTPUT, false, String::new());
        assert_eq!(verdict, Verdict::Tests { passed: 6, failed: 1, skipped: 1, end: String::new() });
        let mut sum = Sum::default();
        sum.add(&verdict);
        sum.add(&Verdict::passed());
        sum.add(&Verdict::Skipped("no reason".into()));
        assert_eq!(sum.to_string(), "7 passed, 1 failed, 2 skipped");
        sum += Sum { passed: 1, failed: 2, skipped: 3 };
        assert_eq!(sum.to_string(), "8 passed, 3 failed, 5 skipped");
    }

    #[test]
    fn tests_that_did_not_run_are_no_pass() {
        assert!(matches!(
            Verdict::of_cargo_test("error: could not compile", false, String::new()),
            Verdict::Failed { .. }
        ));
        assert!(matches!(Verdict::of_cargo_test("", true, String::new()), Verdict::Failed { .. }));
        let died = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\nsignal: 11";
        assert!(matches!(Verdict::of_cargo_test(died, false, String::new()), Verdict::Failed { .. }));
    }
}
