//! `event_channel_op`: event channels (`xen/event_channel.h`).

use super::cx::Cx;
use super::{Reply, Stop};
use crate::event::{ChannelState, Closed, Sent};
use crate::hw::Platform;
use crate::pci::interrupt;
use pv_abi::Errno;
use pv_abi::event::{self, status};
use pv_abi::ids::{DomainId, Port, Virq};

#[inline(always)]
pub(super) fn evtchn_send<P: Platform>(cx: &mut Cx<'_, P>, send: &event::Send) -> Reply {
    let memory = cx.system.memory();
    let wake = match cx.domain.events.send(memory, send.port)? {
        Sent::Here(wake) => {
            cx.wake(cx.domain, wake);
            wake
        }
        Sent::There { domain, port } => {
            let Some(peer) = cx.system.domains.get(domain) else { return Ok(0) };
            let wake = peer.events.deliver(memory, port, cx.domain.id);
            cx.wake(&peer, wake);
            wake
        }
        Sent::Nowhere => return Ok(0),
    };
    let stats = cx.stats();
    stats.events_sent.add(1);
    if !wake.is_nobody() {
        stats.events_delivered.add(1);
    } else if !wake.fresh {
        stats.events_suppressed.add(1);
    }
    Ok(0)
}

pub(super) fn evtchn_unmask<P: Platform>(cx: &mut Cx<'_, P>, unmask: &event::Unmask) -> Reply {
    let wake = cx.domain.events.unmask(cx.system.memory(), unmask.port)?;
    cx.wake(cx.domain, wake);
    Ok(0)
}

pub(super) fn evtchn_alloc_unbound<P: Platform>(
    cx: &mut Cx<'_, P>,
    alloc: &mut event::AllocUnbound,
) -> Reply {
    let domain = cx.subject(alloc.dom)?;
    // "Self" at the far end is the caller, also where the port is another's.
    let remote = if alloc.remote_dom == DomainId::SELF { cx.domain.id } else { alloc.remote_dom };
    alloc.port = domain.events.alloc_unbound(cx.system.memory(), remote)?;
    Ok(0)
}

pub(super) fn evtchn_bind_interdomain<P: Platform>(
    cx: &mut Cx<'_, P>,
    bind: &mut event::BindInterdomain,
) -> Reply {
    let remote = cx.system.domain(cx.domain, bind.remote_dom)?;
    let events = &cx.domain.events;
    let (port, wake) = events.bind_interdomain(cx.system.memory(), &remote.events, bind.remote_port)?;
    cx.wake(cx.domain, wake);
    bind.local_port = port;
    Ok(0)
}

pub(super) fn evtchn_bind_virq<P: Platform>(cx: &mut Cx<'_, P>, bind: &mut event::BindVirq) -> Reply {
    // Lines that tell of the whole machine belong to those who control it.
    if matches!(bind.virq, Virq::CONSOLE | Virq::DOM_EXC | Virq::TBUF | Virq::CON_RING)
        && !cx.domain.is_control()
    {
        return Err(Errno::EPERM.into());
    }
    bind.port = cx.domain.events.bind_virq(cx.system.memory(), bind.virq, bind.vcpu)?;
    Ok(0)
}

pub(super) fn evtchn_bind_pirq<P: Platform>(cx: &mut Cx<'_, P>, bind: &mut event::BindPirq) -> Reply {
    if bind.flags & !event::BIND_PIRQ_WILL_SHARE != 0 {
        return Err(Errno::EINVAL.into());
    }
    if !interrupt::is_mapped(cx.domain, bind.pirq) {
        return Err(Errno::EINVAL.into());
    }
    bind.port = cx.domain.events.bind_pirq(cx.system.memory(), bind.pirq)?;
    interrupt::set_bound(cx.system, cx.domain, bind.pirq, true);
    Ok(0)
}

pub(super) fn evtchn_bind_ipi<P: Platform>(cx: &mut Cx<'_, P>, bind: &mut event::BindIpi) -> Reply {
    bind.port = cx.domain.events.bind_ipi(cx.system.memory(), bind.vcpu)?;
    Ok(0)
}

pub(super) fn evtchn_bind_vcpu<P: Platform>(cx: &mut Cx<'_, P>, bind: &event::BindVcpu) -> Reply {
    cx.domain.events.bind_vcpu(bind.port, bind.vcpu)?;
    Ok(0)
}

pub(super) fn evtchn_close<P: Platform>(cx: &mut Cx<'_, P>, close: &event::Close) -> Reply {
    match cx.domain.events.close(cx.system.memory(), cx.system, close.port)? {
        Closed::Done => {}
        Closed::Pirq(pirq) => interrupt::set_bound(cx.system, cx.domain, pirq, false),
    }
    Ok(0)
}

pub(super) fn evtchn_status<P: Platform>(cx: &mut Cx<'_, P>, out: &mut event::Status) -> Reply {
    let found = cx.subject(out.dom)?.events.status(out.port)?;
    out.vcpu = found.vcpu;
    out.remote_port = Port::new(0);
    (out.status, out.detail) = match found.state {
        ChannelState::Free => (status::CLOSED, 0),
        ChannelState::Unbound { remote } => (status::UNBOUND, u32::from(remote.raw())),
        ChannelState::Interdomain { remote, port } => {
            out.remote_port = port;
            (status::INTERDOMAIN, u32::from(remote.raw()))
        }
        ChannelState::Pirq(pirq) => (status::PIRQ, pirq.raw()),
        ChannelState::Virq(virq) => (status::VIRQ, virq.raw()),
        ChannelState::Ipi => (status::IPI, 0),
    };
    Ok(0)
}

pub(super) fn evtchn_reset<P: Platform>(cx: &mut Cx<'_, P>, reset: &event::Reset) -> Reply {
    let domain = cx.subject(reset.dom)?;
    let mut next = u32::try_from(cx.cursor).unwrap_or(u32::MAX);
    let release = |pirq| interrupt::set_bound(cx.system, &domain, pirq, false);
    if !domain.events.close_ports(cx.system.memory(), cx.system, &mut next, release) {
        return Err(Stop::Preempted(next.into()));
    }
    for page in domain.events.reset() {
        cx.unpin(&domain, page);
    }
    Ok(0)
}

pub(super) fn evtchn_init_control<P: Platform>(cx: &mut Cx<'_, P>, init: &mut event::InitControl) -> Reply {
    let page = cx.pin(init.control_gfn)?;
    match cx.domain.events.init_control(cx.system.memory(), init.vcpu, page, init.offset) {
        Ok(bits) => init.link_bits = bits,
        Err((errno, page)) => {
            cx.unpin(cx.domain, page);
            return Err(errno.into());
        }
    }
    Ok(0)
}

pub(super) fn evtchn_expand_array<P: Platform>(cx: &mut Cx<'_, P>, expand: &event::ExpandArray) -> Reply {
    let page = cx.pin(expand.array_gfn)?;
    match cx.domain.events.expand_array(cx.system.memory(), page) {
        Ok(wake) => cx.wake(cx.domain, wake),
        Err((errno, page)) => {
            cx.unpin(cx.domain, page);
            return Err(errno.into());
        }
    }
    Ok(0)
}

pub(super) fn evtchn_set_priority<P: Platform>(cx: &mut Cx<'_, P>, set: &event::SetPriority) -> Reply {
    cx.domain.events.set_priority(set.port, set.priority)?;
    Ok(0)
}
