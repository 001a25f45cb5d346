//! Clock and timers.
#![no_std]
#![no_main]

use core::time::Duration;

use pv_abi::vcpu::{SetSingleshotTimer, TimerFlags};
use pv_abi::{Errno, VcpuId, hvm};
use pv_guest_kernel::arch::cpu;
use pv_guest_kernel::conf::{Outcome, Test};
use pv_guest_kernel::task::{self, spawn};
use pv_guest_kernel::xen::{clock, hv, identity, stub};

pv_guest_kernel::conformance!(run);

async fn run(t: &mut Test) -> Outcome {
    let mut last = clock::now();
    let mut monotonic = true;
    for _ in 0..10_000 {
        let now = clock::now();
        monotonic &= now >= last;
        last = now;
    }
    t.check("the clock does not run backwards", monotonic);
    t.check("the clock runs", clock::now() > 0);
    let (before, mut time) = (clock::now(), hvm::GetTime::default());
    if stub::hvm_get_time(hv(), &mut time).is_ok() {
        let during = before.saturating_sub(1_000_000_000)..clock::now() + 1_000_000_000;
        t.check("the hypervisor's time is the clock's, within a second", during.contains(&time.now));
    }
    t.check("wall clock is later than 2020", clock::wall() / 1_000_000_000 > 1_577_836_800);

    for ms in [1u64, 5, 20, 100] {
        let before = clock::now();
        task::sleep(Duration::from_millis(ms)).await;
        t.check("a sleep is not too short", clock::now() - before >= ms * 1_000_000);
    }
    // Many at once, started in the wrong order, end in the right one.
    let start = clock::now() + 20_000_000;
    let sleeps = [5u64, 1, 3, 4, 2].map(|k| {
        spawn(async move {
            task::sleep_until(start + k * 20_000_000).await;
            clock::now()
        })
    });
    let mut ends = [0u64; 5];
    for (sleep, k) in sleeps.into_iter().zip([5usize, 1, 3, 4, 2]) {
        ends[k - 1] = sleep.await;
    }
    for (k, end) in ends.iter().enumerate() {
        t.check("each ends after its time", *end >= start + (k as u64 + 1) * 20_000_000);
    }
    let slow = task::timeout(Duration::from_millis(10), task::sleep(Duration::from_secs(3600))).await;
    t.check("a time-out ends a long wait", slow.is_err());
    let quick = task::timeout(Duration::from_secs(3600), task::sleep(Duration::from_millis(1))).await;
    t.check("a time-out lets a short wait end", quick.is_ok());

    // The calls themselves.
    let me = VcpuId::new(cpu::this().id);
    let past = SetSingleshotTimer { timeout_abs_ns: 1, flags: TimerFlags::FUTURE.bits(), pad: 0 };
    let refused = stub::vcpu_set_singleshot_timer(hv(), me, &past);
    // The header says ETIME; Xen takes it and fires at once.
    t.check(
        "a time in the past",
        refused == Err(Errno::ETIME) || !identity().is_xenolith() && refused == Ok(0),
    );
    let nobody = VcpuId::new(4000);
    t.equal("no such vCPU", stub::vcpu_set_singleshot_timer(hv(), nobody, &past), Err(Errno::ENOENT));
    t.equal("stop", stub::vcpu_stop_singleshot_timer(hv(), me), Ok(0));
    t.equal("stop again", stub::vcpu_stop_singleshot_timer(hv(), me), Ok(0));
    t.equal("stop the periodic one", stub::vcpu_stop_periodic_timer(hv(), me), Ok(0));
    task::sleep(Duration::from_millis(5)).await;
    t.check("timers still work", true);
    Ok(())
}
