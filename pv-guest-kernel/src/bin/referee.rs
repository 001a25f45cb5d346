//! A control domain that watches two domains of its bundle, `heavy` and `light`, compete for its own CPU: shares by
//! weight and by cap, and how soon a domain that wakes gets the CPU from one that spins.
#![no_std]
#![no_main]

extern crate alloc;

use core::time::Duration;

use pv_abi::DomainId;
use pv_abi::control::{Created, DomainInfo, POWER_OFF, Schedule};
use pv_guest_kernel::conf::{Outcome, Test, error};
use pv_guest_kernel::xen::{clock, hv, stub};
use pv_guest_kernel::{console, println, task};

pv_guest_kernel::main!(main);

/// Nanoseconds of CPU time are compared with a tolerance of this many percent.
const PERCENT: u64 = 3;
/// A domain that wakes may find another in the grace that every new one has, and no longer.
const LATE: Duration = Duration::from_millis(2);

async fn main() -> i32 {
    let mut t = Test::default();
    let outcome = run(&mut t).await;
    let status = t.verdict("referee", outcome);
    console::flush();
    let _ = stub::control_power(hv(), POWER_OFF, status.cast_unsigned());
    status
}

/// Makes a domain of the bundle and lets it run.
fn start(section: &str) -> Result<DomainId, pv_abi::Errno> {
    let mut created = Created::default();
    stub::control_create(hv(), section.as_bytes(), &mut created)?;
    stub::control_unpause(hv(), created.domid)?;
    Ok(created.domid)
}

fn cpu_time(id: DomainId) -> u64 {
    let mut info = DomainInfo::default();
    let there = stub::control_info(hv(), id, &mut info).is_ok() && info.domid == id;
    if there { info.cpu_ns } else { 0 }
}

/// What each of the two gets of a span of time.
async fn shares(heavy: DomainId, light: DomainId, span: Duration) -> (u64, u64) {
    let before = (cpu_time(heavy), cpu_time(light));
    task::sleep(span).await;
    (cpu_time(heavy) - before.0, cpu_time(light) - before.1)
}

/// Whether a time is what was expected.
fn is_near(time: u64, expected: u64) -> bool {
    time.abs_diff(expected) * 100 <= expected * PERCENT
}

async fn run(t: &mut Test) -> Outcome {
    let heavy = start("heavy").map_err(|e| error("create heavy", e))?;
    let light = start("light").map_err(|e| error("create light", e))?;
    task::sleep(Duration::from_millis(300)).await;

    let (of_heavy, of_light) = shares(heavy, light, Duration::from_secs(2)).await;
    println!("weights 512 and 256: {} us and {} us", of_heavy / 1000, of_light / 1000);
    t.check("twice the weight is twice the time", is_near(of_heavy, 2 * of_light));
    t.check("the CPU was theirs", of_heavy + of_light > 1_900_000_000);

    let cap = Schedule { domid: heavy, weight: 512, cap: 20, affinity: 1, ..Schedule::default() };
    t.equal("set a cap", stub::control_schedule(hv(), &cap), Ok(0));
    task::sleep(Duration::from_millis(300)).await;
    let (of_heavy, of_light) = shares(heavy, light, Duration::from_secs(2)).await;
    println!("a cap of 20 percent: {} us and {} us", of_heavy / 1000, of_light / 1000);
    t.check("a cap holds", of_heavy <= 400_000_000 * (100 + PERCENT) / 100);
    t.check("what is capped is not starved", of_heavy >= 400_000_000 * (100 - PERCENT) / 100);
    t.check("the other has the rest", of_light > 1_500_000_000);

    let mut worst = 0;
    for _ in 0..50 {
        let due = clock::now() + 3_000_000;
        task::sleep(Duration::from_millis(3)).await;
        worst = worst.max(clock::now().saturating_sub(due));
    }
    println!("woken {} us late at most", worst / 1000);
    t.check("one that wakes preempts one that spins", u128::from(worst) <= LATE.as_nanos());
    for id in [heavy, light] {
        t.equal("destroy it", stub::control_destroy(hv(), id), Ok(0));
    }
    Ok(())
}
