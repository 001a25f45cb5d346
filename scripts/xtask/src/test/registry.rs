//! The list of all cases, in the order in which they run: the cheap ones first.

use super::{
    Context, Verdict, bench, boot, conformance, disk, first_guest, foreign, grub, isolation, linux, net,
    network, peer, repository, rust, tool,
};
use anyhow::Result;

/// What a case does.
type Run = Box<dyn Fn(&Context) -> Result<Verdict> + Send + Sync>;

/// One case.
pub struct Case {
    /// Its name, which a filter is compared with.
    pub name: String,
    /// Whether it belongs to the inner loop.
    pub quick: bool,
    /// What it does. An error is a failure too.
    pub run: Run,
}

impl Case {
    /// Returns a case that runs with every test.
    pub fn new(
        name: impl Into<String>,
        run: impl Fn(&Context) -> Result<Verdict> + Send + Sync + 'static,
    ) -> Case {
        Case { name: name.into(), quick: false, run: Box::new(run) }
    }

    /// Returns a case that also runs with `--quick`.
    pub fn quick(
        name: impl Into<String>,
        run: impl Fn(&Context) -> Result<Verdict> + Send + Sync + 'static,
    ) -> Case {
        Case { quick: true, ..Case::new(name, run) }
    }

    /// Whether it boots a machine in Bochs: the cases of VT-x say so in their names.
    pub fn is_bochs(&self) -> bool {
        self.name.split(['/', '@']).any(|part| part == "vmx")
    }

    /// Whether it keeps no more than one processor of this computer busy, and may run beside others: Bochs has one thread,
    /// and so has QEMU for one processor, or where processors take turns.
    pub fn is_slim(&self) -> bool {
        let taking_turns = ["linux/", "peer/"].iter().any(|start| self.name.starts_with(start));
        self.is_bochs() || self.name.ends_with("/svm@1") || taking_turns
    }
}

/// Returns all cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(repository::cases());
    cases.extend(rust::cases());
    cases.extend(tool::cases());
    cases.extend(boot::cases());
    cases.extend(bench::cases());
    cases.extend(disk::cases());
    cases.extend(net::cases());
    cases.extend(network::cases());
    cases.extend(first_guest::cases());
    cases.extend(foreign::cases());
    cases.extend(grub::cases());
    cases.extend(peer::cases());
    cases.extend(linux::cases());
    cases.extend(isolation::cases());
    cases.extend(conformance::cases());
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_case_has_a_name_of_its_own() {
        let cases = cases();
        let names: BTreeSet<_> = cases.iter().map(|case| &case.name).collect();
        assert_eq!(names.len(), cases.len());
        assert!(cases.iter().any(Case::is_bochs) && !cases.iter().all(Case::is_bochs));
        assert!(cases.iter().any(|case| case.quick) && !cases.iter().all(|case| case.quick));
        assert!(cases.iter().any(Case::is_slim) && !cases.iter().all(Case::is_slim));
    }
}
