//! The switch between hypervisor and guest.
//!
//! After an exit the hypervisor goes on with the global interrupt flag clear and with the guest's FS, GS, TR
//! and LDTR still in the CPU: a short exit touches none of them ([`percpu`](crate::cpu::percpu) needs no
//! segment register, exceptions of the hypervisor's own use no TSS but for double faults). [`settle`] gives
//! the CPU its own state back, before anything that takes interrupts, and when another virtual CPU comes.

use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use hv_core::hw::Gprs;

use crate::cpu::percpu::PerCpu;

/// Enters the guest and comes back at its next exit. RAX is the caller's affair, in the VMCB before and after.
///
/// # Safety
///
/// `vmcb` must be the block at physical address `vmcb_phys`, which this CPU may run; [`prepare`] must have
/// been called for it on this CPU, and [`settle`] not since.
#[inline(always)]
pub unsafe fn enter(gprs: &mut Gprs, vmcb_phys: u64) {
    // The instructions in order: guest registers in, but for RAX, which VMRUN loads from the VMCB; VMRUN;
    // registers out, with the pointer to them from the stack, since only RSP and RAX are the hypervisor's
    // then (AMD64 manual volume 2, section 15.5.1). RBX and RBP are saved here because the compiler keeps
    // them to itself; it saves the others where it has something in them.
    // SAFETY: by this function's contract; all registers that change are declared, or saved and restored.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "push rdi",
            "mov rcx, [rdi + {rcx}]",
            "mov rdx, [rdi + {rdx}]",
            "mov rbx, [rdi + {rbx}]",
            "mov rbp, [rdi + {rbp}]",
            "mov rsi, [rdi + {rsi}]",
            "mov r8, [rdi + {r8}]",
            "mov r9, [rdi + {r9}]",
            "mov r10, [rdi + {r10}]",
            "mov r11, [rdi + {r11}]",
            "mov r12, [rdi + {r12}]",
            "mov r13, [rdi + {r13}]",
            "mov r14, [rdi + {r14}]",
            "mov r15, [rdi + {r15}]",
            "mov rdi, [rdi + {rdi}]",
            "vmrun rax",
            "pop rax",
            "mov [rax + {rdi}], rdi",
            "mov [rax + {rsi}], rsi",
            "mov [rax + {rcx}], rcx",
            "mov [rax + {rdx}], rdx",
            "mov [rax + {rbx}], rbx",
            "mov [rax + {rbp}], rbp",
            "mov [rax + {r8}], r8",
            "mov [rax + {r9}], r9",
            "mov [rax + {r10}], r10",
            "mov [rax + {r11}], r11",
            "mov [rax + {r12}], r12",
            "mov [rax + {r13}], r13",
            "mov [rax + {r14}], r14",
            "mov [rax + {r15}], r15",
            "pop rbp",
            "pop rbx",
            rcx = const offset_of!(Gprs, rcx),
            rdx = const offset_of!(Gprs, rdx),
            rbx = const offset_of!(Gprs, rbx),
            rbp = const offset_of!(Gprs, rbp),
            rsi = const offset_of!(Gprs, rsi),
            rdi = const offset_of!(Gprs, rdi),
            r8 = const offset_of!(Gprs, r8),
            r9 = const offset_of!(Gprs, r9),
            r10 = const offset_of!(Gprs, r10),
            r11 = const offset_of!(Gprs, r11),
            r12 = const offset_of!(Gprs, r12),
            r13 = const offset_of!(Gprs, r13),
            r14 = const offset_of!(Gprs, r14),
            r15 = const offset_of!(Gprs, r15),
            inout("rax") vmcb_phys => _,
            inout("rdi") gprs => _,
            out("rsi") _, out("rcx") _, out("rdx") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
}

/// Loads the guest's part of the state that VMRUN does not switch, and holds all interrupts back until VMRUN:
/// a VMCB's interrupts of the host are allowed in the guest by the IF of the hypervisor (V_INTR_MASKING,
/// section 15.21.1), which does not matter while the global flag is clear.
///
/// # Safety
///
/// As for [`enter`]; the state in the CPU must be the hypervisor's own.
#[cold]
pub unsafe fn prepare(cpu: &PerCpu, vmcb_phys: u64) {
    // SAFETY: by this function's contract.
    unsafe { asm!("clgi", "sti", "vmload rax", in("rax") vmcb_phys, options(nostack)) };
    cpu.guest.store(vmcb_phys, Ordering::Relaxed);
}

/// Gives this CPU the hypervisor's own state back, and the guest's to its VMCB. Interrupts stay masked; the
/// global interrupt flag is set.
pub fn settle(cpu: &PerCpu) {
    let guest = cpu.guest.swap(0, Ordering::Relaxed);
    if guest != 0 {
        // SAFETY: the guest's state was loaded from this VMCB by `prepare`; the hypervisor's was saved to the
        // other by `enable`. An NMI that waits comes at STGI, with the hypervisor's TSS in place.
        unsafe {
            asm!("vmsave rax", in("rax") guest, options(nostack));
            asm!(
                "vmload rax", "cli", "stgi", in("rax") cpu.host_vmcb.load(Ordering::Relaxed),
                options(nostack)
            );
        }
    }
}
