//! What a VM exit loads: the hypervisor's own state (Intel SDM volume 3, section 25.5).

use core::arch::asm;

use super::field;
use super::instr::write;
use crate::cpu::gdt;
use crate::cpu::io::rdmsr;
use crate::cpu::percpu::PerCpu;

const MSR_PAT: u32 = 0x277;
const MSR_EFER: u32 = 0xc000_0080;

fn control_registers() -> (u64, u64, u64) {
    let (cr0, cr3, cr4);
    // SAFETY: reading control registers changes nothing.
    unsafe {
        asm!("mov {}, cr0", "mov {}, cr3", "mov {}, cr4", out(reg) cr0, out(reg) cr3, out(reg) cr4,
            options(nomem, nostack, preserves_flags));
    }
    (cr0, cr3, cr4)
}

fn task_register() -> u16 {
    let selector: u16;
    // SAFETY: STR changes nothing.
    unsafe { asm!("str {:x}", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    selector
}

/// Writes what is the same on every CPU.
pub fn write_constant() {
    let (cr0, cr3, cr4) = control_registers();
    write(field::HOST_CR0, cr0);
    write(field::HOST_CR3, cr3);
    write(field::HOST_CR4, cr4);
    write(field::HOST_CS_SELECTOR, gdt::CODE.into());
    for zero in [
        field::HOST_SS_SELECTOR,
        field::HOST_DS_SELECTOR,
        field::HOST_ES_SELECTOR,
        field::HOST_FS_SELECTOR,
        field::HOST_GS_SELECTOR,
        field::HOST_FS_BASE,
        field::HOST_GS_BASE,
        field::HOST_SYSENTER_CS,
        field::HOST_SYSENTER_ESP,
        field::HOST_SYSENTER_EIP,
    ] {
        write(zero, 0);
    }
    // SAFETY: every processor with VT-x has both MSRs.
    unsafe {
        write(field::HOST_PAT, rdmsr(MSR_PAT));
        write(field::HOST_EFER, rdmsr(MSR_EFER));
    }
    let idt = x86_64::instructions::tables::sidt();
    write(field::HOST_IDTR_BASE, idt.base.as_u64());
}

/// Writes what belongs to this CPU: its task state and its descriptors.
pub fn write_for_this_cpu(cpu: &PerCpu) {
    let gdt = x86_64::instructions::tables::sgdt();
    write(field::HOST_GDTR_BASE, gdt.base.as_u64());
    write(field::HOST_TR_SELECTOR, task_register().into());
    write(field::HOST_TR_BASE, cpu.task_state_address());
}
