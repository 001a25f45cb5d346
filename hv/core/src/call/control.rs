//! The control call: making, watching and ending domains (`pv_abi::control`). All rows need the role `control`.

use super::args::{GuestArray, GuestBytes};
use super::cx::Cx;
use super::{Reply, Stop};
use crate::domain::{Progress, control};
use crate::hw::Platform;
use pv_abi::Errno;
use pv_abi::control::{
    Created, DomainInfo, Emulate, NAME_MAX, Schedule, Statistics, TraceRecord, VERSION, VcpuState,
};
use pv_abi::errno::Result;
use pv_abi::ids::{DomainId, Gfn, Port, VcpuId};

pub(super) fn control_version<P: Platform>(_cx: &mut Cx<'_, P>) -> Reply {
    Ok(VERSION.into())
}

/// Copies the name of a section in.
fn section<'b, P: Platform>(
    cx: &mut Cx<'_, P>,
    text: GuestBytes,
    name: &'b mut [u8; NAME_MAX],
) -> Result<&'b [u8]> {
    let len = usize::try_from(text.len).unwrap_or(usize::MAX);
    let name = name.get_mut(..len).ok_or(Errno::EINVAL)?;
    cx.guest(|memory| memory.read_bytes(text.at, name))?;
    Ok(name)
}

pub(super) fn control_create<P: Platform>(
    cx: &mut Cx<'_, P>,
    text: GuestBytes,
    created: &mut Created,
) -> Reply {
    let mut name = [0; NAME_MAX];
    *created = control::create(cx.system, cx.domain, section(cx, text, &mut name)?)?;
    Ok(0)
}

pub(super) fn control_build<P: Platform>(cx: &mut Cx<'_, P>, domain: DomainId, text: GuestBytes) -> Reply {
    let mut name = [0; NAME_MAX];
    control::rebuild(cx.system, domain, section(cx, text, &mut name)?)?;
    Ok(0)
}

pub(super) fn control_pause<P: Platform>(cx: &mut Cx<'_, P>, domain: DomainId) -> Reply {
    control::pause(cx.system, cx.domain, domain)?;
    Ok(0)
}

pub(super) fn control_unpause<P: Platform>(cx: &mut Cx<'_, P>, domain: DomainId) -> Reply {
    control::unpause(cx.system, cx.domain, domain)?;
    Ok(0)
}

/// The destruction itself remembers how far it came: the cursor only says that it has begun.
pub(super) fn control_destroy<P: Platform>(cx: &mut Cx<'_, P>, domain: DomainId) -> Reply {
    match control::destroy_step(cx.system, cx.domain, domain) {
        Ok(Progress::Done) => Ok(0),
        Ok(Progress::Again) => Err(Stop::Preempted(1)),
        // Begun here and ended by another.
        Err(Errno::ESRCH) if cx.cursor != 0 => Ok(0),
        Err(errno) => Err(errno.into()),
    }
}

pub(super) fn control_info<P: Platform>(cx: &mut Cx<'_, P>, first: DomainId, info: &mut DomainInfo) -> Reply {
    *info = control::info(cx.system, first)?;
    Ok(0)
}

pub(super) fn control_vcpu_info<P: Platform>(
    cx: &mut Cx<'_, P>,
    domain: DomainId,
    vcpu: VcpuId,
    info: &mut VcpuState,
) -> Reply {
    *info = control::vcpu_info(cx.system, domain, vcpu)?;
    Ok(0)
}

pub(super) fn control_statistics<P: Platform>(
    cx: &mut Cx<'_, P>,
    domain: DomainId,
    statistics: &mut Statistics,
) -> Reply {
    *statistics = control::statistics(cx.system, domain)?;
    Ok(0)
}

pub(super) fn control_counters<P: Platform>(cx: &mut Cx<'_, P>, number: u32, place: Gfn) -> Reply {
    control::map_counters(cx.system, cx.domain, number, place, cx.flusher(cx.domain))?;
    Ok(0)
}

pub(super) fn control_power<P: Platform>(cx: &mut Cx<'_, P>, action: u32, status: u32) -> Reply {
    control::power(cx.system, action, status)?;
    Ok(0)
}

pub(super) fn control_schedule<P: Platform>(cx: &mut Cx<'_, P>, schedule: &Schedule) -> Reply {
    control::schedule(cx.system, schedule)?;
    Ok(0)
}

pub(super) fn control_emulate<P: Platform>(cx: &mut Cx<'_, P>, emulate: &Emulate) -> Reply {
    if emulate.port == Port::new(0) {
        control::end_own_emulation(cx.system, cx.domain, emulate.domid)?;
        return Ok(0);
    }
    let page = cx.pin(emulate.page)?;
    if let Err((errno, page)) = control::begin_emulation(cx.system, cx.domain, emulate, page) {
        cx.unpin(cx.domain, page);
        return Err(errno.into());
    }
    Ok(0)
}

pub(super) fn control_emulated<P: Platform>(cx: &mut Cx<'_, P>, domain: DomainId, vcpu: VcpuId) -> Reply {
    control::emulated(cx.system, cx.domain, domain, vcpu)?;
    Ok(0)
}

/// Records that are taken at a time: a caller that wants more calls again.
const RECORDS: usize = 16;

pub(super) fn control_trace<P: Platform>(
    cx: &mut Cx<'_, P>,
    cpu: u32,
    records: GuestArray<TraceRecord>,
) -> Reply {
    let room = usize::try_from(records.count).unwrap_or(RECORDS).min(RECORDS);
    // What is taken is gone: the place is probed first.
    let bytes = (room * size_of::<TraceRecord>()) as u64;
    cx.guest(|memory| memory.check_write(records.at, bytes))?;
    let mut taken = [TraceRecord::default(); RECORDS];
    let count = control::trace(cx.system, cpu, taken.get_mut(..room).unwrap_or_default())?;
    let taken = taken.get(..count).unwrap_or_default();
    cx.guest(|memory| memory.write_slice(records.at, 0, taken))?;
    Ok(count as u64)
}
