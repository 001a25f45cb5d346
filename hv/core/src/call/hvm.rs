//! `hvm_op`: parameters, time and upcall vectors of translated guests (`xen/hvm/hvm_op.h`, `xen/hvm/params.h`).

use super::cx::Cx;
use super::{Reply, latch_width, width};
use crate::hw::Platform;
use crate::vcpu::{Reason, notify};
use pv_abi::Errno;
use pv_abi::hvm::{
    CALLBACK_TYPE_GSI, CALLBACK_TYPE_PCI_INTX, CALLBACK_TYPE_SHIFT, CALLBACK_TYPE_VECTOR, EvtchnUpcallVector,
    GetTime, Param, param,
};
use pv_abi::ids::VcpuId;

/// The lowest vector of an interrupt: those below are exceptions.
const FIRST_VECTOR: u8 = 0x10;

/// The parameters that a domain sets for itself. The others are set by whoever makes it.
const fn is_own(index: u32) -> bool {
    matches!(
        index,
        param::CALLBACK_IRQ
            | param::STORE_EVTCHN
            | param::CONSOLE_EVTCHN
            | param::VM86_TSS
            | param::IDENT_PT
            | param::X87_FIP_WIDTH
    )
}

pub(super) fn hvm_set_param<P: Platform>(cx: &mut Cx<'_, P>, param: &Param) -> Reply {
    if param.index >= param::COUNT {
        return Err(Errno::EINVAL.into());
    }
    let domain = cx.subject(param.domid)?;
    if domain.id == cx.domain.id && !is_own(param.index) && !cx.domain.is_control() {
        return Err(Errno::EPERM.into());
    }
    if param.index == param::CALLBACK_IRQ {
        check_callback(param.value)?;
    }
    domain.params.set(param.index, param.value)?;
    if param.index == param::CALLBACK_IRQ {
        if domain.id == cx.domain.id {
            latch_width(cx.system, &domain, width(&cx.context.hw));
        }
        // Events may have come before there was a way to tell of them.
        for vcpu in &domain.vcpus {
            notify(&cx.system.platform, &cx.system.scheduler, vcpu, Reason::UPCALL);
        }
    }
    Ok(0)
}

/// A vector must be one of an interrupt. A line is accepted, as Linux names one after it has given each vCPU a vector,
/// but nothing is ever delivered by it: there are no emulated interrupt controllers.
fn check_callback(value: u64) -> pv_abi::errno::Result<()> {
    let [vector, ..] = value.to_le_bytes();
    match value >> CALLBACK_TYPE_SHIFT {
        CALLBACK_TYPE_GSI | CALLBACK_TYPE_PCI_INTX => Ok(()),
        CALLBACK_TYPE_VECTOR if vector >= FIRST_VECTOR => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn hvm_get_param<P: Platform>(cx: &mut Cx<'_, P>, param: &mut Param) -> Reply {
    if param.index >= param::COUNT {
        return Err(Errno::EINVAL.into());
    }
    param.value = cx.subject(param.domid)?.params.get(param.index)?;
    Ok(0)
}

pub(super) fn hvm_get_time<P: Platform>(cx: &mut Cx<'_, P>, time: &mut GetTime) -> Reply {
    time.now = cx.system.clock.nanos(cx.system.platform.tsc()).raw();
    Ok(0)
}

pub(super) fn hvm_set_upcall_vector<P: Platform>(cx: &mut Cx<'_, P>, set: &EvtchnUpcallVector) -> Reply {
    if set.vector < FIRST_VECTOR {
        return Err(Errno::EINVAL.into());
    }
    let vcpu = cx.domain.vcpu(VcpuId::new(set.vcpu)).ok_or(Errno::ENOENT)?;
    vcpu.set_upcall_vector(set.vector);
    notify(&cx.system.platform, &cx.system.scheduler, vcpu, Reason::UPCALL);
    Ok(0)
}
