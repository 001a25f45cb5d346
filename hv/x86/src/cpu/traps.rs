//! Exceptions and interrupts of the hypervisor itself.
//!
//! One stub per vector leads to one handler. Interrupts are taken in two places only (`take_interrupts` and
//! `wait`), where no lock is held; their handlers record what happened and acknowledge. An exception is a bug
//! of the hypervisor: it panics.

use core::arch::{asm, global_asm};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::gdt::CODE;
use super::percpu::{PerCpu, pending};
use crate::dev::{lapic, lines, uart};

/// The first vector of device lines; below it are exceptions, and the strays of the old interrupt controller.
pub const FIRST_LINE: u8 = 0x30;
/// One past the last vector of device lines.
pub const END_LINES: u8 = 0xf0;
/// The vector of the local APIC's timer.
pub const TIMER: u8 = 0xf0;
/// The vector by which one CPU kicks another.
pub const KICK: u8 = 0xf1;
/// The vector of the serial port.
pub const CONSOLE: u8 = 0xf2;
/// The vector by which a CPU in a guest is told of requests to the virtual CPU; outside of a guest it means nothing.
pub const REQUESTS: u8 = 0xf3;
/// The vector of spurious interrupts: its lower four bits are ones, as old local APICs want.
pub const SPURIOUS: u8 = 0xff;

/// What a stub leaves on the stack.
#[repr(C)]
struct Frame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rcx: u64,
    rax: u64,
    vector: u64,
    code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

global_asm!(
    r#"
    .text
    .balign 16
    // 256 stubs of 16 bytes: push a zero where the CPU pushes no error code (8, 10-14, 17, 21, 29 and 30, the
    // bits of the number below, have one), then the vector.
    .global trap_stubs
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if ((0x60227d00 >> vector) & 1) == 0 || vector > 31
    push 0
    .endif
    .byte 0x68                          // push vector
    .long vector
    jmp trap_common
    .set vector, vector + 1
    .endr

    .balign 16
trap_common:
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    cld
    mov rdi, rsp
    mov rbx, rsp
    and rsp, -16
    call {handler}
    mov rsp, rbx
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq
"#,
    handler = sym trap
);

/// An interrupt gate: AMD64 manual volume 2, section 4.8.4.
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    offset_low: u16,
    selector: u16,
    ist: u8,
    kind: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

#[repr(C, align(16))]
struct Idt(core::cell::UnsafeCell<[Gate; 256]>);

// SAFETY: `init` alone writes to it, before a second CPU runs; after that only the hardware reads it.
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(core::cell::UnsafeCell::new(
    [Gate { offset_low: 0, selector: 0, ist: 0, kind: 0, offset_middle: 0, offset_high: 0, reserved: 0 };
        256],
));

unsafe extern "C" {
    static trap_stubs: u8;
}

/// Fills the table. Once, on the boot processor, before others run.
pub fn init() {
    let mut address = &raw const trap_stubs as u64;
    // SAFETY: no other CPU runs, and this one has not loaded the table.
    for (vector, gate) in unsafe { &mut *IDT.0.get() }.iter_mut().enumerate() {
        *gate = Gate {
            offset_low: address as u16,
            selector: CODE,
            ist: match vector {
                8 => 1,
                2 => 2,
                18 => 3,
                _ => 0,
            },
            kind: 0x8e,
            offset_middle: (address >> 16) as u16,
            offset_high: (address >> 32) as u32,
            reserved: 0,
        };
        address += 16;
    }
}

/// Makes this CPU use the table.
pub fn load() {
    let pointer = x86_64::structures::DescriptorTablePointer {
        limit: 256 * 16 - 1,
        base: x86_64::VirtAddr::new(IDT.0.get() as u64),
    };
    // SAFETY: the table is static and filled by `init`.
    unsafe { x86_64::instructions::tables::lidt(&pointer) };
}

/// Takes the interrupts that are waiting. The caller holds no lock, and the global interrupt flag is set.
pub fn take_interrupts() {
    // SAFETY: the interrupt handlers only record; STI shadows one instruction, so that NOP is where they
    // come.
    unsafe { asm!("sti", "nop", "cli", options(nostack)) };
}

/// Halts until an interrupt is taken. The caller holds no lock, and the global interrupt flag is set.
pub fn wait() {
    // SAFETY: as above; STI shadows HLT, so that no interrupt is lost between the two.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Whether a CPU panicked: the others stop at the NMI that it sends.
pub static STOPPING: AtomicBool = AtomicBool::new(false);
/// NMIs that nobody of us sent.
pub static UNKNOWN_NMIS: AtomicU64 = AtomicU64::new(0);

extern "C" fn trap(frame: &mut Frame) {
    match frame.vector as u8 {
        2 => nmi(),
        0..=31 => panic!("exception in the hypervisor: {frame}"),
        vector => taken(vector),
    }
}

/// Takes the interrupt of this vector, which the local APIC has given to this CPU and awaits the end of. The caller holds
/// no lock, and interrupts are off.
pub fn taken(vector: u8) {
    match vector {
        FIRST_LINE..END_LINES => {
            lines::raised(PerCpu::current(), vector - FIRST_LINE);
            lapic::end_of_interrupt();
        }
        TIMER => {
            let cpu = PerCpu::current();
            cpu.deadline.store(0, Ordering::Relaxed);
            cpu.set_pending(pending::TIMER);
            lapic::end_of_interrupt();
        }
        KICK | REQUESTS => lapic::end_of_interrupt(),
        CONSOLE => {
            if uart::receive() {
                PerCpu::current().set_pending(pending::CONSOLE);
            }
            lapic::end_of_interrupt();
        }
        // The old interrupt controller's strays (it is masked), and the local APIC's: neither is
        // acknowledged.
        _ => {}
    }
}

fn nmi() {
    if STOPPING.load(Ordering::Acquire) {
        super::halt_forever();
    }
    UNKNOWN_NMIS.fetch_add(1, Ordering::Relaxed);
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 20] = [
            "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "?", "#TS", "#NP", "#SS", "#GP",
            "#PF", "?", "#MF", "#AC", "#MC", "#XF",
        ];
        let name = NAMES.get(self.vector as usize).copied().unwrap_or("?");
        writeln!(
            f,
            "{name} (vector {}, error code {:#x}) at {:#x}:{:#x}",
            self.vector, self.code, self.cs, self.rip
        )?;
        writeln!(
            f,
            "  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}",
            self.rax, self.rbx, self.rcx, self.rdx
        )?;
        writeln!(
            f,
            "  rsi {:016x} rdi {:016x} rbp {:016x} rsp {:016x}",
            self.rsi, self.rdi, self.rbp, self.rsp
        )?;
        writeln!(
            f,
            "  r8  {:016x} r9  {:016x} r10 {:016x} r11 {:016x}",
            self.r8, self.r9, self.r10, self.r11
        )?;
        writeln!(
            f,
            "  r12 {:016x} r13 {:016x} r14 {:016x} r15 {:016x}",
            self.r12, self.r13, self.r14, self.r15
        )?;
        let cr2 = x86_64::registers::control::Cr2::read_raw();
        write!(f, "  flags {:#x} ss {:#x} cr2 {cr2:016x}", self.rflags, self.ss)
    }
}
