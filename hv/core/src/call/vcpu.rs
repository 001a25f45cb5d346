//! `vcpu_op`: the domain's virtual CPUs (`xen/vcpu.h`).

use super::Reply;
use super::cx::{After, Cx};
use super::timer::set_single;
use crate::hw::{HostPhys, PAGE_BYTES, Platform, VcpuHw};
use crate::mem::PageRef;
use crate::time::{GuestArea, publish_clock, publish_runstate, runstate_info};
use crate::vcpu::{Reason, StartState, Vcpu, kick, notify};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use pv_abi::Errno;
use pv_abi::errno::Result;
use pv_abi::ids::{GuestVirt, VcpuId};
use pv_abi::shared_info::VcpuTimeInfo;
use pv_abi::vcpu::{
    HvmContext, RegisterArea, RegisterVcpuInfo, RunstateInfo, SetSingleshotTimer, TimerFlags,
};

/// A vCPU of the caller's domain.
fn target<'a, P: Platform>(cx: &Cx<'a, P>, id: VcpuId) -> Result<&'a Arc<Vcpu<P>>> {
    cx.domain.vcpu(id).ok_or(Errno::ENOENT)
}

/// The calling vCPU, by its number: timers are set for nobody else.
fn check_self<P: Platform>(cx: &Cx<'_, P>, id: VcpuId) -> Result<()> {
    target(cx, id)?;
    if id == cx.vcpu.id { Ok(()) } else { Err(Errno::EINVAL) }
}

pub(super) fn vcpu_initialise<P: Platform>(cx: &mut Cx<'_, P>, id: VcpuId, context: &HvmContext) -> Reply {
    let vcpu = target(cx, id)?;
    let state = StartState::from_context(context)?;
    // The caller's own registers are in use, and locked.
    if id == cx.vcpu.id || !vcpu.claim_start() {
        return Err(Errno::EEXIST.into());
    }
    // It has never been up since the claim: no CPU runs it, and nothing is locked here.
    let mut context = vcpu.context.lock();
    state.apply(&mut context);
    context.hw.set_tsc_offset(crate::hw::TscTicks::default());
    Ok(0)
}

pub(super) fn vcpu_up<P: Platform>(cx: &mut Cx<'_, P>, id: VcpuId) -> Reply {
    let vcpu = target(cx, id)?;
    if !vcpu.is_initialised() {
        return Err(Errno::EINVAL.into());
    }
    let now = cx.system.platform.tsc();
    kick(&cx.system.platform, cx.system.scheduler.set_up(vcpu, true, now));
    Ok(0)
}

pub(super) fn vcpu_down<P: Platform>(cx: &mut Cx<'_, P>, id: VcpuId) -> Reply {
    let vcpu = target(cx, id)?;
    let now = cx.system.platform.tsc();
    let look = cx.system.scheduler.set_up(vcpu, false, now);
    if id == cx.vcpu.id {
        cx.after = After::Reschedule;
    } else {
        kick(&cx.system.platform, look);
    }
    Ok(0)
}

pub(super) fn vcpu_is_up<P: Platform>(cx: &mut Cx<'_, P>, id: VcpuId) -> Reply {
    Ok(u64::from(target(cx, id)?.entity.is_up()))
}

pub(super) fn vcpu_runstate_info<P: Platform>(
    cx: &mut Cx<'_, P>,
    id: VcpuId,
    info: &mut RunstateInfo,
) -> Reply {
    let times = target(cx, id)?.entity.times(cx.system.platform.tsc());
    *info = runstate_info(&cx.system.clock, &times);
    Ok(0)
}

/// Pins the one or two pages in which a structure of the caller's lies; `None` for the null pointer.
fn area<P: Platform>(cx: &mut Cx<'_, P>, at: GuestVirt, bytes: u64) -> Result<Option<GuestArea>> {
    if at.is_null() {
        return Ok(None);
    }
    let first = pin_linear(cx, at)?;
    let second = if at.offset() + bytes > PAGE_BYTES {
        let next = at.checked_add(bytes - 1).ok_or(Errno::EFAULT).and_then(|last| pin_linear(cx, last));
        match next {
            Ok(page) => Some(page),
            Err(errno) => {
                cx.unpin(cx.domain, first);
                return Err(errno);
            }
        }
    } else {
        None
    };
    GuestArea::new(first, second, at.offset()).map(Some).map_err(|pages| {
        unpin_all(cx, pages);
        Errno::EINVAL
    })
}

fn pin_linear<P: Platform>(cx: &mut Cx<'_, P>, at: GuestVirt) -> Result<PageRef> {
    let (ram, owner) = (cx.system.ram(), cx.domain.id);
    cx.guest(|memory| memory.pin(ram, owner, at))
}

fn unpin_all<P: Platform>(cx: &Cx<'_, P>, pages: [Option<PageRef>; 2]) {
    pages.into_iter().flatten().for_each(|page| cx.unpin(cx.domain, page));
}

fn give_up<P: Platform>(cx: &Cx<'_, P>, area: Option<GuestArea>) {
    area.into_iter().for_each(|area| unpin_all(cx, area.into_pages()));
}

pub(super) fn vcpu_register_runstate<P: Platform>(
    cx: &mut Cx<'_, P>,
    id: VcpuId,
    register: &RegisterArea,
) -> Reply {
    let vcpu = target(cx, id)?;
    let new = area(cx, register.addr, size_of::<RunstateInfo>() as u64)?;
    let old = {
        let mut areas = vcpu.areas.lock();
        if let Some(area) = &new {
            let times = vcpu.entity.times(cx.system.platform.tsc());
            publish_runstate(cx.system.memory(), area, &cx.system.clock, &times);
        }
        vcpu.has_runstate_area.store(new.is_some(), Ordering::Relaxed);
        core::mem::replace(&mut areas.runstate, new)
    };
    give_up(cx, old);
    Ok(0)
}

pub(super) fn vcpu_register_time<P: Platform>(
    cx: &mut Cx<'_, P>,
    id: VcpuId,
    register: &RegisterArea,
) -> Reply {
    let vcpu = target(cx, id)?;
    let new = area(cx, register.addr, size_of::<VcpuTimeInfo>() as u64)?;
    if let Some(area) = &new {
        // The clock's parameters never change, so it is written once; the place must be within a page.
        let fits = |at: &HostPhys| at.offset() + size_of::<VcpuTimeInfo>() as u64 <= PAGE_BYTES;
        let Some(at) = area.at(0).filter(fits) else {
            give_up(cx, new);
            return Err(Errno::EINVAL.into());
        };
        publish_clock(cx.system.memory(), at, &cx.system.clock, cx.system.platform.tsc());
    }
    let old = core::mem::replace(&mut vcpu.areas.lock().clock, new);
    give_up(cx, old);
    Ok(0)
}

/// There is no periodic timer to stop.
pub(super) fn vcpu_stop_periodic_timer<P: Platform>(cx: &mut Cx<'_, P>, id: VcpuId) -> Reply {
    check_self(cx, id)?;
    Ok(0)
}

pub(super) fn vcpu_set_singleshot_timer<P: Platform>(
    cx: &mut Cx<'_, P>,
    id: VcpuId,
    timer: &SetSingleshotTimer,
) -> Reply {
    check_self(cx, id)?;
    let now = cx.system.clock.nanos(cx.system.platform.tsc()).raw();
    if timer.flags & TimerFlags::FUTURE.bits() != 0 && timer.timeout_abs_ns < now {
        return Err(Errno::ETIME.into());
    }
    // Zero is a time here, long past, and not an order to stop.
    set_single(cx, timer.timeout_abs_ns.max(1));
    Ok(0)
}

pub(super) fn vcpu_stop_singleshot_timer<P: Platform>(cx: &mut Cx<'_, P>, id: VcpuId) -> Reply {
    check_self(cx, id)?;
    set_single(cx, 0);
    Ok(0)
}

pub(super) fn vcpu_register_info<P: Platform>(
    cx: &mut Cx<'_, P>,
    id: VcpuId,
    info: &RegisterVcpuInfo,
) -> Reply {
    let vcpu = target(cx, id)?;
    let page = cx.pin(info.mfn)?;
    match cx.domain.events.move_info(cx.system.memory(), id, page, info.offset) {
        Ok(wake) => {
            cx.wake(cx.domain, wake);
            if let Some(at) = vcpu.info.time() {
                publish_clock(cx.system.memory(), at, &cx.system.clock, cx.system.platform.tsc());
            }
            Ok(0)
        }
        Err((errno, page)) => {
            cx.unpin(cx.domain, page);
            Err(errno.into())
        }
    }
}

pub(super) fn vcpu_send_nmi<P: Platform>(cx: &mut Cx<'_, P>, id: VcpuId) -> Reply {
    let vcpu = target(cx, id)?;
    notify(&cx.system.platform, &cx.system.scheduler, vcpu, Reason::NMI);
    Ok(0)
}
