//! Cases of the least guest, `pv-abi/examples/first-guest`: it boots everywhere, and the book shows what it is made of.

use super::{Case, Context, Verdict, live, tool};
use crate::machine::End;
use crate::{peer, workspace};
use anyhow::{Context as _, Result};

/// Its source.
const SOURCE: &str = "pv-abi/examples/first-guest/src/main.rs";
/// The page about it.
const PAGE: &str = "docs/src/first-guest.md";

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![Case::quick("docs/first-guest", |_| page())];
    cases.extend(["svm", "vmx"].map(|cpu| Case {
        quick: cpu == "svm",
        ..Case::new(format!("run/first-guest/{cpu}"), move |context| here(context, cpu))
    }));
    cases.push(Case::new("run/first-guest/xen", on_xen));
    cases
}

/// The page holds the source as it is.
fn page() -> Result<Verdict> {
    let read = |file| {
        std::fs::read_to_string(workspace::root().join(file)).with_context(|| format!("cannot read {file}"))
    };
    let (source, page) = (read(SOURCE)?, read(PAGE)?);
    let lines = source.lines().count();
    Ok(if !page.contains(&format!("```rust,no_run\n{source}```\n")) {
        Verdict::failed(format!("{PAGE} does not show {SOURCE} as it is"))
    } else if lines > 30 {
        Verdict::failed(format!("{SOURCE} has {lines} lines, and is said to have at most 30"))
    } else {
        Verdict::Passed(format!("{lines} lines"))
    })
}

fn here(context: &Context, cpu: &str) -> Result<Verdict> {
    let file = context.images()?.first_guest()?;
    let signs = ["A first guest on 4.17-xenolith", "It has ", "It was told: be brief"];
    tool::boots(context, cpu, &file, &["--cmdline", "be brief"], 240, &signs)
}

/// The same file as the first domain of real Xen.
fn on_xen(context: &Context) -> Result<Verdict> {
    if let Err(error) = peer::hypervisor() {
        return Ok(Verdict::Skipped(format!("{error:#}")));
    }
    let file = context.images()?.first_guest()?;
    let report = peer::xen::run(&file, "be brief", &peer::xen::Options::default())?;
    let signs = ["A first guest on 4.17.", "It was told: be brief"];
    Ok(match signs.iter().find(|sign| !report.console.contains(**sign)) {
        None if report.end == End::Halted => Verdict::passed(),
        None => live::failed(&report, report.end.to_string()),
        Some(sign) => live::failed(&report, format!("the console never shows {sign:?}")),
    })
}
