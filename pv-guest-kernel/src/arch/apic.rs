//! The one thing the kernel ever asks of its local APIC: end of interrupt, when an upcall came by a per-vCPU vector.

use super::{instr, probe};

const IA32_APIC_BASE: u32 = 0x1b;
const X2APIC_EOI: u32 = 0x80b;
const EOI: u64 = 0xb0;

/// Ends the interrupt in service.
pub fn end_of_interrupt() {
    let base = instr::rdmsr(IA32_APIC_BASE);
    if base & 0xc00 == 0xc00 {
        // SAFETY: writing 0 ends the interrupt in service and nothing else.
        let _ = unsafe { probe::wrmsr(X2APIC_EOI, 0) };
    } else {
        // SAFETY: the APIC's registers are in the direct map (below 4 GiB); nothing else in the kernel uses them.
        let _ = unsafe { probe::write(crate::mm::virt((base & 0xf_ffff_f000) + EOI), 0) };
    }
}
