//! Whether the CPU has AMD-V, and its start on each CPU.

use alloc::boxed::Box;
use core::arch::asm;
use core::sync::atomic::Ordering;

use hv_core::hw::{Backend, NewVcpuError, PageSize, VcpuConfig};
use zerocopy::FromZeros;

use super::maps::{MsrMap, PortMap};
use super::npt::Npt;
use super::run;
use super::vcpu::SvmVcpu;
use super::vmcb::Vmcb;
use crate::cpu::features;
use crate::cpu::io::{rdmsr, wrmsr};
use crate::cpu::percpu::PerCpu;
use crate::machine::{Engine, Missing};
use crate::paging;

const EFER: u32 = 0xc000_0080;
const EFER_SVME: u64 = 1 << 12;
const VM_CR: u32 = 0xc001_0114;
const VM_CR_DISABLED: u64 = 1 << 4;
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// A value in the image whose physical address the hardware is given.
pub(super) struct InImage<T>(T);

impl<T> InImage<T> {
    /// Its physical address.
    pub(super) fn phys(&'static self) -> u64 {
        &raw const self.0 as u64 - paging::IMAGE_BASE
    }
}

/// The map of ports for virtual CPUs that may use none.
pub(super) static NO_PORTS: InImage<PortMap> = InImage(PortMap::ALL);
/// The map of MSRs for all virtual CPUs.
pub(super) static GUEST_MSRS: InImage<MsrMap> = InImage(MsrMap::GUEST);

/// What this CPU's AMD-V can do: CPUID leaf 8000_000Ah.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities {
    /// How many address-space identifiers there are, the host's among them.
    pub asids: u32,
    /// The exit tells where the instruction ends.
    pub next_rip: bool,
    /// PAUSE exits only after a number of them.
    pub pause_filter: bool,
    /// There are RDTSCP and TSC_AUX.
    pub rdtscp: bool,
}

/// AMD-V.
#[derive(Clone, Copy, Debug)]
pub struct Svm {
    capabilities: Capabilities,
}

impl Engine for Svm {
    fn probe() -> Result<Self, Missing> {
        if features::leaf(0x8000_0001).ecx & 1 << 2 == 0 {
            return Err(Missing::Extension);
        }
        // SAFETY: CPUs with AMD-V have the MSR.
        if unsafe { rdmsr(VM_CR) } & VM_CR_DISABLED != 0 {
            return Err(Missing::Firmware("AMD-V is disabled by the firmware"));
        }
        let leaf = features::leaf(0x8000_000a);
        if leaf.edx & 1 == 0 {
            return Err(Missing::Feature("AMD-V has no nested paging"));
        }
        Ok(Self {
            capabilities: Capabilities {
                asids: leaf.ebx,
                next_rip: leaf.edx & 1 << 3 != 0,
                pause_filter: leaf.edx & 1 << 10 != 0,
                rdtscp: features::rdtscp(),
            },
        })
    }

    fn enable(&self) -> Result<(), &'static str> {
        let cpu = PerCpu::current();
        let allocate = || Vmcb::new_box_zeroed().map_err(|_| "no memory for AMD-V's host state");
        // Both pages stay in use for ever.
        let host_save = paging::direct_map_phys(&raw const *Box::leak(allocate()?));
        let host_vmcb = paging::direct_map_phys(&raw const *Box::leak(allocate()?));
        // SAFETY: the CPU has AMD-V, which allows EFER.SVME; the pages belong to this CPU alone. VMSAVE keeps
        // the hypervisor's FS, GS, TR and MSRs for `settle`.
        unsafe {
            wrmsr(EFER, rdmsr(EFER) | EFER_SVME);
            wrmsr(VM_HSAVE_PA, host_save);
            asm!("vmsave rax", in("rax") host_vmcb, options(nostack));
        }
        cpu.host_vmcb.store(host_vmcb, Ordering::Relaxed);
        Ok(())
    }

    fn settle(&self) {
        run::settle(PerCpu::current());
    }
}

impl Backend for Svm {
    const NAME: &'static str = "AMD-V";
    /// VMMCALL.
    const HYPERCALL: [u8; 3] = [0x0f, 0x01, 0xd9];
    type Vcpu = SvmVcpu;
    type Format = Npt;

    fn new_vcpu(&self, config: VcpuConfig) -> Result<SvmVcpu, NewVcpuError> {
        SvmVcpu::new(config, self.capabilities)
    }

    fn largest_page(&self) -> PageSize {
        if features::gigabyte_pages() { PageSize::G1 } else { PageSize::M2 }
    }

    #[inline]
    fn takes_requests(&self) -> bool {
        false
    }
}
