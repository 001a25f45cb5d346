//! What requests of a disk cost.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::time::Duration;

use rand_xoshiro::Xoshiro256StarStar;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use super::Samples;
use super::report::Figure;
use crate::arch::{cpu, instr};
use crate::block::{self, Buffer, Completion, Disk, Op, Request, SECTOR};
use crate::figures::Meter;
use crate::shell::command::{Args, Failure, Outcome, size};
use crate::task;
use crate::xen::clock;

/// Bytes under way at a time: half of what a front end keeps for buffers. A load of more is left out.
const MOST_AT_ONCE: u64 = 4 << 20;

/// Kinds of request, in turn.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    /// Tells the operation of request number `i` by its random number.
    op: fn(i: u64, random: u64) -> Op,
    random: bool,
    writes: bool,
}

const LOADS: [Load; 6] = [
    Load { name: "read-seq", op: |_, _| Op::Read, random: false, writes: false },
    Load { name: "read-rand", op: |_, _| Op::Read, random: true, writes: false },
    Load { name: "write-seq", op: |_, _| Op::Write, random: false, writes: true },
    Load { name: "write-rand", op: |_, _| Op::Write, random: true, writes: true },
    // Seven of ten are reads.
    Load {
        name: "mixed-rand",
        op: |_, r| if r % 10 < 7 { Op::Read } else { Op::Write },
        random: true,
        writes: true,
    },
    // Every write is followed by a flush.
    Load {
        name: "write-flush",
        op: |i, _| if i % 2 == 0 { Op::Write } else { Op::Flush },
        random: false,
        writes: true,
    },
];

/// What is measured of one load.
#[derive(Clone, Copy)]
struct Plan {
    load: Load,
    bytes: u64,
    depth: usize,
    n: u64,
}

fn sizes(args: &mut Args, key: &str, unless: &[u64]) -> Result<Vec<u64>, Failure> {
    let Some(text) = args.take(key) else { return Ok(unless.into()) };
    let bad = || Failure::usage(alloc::format!("{key}={text}: not a list of numbers"));
    text.split(',').map(|word| size(word).ok_or_else(bad)).collect()
}

/// Runs the loads on a disk.
pub async fn run(mut args: Args) -> Outcome {
    let writes = args.flag("write");
    let loads = args.take("load");
    let sizes_wanted = sizes(&mut args, "bs", &[4096, 65536])?;
    let depths = sizes(&mut args, "depth", &[1, 32])?;
    let n = args.take_size("n")?.unwrap_or(2048).max(1);
    let most = args.take_size("most")?.unwrap_or(64 << 20);
    args.at_most(2)?;
    let disk = match args.get(1) {
        Some(name) => {
            block::find(name).ok_or_else(|| Failure::because(alloc::format!("no disk {name:?}")))?
        }
        None => block::list().into_iter().next().ok_or_else(|| Failure::because("there is no disk"))?,
    };
    let info = disk.info();
    if writes && crate::fs::mounts().iter().any(|m| m.disk == info.name) {
        return Err(Failure::because("the disk is mounted"));
    }
    let wanted = |load: &Load| match &loads {
        Some(names) => names.split(',').any(|name| name == load.name),
        None => true,
    };
    if let Some(unknown) = loads
        .iter()
        .flat_map(|names| names.split(','))
        .find(|name| LOADS.iter().all(|load| load.name != *name))
    {
        return Err(Failure::usage(alloc::format!("there is no load {unknown}")));
    }
    let meter = Meter::new();
    for load in LOADS.iter().filter(|load| wanted(load) && (writes || !load.writes)) {
        for &bytes in &sizes_wanted {
            let unit = u64::from(info.block);
            if bytes == 0 || bytes % unit != 0 || bytes > info.most as u64 || bytes > info.sectors * SECTOR {
                return Err(Failure::usage(alloc::format!("bs={bytes} does not suit the disk")));
            }
            for &depth in &depths {
                let depth = depth.clamp(1, 512) as usize;
                if bytes * depth as u64 > MOST_AT_ONCE {
                    continue;
                }
                let n = n.min(most / bytes).max(2 * depth as u64);
                one(&disk, Plan { load: *load, bytes, depth, n }, meter.as_ref()).await?;
            }
        }
    }
    Ok(())
}

/// Reads a disk without a split, for the figures of guests to be compared with.
pub async fn direct(disk: &Disk) {
    super::report::set_raw(crate::cmdline::value("figures") == Some("raw"));
    let meter = Meter::new();
    for depth in [1, 32] {
        if one(disk, Plan { load: LOADS[0], bytes: 4096, depth, n: 2048 }, meter.as_ref()).await.is_err() {
            log::error!("{} cannot be read", disk.info().name);
        }
    }
}

/// Upcalls and events of this domain.
fn upcalls() -> (u64, u64) {
    cpu::all().fold((0, 0), |(upcalls, events), cpu| {
        (upcalls + cpu.upcalls.load(Ordering::Relaxed), events + cpu.events.load(Ordering::Relaxed))
    })
}

/// What it takes to put a load's requests on a disk.
struct Requests<'a> {
    disk: &'a Disk,
    plan: Plan,
    /// How many places of the load's size the disk has.
    places: u64,
    random: Xoshiro256StarStar,
    spare: Vec<Buffer>,
    flushed: Vec<Buffer>,
}

impl Requests<'_> {
    /// Makes `n` requests, as many at a time as the plan says; each one's ticks go to `latencies`.
    async fn make(&mut self, n: u64, latencies: &mut Vec<u64>) -> Outcome {
        let Self { disk, plan: Plan { load, bytes, depth, .. }, places, random, spare, flushed } = self;
        let mut under_way: VecDeque<(u64, Completion)> = VecDeque::with_capacity(*depth);
        let mut started = 0;
        while (latencies.len() as u64) < n {
            while started < n
                && let Some(buffer) = spare.pop()
            {
                let chosen = random.next_u64();
                let slot = if load.random { chosen % *places } else { started % *places };
                let begun = instr::rdtsc();
                let request = match (load.op)(started, chosen >> 32) {
                    Op::Flush => {
                        flushed.push(buffer);
                        Request { op: Op::Flush, sector: 0, count: 0, buffer: None }
                    }
                    op => Request {
                        op,
                        sector: slot * (*bytes / SECTOR),
                        count: *bytes / SECTOR,
                        buffer: Some(buffer),
                    },
                };
                under_way.push_back((begun, disk.submit(request)));
                started += 1;
            }
            let Some((begun, first)) = under_way.pop_front() else { break };
            let done = first.await;
            latencies.push(instr::rdtsc() - begun);
            done.result?;
            spare.extend(done.buffer.or_else(|| flushed.pop()));
        }
        Ok(())
    }
}

/// Runs one load.
async fn one(disk: &Disk, plan: Plan, meter: Option<&Meter>) -> Outcome {
    let Plan { load, bytes, depth, n } = plan;
    let info = disk.info();
    let places = (info.sectors * SECTOR / bytes).max(1);
    let random = Xoshiro256StarStar::seed_from_u64(1);
    let mut spare: Vec<Buffer> = Vec::new();
    for _ in 0..depth {
        spare.push(disk.buffer(bytes as usize)?);
    }
    let mut requests = Requests { disk, plan, places, random, spare, flushed: Vec::with_capacity(depth) };
    // Every buffer is used once before anything is counted: its pages stay mapped in the back end from then on.
    requests.make(depth as u64, &mut Vec::with_capacity(depth)).await?;
    let mut latencies: Vec<u64> = Vec::with_capacity(n as usize);
    // What was printed before gets out of the way.
    task::sleep(Duration::from_millis(20)).await;
    let before_stats = block::front::statistics(&info.name);
    let before_figures = meter.and_then(Meter::read);
    let before_upcalls = upcalls();
    let before_clock = clock::now();
    let before = instr::rdtsc();
    requests.make(n, &mut latencies).await?;
    let ticks = instr::rdtsc() - before;
    let ns = (clock::now() - before_clock).max(1);
    let after_upcalls = upcalls();
    let counted = meter.zip(before_figures.as_ref()).and_then(|(meter, before)| meter.since(before));
    let after_stats = block::front::statistics(&info.name);
    let mut figure = Figure::new("blk", load.name, n)
        .with("disk", &info.name)
        .with("size", bytes)
        .with("depth", depth)
        .with_some("queues", crate::cmdline::value("blk-queues"))
        .total("ticks", ticks)
        .total("ns", ns)
        .total("bytes", n * bytes)
        .total("upcalls", after_upcalls.0 - before_upcalls.0);
    if let (Some(a), Some(b)) = (before_stats, after_stats) {
        figure = figure.total("ring", b.ring_requests - a.ring_requests);
    }
    if let Some(counted) = &counted {
        figure = figure.total("busy", counted.busy_ticks());
    }
    let hz = clock::tsc_hz().max(1);
    let samples = Samples::from(latencies);
    let nanos = |ticks: u64| (u128::from(ticks) * 1_000_000_000 / u128::from(hz)) as u64;
    figure
        .counted(counted.as_ref())
        .samples(&samples)
        .one("ns-median", nanos(samples.median()))
        .one("ns-p99", nanos(samples.quantile(990)))
        .one("ns-p999", nanos(samples.quantile(999)))
        .print();
    Ok(())
}
