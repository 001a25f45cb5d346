//! `sched_op`: giving the CPU away, waiting, and ending (`xen/sched.h`).

use super::cx::{After, Cx};
use super::{Reply, Stop};
use crate::domain::ShutdownReason;
use crate::event::Polled;
use crate::hw::{Nanos, Platform, Reg, VcpuHw};
use crate::time::Slot;
use crate::vcpu::Reason;
use pv_abi::Errno;
use pv_abi::errno::Result;
use pv_abi::ids::Port;
use pv_abi::sched::{Poll, RemoteShutdown, Shutdown};

const RFLAGS_IF: u64 = 1 << 9;

/// Most ports that a call polls.
const PORTS: usize = 128;

pub(super) fn sched_yield<P: Platform>(cx: &mut Cx<'_, P>) -> Reply {
    cx.vcpu.entity.yields();
    cx.after = After::Reschedule;
    Ok(0)
}

pub(super) fn sched_block<P: Platform>(cx: &mut Cx<'_, P>) -> Reply {
    // Marked as blocked before it looks: whoever sends in between sees the mark and wakes it.
    cx.vcpu.entity.block();
    if has_event(cx) {
        cx.vcpu.entity.unblock();
    } else {
        cx.after = After::Reschedule;
    }
    Ok(0)
}

/// Whether there is something for the vCPU to handle. A guest that blocks wants to be told, so its mask is not looked
/// at; interrupts of its local APIC are in its attention word.
fn has_event<P: Platform>(cx: &Cx<'_, P>) -> bool {
    cx.vcpu.info.has_upcall(cx.system.memory()) || cx.vcpu.attention.peek().intersects(Reason::WAKING)
}

fn reason(raw: u32) -> Result<ShutdownReason> {
    ShutdownReason::from_raw(raw).ok_or(Errno::EINVAL)
}

pub(super) fn sched_shutdown<P: Platform>(cx: &mut Cx<'_, P>, shutdown: &Shutdown) -> Reply {
    let reason = reason(shutdown.reason)?;
    cx.system.shut_down(cx.domain, reason);
    cx.after = After::Reschedule;
    Ok(0)
}

/// The reason that a crash, say, has before the domain gets to its shutdown.
pub(super) fn sched_shutdown_code<P: Platform>(cx: &mut Cx<'_, P>, shutdown: &Shutdown) -> Reply {
    cx.domain.life.announce(reason(shutdown.reason)?);
    Ok(0)
}

pub(super) fn sched_remote_shutdown<P: Platform>(cx: &mut Cx<'_, P>, shutdown: &RemoteShutdown) -> Reply {
    let reason = reason(shutdown.reason)?;
    let domain = cx.system.domain(cx.domain, shutdown.domain_id)?;
    cx.system.shut_down(&domain, reason);
    if domain.id == cx.domain.id {
        cx.after = After::Reschedule;
    }
    Ok(0)
}

/// Waits for one of some ports, or a time. Whoever runs the vCPU again ends the polling.
pub(super) fn sched_poll<P: Platform>(cx: &mut Cx<'_, P>, poll: &Poll) -> Reply {
    let count = usize::try_from(poll.nr_ports).unwrap_or(usize::MAX);
    let mut ports = [Port::default(); PORTS];
    let ports = ports.get_mut(..count).ok_or(Errno::EINVAL)?;
    cx.guest(|memory| memory.read_slice(poll.ports, 0, ports))?;
    // Marked as blocked before it looks, as above.
    cx.vcpu.entity.block();
    let polled = cx.domain.events.poll_begin(cx.system.memory(), cx.vcpu.id, ports);
    // With interrupts off, as in a spin lock's slow path, other events do not end the wait: they could not be taken.
    let interruptible = cx.context.hw.get(Reg::Rflags) & RFLAGS_IF != 0;
    if polled != Ok(Polled::Waits) || (interruptible && has_event(cx)) {
        cx.domain.events.poll_end(cx.vcpu.id);
        cx.vcpu.entity.unblock();
        return polled.map(|_| 0).map_err(Stop::from);
    }
    if poll.timeout != 0 {
        let deadline = cx.system.clock.ticks(Nanos::new(poll.timeout));
        cx.system.timers.set(cx.system.platform.current_cpu(), cx.vcpu, Slot::Poll, Some(deadline));
    }
    cx.vcpu.set_polling(true);
    cx.after = After::Reschedule;
    Ok(0)
}
