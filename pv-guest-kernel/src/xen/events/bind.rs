//! Making ports.

use pv_abi::event::{AllocUnbound, BindInterdomain, BindIpi, BindPirq, BindVirq};
use pv_abi::{DomainId, Pirq, Port, Result, VcpuId, Virq};

use super::bound;
use crate::xen::{hv, stub};

/// Allocates a port to which `peer` may bind.
pub fn alloc_unbound(peer: DomainId) -> Result<Port> {
    let mut arg = AllocUnbound { dom: DomainId::SELF, remote_dom: peer, ..AllocUnbound::default() };
    stub::evtchn_alloc_unbound(hv(), &mut arg)?;
    bound(arg.port, "unbound", 0)
}

/// Binds a port to `peer`'s unbound port.
pub fn bind_interdomain(peer: DomainId, remote: Port) -> Result<Port> {
    let mut arg = BindInterdomain { remote_dom: peer, remote_port: remote, ..BindInterdomain::default() };
    stub::evtchn_bind_interdomain(hv(), &mut arg)?;
    bound(arg.local_port, "interdomain", 0)
}

/// Binds a port to a virtual interrupt.
pub fn bind_virq(virq: Virq, vcpu: u32) -> Result<Port> {
    let mut arg = BindVirq { virq, vcpu: VcpuId::new(vcpu), ..BindVirq::default() };
    stub::evtchn_bind_virq(hv(), &mut arg)?;
    bound(arg.port, "virq", vcpu)
}

/// Binds a port to a physical interrupt.
pub fn bind_pirq(pirq: Pirq) -> Result<Port> {
    let mut arg = BindPirq { pirq, ..BindPirq::default() };
    stub::evtchn_bind_pirq(hv(), &mut arg)?;
    bound(arg.port, "pirq", 0)
}

/// Binds a port with which our vCPUs notify `vcpu`.
pub fn bind_ipi(vcpu: u32) -> Result<Port> {
    let mut arg = BindIpi { vcpu: VcpuId::new(vcpu), ..BindIpi::default() };
    stub::evtchn_bind_ipi(hv(), &mut arg)?;
    bound(arg.port, "ipi", vcpu)
}

/// Takes over a port that the toolstack allocated for us.
pub fn adopt(port: Port) -> Result<Port> {
    bound(port, "adopted", 0)
}
