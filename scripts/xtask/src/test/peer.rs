//! Cases on real Xen, from Debian's packages: the conformance guests as its first domain, and the guest kernel below Linux.

use super::{Case, Context, Verdict, live};
use crate::machine::Console;
use crate::peer::{self, selftests::Outcome};
use anyhow::Result;

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    vec![Case::new("peer/xen/dom0", dom0), Case::new("peer/xen/domu", domu)]
}

/// The guests that are tried, one boot each; `cargo xtask peer xen selftests` tries all.
const GUESTS: &[&str] = &[
    "conf-apic",
    "conf-console",
    "conf-cpuid",
    "conf-events-2level",
    "conf-events-fifo",
    "conf-fpu",
    "conf-grants",
    "conf-hvm",
    "conf-hypercalls",
    "conf-memory",
    "conf-multicall",
    "conf-pointers",
    "conf-sched",
    "conf-timer",
    "conf-vcpus",
];

/// Conformance guests, each of which must pass.
fn dom0(context: &Context) -> Result<Verdict> {
    let version = match peer::hypervisor() {
        Ok(version) => version,
        Err(error) => return Ok(Verdict::Skipped(format!("{error:#}"))),
    };
    let images = context.images()?;
    for guest in GUESTS {
        let (outcome, report) = peer::selftests::on_xen(images, guest, context.verbose)?;
        std::fs::write(context.file(&format!("peer-xen-{guest}.log"))?, &report.console)?;
        if !matches!(outcome, Outcome::Pass(1..)) {
            return Ok(live::failed(&report, format!("{guest}: {outcome}")));
        }
    }
    Ok(Verdict::Passed(format!("{} guests on {version}", GUESTS.len())))
}

/// Disk and network served by Linux.
fn domu(context: &Context) -> Result<Verdict> {
    peer::domu::run(context.images()?, Console::Hidden, context.verbose)
}
