//! Cases about guests that go wrong: each is reported, and the others go on.

use super::live::{self, Lane, Machine, SVM, VMX};
use super::{Case, Context, Verdict};
use crate::machine::End;
use anyhow::Result;

/// Ways to go wrong, and a word of the report.
const WAYS: [(&str, &str); 4] =
    [("panic", "panic"), ("fault", "fault"), ("triple", "triple fault"), ("stack", "fault")];

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for lane in [SVM, SVM.at(2), VMX.at(2)] {
        cases.push(Case::new(format!("isolation/warden/{lane}"), move |context| warden(context, lane)));
    }
    for lane in [SVM, VMX] {
        cases.push(Case::new(format!("isolation/shares/{lane}"), move |context| shares(context, lane)));
    }
    for lane in [SVM.at(2), VMX.at(2)] {
        for (way, sign) in WAYS {
            cases.push(Case::new(format!("isolation/{way}/{lane}"), move |context| {
                crash(context, way, sign, lane)
            }));
        }
    }
    cases
}

/// A control domain creates, stops and destroys a domain that spins with interrupts masked, and ends the machine itself.
fn warden(context: &Context, lane: Lane) -> Result<Verdict> {
    let report = Machine::new(context, "isolation/warden", lane).boot(&live::set("warden.toml")?)?;
    Ok(live::judge(&report, &["SUCCESS: warden"]))
}

/// Two busy domains get what their weights and caps say, and one that wakes gets the CPU from them. Time is counted in
/// instructions on both lanes, so that the figures are the same each time.
fn shares(context: &Context, lane: Lane) -> Result<Verdict> {
    let report =
        Machine::new(context, "isolation/shares", lane).counted().boot(&live::set("referee.toml")?)?;
    Ok(live::judge(&report, &["SUCCESS: referee"]))
}

/// One guest crashes; the other one, which begins its work only after that, ends well.
fn crash(context: &Context, way: &str, sign: &str, lane: Lane) -> Result<Verdict> {
    let mut set = live::set("two-guests.toml")?;
    for domain in set.domains.values_mut() {
        if !domain.disk.is_empty() {
            domain.disk = vec!["memory:1M".into()];
        }
    }
    live::command(&mut set, "one", &format!("crash {way}"))?;
    live::command(
        &mut set,
        "two",
        "sleep 2; dd if=random of=xvda bs=64K count=16; sync; echo the other goes on",
    )?;
    live::until_guests(&mut set)?;
    let report = Machine::new(context, &format!("isolation/{way}"), lane).boot(&set)?;
    Ok(match report.end {
        End::PowerOff(0) => live::failed(&report, "the crash does not show in the machine's status"),
        End::PowerOff(_) if !report.console.contains("the other goes on") => {
            live::failed(&report, "the other guest did not end its work")
        }
        End::PowerOff(_) if !report.console.to_lowercase().contains(sign) => {
            live::failed(&report, format!("the console does not say {sign:?}"))
        }
        End::PowerOff(_) => Verdict::passed(),
        _ => live::failed(&report, report.end.to_string()),
    })
}
