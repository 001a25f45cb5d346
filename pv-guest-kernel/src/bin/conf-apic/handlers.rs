//! Handlers that note what came, in an interrupt table of this test's own.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::SeqCst};

use pv_guest_kernel::arch::instr;
use pv_guest_kernel::conf::{self, Test};
use pv_guest_kernel::xen::identity;

use crate::registers::{open, read, reg, send_nmi, to_self, write};

/// The vectors that have handlers. Each class of sixteen has one; `NESTING` lets others in while it is in service.
const VECTORS: [u8; 5] = [0x31, 0x41, 0x51, 0x61, NESTING];
pub const NESTING: u8 = 0x44;

global_asm!(
    r#"
    .macro APIC_STUB n
    .balign 16
    push rdi
    mov edi, \n
    jmp apic_common
    .endm
    .balign 16
    .globl apic_stubs
apic_stubs:
    APIC_STUB 0x31
    APIC_STUB 0x41
    APIC_STUB 0x51
    APIC_STUB 0x61
    APIC_STUB 0x44
    .macro APIC_SAVE
    push rsi
    push rax
    push rcx
    push rdx
    push r8
    push r9
    push r10
    push r11
    push rbx
    mov rbx, rsp
    and rsp, -16
    .endm
    .macro APIC_RESTORE
    mov rsp, rbx
    pop rbx
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdx
    pop rcx
    pop rax
    pop rsi
    pop rdi
    .endm
apic_common:
    cld
    APIC_SAVE
    call {taken}
    APIC_RESTORE
    iretq
    .balign 16
    .globl apic_nmi
apic_nmi:
    push rdi
    mov rdi, [rsp + 8]
    APIC_SAVE
    call {nmi}
    APIC_RESTORE
    .globl apic_nmi_return
apic_nmi_return:
    iretq
    .balign 16
    .globl apic_software
apic_software:
    lock inc qword ptr [rip + {software}]
    iretq
    "#,
    taken = sym taken,
    nmi = sym nmi,
    software = sym SOFTWARE,
);

unsafe extern "C" {
    fn apic_stubs();
    fn apic_nmi();
    fn apic_nmi_return();
    fn apic_software();
}

/// The vectors in the order in which they came; `0x80` more at the end of `NESTING`.
static SEEN: [AtomicU8; 64] = [const { AtomicU8::new(0) }; 64];
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// When the last came.
pub static WHEN: AtomicU64 = AtomicU64::new(0);
pub static SOFTWARE: AtomicU64 = AtomicU64::new(0);
pub static NMIS: AtomicU64 = AtomicU64::new(0);
pub static NMI_AGAIN: AtomicU64 = AtomicU64::new(0);
pub static NMI_NESTED: AtomicU64 = AtomicU64::new(0);

fn note(vector: u8) {
    if let Some(place) = SEEN.get(COUNT.fetch_add(1, SeqCst)) {
        place.store(vector, SeqCst);
    }
}

/// Whether QEMU 7.2 delivers an interrupt once more that the hypervisor gave once.
///
/// It keeps the vector of a VMCB's EVENTINJ, and delivers it again when something interrupts its own loop before the
/// guest's next exit. What comes first then is the second, in the first instruction of the handler of the first: it ends
/// the interrupt, and the other finds none in service. Xen injects by EVENTINJ; Xenolith does not, and is not forgiven.
fn repeated(vector: u8) -> bool {
    !identity().is_xenolith() && read(reg::ISR + u32::from(vector / 32)) & 1 << (vector % 32) == 0
}

extern "C" fn taken(vector: u8) {
    if repeated(vector) {
        return;
    }
    WHEN.store(instr::rdtsc(), SeqCst);
    note(vector);
    if vector == NESTING {
        to_self(0x31);
        to_self(0x61);
        open();
        note(vector | 0x80);
    }
    write(reg::EOI, 0);
}

extern "C" fn nmi(from: u64) {
    NMIS.fetch_add(1, SeqCst);
    if from == apic_nmi_return as *const () as u64 {
        NMI_NESTED.fetch_add(1, SeqCst);
    }
    if NMI_AGAIN.swap(0, SeqCst) != 0 {
        send_nmi();
    }
}

/// The vectors that came since this was asked last.
pub fn seen() -> ([u8; 8], usize) {
    let count = COUNT.swap(0, SeqCst);
    (core::array::from_fn(|i| if i < count { SEEN[i].load(SeqCst) } else { 0 }), count)
}

pub fn expect(t: &mut Test, what: &str, vectors: &[u8]) {
    let (list, count) = seen();
    t.equal(what, &list[..count.min(8)], vectors);
}

/// A copy of the interrupt table with this test's handlers.
pub fn install() {
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    let mut pointer = Pointer { limit: 0, base: 0 };
    // SAFETY: SIDT writes those ten bytes; the table has 256 gates of two words each, by its maker.
    let old = unsafe {
        asm!("sidt [{}]", in(reg) &raw mut pointer, options(nostack));
        *(pointer.base as *const [[u64; 2]; 256])
    };
    let table = alloc::boxed::Box::leak(alloc::boxed::Box::new(old));
    let mut gate = |vector: usize, handler: u64| {
        let [low, _] = table[vector];
        table[vector] =
            [low & 0x0000_ffff_ffff_0000 | handler & 0xffff | (handler >> 16 & 0xffff) << 48, handler >> 32];
    };
    for (index, vector) in VECTORS.into_iter().enumerate() {
        gate(vector.into(), apic_stubs as *const () as u64 + 16 * index as u64);
    }
    gate(2, apic_nmi as *const () as u64);
    gate(18, apic_software as *const () as u64);
    let pointer = Pointer { limit: 4095, base: table.as_ptr() as u64 };
    // SAFETY: the table lives for ever, and its gates lead to handlers.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack)) };
}

/// Waits until that many interrupts came, with them on; whether they did in a long time.
pub fn wait_for(count: usize) -> bool {
    instr::sti();
    let came = conf::wait_for(|| COUNT.load(SeqCst) >= count);
    instr::cli();
    came
}
