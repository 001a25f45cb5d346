//! Whether the CPU has VT-x, and its start on each CPU.

use alloc::boxed::Box;

use hv_core::hw::{Backend, NewVcpuError, PageSize, VcpuConfig};

use super::capability::{self, Capability, msr};
use super::ept::Ept;
use super::instr;
use super::structure::Structure;
use super::vcpu::Vcpu;
use crate::cpu::features;
use crate::cpu::io::{rdmsr, wrmsr};
use crate::machine::{Engine, Missing};

/// Locked, and VMX allowed outside of SMX operation.
const FEATURE_CONTROL_ON: u64 = 1 << 0 | 1 << 2;
const FEATURE_CONTROL_LOCKED: u64 = 1 << 0;
const CR4_VMXE: u64 = 1 << 13;

/// VT-x.
#[derive(Clone, Copy, Debug)]
pub struct Vmx {
    capability: &'static Capability,
}

impl Engine for Vmx {
    fn probe() -> Result<Self, Missing> {
        if features::leaf(1).ecx & 1 << 5 == 0 {
            return Err(Missing::Extension);
        }
        // SAFETY: a CPU with VT-x has these MSRs; those that not every one has are read only where another says that
        // they are there.
        let chosen = capability::choose(|index| unsafe { rdmsr(index) }).map_err(Missing::Feature)?;
        log::info!("VT-x with {chosen}");
        Ok(Self { capability: Box::leak(Box::new(chosen)) })
    }

    fn enable(&self) -> Result<(), &'static str> {
        use x86_64::registers::control::{Cr0, Cr4};
        let region = Structure::new(self.capability.revision).ok_or("no memory for the VMXON region")?;
        // SAFETY: the fixed bits are those that VMX operation needs; the hypervisor runs with any of them. The region
        // stays in use for ever.
        unsafe {
            if rdmsr(msr::FEATURE_CONTROL) & FEATURE_CONTROL_LOCKED == 0 {
                wrmsr(msr::FEATURE_CONTROL, rdmsr(msr::FEATURE_CONTROL) | FEATURE_CONTROL_ON);
            }
            Cr0::write_raw(self.capability.cr0.apply(Cr0::read_raw()));
            Cr4::write_raw(self.capability.cr4.apply(Cr4::read_raw()) | CR4_VMXE);
            instr::vmxon(region.address()).map_err(|_| "VMXON failed")?;
        }
        core::mem::forget(region);
        Ok(())
    }

    fn settle(&self) {}
}

impl Backend for Vmx {
    const NAME: &'static str = "VT-x";
    const HYPERCALL: [u8; 3] = [0x0f, 0x01, 0xc1];
    type Vcpu = Vcpu;
    type Format = Ept;

    fn new_vcpu(&self, config: VcpuConfig) -> Result<Vcpu, NewVcpuError> {
        Vcpu::new(config, self.capability).ok_or(NewVcpuError)
    }

    fn largest_page(&self) -> PageSize {
        if self.capability.gigabyte_pages { PageSize::G1 } else { PageSize::M2 }
    }

    #[inline]
    fn takes_requests(&self) -> bool {
        self.capability.posts
    }
}
