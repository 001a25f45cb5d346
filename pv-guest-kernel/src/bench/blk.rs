//! What requests of a disk cost.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use rand_xoshiro::Xoshiro256StarStar;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use crate::arch::{cpu, instr};
use crate::block::{self, Buffer, Completion, Disk, Op, Request, SECTOR};
use crate::figures::{self, Figures};
use crate::println;
use crate::shell::command::{Args, Failure, Outcome};
use crate::xen::clock;
use core::sync::atomic::Ordering;

#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    op: Op,
    random: bool,
}

const LOADS: [Load; 4] = [
    Load { name: "read-seq", op: Op::Read, random: false },
    Load { name: "read-rand", op: Op::Read, random: true },
    Load { name: "write-seq", op: Op::Write, random: false },
    Load { name: "write-rand", op: Op::Write, random: true },
];

fn events() -> (u64, u64) {
    let sum = |f: fn(&cpu::PerCpu) -> u64| cpu::all().map(f).sum();
    (sum(|c| c.upcalls.load(Ordering::Relaxed)), sum(|c| c.events.load(Ordering::Relaxed)))
}

/// Runs the loads on a disk.
pub async fn run(mut args: Args) -> Outcome {
    let writes = args.flag("write");
    let bs = args.take_size("bs")?;
    let depth = args.take_size("depth")?;
    let n = args.take_size("n")?.unwrap_or(2048).max(1);
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
    let sizes = bs.map_or_else(|| Vec::from([4096, 65536]), |bs| Vec::from([bs]));
    let depths = depth.map_or_else(|| Vec::from([1, 32]), |d| Vec::from([d.clamp(1, 512)]));
    println!("blk  {} ({})", info.name, info.kind);
    println!(
        "blk  {:<11} {:>7} {:>5} {:>7} {:>11} {:>9} {:>9} {:>9} {:>8}",
        "load", "bytes", "depth", "n", "ticks/req", "sent/req", "taken/req", "ring/req", "MiB/s"
    );
    let cost = figures::cost().await;
    for load in LOADS.iter().filter(|l| writes || l.op == Op::Read) {
        for &bs in &sizes {
            for &depth in &depths {
                let unit = u64::from(info.block);
                if bs == 0 || bs % unit != 0 || bs > info.most as u64 || bs > info.sectors * SECTOR {
                    return Err(Failure::usage("bs does not suit the disk"));
                }
                one(&disk, *load, bs, depth as usize, n, cost).await?;
            }
        }
    }
    Ok(())
}

/// Where the driver domain tells what it needs for the same reads of the same disk itself.
fn direct_node(bs: u64, depth: usize) -> alloc::string::String {
    alloc::format!("direct/read-seq-{bs}-{depth}")
}

/// Reads a disk without a split, for guests to compare with: nodes of the store, and busy ticks per request.
pub async fn direct(disk: &Disk) -> Vec<(alloc::string::String, u64)> {
    let cost = figures::cost().await;
    let mut found = Vec::new();
    for depth in [1, 32] {
        match one(disk, LOADS[0], 4096, depth, 2048, cost).await {
            Ok(ticks) => found.push((direct_node(4096, depth), ticks)),
            Err(_) => log::error!("{} cannot be read", disk.info().name),
        }
    }
    found
}

/// Runs one load; the ticks per request in which anybody was busy with it, waiting left out, where they are known.
async fn one(
    disk: &Disk,
    load: Load,
    bs: u64,
    depth: usize,
    n: u64,
    cost: Option<Figures>,
) -> Result<u64, Failure> {
    let info = disk.info();
    let places = info.sectors * SECTOR / bs;
    let mut random = Xoshiro256StarStar::seed_from_u64(1);
    let mut place = |i: u64| {
        let slot = if load.random { random.next_u64() % places } else { i % places };
        slot * bs / SECTOR
    };
    let mut spare: Vec<Buffer> = Vec::new();
    for _ in 0..depth {
        spare.push(disk.buffer(bs as usize)?);
    }
    let mut under_way: VecDeque<Completion> = VecDeque::new();
    let before_figures = figures::read().await;
    let before_stats = block::front::statistics(&info.name);
    let before_events = events();
    let before_clock = clock::now();
    let before = instr::rdtsc();
    let mut started = 0;
    let mut ended = 0;
    while ended < n {
        while started < n
            && let Some(buffer) = spare.pop()
        {
            let request =
                Request { op: load.op, sector: place(started), count: bs / SECTOR, buffer: Some(buffer) };
            under_way.push_back(disk.submit(request));
            started += 1;
        }
        let Some(first) = under_way.pop_front() else { break };
        let done = first.await;
        done.result?;
        spare.extend(done.buffer);
        ended += 1;
    }
    let ticks = instr::rdtsc() - before;
    let nanos = (clock::now() - before_clock).max(1);
    let after_events = events();
    let after_stats = block::front::statistics(&info.name);
    let after_figures = figures::read().await;
    let hundredths = |count: u64| (count * 100 + n / 2) / n;
    let per = |count: u64| {
        let h = hundredths(count);
        alloc::format!("{}.{:02}", h / 100, h % 100)
    };
    let (sent, ring) = match (before_stats, after_stats) {
        (Some(a), Some(b)) => {
            (per(b.notifications - a.notifications), per(b.ring_requests - a.ring_requests))
        }
        _ => ("-".into(), "-".into()),
    };
    println!(
        "blk  {:<11} {bs:>7} {depth:>5} {n:>7} {:>11} {sent:>9} {:>9} {ring:>9} {:>8}",
        load.name,
        ticks / n,
        per(after_events.1 - before_events.1),
        (u128::from(n * bs) * 1_000_000_000 / u128::from(nanos)) >> 20,
    );
    let mut busy = ticks / n;
    if let (Some(before), Some(after), Some(cost)) = (before_figures, after_figures, cost) {
        let all = after - before - cost;
        let host = all.own.host_ticks + all.driver.host_ticks;
        for (who, c) in [("guest", all.own), ("driver", all.driver)] {
            println!(
                "blk    {who:<7} exits {}  hypercalls {}  events sent {}  copies {}  maps {}  ticks {}  per request",
                per(c.exits),
                per(c.hypercalls),
                per(c.events),
                per(c.copies),
                per(c.maps),
                c.guest_ticks / n,
            );
        }
        println!("blk    hypervisor ticks {} per request", host / n);
        busy = (all.own.guest_ticks + all.driver.guest_ticks + host) / n;
    }
    let direct =
        crate::xen::store::read(&direct_node(bs, depth)).ok().and_then(|text| text.parse::<u64>().ok());
    // What the driver domain told is about the machine's first disk, which is a guest's first one.
    let comparable = info.name == "xvda" && load.op == Op::Read && !load.random;
    if let Some(direct) = direct.filter(|direct| *direct > 0 && comparable) {
        let ratio = busy * 100 / direct;
        println!(
            "blk    busy ticks {busy} per request; {direct} for the driver domain's own reads of this disk: {}.{:02} to 1",
            ratio / 100,
            ratio % 100
        );
    }
    Ok(busy)
}
