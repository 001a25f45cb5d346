//! Yield, block and poll.
#![no_std]
#![no_main]

use pv_abi::sched::{Poll, Shutdown, reason};
use pv_abi::{Errno, GuestVirt, Port};
use pv_guest_kernel::Options;
use pv_guest_kernel::conf::{Outcome, Test, error, events as checks};
use pv_guest_kernel::sync::without_upcalls;
use pv_guest_kernel::xen::{clock, events, hv, identity, sched, stub};

// One vCPU: kicks from another one would end polls and blocks before their time, as they should.
pv_guest_kernel::conformance!(run, Options { all_vcpus: false, ..Options::DEFAULT });

const MS: u64 = 1_000_000;
/// The clocks of two processors may be so far apart, where an emulator runs them in turns.
const APART: u64 = MS;

/// A poll lasts until its time, unless an event comes: that of the console, when its other end has taken what was written.
fn check_poll(t: &mut Test, name: &str, ports: &[Port]) {
    let lasted = (0..10).any(|_| {
        let start = clock::now();
        t.equal(name, sched::poll(ports, start + 20 * MS), Ok(()));
        clock::now() + APART >= start + 20 * MS
    });
    t.check("until the time", lasted);
}

async fn run(t: &mut Test) -> Outcome {
    for _ in 0..100 {
        t.equal("yield", stub::sched_yield(hv()), Ok(0));
    }

    // Poll without ports is a sleep.
    check_poll(t, "poll nothing", &[]);
    t.equal("poll with a time in the past", sched::poll(&[], 1), Ok(()));

    // Poll a masked port.
    let (here, there) = checks::pair().map_err(|e| error("a channel to ourselves", e))?;
    events::mask(here);
    check_poll(t, "poll a quiet port", &[here]);
    events::notify(there);
    let start = clock::now();
    t.equal("poll a pending port", sched::poll(&[here], start + 60_000 * MS), Ok(()));
    t.check("returns at once", clock::now() < start + 30_000 * MS);
    events::clear_pending(here);
    let bad = sched::poll(&[Port::new(u32::MAX)], clock::now() + MS);
    t.equal("poll a port that is none", bad, Err(Errno::EINVAL));
    let many = Poll { ports: GuestVirt::new(0x1000), nr_ports: u32::MAX, pad: 0, timeout: 1 };
    t.equal("poll too many ports", stub::sched_poll(hv(), &many), Err(Errno::EINVAL));
    let nowhere = Poll { ports: GuestVirt::new(0x1000), nr_ports: 1, pad: 0, timeout: 1 };
    t.equal("poll ports nowhere", stub::sched_poll(hv(), &nowhere), Err(Errno::EFAULT));
    events::close(there);
    events::close(here);

    // Block: a timer ends it.
    let start = clock::now();
    // Masked, so that its handler does not run before the block, however late that comes. Xen lets one sleep for ever whose
    // event came before, if its interrupts are masked: the time is long there.
    let span = if identity().is_xenolith() { 50 * MS } else { 500 * MS };
    let blocked = without_upcalls(|| {
        sched::set_timer(start + span);
        stub::sched_block(hv())
    });
    t.equal("block", blocked, Ok(0));
    t.check("until an event", clock::now() + APART >= start + 3 * MS);
    if !identity().is_xenolith() {
        // Xen takes any number.
        return Ok(());
    }
    t.equal(
        "shut down for no reason",
        stub::sched_shutdown(hv(), &Shutdown { reason: reason::MAX + 100 }),
        Err(Errno::EINVAL),
    );
    Ok(())
}
