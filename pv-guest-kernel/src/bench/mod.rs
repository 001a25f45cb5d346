//! Benchmarks, in ticks of the time stamp counter.
//!
//! Under an emulator that counts instructions (`cargo xtask run --icount`) one tick is one instruction of everything that
//! ran meanwhile: guest, hypervisor and, on one processor, the back end's domain.

pub mod blk;
mod micro;

use alloc::vec::Vec;

use crate::arch::instr;
use crate::command;
use crate::shell::command::{Args, Command, Failure, Outcome};

/// The table.
pub const COMMANDS: &[Command] = &[command!(
    bench,
    "bench micro [n=1000] | blk [DISK] [bs=4K] [depth=N] [n=N] [write]",
    "measures what the hypervisor's services cost, or requests of a disk (`write` spoils its contents)"
)];

async fn bench(args: Args) -> Outcome {
    match args.get(0) {
        Some("micro") => micro::run(args).await,
        Some("blk") => blk::run(args).await,
        _ => Err(Failure::usage("micro or blk?")),
    }
}

/// Samples of one quantity.
pub struct Samples(Vec<u64>);

impl Samples {
    /// Runs `work` `n` times after a warm-up, taking the ticks of each run less those of an empty one.
    pub fn take(n: usize, mut work: impl FnMut()) -> Samples {
        Samples::of(n, || {
            let before = instr::rdtsc();
            work();
            instr::rdtsc() - before
        })
    }

    /// As [`Samples::take`], but `work` does the measuring.
    pub fn of(n: usize, mut work: impl FnMut() -> u64) -> Samples {
        let empty = (0..100).map(|_| {
            let before = instr::rdtsc();
            instr::rdtsc() - before
        });
        let empty = empty.min().unwrap_or(0);
        for _ in 0..n / 10 + 1 {
            work();
        }
        let mut samples: Vec<u64> = (0..n).map(|_| work().saturating_sub(empty)).collect();
        samples.sort_unstable();
        Samples(samples)
    }

    /// The least.
    pub fn min(&self) -> u64 {
        self.0.first().copied().unwrap_or(0)
    }

    /// The middle one.
    pub fn median(&self) -> u64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(0)
    }

    /// The mean, rounded.
    pub fn mean(&self) -> u64 {
        let n = self.0.len().max(1) as u64;
        (self.0.iter().sum::<u64>() + n / 2) / n
    }
}
