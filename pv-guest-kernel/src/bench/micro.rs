//! What single services of the hypervisor cost.
//!
//! One line each: name, least, median and mean ticks. All with the domain's own resources, so that every domain can run
//! it: events go to itself, grants are its own.

use core::sync::atomic::{AtomicU64, Ordering};

use pv_abi::call::{MulticallEntry, number};
use pv_abi::grant::{Copy, CopyFlags, CopyPtr, MapFlags, MapGrantRef, UnmapGrantRef};
use pv_abi::memory::Reservation;
use pv_abi::{DomainId, Gfn, GuestPhys, GuestVirt, version};

use super::Samples;
use crate::arch::instr;
use crate::mm::{PAGE, special};
use crate::println;
use crate::shell::command::{Args, Failure, Outcome};
use crate::xen::platform::Pages;
use crate::xen::{self, clock, events, grants, hv, sched, stub};

/// When the handler of the event to self began.
static HANDLED: AtomicU64 = AtomicU64::new(0);

fn line(name: &str, s: &Samples, per: u64) {
    println!("micro  {name:<28} {:>9} {:>9} {:>9}", s.min() / per, s.median() / per, s.mean() / per);
}

/// Runs all of them.
pub async fn run(mut args: Args) -> Outcome {
    let n = args.take_size("n")?.unwrap_or(1000).clamp(1, 1_000_000) as usize;
    args.at_most(1)?;
    let me = xen::identity().domain.unwrap_or(DomainId::DOM0);
    println!("micro  {:<28} {:>9} {:>9} {:>9}  ticks, n = {n}", "service", "min", "median", "mean");

    line(
        "null-hypercall",
        &Samples::take(n, || {
            let _ = stub::version_number(hv());
        }),
        1,
    );
    line(
        "cpuid",
        &Samples::take(n, || {
            core::hint::black_box(instr::cpuid(0, 0));
        }),
        1,
    );
    line(
        "clock-read",
        &Samples::take(n, || {
            core::hint::black_box(clock::now());
        }),
        1,
    );
    line("yield", &Samples::take(n, sched::yield_now), 1);
    events(n)?;
    multicall(n / 10 + 1);
    copies(n, me)?;
    mapping(n, me)?;
    give_and_take(n);
    Ok(())
}

/// Waits for the handler, but not for ever: a lost event is a finding, not a hang.
fn wait_for_handler() {
    let mut spins = 0u64;
    while HANDLED.load(Ordering::Relaxed) == 0 && spins < 10_000_000 {
        core::hint::spin_loop();
        spins += 1;
    }
}

fn events(n: usize) -> Outcome {
    let here = events::alloc_unbound(DomainId::SELF)?;
    let there = match events::bind_interdomain(DomainId::SELF, here) {
        Ok(port) => port,
        Err(e) => {
            events::close(here);
            return Err(e.into());
        }
    };
    let vcpu = crate::arch::cpu::this().id;
    let _ = events::bind_vcpu(here, vcpu);
    events::on(here, "bench", |_| HANDLED.store(instr::rdtsc(), Ordering::Relaxed), 0);
    let to_handler = Samples::of(n, || {
        HANDLED.store(0, Ordering::Relaxed);
        let before = instr::rdtsc();
        events::notify(there);
        wait_for_handler();
        HANDLED.load(Ordering::Relaxed).saturating_sub(before)
    });
    let and_back = Samples::take(n, || {
        HANDLED.store(0, Ordering::Relaxed);
        events::notify(there);
        wait_for_handler();
    });
    events::close(there);
    events::close(here);
    line("event-send-to-handler", &to_handler, 1);
    line("event-send-handler-and-back", &and_back, 1);
    Ok(())
}

fn multicall(n: usize) {
    let entry = MulticallEntry {
        op: number::XEN_VERSION,
        args: [version::op::VERSION, 0, 0, 0, 0, 0],
        ..Default::default()
    };
    let mut calls = [entry; 64];
    let samples = Samples::take(n, || {
        let _ = stub::multicall(hv(), &mut calls);
    });
    line("multicall-64", &samples, 1);
    line("multicall-64-per-call", &samples, 64);
}

/// One page of ours, granted to ourselves for the time of `work`.
fn with_granted<R>(
    me: DomainId,
    pages: &Pages,
    work: impl FnOnce(&[pv_abi::GrantRef]) -> R,
) -> Result<R, Failure> {
    let first = pages.phys() / PAGE;
    let count = (pages.len() as u64) / PAGE;
    let mut refs = alloc::vec::Vec::new();
    let mut error = None;
    for i in 0..count {
        match grants::grant(me, first + i, true) {
            Ok(reference) => refs.push(reference),
            Err(e) => error = Some(e),
        }
    }
    let result = if error.is_none() { Some(work(&refs)) } else { None };
    for reference in refs {
        if let Err(e) = grants::ungrant(reference) {
            log::warn!("{reference} stays in use: {e}");
        }
    }
    match (result, error) {
        (Some(result), _) => Ok(result),
        (None, error) => Err(error.map_or_else(|| Failure::because("no grants"), Failure::from)),
    }
}

fn copies(n: usize, me: DomainId) -> Outcome {
    // A few pages apart, so that an emulator's direct-mapped TLB does not make the two collide.
    let from = Pages::new(19)?;
    let to = Pages::new(16)?;
    with_granted(me, &from, |refs| {
        for count in [1usize, 16] {
            let mut ops: alloc::vec::Vec<Copy> = (0..count)
                .map(|i| Copy {
                    source: CopyPtr::granted(me, refs[i + 3], 0),
                    dest: CopyPtr::own(Gfn::new(to.phys() / PAGE + i as u64), 0),
                    len: PAGE as u16,
                    flags: CopyFlags::SOURCE_GREF.bits(),
                    ..Copy::default()
                })
                .collect();
            let samples = Samples::take(n / count + 1, || {
                let _ = grants::copy(&mut ops);
            });
            if let Some(bad) = ops.iter().find(|op| !op.status.is_okay()) {
                println!("micro  grant-copy-4096x{count}: {}", bad.status);
                continue;
            }
            line(if count == 1 { "grant-copy-4096" } else { "grant-copy-4096x16" }, &samples, 1);
            if count > 1 {
                line("grant-copy-4096x16-each", &samples, count as u64);
            }
        }
    })
}

fn mapping(n: usize, me: DomainId) -> Outcome {
    let page = Pages::new(16)?;
    let first = special::allocate(16).ok_or_else(|| Failure::because("no free frame numbers"))?;
    let result = with_granted(me, &page, |refs| {
        for count in [1usize, 16] {
            let mut failed = None;
            let samples = Samples::take(n / count / 4 + 1, || {
                let mut maps: alloc::vec::Vec<MapGrantRef> = (0..count)
                    .map(|i| MapGrantRef {
                        host_addr: GuestPhys::new((first + i as u64) * PAGE),
                        flags: MapFlags::HOST_MAP.bits(),
                        gref: refs[i],
                        dom: me,
                        ..MapGrantRef::default()
                    })
                    .collect();
                let _ = grants::map(&mut maps);
                failed = maps.iter().find(|op| !op.status.is_okay()).map(|op| op.status).or(failed);
                let mut unmaps: alloc::vec::Vec<UnmapGrantRef> = maps
                    .iter()
                    .filter(|op| op.status.is_okay())
                    .map(|op| UnmapGrantRef {
                        host_addr: op.host_addr,
                        handle: op.handle,
                        ..UnmapGrantRef::default()
                    })
                    .collect();
                let _ = grants::unmap(&mut unmaps);
                failed = unmaps.iter().find(|op| !op.status.is_okay()).map(|op| op.status).or(failed);
            });
            match failed {
                Some(status) => println!("micro  grant-map-unmap x{count}: {status}"),
                None => line(if count == 1 { "grant-map-unmap" } else { "grant-map-unmap-x16" }, &samples, 1),
            }
        }
    });
    (0..16).for_each(|i| special::free(first + i));
    result
}

fn give_and_take(n: usize) {
    let Ok(pages) = Pages::new(1) else { return };
    let gfn = [Gfn::new(pages.phys() / PAGE)];
    let reservation = Reservation {
        extent_start: GuestVirt::of(&gfn),
        nr_extents: 1,
        extent_order: 0,
        mem_flags: 0,
        domid: DomainId::SELF,
        pad: [0; 3],
    };
    let mut bad = None;
    let samples = Samples::take(n / 4 + 1, || {
        let given = stub::memory_decrease(hv(), &reservation);
        let taken = stub::memory_populate(hv(), &reservation);
        if given != Ok(1) || taken != Ok(1) {
            bad = Some((given, taken));
        }
    });
    match bad {
        None => line("page-give-and-take", &samples, 1),
        Some((given, taken)) => {
            println!("micro  page-give-and-take: {given:?}, {taken:?}");
            if taken != Ok(1) {
                // The frame is gone: it must not return to the allocator.
                core::mem::forget(pages);
            }
        }
    }
}
