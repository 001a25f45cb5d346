//! Cases on real Xen, from Debian's packages: the conformance guests as its first domain, and the guest kernel below Linux.

use super::{Case, Context, Verdict, guests, live};
use crate::peer::{self, selftests::Outcome};
use anyhow::Result;

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    vec![Case::new("peer/xen/dom0", dom0)]
}

/// Every conformance guest, one boot each.
fn dom0(context: &Context) -> Result<Verdict> {
    let version = match peer::hypervisor() {
        Ok(version) => version,
        Err(error) => return Ok(Verdict::Skipped(format!("{error:#}"))),
    };
    let images = context.images()?;
    let (mut passed, mut skipped) = (0, Vec::new());
    for guest in guests() {
        let (outcome, report) = peer::selftests::on_xen(images, &guest, context.verbose)?;
        std::fs::write(context.file(&format!("peer-xen-{guest}.log"))?, &report.console)?;
        match outcome {
            Outcome::Pass(_) => passed += 1,
            Outcome::Skip(_) => skipped.push(guest),
            Outcome::Fail(why) => return Ok(live::failed(&report, format!("{guest}: {why}"))),
        }
    }
    if passed == 0 {
        return Ok(Verdict::failed("no guest passed"));
    }
    let skipped = if skipped.is_empty() { "none".into() } else { skipped.join(" ") };
    Ok(Verdict::Passed(format!("{version}: {passed} guests passed; skipped as first domain: {skipped}")))
}
