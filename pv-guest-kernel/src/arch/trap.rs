//! Exceptions and the event upcall.
//!
//! Exceptions 0-31 go through one assembler stub that saves all registers. A fault at an address listed in `.extable`
//! (see `probe.rs`) continues at its fix-up with R11 = 1<<63 | vector<<32 | error code; every other exception is
//! reported on the console and ends the domain with the reason "crash". The upcall vector has a short stub that saves
//! what the C convention lets a callee change. Upcalls do not nest: the gate clears IF and nothing sets it inside.

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, Ordering};

use super::{gdt, instr};

/// The vector of event upcalls (Linux uses the same number).
pub const UPCALL_VECTOR: u8 = 0xf3;
/// A second vector, for tests of per-vCPU upcall vectors; counts and acknowledges only.
pub const TEST_VECTOR: u8 = 0xe1;

/// The registers at an exception.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Frame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

global_asm!(
    r#"
    .section .text.trap, "ax"
    .balign 16
    .globl trap_stubs
trap_stubs:
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    .balign 16
    .if (\n != 8) && ((\n < 10) || (\n > 14)) && (\n != 17) && (\n != 21) && (\n != 29) && (\n != 30)
    push 0
    .endif
    push \n
    jmp trap_common
    .endr

    // Any vector nobody set up.
    .balign 16
    .globl trap_unexpected
trap_unexpected:
    push 0
    push 255
trap_common:
    cld
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    mov rbx, rsp
    and rsp, -16
    call {trap}
    mov rsp, rbx
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    add rsp, 16
    iretq

    .macro UPCALL name, handler
    .balign 16
    .globl \name
\name:
    cld
    push rax
    push rcx
    push rdx
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push rbx
    mov rbx, rsp
    and rsp, -16
    call \handler
    mov rsp, rbx
    cmp qword ptr [rsp + 80], offset idle_hlt
    jne 9f
    inc qword ptr [rsp + 80]
9:
    pop rbx
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rax
    iretq
    .endm
    UPCALL trap_upcall, {upcall}
    UPCALL trap_test, {test}

    // Lets upcalls in and halts until one comes. STI holds them off for one more instruction, and should one slip in
    // between all the same (an emulator that forgets the shadow across an exit), the upcall skips the HLT.
    .balign 16
    .globl idle_wait
idle_wait:
    sti
    .globl idle_hlt
idle_hlt:
    hlt
    ret
    "#,
    trap = sym trap,
    upcall = sym upcall,
    test = sym test_vector,
);

unsafe extern "C" {
    fn trap_stubs();
    fn trap_unexpected();
    fn trap_upcall();
    fn trap_test();
    /// Lets upcalls in, waits for one, and returns with them let in.
    pub safe fn idle_wait();
    static __extable_start: [u64; 2];
    static __extable_end: [u64; 2];
}

const NAMES: [&str; 32] = [
    "divide error",
    "debug",
    "NMI",
    "breakpoint",
    "overflow",
    "bound range",
    "invalid opcode",
    "no FPU",
    "double fault",
    "coprocessor overrun",
    "invalid TSS",
    "segment not present",
    "stack fault",
    "general protection",
    "page fault",
    "reserved",
    "x87 error",
    "alignment check",
    "machine check",
    "SIMD error",
    "virtualization",
    "control protection",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "hypervisor injection",
    "VMM communication",
    "security",
    "reserved",
];

/// One gate (AMD64 manual volume 2, section 4.8.4).
#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    low: u64,
    high: u64,
}

impl Gate {
    fn new(handler: u64, ist: u8) -> Self {
        let low = handler & 0xffff
            | u64::from(gdt::CODE_SELECTOR) << 16
            | u64::from(ist) << 32
            | 0x8e << 40
            | (handler >> 16 & 0xffff) << 48;
        Gate { low, high: handler >> 32 }
    }
}

static IDT: spin::Once<[Gate; 256]> = spin::Once::new();

/// Loads the IDT on the running vCPU.
pub fn load_idt() {
    let idt = IDT.call_once(|| {
        let mut idt = [Gate::new(trap_unexpected as *const () as u64, 0); 256];
        for (i, gate) in idt.iter_mut().enumerate().take(32) {
            let ist = match i {
                8 => gdt::IST_DOUBLE_FAULT,
                2 | 18 => gdt::IST_NMI,
                _ => 0,
            };
            *gate = Gate::new(trap_stubs as *const () as u64 + 16 * i as u64, ist);
        }
        idt[usize::from(UPCALL_VECTOR)] = Gate::new(trap_upcall as *const () as u64, 0);
        idt[usize::from(TEST_VECTOR)] = Gate::new(trap_test as *const () as u64, 0);
        idt
    });
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    let idtr = Pointer { limit: 4095, base: idt.as_ptr() as u64 };
    // SAFETY: the table is static and its gates lead to the stubs above.
    unsafe {
        core::arch::asm!("lidt [{}]", in(reg) &raw const idtr, options(readonly, nostack, preserves_flags))
    };
}

fn fixup(rip: u64) -> Option<u64> {
    let start = &raw const __extable_start;
    let end = &raw const __extable_end;
    let n = (end as usize - start as usize) / 16;
    // SAFETY: the linker script brackets the pairs of addresses that `probe.rs` emits.
    let table = unsafe { core::slice::from_raw_parts(start, n) };
    table.iter().find(|e| e[0] == rip).map(|e| e[1])
}

static DYING: AtomicBool = AtomicBool::new(false);

extern "C" fn trap(frame: &mut Frame) {
    if let Some(to) = fixup(frame.rip) {
        frame.rip = to;
        frame.r11 = 1 << 63 | frame.vector << 32 | frame.error & 0xffff_ffff;
        return;
    }
    let cr2 = instr::cr2();
    if DYING.swap(true, Ordering::Relaxed) {
        crate::xen::power::crash();
    }
    crate::console::enter_panic();
    let name = NAMES.get(frame.vector as usize).copied().unwrap_or("unexpected interrupt");
    crate::println!(
        "\nEXCEPTION {} ({name}), error code {:#x}, at {:#x}",
        frame.vector,
        frame.error,
        frame.rip
    );
    if frame.vector == 14 || frame.vector == 8 {
        let guard = if super::stack::is_guard(cr2) { ", a guard page: the stack is too small" } else { "" };
        let what = if frame.error & 1 == 0 { "not mapped" } else { "forbidden" };
        let how = match frame.error & 0x12 {
            0x10 => "execute",
            0x02 => "write",
            _ => "read",
        };
        crate::println!("address {cr2:#018x} ({how}, {what}{guard})");
    }
    crate::println!(
        "rax {:016x}  rbx {:016x}  rcx {:016x}  rdx {:016x}",
        frame.rax,
        frame.rbx,
        frame.rcx,
        frame.rdx
    );
    crate::println!(
        "rsi {:016x}  rdi {:016x}  rbp {:016x}  rsp {:016x}",
        frame.rsi,
        frame.rdi,
        frame.rbp,
        frame.rsp
    );
    crate::println!(
        "r8  {:016x}  r9  {:016x}  r10 {:016x}  r11 {:016x}",
        frame.r8,
        frame.r9,
        frame.r10,
        frame.r11
    );
    crate::println!(
        "r12 {:016x}  r13 {:016x}  r14 {:016x}  r15 {:016x}",
        frame.r12,
        frame.r13,
        frame.r14,
        frame.r15
    );
    crate::println!(
        "rflags {:#x}  cs {:#x}  cr0 {:#x}  cr3 {:#x}  cr4 {:#x}",
        frame.rflags,
        frame.cs,
        instr::cr0(),
        instr::cr3(),
        instr::cr4()
    );
    crate::xen::power::crash();
}

extern "C" fn upcall() {
    crate::xen::events::upcall();
}

extern "C" fn test_vector() {
    crate::xen::events::test_vector();
}

/// Ends this domain by a fault that cannot be delivered: an empty IDT, then an exception.
pub fn triple_fault() -> ! {
    let idtr = [0u8; 10];
    // SAFETY: nothing of this domain runs afterwards; that is the purpose.
    unsafe { core::arch::asm!("lidt [{}]", "ud2", in(reg) &raw const idtr, options(noreturn)) }
}
