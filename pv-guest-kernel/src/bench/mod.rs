//! Benchmarks, in ticks of the time stamp counter.
//!
//! Under an emulator that counts instructions (`cargo xtask run --icount`) one tick is one instruction of everything that
//! ran meanwhile: guest, hypervisor and, on one processor, the back end's domain.

pub mod blk;
pub mod boot;
mod micro;
mod net;
mod partner;
pub mod report;
mod scale;
mod take;

use alloc::vec::Vec;

use crate::arch::instr;
use crate::command;
use crate::shell::command::{Args, Command, Failure, Outcome};

/// The table.
pub const COMMANDS: &[Command] = &[command!(
    bench,
    "bench micro [n=1000] | blk [DISK] [bs=4K] [depth=N] [n=N] [write] | net ADDRESS [load=ping,packets,stream] [n=N] [bytes=SIZE] | boot | scale … | partner DOMAIN; [raw]",
    "measures what the hypervisor's services cost, or requests of a disk (`write` spoils its contents), or packets to a kernel with `serve=iperf`"
)];

async fn bench(mut args: Args) -> Outcome {
    report::set_raw(args.flag("raw"));
    match args.get(0) {
        Some("micro") => micro::run(args).await,
        Some("blk") => blk::run(args).await,
        Some("net") => net::run(args).await,
        Some("boot") => boot::run(args).await,
        Some("scale") => scale::run(args).await,
        Some("partner") => partner::run(args).await,
        _ => Err(Failure::usage("micro, blk, net, boot, scale or partner?")),
    }
}

/// Samples of one quantity.
pub struct Samples(Vec<u64>);

impl Samples {
    /// Runs `work` `n` times; it returns the ticks it took, from which those of reading the counter twice are taken off.
    pub fn of(n: usize, mut work: impl FnMut() -> u64) -> Samples {
        let empty = (0..100).map(|_| {
            let before = instr::rdtsc();
            instr::rdtsc() - before
        });
        let empty = empty.min().unwrap_or(0);
        Samples::from((0..n).map(|_| work().saturating_sub(empty)).collect())
    }

    /// From values.
    pub fn from(mut values: Vec<u64>) -> Samples {
        values.sort_unstable();
        Samples(values)
    }

    /// The least.
    pub fn min(&self) -> u64 {
        self.0.first().copied().unwrap_or(0)
    }

    /// The middle one.
    pub fn median(&self) -> u64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(0)
    }

    /// The one below which so many thousandths of them are.
    pub fn quantile(&self, thousandths: usize) -> u64 {
        let place = self.0.len() * thousandths / 1000;
        self.0.get(place.min(self.0.len().saturating_sub(1))).copied().unwrap_or(0)
    }

    /// Their sum.
    pub fn sum(&self) -> u64 {
        self.0.iter().sum()
    }
}
