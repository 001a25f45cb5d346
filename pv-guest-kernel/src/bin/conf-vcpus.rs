//! Several vCPUs: up and down, working at the same time, telling each other.
#![no_std]
#![no_main]

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use pv_abi::vcpu::RunstateInfo;
use pv_abi::{Errno, VcpuId};
use pv_guest_kernel::arch::cpu;
use pv_guest_kernel::conf::{Outcome, Test, skip, wait_for};
use pv_guest_kernel::task;
use pv_guest_kernel::xen::{clock, events, hv, identity, smp, stub};

pv_guest_kernel::conformance!(run);

static TURNS: AtomicU64 = AtomicU64::new(0);
static SEEN: AtomicU64 = AtomicU64::new(0);

async fn run(t: &mut Test) -> Outcome {
    let all: Vec<_> = cpu::all().collect();
    let is_up = |id| stub::vcpu_is_up(hv(), VcpuId::new(id));
    for cpu in &all {
        t.equal("is up", is_up(cpu.id), Ok(1));
        t.equal("initialise one that is", smp::initialise(cpu.id, 0, 0, 0), Err(Errno::EEXIST));
        let mut info = RunstateInfo::default();
        t.equal("runstate", stub::vcpu_runstate_info(hv(), VcpuId::new(cpu.id), &mut info), Ok(0));
        t.check("has a state", info.state < 4);
    }
    t.equal("none behind the last", is_up(all.len() as u32), Err(Errno::ENOENT));
    t.equal("nor far behind", is_up(u32::MAX), Err(Errno::ENOENT));
    t.equal("up for none", stub::vcpu_up(hv(), VcpuId::new(4000)), Err(Errno::ENOENT));
    if all.len() < 2 {
        return Err(skip("there is one vCPU only"));
    }

    // All at work at once: each task keeps its vCPU until all have come.
    let wanted = all.len() as u64;
    let tasks: Vec<_> = all
        .iter()
        .map(|_| {
            task::spawn(async move {
                SEEN.fetch_or(1 << cpu::this().id, Ordering::SeqCst);
                TURNS.fetch_add(1, Ordering::SeqCst);
                wait_for(|| TURNS.load(Ordering::SeqCst) >= wanted)
            })
        })
        .collect();
    for task in tasks {
        t.check("every vCPU takes a task", task.await);
    }
    t.equal("on different vCPUs", SEEN.load(Ordering::SeqCst).count_ones(), all.len() as u32);

    // Clocks agree within what a task needs to change over. Xen's agree as its calibration of an emulated machine does.
    let apart = if identity().is_xenolith() { 1_000_000 } else { 1_000_000_000 };
    for _ in 0..20 {
        let before = clock::now();
        let other = task::spawn(async { clock::now() }).await;
        t.check("clocks of different vCPUs", other + apart > before && clock::now() + apart > other);
    }

    // Down and up again, if the last one is not the one we run on: from here on we do not change over.
    let victim = all[all.len() - 1];
    task::sleep(Duration::from_millis(5)).await;
    if victim.id != cpu::this().id {
        let id = VcpuId::new(victim.id);
        t.equal("down", stub::vcpu_down(hv(), id), Ok(0));
        t.check("is down", wait_for(|| is_up(victim.id) == Ok(0)));
        t.equal("down again", stub::vcpu_down(hv(), id), Ok(0));
        let polls = victim.polls.load(Ordering::Relaxed);
        events::kick(victim);
        t.equal("it does not run", victim.polls.load(Ordering::Relaxed), polls);
        t.equal("up", stub::vcpu_up(hv(), id), Ok(0));
        t.check("is up", wait_for(|| is_up(victim.id) == Ok(1)));
        t.equal("up again", stub::vcpu_up(hv(), id), Ok(0));
        events::kick(victim);
        let upcalls = victim.upcalls.load(Ordering::Relaxed);
        t.check(
            "it takes events",
            wait_for(|| {
                events::kick(victim);
                victim.upcalls.load(Ordering::Relaxed) > upcalls
            }),
        );
    }
    Ok(())
}
