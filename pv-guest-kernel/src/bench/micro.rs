//! What single services of the hypervisor cost.
//!
//! Most use the domain's own resources, so that every domain can run them: events go to itself, grants are its own. With
//! a partner (see [`super::partner`]) those across domains are measured too, and with the role `control` a domain is made
//! and destroyed.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use pv_abi::call::{MulticallEntry, number};
use pv_abi::control::Created;
use pv_abi::grant::{Copy, CopyFlags, CopyPtr, MapFlags, MapGrantRef, UnmapGrantRef};
use pv_abi::memory::Reservation;
use pv_abi::{DomainId, Gfn, GrantRef, GuestPhys, GuestVirt, version};

use super::Samples;
use super::partner::Partner;
use super::take::Bench;
use crate::arch::{instr, probe};
use crate::mm::{self, PAGE, special};
use crate::shell::command::{Args, Failure, Outcome};
use crate::xen::platform::Pages;
use crate::xen::{self, clock, events, grants, hv, sched, stub};

/// When the handler of the event to self began.
static HANDLED: AtomicU64 = AtomicU64::new(0);

/// Runs all of them.
pub async fn run(mut args: Args) -> Outcome {
    let n = args.take_size("n")?.unwrap_or(1000).clamp(8, 1_000_000) as usize;
    let partner = args.take_size("partner")?;
    args.at_most(1)?;
    let me = xen::identity().domain.unwrap_or(DomainId::DOM0);
    let partner = Partner::find(partner).await;
    let mut bench = Bench::new("micro", n).await;
    let done = services(&mut bench, me, partner);
    bench.print();
    done
}

fn services(bench: &mut Bench, me: DomainId, partner: Option<Partner>) -> Outcome {
    bench.take("null-hypercall", 1, 1, || {
        let _ = stub::version_number(hv());
    });
    bench.take("cpuid", 1, 1, || {
        core::hint::black_box(instr::cpuid(0, 0));
    });
    bench.take("clock-read", 1, 1, || {
        core::hint::black_box(clock::now());
    });
    bench.take("yield", 1, 1, sched::yield_now);
    event_to_self(bench)?;
    timer(bench);
    multicall(bench);
    apic_read(bench);
    x2apic(bench);
    nested_fault(bench);
    memory_copy(bench)?;
    copies(bench, me)?;
    let own = Pages::new(32)?;
    with_granted(me, &own, |refs| mapping(bench, "grant-map-unmap-own", me, refs))??;
    give_and_take(bench);
    make_and_destroy(bench, "spare", 4);
    if let Some(partner) = partner {
        bench.take("event-ping-pong", 1, 1, || partner.ping());
        partner.yielding(|| bench.take("vcpu-switch-twice", 1, 1, sched::yield_now));
        let mapped = mapping(bench, "grant-map-unmap", partner.domain, &partner.refs);
        partner.end();
        mapped?;
    }
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

pub fn event_to_self(bench: &mut Bench) -> Outcome {
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
    bench.of("event-to-handler", 1, 1, || {
        HANDLED.store(0, Ordering::Relaxed);
        let before = instr::rdtsc();
        events::notify(there);
        wait_for_handler();
        HANDLED.load(Ordering::Relaxed).saturating_sub(before)
    });
    bench.take("event-handler-and-back", 1, 1, || {
        HANDLED.store(0, Ordering::Relaxed);
        events::notify(there);
        wait_for_handler();
    });
    events::close(there);
    events::close(here);
    Ok(())
}

/// The timer is set to a moment that is over, and its event handled.
fn timer(bench: &mut Bench) {
    let cpu = crate::arch::cpu::this();
    bench.take("timer-past-to-handler-and-back", 1, 1, || {
        let before = cpu.events.load(Ordering::Relaxed);
        sched::set_timer(1);
        let mut spins = 0u64;
        while cpu.events.load(Ordering::Relaxed) == before && spins < 10_000_000 {
            core::hint::spin_loop();
            spins += 1;
        }
    });
    // What the kernel itself waits for was programmed before and is lost: its handler programs it again.
    crate::task::timer::on_timer();
}

fn multicall(bench: &mut Bench) {
    let entry = MulticallEntry {
        op: number::XEN_VERSION,
        args: [version::op::VERSION, 0, 0, 0, 0, 0],
        ..Default::default()
    };
    let mut calls = [entry; 64];
    bench.take("multicall", 64, 10, || {
        let _ = stub::multicall(hv(), &mut calls);
    });
}

/// A register of the local APIC by its page in memory, where the processor is in that mode.
fn apic_read(bench: &mut Bench) {
    const IA32_APIC_BASE: u32 = 0x1b;
    const X2APIC: u64 = 1 << 10;
    const VERSION: u64 = 0x30;
    let base = instr::rdmsr(IA32_APIC_BASE);
    if base & X2APIC != 0 {
        return;
    }
    let register: *const u32 = mm::ptr((base & 0xf_ffff_f000) + VERSION);
    bench.take("apic-register-read", 1, 4, || {
        // SAFETY: the APIC's page is in the direct map (below 4 GiB), and reading its version has no effect.
        unsafe { register.read_volatile() };
    });
}

/// The local APIC in x2APIC mode, for as long as this takes.
fn x2apic(bench: &mut Bench) {
    const IA32_APIC_BASE: u32 = 0x1b;
    const ENABLED: u64 = 1 << 11;
    const X2APIC: u64 = 1 << 10;
    const VERSION: u32 = 0x803;
    const TASK_PRIORITY: u32 = 0x808;
    const END_OF_INTERRUPT: u32 = 0x80b;
    let base = instr::rdmsr(IA32_APIC_BASE);
    // SAFETY: the kernel does not use the APIC; a refused mode leaves it as it was.
    if base & X2APIC != 0 || unsafe { probe::wrmsr(IA32_APIC_BASE, base | X2APIC) }.is_err() {
        return;
    }
    bench.take("x2apic-register-read", 1, 4, || {
        core::hint::black_box(instr::rdmsr(VERSION));
    });
    // SAFETY: the task priority is 0 already, and no interrupt is in service.
    bench.take("x2apic-task-priority-write", 1, 4, || unsafe { instr::wrmsr(TASK_PRIORITY, 0) });
    // SAFETY: as above.
    bench.take("x2apic-end-of-interrupt", 1, 4, || unsafe { instr::wrmsr(END_OF_INTERRUPT, 0) });
    // SAFETY: the way back to the other mode is to switch it off.
    unsafe {
        instr::wrmsr(IA32_APIC_BASE, base & !(ENABLED | X2APIC));
        instr::wrmsr(IA32_APIC_BASE, base);
    }
}

/// A read where no memory is: a nested fault that ends as on a bus without a device.
fn nested_fault(bench: &mut Bench) {
    let Some(frame) = special::allocate(1) else { return };
    let place: *const u32 = mm::ptr(frame * PAGE);
    bench.take("nested-fault-read", 1, 4, || {
        // SAFETY: the direct map covers the frame number, at which nothing is mapped: the hypervisor answers.
        unsafe { place.read_volatile() };
    });
    special::free(frame);
}

/// What copying a page takes without any hypervisor: what other figures are compared with.
fn memory_copy(bench: &mut Bench) -> Outcome {
    // A few pages apart, so that an emulator's direct-mapped TLB does not make the two collide.
    let (from, to) = (Pages::new(19)?, Pages::new(1)?);
    let source: *const u8 = mm::ptr(from.phys() + 3 * PAGE);
    bench.take("memory-copy-4096", 1, 1, || {
        // SAFETY: a page of each, ours alone.
        unsafe { core::ptr::copy_nonoverlapping(source, to.as_ptr(), PAGE as usize) };
    });
    Ok(())
}

/// Pages of ours, granted to `whom` for the time of `work`.
pub fn with_granted<R>(
    whom: DomainId,
    pages: &Pages,
    work: impl FnOnce(&[GrantRef]) -> R,
) -> Result<R, Failure> {
    let first = pages.phys() / PAGE;
    let count = (pages.len() as u64) / PAGE;
    let mut refs = Vec::new();
    let mut error = None;
    for i in 0..count {
        match grants::grant(whom, first + i, true) {
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

fn copies(bench: &mut Bench, me: DomainId) -> Outcome {
    // A few pages apart, as above.
    let from = Pages::new(35)?;
    let to = Pages::new(32)?;
    with_granted(me, &from, |refs| {
        for count in [1usize, 16, 32] {
            let mut ops: Vec<Copy> = (0..count)
                .map(|i| Copy {
                    source: CopyPtr::granted(me, refs[i + 3], 0),
                    dest: CopyPtr::own(Gfn::new(to.phys() / PAGE + i as u64), 0),
                    len: PAGE as u16,
                    flags: CopyFlags::SOURCE_GREF.bits(),
                    ..Copy::default()
                })
                .collect();
            bench.take("grant-copy-4096", count, count, || {
                let _ = grants::copy(&mut ops);
            });
            if let Some(bad) = ops.iter().find(|op| !op.status.is_okay()) {
                return Err(Failure::because(alloc::format!("grant copy: {}", bad.status)));
            }
        }
        Ok(())
    })?
}

/// Maps pages that `owner` granted, one or all of them in a call, and unmaps them again. What the hypervisor refuses is left
/// out, with a warning.
pub fn mapping(bench: &mut Bench, name: &str, owner: DomainId, refs: &[GrantRef]) -> Outcome {
    let most = refs.len();
    let first = special::allocate(most as u64).ok_or_else(|| Failure::because("no free frame numbers"))?;
    let batches = [1, most];
    for &count in if most > 1 { &batches[..] } else { &batches[..1] } {
        let place = |i: usize| GuestPhys::new((first + i as u64) * PAGE);
        let mut maps: Vec<MapGrantRef> = (0..count)
            .map(|i| MapGrantRef {
                host_addr: place(i),
                flags: MapFlags::HOST_MAP.bits(),
                gref: refs[most - 1 - i],
                dom: owner,
                ..MapGrantRef::default()
            })
            .collect();
        let mut unmaps: Vec<UnmapGrantRef> =
            (0..count).map(|i| UnmapGrantRef { host_addr: place(i), ..UnmapGrantRef::default() }).collect();
        let mut both = || {
            let _ = grants::map(&mut maps);
            for (unmap, map) in unmaps.iter_mut().zip(&maps) {
                unmap.handle = map.handle;
            }
            let _ = grants::unmap(&mut unmaps);
            let statuses = maps.iter().map(|op| op.status).chain(unmaps.iter().map(|op| op.status));
            statuses.into_iter().find(|status| !status.is_okay())
        };
        // Twice: what was mapped once must be gone the second time.
        if let Some(status) = both().or_else(&mut both) {
            log::warn!("{name} of {count}: {status}");
            return Ok(());
        }
        bench.take(name, count, count.max(4), || {
            core::hint::black_box(both());
        });
    }
    (0..most as u64).for_each(|i| special::free(first + i));
    Ok(())
}

pub fn give_and_take(bench: &mut Bench) {
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
    bench.take("page-give-and-take", 1, 4, || {
        let given = stub::memory_decrease(hv(), &reservation);
        let taken = stub::memory_populate(hv(), &reservation);
        if given != Ok(1) || taken != Ok(1) {
            bad = Some((given, taken));
        }
    });
    if let Some((given, taken)) = bad {
        log::error!("page-give-and-take: {given:?}, {taken:?}");
        if taken != Ok(1) {
            // The frame is gone: it must not return to the allocator.
            core::mem::forget(pages);
        }
    }
}

/// Makes the domain of a section and destroys it, so many times, where this domain may.
pub fn make_and_destroy(bench: &mut Bench, section: &str, times: u64) {
    let (mut made, mut destroyed) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let mut created = Created::default();
        let before = instr::rdtsc();
        if stub::control_create(hv(), section.as_bytes(), &mut created).is_err() {
            return;
        }
        let between = instr::rdtsc();
        let ended = stub::control_destroy(hv(), created.domid);
        let after = instr::rdtsc();
        if let Err(error) = ended {
            return log::error!("{} could not be destroyed: {error}", created.domid);
        }
        made.push(between - before);
        destroyed.push(after - between);
    }
    for (name, values) in [("domain-create", made), ("domain-destroy", destroyed)] {
        let samples = Samples::from(values);
        let figure = bench.figure(name, times).with("section", section);
        bench.push(figure.total("ticks", samples.sum()).samples(&samples));
    }
}
