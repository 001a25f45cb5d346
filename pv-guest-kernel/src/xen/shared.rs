//! The shared information page and each vCPU's registered `vcpu_info`.

use core::sync::atomic::{AtomicPtr, Ordering};

use pv_abi::memory::{AddToPhysmap, space};
use pv_abi::shared_info::{LiveSharedInfo, LiveVcpuInfo};
use pv_abi::vcpu::RegisterVcpuInfo;
use pv_abi::{DomainId, Gfn, VcpuId};

use super::{hv, stub};
use crate::arch::cpu::PerCpu;
use crate::mm::{self, PAGE, frames, special};

static SHARED: AtomicPtr<LiveSharedInfo> = AtomicPtr::new(core::ptr::null_mut());

/// Puts the shared information page into our address space.
pub fn init() {
    let gfn = special::allocate(1).expect("a place for shared_info");
    let arg = AddToPhysmap {
        domid: DomainId::SELF,
        size: 0,
        space: space::SHARED_INFO,
        idx: 0,
        gpfn: Gfn::new(gfn),
    };
    if let Err(e) = stub::memory_add_to_physmap(hv(), &arg) {
        panic!("cannot map shared_info: {e}");
    }
    SHARED.store(mm::ptr(gfn * PAGE), Ordering::Release);
}

/// The page.
pub fn info() -> &'static LiveSharedInfo {
    // SAFETY: `init` stored the address of the page, which stays mapped; all its members are atomics.
    unsafe { &*SHARED.load(Ordering::Acquire) }
}

/// Gives a vCPU a `vcpu_info` of its own, which works for every number. Run once for each vCPU, on any.
pub fn register_vcpu_info(cpu: &'static PerCpu) {
    let frame = frames::allocate_zeroed().expect("memory for vcpu_info");
    let arg = RegisterVcpuInfo { mfn: Gfn::new(frame.gfn()), offset: 0, rsvd: 0 };
    let address = match stub::vcpu_register_info(hv(), VcpuId::new(cpu.id), &arg) {
        Ok(_) => mm::virt(frame.0),
        Err(e) if (cpu.id as usize) < pv_abi::shared_info::LEGACY_MAX_VCPUS => {
            log::debug!("vCPU {}: vcpu_info stays in shared_info ({e})", cpu.id);
            frames::free(frame);
            &raw const info().vcpu_info[cpu.id as usize] as u64
        }
        Err(e) => panic!("cannot register vcpu_info of vCPU {}: {e}", cpu.id),
    };
    cpu.vcpu_info.store(address as usize, Ordering::Release);
}

/// The `vcpu_info` of a vCPU that has one.
#[inline(always)]
pub fn vcpu_info(cpu: &PerCpu) -> &'static LiveVcpuInfo {
    // SAFETY: the address was stored by `register_vcpu_info`; all members are atomics.
    unsafe { &*(cpu.vcpu_info.load(Ordering::Relaxed) as *const LiveVcpuInfo) }
}
