//! `cargo xtask test`: everything that decides whether a change may stay.
//!
//! Each case runs once: one that passes only at the second try is broken. Those that keep every processor of this computer
//! busy run first, one after another; then the others, side by side. The last line is the sum over all parts, the unit
//! tests included.

mod bench;
mod boot;
mod conformance;
mod context;
mod disk;
mod first_guest;
mod foreign;
mod grub;
mod isolation;
mod linux;
pub mod live;
mod net;
mod network;
mod peer;
mod registry;
mod repository;
mod rust;
mod tool;
mod verdict;

pub use conformance::guests;
pub use context::Context;
pub use registry::Case;
pub use verdict::Verdict;

use crate::cli::Emulator;
use crate::{cli, say};
use anyhow::{Result, bail};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};
use verdict::Sum;

/// How long a case may run before its user is told that it does.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `cargo xtask test`.
pub fn verb(options: &cli::Test) -> Result<u8> {
    let chosen: Vec<Case> = registry::cases()
        .into_iter()
        .filter(|case| case.quick || !options.quick)
        .filter(|case| {
            options.emulator.is_none_or(|emulator| (emulator == Emulator::Bochs) == case.is_bochs())
        })
        .filter(|case| {
            options.filter.is_empty() || options.filter.iter().any(|part| case.name.contains(part.as_str()))
        })
        .collect();
    if chosen.is_empty() {
        bail!("no test has {} in its name: --list shows them", options.filter.join(" or "));
    }
    if options.list {
        for case in chosen {
            println!("{}{}", case.name, if case.quick { " (quick)" } else { "" });
        }
        return Ok(0);
    }
    let context = Context::new(options.verbose);
    let begin = Instant::now();
    let jobs =
        options.jobs.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let (slim, wide): (Vec<_>, Vec<_>) = chosen.iter().partition(|case| jobs > 1 && case.is_slim());
    let mut sum = in_order(&Mutex::new(wide.into_iter()), &context);
    let slim = Mutex::new(slim.into_iter());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(|| in_order(&slim, &context))).collect();
        for worker in workers {
            match worker.join() {
                Ok(part) => sum += part,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    say::step(format!("{} cases in {:.0} s", chosen.len(), begin.elapsed().as_secs_f64()));
    println!("{sum}");
    Ok(if sum.failed == 0 { 0 } else { crate::FAILED })
}

/// Runs cases until none is left.
fn in_order<'a>(cases: &Mutex<impl Iterator<Item = &'a Case>>, context: &Context) -> Sum {
    let next = || cases.lock().unwrap_or_else(PoisonError::into_inner).next();
    let mut sum = Sum::default();
    while let Some(case) = next() {
        sum.add(&run(case, context));
    }
    sum
}

/// Runs one case and prints what came of it.
fn run(case: &Case, context: &Context) -> Verdict {
    let begin = Instant::now();
    let (done, still) = mpsc::channel::<()>();
    let name = case.name.clone();
    let ticker = std::thread::spawn(move || {
        while still.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            say::step(format!("{name} is running, {} s", begin.elapsed().as_secs()));
        }
    });
    let verdict = (case.run)(context).unwrap_or_else(|error| Verdict::failed(format!("{error:#}")));
    drop(done);
    let _ = ticker.join();
    let seconds = begin.elapsed().as_secs_f64();
    match &verdict {
        Verdict::Passed(note) => println!("ok {} ({seconds:.1} s){}", case.name, colon(note)),
        Verdict::Skipped(reason) => println!("skip {}: {reason}", case.name),
        Verdict::Failed { why, end } => println!("FAIL {}: {why}\n{end}", case.name),
        Verdict::Tests { failed: 0, passed, skipped, .. } => {
            println!("ok {} ({seconds:.1} s): {passed} passed, {skipped} skipped", case.name);
        }
        Verdict::Tests { failed, end, .. } => println!("FAIL {}: {failed} failed\n{end}", case.name),
    }
    verdict
}

fn colon(note: &str) -> String {
    if note.is_empty() { String::new() } else { format!(": {note}") }
}
