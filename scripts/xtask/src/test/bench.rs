//! Cases about `cargo xtask bench`.

use super::tool::xtask;
use super::{Case, Context, Verdict};
use anyhow::{Result, ensure};
use std::time::Duration;

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    vec![Case::new("bench/repeats", repeats), Case::new("bench/trace", trace)]
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

/// The trace of a run is a file with slices of virtual CPUs and instants of exits and hypercalls.
fn trace(context: &Context) -> Result<Verdict> {
    context.images()?;
    let file = context.file("trace.json")?;
    let name = file.to_string_lossy().into_owned();
    let words = ["run", "--accel", "tcg", "--exec", "cpu 0", "--trace", name.as_str()];
    let done = xtask(&words, Duration::from_secs(900))?;
    if !done.passed() {
        return Ok(Verdict::Failed { why: format!("it ended with {:?}", done.code), end: done.tail(40) });
    }
    ensure!(!done.output.contains("(trace)"), "the trace is on the console:\n{}", done.tail(10));
    let value: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
    let events = value["traceEvents"].as_array().cloned().unwrap_or_default();
    for (kind, sign) in [("X", "d1v0"), ("i", "exit hypercall"), ("i", "call console_write"), ("M", "d1v0")] {
        let suits = |event: &serde_json::Value| {
            event["ph"] == kind && (event["name"] == sign || event["args"]["name"] == sign)
        };
        ensure!(events.iter().any(suits), "no event {sign} among {}", events.len());
    }
    Ok(Verdict::passed())
}
