//! The local APIC, which the kernel needs only when upcalls come by a per-vCPU vector (in tests): switched on, and told
//! the end of each interrupt.

use super::{instr, probe};

const IA32_APIC_BASE: u32 = 0x1b;
const X2APIC_EOI: u32 = 0x80b;
const EOI: u64 = 0xb0;

const X2APIC_SPURIOUS: u32 = 0x80f;
const SPURIOUS: u64 = 0xf0;
/// Software enable, and the spurious vector 0xff.
const ENABLE: u64 = 0x1ff;
const CPUID_X2APIC: u32 = 1 << 21;

/// Switches the running vCPU's local APIC on, in x2APIC mode if there is one.
pub fn enable() {
    let base = instr::rdmsr(IA32_APIC_BASE);
    // SAFETY: the kernel uses the APIC for nothing else; a refused mode leaves it as it was.
    let x2 = instr::cpuid(1, 0)[2] & CPUID_X2APIC != 0
        && unsafe { probe::wrmsr(IA32_APIC_BASE, base | 0xc00) }.is_ok();
    if x2 {
        // SAFETY: as above.
        let _ = unsafe { probe::wrmsr(X2APIC_SPURIOUS, ENABLE) };
    } else {
        write(base, SPURIOUS, ENABLE as u32);
    }
}

/// Writes one register of an APIC in xAPIC mode; a fault is ignored.
fn write(base: u64, register: u64, value: u32) {
    let address: *mut u32 = crate::mm::ptr((base & 0xf_ffff_f000) + register);
    // SAFETY: the APIC's registers are in the direct map (below 4 GiB); nothing else in the kernel uses them.
    unsafe { address.write_volatile(value) };
}

/// Ends the interrupt in service.
pub fn end_of_interrupt() {
    let base = instr::rdmsr(IA32_APIC_BASE);
    if base & 0xc00 == 0xc00 {
        // SAFETY: writing 0 ends the interrupt in service and nothing else.
        let _ = unsafe { probe::wrmsr(X2APIC_EOI, 0) };
    } else {
        write(base, EOI, 0);
    }
}
