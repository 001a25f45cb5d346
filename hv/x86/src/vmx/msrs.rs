//! The guest's MSRs that VM entry and exit do not switch: they change hands when the virtual CPU does.
//!
//! The hypervisor uses none of them, so they may stay loaded while it runs.

use hv_core::hw::Reg;

use crate::cpu::features;
use crate::cpu::io::{rdmsr, wrmsr};

/// The registers, with their MSRs.
const SWITCHED: [(Reg, u32); 6] = [
    (Reg::Star, 0xc000_0081),
    (Reg::Lstar, 0xc000_0082),
    (Reg::Cstar, 0xc000_0083),
    (Reg::Sfmask, 0xc000_0084),
    (Reg::KernelGsBase, 0xc000_0102),
    (Reg::TscAux, 0xc000_0103),
];

/// The values of a virtual CPU that is not loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct SwitchedMsrs([u64; SWITCHED.len()]);

fn exists(register: Reg) -> bool {
    register != Reg::TscAux || features::rdtscp()
}

impl SwitchedMsrs {
    /// Puts the values into this CPU.
    pub fn load(&self) {
        for ((register, index), value) in SWITCHED.into_iter().zip(self.0) {
            if exists(register) {
                // SAFETY: 64-bit processors have these MSRs; `set` and the guest's own WRMSR leave canonical values only.
                unsafe { wrmsr(index, value) };
            }
        }
    }

    /// Takes the values from this CPU.
    pub fn save(&mut self) {
        for ((register, index), value) in SWITCHED.into_iter().zip(&mut self.0) {
            if exists(register) {
                // SAFETY: 64-bit processors have these MSRs.
                *value = unsafe { rdmsr(index) };
            }
        }
    }

    /// The value of one, if it is among them.
    pub fn get(&self, register: Reg, loaded: bool) -> Option<u64> {
        let at = SWITCHED.iter().position(|(other, _)| *other == register)?;
        if loaded && exists(register) {
            // SAFETY: as for `save`.
            return Some(unsafe { rdmsr(SWITCHED[at].1) });
        }
        Some(self.0[at])
    }

    /// Sets one, if it is among them. The caller has checked the value.
    pub fn set(&mut self, register: Reg, value: u64, loaded: bool) {
        let Some(at) = SWITCHED.iter().position(|(other, _)| *other == register) else { return };
        self.0[at] = value;
        if loaded && exists(register) {
            // SAFETY: as for `load`.
            unsafe { wrmsr(SWITCHED[at].1, value) };
        }
    }
}
