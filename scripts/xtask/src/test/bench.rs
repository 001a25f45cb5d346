//! Cases about `cargo xtask bench`.

use super::tool::xtask;
use super::{Case, Context, Verdict};
use anyhow::{Result, ensure};
use std::time::Duration;

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    vec![Case::new("bench/repeats", repeats)]
}

/// Two counted runs of single services agree in every number, and the report says so.
fn repeats(context: &Context) -> Result<Verdict> {
    // The images are built once, by the first case that needs them.
    context.images()?;
    let json = context.file("bench.json")?;
    let page = context.file("bench.html")?;
    let files = [json.to_string_lossy().into_owned(), page.to_string_lossy().into_owned()];
    let words = ["bench", "micro", "--quick", "--json", files[0].as_str(), "--html", files[1].as_str()];
    let done = xtask(&words, Duration::from_secs(900))?;
    if !done.passed() {
        return Ok(Verdict::Failed { why: format!("it ended with {:?}", done.code), end: done.tail(40) });
    }
    ensure!(
        done.output.contains("2 runs gave the same counted figures"),
        "the report does not say that the runs agree:\n{}",
        done.tail(40)
    );
    let text = std::fs::read_to_string(&json)?;
    for figure in
        ["null-hypercall", "event-ping-pong", "grant-map-unmap", "vcpu-switch-twice", "domain-create"]
    {
        ensure!(text.contains(&format!("\"name\": \"{figure}\"")), "{figure} was not measured");
    }
    ensure!(std::fs::read_to_string(&page)?.contains("<svg"), "the page has no plot");
    Ok(Verdict::passed())
}
