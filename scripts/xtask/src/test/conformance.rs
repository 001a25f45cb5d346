//! Conformance guests: each image under `pv-guest-kernel/src/bin/` tries one facility and says how it went. The same
//! list runs on both kinds of processor, with one, two and four of them.

use super::live::{self, Lane, Machine, SVM, VMX};
use super::{Case, Context, Verdict};
use crate::machine::End;
use crate::workspace;
use anyhow::Result;

/// The status by which a guest says that this machine lacks what it tries.
const SKIP: u32 = 3;

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for lane in [SVM, SVM.at(2), SVM.at(4), VMX, VMX.at(2), VMX.at(4)] {
        for guest in guests() {
            let name = format!("conformance/{guest}/{lane}");
            let case = Case::new(name.clone(), move |context| conformance(context, &name, &guest, lane));
            cases.push(Case { quick: lane == SVM.at(2), ..case });
        }
    }
    cases
}

/// Returns the names of the conformance guests.
pub fn guests() -> Vec<String> {
    let dir = workspace::root().join("pv-guest-kernel/src/bin");
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.path().file_stem().and_then(|stem| stem.to_str()).map(str::to_owned))
        .filter(|name| name.starts_with("conf-") || name.starts_with("conf_"))
        .collect();
    names.sort();
    names
}

fn conformance(context: &Context, name: &str, guest: &str, lane: Lane) -> Result<Verdict> {
    let mut set = live::set("conformance.toml")?;
    guest.clone_into(&mut set.guest()?.kernel);
    let report = Machine::new(context, name, lane).boot(&set)?;
    Ok(match report.end {
        End::PowerOff(0) if report.console.contains("SUCCESS") => Verdict::passed(),
        End::PowerOff(0) => live::failed(&report, "it ended well without SUCCESS on the console"),
        End::PowerOff(SKIP) => Verdict::Skipped(reason(&report.console)),
        _ => live::failed(&report, report.end.to_string()),
    })
}

/// Finds the reason of a skip on the console.
fn reason(console: &str) -> String {
    let line = console.lines().find_map(|line| line.split_once("SKIP: "));
    line.map_or_else(|| "the guest gives no reason".into(), |(_, reason)| reason.trim().to_owned())
}
