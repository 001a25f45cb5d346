//! Scheduler calls.

use pv_abi::ids::{Port, VcpuId};
use pv_abi::sched::Poll;
use pv_abi::vcpu::SetSingleshotTimer;
use pv_abi::{GuestVirt, Result};

use super::{hv, stub};
use crate::arch::cpu;

/// Gives the CPU to another vCPU.
pub fn yield_now() {
    let _ = stub::sched_yield(hv());
}

/// Waits in the hypervisor until one of the ports is pending, or until a point of system time (0 = for ever).
pub fn poll(ports: &[Port], timeout: u64) -> Result<()> {
    let arg = Poll { ports: GuestVirt::of(ports), nr_ports: ports.len() as u32, pad: 0, timeout };
    stub::sched_poll(hv(), &arg).map(|_| ())
}

/// Programs this vCPU's timer event for a point of system time.
pub fn set_timer(deadline: u64) {
    let arg = SetSingleshotTimer { timeout_abs_ns: deadline, flags: 0, pad: 0 };
    if let Err(e) = stub::vcpu_set_singleshot_timer(hv(), VcpuId::new(cpu::this().id), &arg) {
        log::error!("cannot set a timer: {e}");
    }
}
