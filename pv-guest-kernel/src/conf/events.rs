//! The checks of event channels that hold for both flavours.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pv_abi::event::{BindVirq, Send, Status, Unmask};
use pv_abi::{DomainId, Errno, Port, VcpuId, Virq};

use super::{Outcome, Test, error, wait_for};
use crate::arch::cpu;
use crate::xen::{events, hv, stub};

/// Calls of the handler.
static COUNT: AtomicU64 = AtomicU64::new(0);
/// Arguments of the handler, four bits each, the last one lowest.
static ORDER: AtomicU32 = AtomicU32::new(0);

fn count(_: usize) {
    COUNT.fetch_add(1, Ordering::SeqCst);
}

fn order(n: usize) {
    let _ = ORDER.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |o| Some(o << 4 | n as u32));
}

/// A channel from this domain to itself: the end that is told, and the end that sends.
pub fn pair() -> Result<(Port, Port), Errno> {
    let here = events::alloc_unbound(DomainId::SELF)?;
    let there = events::bind_interdomain(DomainId::SELF, here).inspect_err(|_| events::close(here))?;
    events::bind_vcpu(here, cpu::this().id)?;
    Ok((here, there))
}

/// Binding, sending, masking, closing, and every wrong way.
pub fn common(t: &mut Test) -> Outcome {
    let (here, there) = pair().map_err(|e| error("a channel to ourselves", e))?;
    events::on(here, "test", count, 0);
    for i in 1..=10 {
        events::notify(there);
        t.check("an event arrives", wait_for(|| COUNT.load(Ordering::SeqCst) >= i));
    }
    t.equal("ten events", COUNT.load(Ordering::SeqCst), 10);

    events::mask(here);
    for _ in 0..3 {
        events::notify(there);
    }
    t.equal("masked: none arrives", COUNT.load(Ordering::SeqCst), 10);
    t.check("masked: it is pending", events::is_pending(here));
    events::unmask(here);
    t.check("unmasked: it arrives", wait_for(|| COUNT.load(Ordering::SeqCst) >= 11));
    t.equal("once", COUNT.load(Ordering::SeqCst), 11);

    crate::sync::without_upcalls(|| {
        for _ in 0..5 {
            events::notify(there);
        }
        t.equal("upcalls masked: none arrives", COUNT.load(Ordering::SeqCst), 11);
    });
    t.check("upcalls let in: it arrives", wait_for(|| COUNT.load(Ordering::SeqCst) >= 12));
    t.equal("five sent while pending arrive as one", COUNT.load(Ordering::SeqCst), 12);

    let status = |port| {
        let mut s = Status { dom: DomainId::SELF, port, ..Status::default() };
        stub::evtchn_status(hv(), &mut s).map(|_| s.status)
    };
    const INTERDOMAIN: u32 = 2;
    t.equal("status", status(here), Ok(INTERDOMAIN));
    for port in [0, 4000, 131_071, 131_072, u32::MAX].map(Port::new) {
        t.equal("send to no port", stub::evtchn_send(hv(), &Send { port }), Err(Errno::EINVAL));
        t.check(
            "unmask no port",
            stub::evtchn_unmask(hv(), &Unmask { port }).is_err() || port.raw() < 131_072,
        );
        t.check("bind no port to a vCPU", events::bind_vcpu(port, 0).is_err());
        t.check("close no port", stub::evtchn_close(hv(), &pv_abi::event::Close { port }).is_err());
    }
    t.check("bind to no vCPU", events::bind_vcpu(here, 4000).is_err());
    t.check("bind to no domain", events::bind_interdomain(DomainId::new(999), Port::new(1)).is_err());
    t.check("bind to a port that is bound", events::bind_interdomain(DomainId::SELF, here).is_err());
    let mut timer = BindVirq { virq: Virq::TIMER, vcpu: VcpuId::new(0), ..BindVirq::default() };
    t.equal("a line that is bound", stub::evtchn_bind_virq(hv(), &mut timer), Err(Errno::EEXIST));
    timer.virq = Virq::new(Virq::COUNT);
    t.equal("a line that is none", stub::evtchn_bind_virq(hv(), &mut timer), Err(Errno::EINVAL));
    timer = BindVirq { virq: Virq::DEBUG, vcpu: VcpuId::new(4000), ..BindVirq::default() };
    t.equal("a line of no vCPU", stub::evtchn_bind_virq(hv(), &mut timer), Err(Errno::ENOENT));

    events::close(there);
    const UNBOUND: u32 = 1;
    t.equal("the other end closed", status(here), Ok(UNBOUND));
    events::close(here);
    t.equal("closed", status(here), Ok(0));
    t.check("send to a closed port", stub::evtchn_send(hv(), &Send { port: there }).is_err());

    // An IPI event to ourselves.
    let before = COUNT.load(Ordering::SeqCst);
    let ipi = events::bind_ipi(cpu::this().id).map_err(|e| error("IPI", e))?;
    events::on(ipi, "test", count, 0);
    events::notify(ipi);
    t.check("an IPI event arrives", wait_for(|| COUNT.load(Ordering::SeqCst) > before));
    events::close(ipi);
    Ok(())
}

/// Many ports, all of which deliver, and which can be had again when closed.
pub fn many(t: &mut Test, wanted: usize) -> Outcome {
    for round in 0..2 {
        COUNT.store(0, Ordering::SeqCst);
        let mut ports = Vec::new();
        while ports.len() < wanted {
            let ipi = events::bind_ipi(cpu::this().id).map_err(|e| error("IPI", (e, ports.len(), round)))?;
            events::on(ipi, "test", count, 0);
            ports.push(ipi);
        }
        crate::sync::without_upcalls(|| ports.iter().for_each(|&port| events::notify(port)));
        t.check("all arrive", wait_for(|| COUNT.load(Ordering::SeqCst) >= wanted as u64));
        t.equal("each once", COUNT.load(Ordering::SeqCst), wanted as u64);
        ports.into_iter().for_each(events::close);
    }
    Ok(())
}

/// Events that wait together are taken in the order of their priorities (FIFO only).
pub fn priorities(t: &mut Test) -> Outcome {
    let mut ends = Vec::new();
    for (i, priority) in [9u32, 3, 15, 7].into_iter().enumerate() {
        let (here, there) = pair().map_err(|e| error("a channel to ourselves", e))?;
        t.equal("set a priority", events::set_priority(here, priority), Ok(()));
        events::on(here, "test", order, i + 1);
        ends.push((here, there));
    }
    let (first, _) = ends[0];
    t.equal("a priority that is none", events::set_priority(first, 16), Err(Errno::EINVAL));
    t.check("a port that is none", events::set_priority(Port::new(131_071), 7).is_err());
    crate::sync::without_upcalls(|| ends.iter().for_each(|&(_, there)| events::notify(there)));
    t.check("all arrive", wait_for(|| ORDER.load(Ordering::SeqCst) > 0xfff));
    t.equal("in the order 3, 7, 9, 15", ORDER.load(Ordering::SeqCst), 0x2413);
    for (here, there) in ends {
        events::close(there);
        events::close(here);
    }
    Ok(())
}
