//! A control domain that tests the control calls on the domain `victim` of its bundle: creates it, looks at it, lets it
//! run, stops it, destroys it, and ends the machine with the verdict.
#![no_std]
#![no_main]

extern crate alloc;

use core::time::Duration;

use pv_abi::control::{Created, DomainInfo, POWER_OFF, Statistics};
use pv_abi::{DomainId, Errno};
use pv_guest_kernel::conf::{Outcome, Test, error, skip};
use pv_guest_kernel::figures::{Counters, Figures, Meter};
use pv_guest_kernel::xen::{hv, stub};
use pv_guest_kernel::{console, println, task};

pv_guest_kernel::main!(main);

async fn main() -> i32 {
    let mut t = Test::default();
    let outcome = run(&mut t).await;
    let status = t.verdict("warden", outcome);
    console::flush();
    let _ = stub::control_power(hv(), POWER_OFF, status.cast_unsigned());
    status
}

fn info(id: DomainId) -> Result<DomainInfo, Errno> {
    let mut info = DomainInfo::default();
    stub::control_info(hv(), id, &mut info)?;
    Ok(info)
}

fn cpu_time(id: DomainId) -> u64 {
    info(id).ok().filter(|i| i.domid == id).map_or(0, |i| i.cpu_ns)
}

async fn run(t: &mut Test) -> Outcome {
    if stub::control_version(hv()) == Err(Errno::ENOSYS) {
        return Err(skip("this hypervisor has another control interface"));
    }
    let nobody = DomainId::new(999);
    t.check("pause nobody", stub::control_pause(hv(), nobody).is_err());
    t.check("destroy nobody", stub::control_destroy(hv(), nobody).is_err());
    t.check("destroy ourselves by name of self", stub::control_destroy(hv(), DomainId::SELF).is_err());
    let mut statistics = Statistics::default();
    t.check("nobody's counters", stub::control_statistics(hv(), nobody, &mut statistics).is_err());
    let mut created = Created::default();
    t.equal(
        "a section that is none",
        stub::control_create(hv(), b"nobody", &mut created),
        Err(Errno::ENOENT),
    );

    for round in 0..3 {
        stub::control_create(hv(), b"victim", &mut created).map_err(|e| error("create", (e, round)))?;
        let id = created.domid;
        t.check("it is there", info(id).is_ok_and(|i| i.domid == id));
        t.equal("it has not run", cpu_time(id), 0);
        t.equal("let it run", stub::control_unpause(hv(), id), Ok(0));
        let mut tries = 0;
        while cpu_time(id) < 20_000_000 && tries < 2000 {
            task::sleep(Duration::from_millis(10)).await;
            tries += 1;
        }
        t.check("it runs, and so do we", cpu_time(id) >= 20_000_000);
        t.equal("its counters", stub::control_statistics(hv(), id, &mut statistics), Ok(0));
        t.check("it has made calls", statistics.hypercalls.iter().sum::<u64>() > 0);
        t.equal("stop it", stub::control_pause(hv(), id), Ok(0));
        task::sleep(Duration::from_millis(50)).await;
        let stopped = cpu_time(id);
        task::sleep(Duration::from_millis(50)).await;
        t.equal("it stands still", cpu_time(id), stopped);
        t.equal("its counters once more", stub::control_statistics(hv(), id, &mut statistics), Ok(0));
        t.check("and without a call", Counters::of(id).is_some_and(|c| *c.statistics() == statistics));
        t.equal("let it go on", stub::control_unpause(hv(), id), Ok(0));
        task::sleep(Duration::from_millis(50)).await;
        t.equal("destroy it", stub::control_destroy(hv(), id), Ok(0));
        let mut tries = 0;
        while info(id).is_ok_and(|i| i.domid == id && i.state != pv_abi::control::state::DEAD) && tries < 500
        {
            task::sleep(Duration::from_millis(10)).await;
            tries += 1;
        }
        t.check("it is gone", tries < 500);
        // What is left of it goes when a CPU has nothing else to do.
        let mut tries = 0;
        while Counters::of(id).is_some() && tries < 500 {
            task::sleep(Duration::from_millis(10)).await;
            tries += 1;
        }
        t.check("nothing counts for it", tries < 500);
        println!("round {round}: {id} came and went");
    }
    t.check("the counters are read without an exit", reads_without_exit());
    Ok(())
}

/// Whether all counters can be read while not one of them changes. An interrupt may come in between: then once more.
fn reads_without_exit() -> bool {
    let Some(meter) = Meter::new() else { return false };
    (0..100).any(|_| {
        let exits = |figures: &Figures| {
            let mut sum = 0;
            figures.guest.each(|group, _, count| sum += if group == "exit." { count } else { 0 });
            sum
        };
        let read = meter.read().zip(meter.read());
        read.is_some_and(|(a, b)| exits(&a) > 0 && exits(&a) == exits(&b) && a.driver == b.driver)
    })
}
