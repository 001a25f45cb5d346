//! The operations of the control calls. That the caller may use them was checked before.

use super::{Domain, Format, Phase, Progress, destroy};
use crate::build;
use crate::hw::{CpuId, Platform, PowerAction, Reg, VcpuHw};
use crate::ioreq::Server;
use crate::mem::{PageRef, op};
use crate::sched::{CpuMask, Scheduled};
use crate::system::System;
use crate::time::runstate_info;
use crate::vcpu::{Reason, Vcpu, notify};
use alloc::sync::Arc;
use pv_abi::control::{
    Created, DomainInfo, Emulate, ExitCause, NO_REASON, POWER_OFF, POWER_REBOOT, Schedule, Statistics,
    TraceRecord, VcpuState, state,
};
use pv_abi::errno::{Errno, Result};
use pv_abi::ids::{DomainId, Gfn, VcpuId};

/// A domain by its number, in any phase.
fn find<P: Platform>(system: &System<P>, id: DomainId) -> Result<Arc<Domain<P>>> {
    system.domains.get(id).ok_or(Errno::ESRCH)
}

/// Another domain than the caller: nobody pauses or destroys himself.
fn other<P: Platform>(system: &System<P>, caller: &Domain<P>, id: DomainId) -> Result<Arc<Domain<P>>> {
    if id == caller.id || id == DomainId::SELF {
        return Err(Errno::EINVAL);
    }
    find(system, id)
}

/// Makes the domain that a section of the manifest describes, paused, served by the caller.
pub fn create<P: Platform>(system: &System<P>, caller: &Domain<P>, section: &[u8]) -> Result<Created> {
    let section = core::str::from_utf8(section).map_err(|_| Errno::EINVAL)?;
    let domain = build::create(system, section, Some(caller.id)).map_err(|error| {
        log::warn!("{error}");
        error.errno()
    })?;
    Ok(build::created(&domain))
}

/// Loads the kernel of a section into a domain that never ran.
pub fn rebuild<P: Platform>(system: &System<P>, id: DomainId, section: &[u8]) -> Result<()> {
    let section = core::str::from_utf8(section).map_err(|_| Errno::EINVAL)?;
    build::reload(system, &find(system, id)?, section).map_err(|error| {
        log::warn!("{error}");
        error.errno()
    })
}

/// Pauses a domain once more. It may still be on its way out of the guest when this returns.
pub fn pause<P: Platform>(system: &System<P>, caller: &Domain<P>, id: DomainId) -> Result<()> {
    let domain = other(system, caller, id)?;
    let change = domain.life.pause()?;
    system.follow(&domain, change);
    Ok(())
}

/// Takes one pause back.
pub fn unpause<P: Platform>(system: &System<P>, caller: &Domain<P>, id: DomainId) -> Result<()> {
    let domain = other(system, caller, id)?;
    let change = domain.life.unpause()?;
    system.follow(&domain, change);
    Ok(())
}

/// Goes on destroying a domain: called until it is done.
pub fn destroy_step<P: Platform>(system: &System<P>, caller: &Domain<P>, id: DomainId) -> Result<Progress> {
    destroy(system, &other(system, caller, id)?)
}

/// Begins to emulate ports of a domain, by a page that the caller pinned, or refuses and gives it back.
pub fn begin_emulation<P: Platform>(
    system: &System<P>,
    caller: &Domain<P>,
    arg: &Emulate,
    page: PageRef,
) -> core::result::Result<(), (Errno, PageRef)> {
    let domain = match other(system, caller, arg.domid) {
        Ok(domain) => domain,
        Err(errno) => return Err((errno, page)),
    };
    let account = caller.memory.read().account().clone();
    let server = Server { owner: caller.id, port: arg.port, page, account, ranges: arg.ranges };
    domain.emulation.begin(server).map_err(|(errno, server)| (errno, server.page))
}

/// Ends it, if it is `owner`'s; accesses that wait read ones.
pub fn end_emulation<P: Platform>(system: &System<P>, owner: DomainId, domain: &Domain<P>) {
    if let Some(server) = domain.emulation.end(owner) {
        server.dismiss(system.ram());
        domain.vcpus.iter().for_each(|vcpu| look(system, vcpu));
    }
}

/// Ends what the caller emulates of a domain.
pub fn end_own_emulation<P: Platform>(system: &System<P>, caller: &Domain<P>, id: DomainId) -> Result<()> {
    let domain = other(system, caller, id)?;
    domain.emulation.check(caller.id)?;
    end_emulation(system, caller.id, &domain);
    Ok(())
}

/// Lets a vCPU see whether its access is done, for its emulator.
pub fn emulated<P: Platform>(
    system: &System<P>,
    caller: &Domain<P>,
    id: DomainId,
    vcpu: VcpuId,
) -> Result<()> {
    let domain = find(system, id)?;
    domain.emulation.check(caller.id)?;
    look(system, domain.vcpu(vcpu).ok_or(Errno::ENOENT)?);
    Ok(())
}

/// Makes a vCPU look at what it waits for.
fn look<P: Platform>(system: &System<P>, vcpu: &Arc<Vcpu<P>>) {
    notify(&system.platform, &system.scheduler, vcpu, Reason::RESCHEDULE);
}

/// Describes the domain with the lowest number from `first` on.
pub fn info<P: Platform>(system: &System<P>, first: DomainId) -> Result<DomainInfo> {
    let domain = system.domains.first_from(first).ok_or(Errno::ESRCH)?;
    let (phase, pauses) = domain.life.snapshot();
    let (state, reason) = match phase {
        Phase::Created => (state::CREATED, NO_REASON),
        Phase::Alive => (state::ALIVE, NO_REASON),
        Phase::ShutDown(reason) => (state::SHUT_DOWN, reason.raw()),
        Phase::Dying => (state::DYING, NO_REASON),
        Phase::Dead => (state::DEAD, NO_REASON),
    };
    let account = domain.memory.read().account().clone();
    let now = system.platform.tsc();
    let ran = domain.vcpus.iter().map(|vcpu| vcpu.entity().times(now).running()).sum::<u64>();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let mut info = DomainInfo {
        domid: domain.id,
        parent: domain.parent,
        state,
        reason,
        roles: domain.roles.bits(),
        pauses,
        vcpus: count(domain.vcpus.len()),
        vcpus_up: count(domain.vcpus.iter().filter(|vcpu| vcpu.entity().is_up()).count()),
        weight: domain.group.weight(),
        cap: domain.group.cap(),
        pages: account.total().raw(),
        max_pages: account.maximum().raw(),
        cpu_ns: system.clock.nanos(crate::hw::TscTicks::new(ran)).raw(),
        affinity: domain.vcpus.first().map_or(0, |vcpu| vcpu.entity().affinity().raw()),
        ..DomainInfo::default()
    };
    info.set_name(domain.name.as_str());
    Ok(info)
}

/// Describes a vCPU.
pub fn vcpu_info<P: Platform>(system: &System<P>, id: DomainId, vcpu: VcpuId) -> Result<VcpuState> {
    let domain = find(system, id)?;
    let vcpu = domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
    let now = runstate_info(&system.clock, &vcpu.entity.times(system.platform.tsc()));
    // Who runs it holds the lock: then its registers are not known.
    let rip = vcpu.context.try_lock().map_or(0, |context| context.hw.get(Reg::Rip));
    let exits = ExitCause::ALL.iter().map(|cause| vcpu.stats.exits_of(*cause)).sum();
    Ok(VcpuState { state: now.state, cpu: vcpu.entity.last_cpu().raw().into(), time: now.time, exits, rip })
}

/// Copies the counters of a domain.
pub fn statistics<P: Platform>(system: &System<P>, id: DomainId) -> Result<Statistics> {
    let domain = find(system, id)?;
    let mut sum = Statistics::default();
    let now = system.platform.tsc().raw();
    domain.vcpus.iter().for_each(|vcpu| vcpu.stats.add_to(&mut sum, now));
    Ok(sum)
}

/// Maps a page of counters at a place of the caller's.
pub fn map_counters<P: Platform>(
    system: &System<P>,
    caller: &Domain<P>,
    number: u32,
    place: Gfn,
    kick: impl FnOnce(u64),
) -> Result<()> {
    let page = system.counters.get(number).ok_or(Errno::ENOENT)?;
    let frame = system.platform.frame_of(page);
    op::map_counters::<Format<P>, _>(system.ram(), &caller.memory, frame, place, kick)
}

/// Ends the machine.
pub fn power<P: Platform>(system: &System<P>, action: u32, status: u32) -> Result<()> {
    match action {
        POWER_OFF => system.power(PowerAction::Off(status)),
        POWER_REBOOT => system.power(PowerAction::Reset),
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// Sets how a domain shares the CPUs.
pub fn schedule<P: Platform>(system: &System<P>, request: &Schedule) -> Result<()> {
    let domain = find(system, request.domid)?;
    if !(1..=65_535).contains(&request.weight) || request.affinity == 0 {
        return Err(Errno::EINVAL);
    }
    domain.group.set(request.weight, request.cap);
    for vcpu in &domain.vcpus {
        let look = system.scheduler.set_affinity(vcpu, CpuMask::new(request.affinity));
        system.kick(look);
    }
    Ok(())
}

/// Takes records out of the trace of a CPU; returns how many.
pub fn trace<P: Platform>(system: &System<P>, cpu: u32, into: &mut [TraceRecord]) -> Result<usize> {
    let cpu =
        u16::try_from(cpu).ok().filter(|cpu| *cpu < system.platform.cpu_count()).ok_or(Errno::ENOENT)?;
    Ok(system.trace.take(CpuId::new(cpu), into))
}
