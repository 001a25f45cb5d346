//! The local APIC of a vCPU: registers, interrupts to itself and their order, priorities, the timer, non-maskable
//! interrupts, messages to another vCPU; through memory first, then in x2APIC mode.
//!
//! Interrupts are taken through an interrupt table of this test's own, whose handlers note the vector.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::SeqCst};

use pv_guest_kernel::arch::{apic, cpu, instr, probe, trap};
use pv_guest_kernel::conf::{Outcome, Test};
use pv_guest_kernel::xen::{clock, events};
use pv_guest_kernel::{println, task};

pv_guest_kernel::conformance!(run);

const BASE: u32 = 0x1b;
const DEADLINE: u32 = 0x6e0;
const PAGE: u64 = 0xfee0_0000;
/// Registers by their offset in the page divided by 16: also the number behind MSR 800h.
mod reg {
    pub const ID: u32 = 0x02;
    pub const VERSION: u32 = 0x03;
    pub const TPR: u32 = 0x08;
    pub const PPR: u32 = 0x0a;
    pub const EOI: u32 = 0x0b;
    pub const SVR: u32 = 0x0f;
    pub const ISR: u32 = 0x10;
    pub const IRR: u32 = 0x20;
    pub const ESR: u32 = 0x28;
    pub const ICR: u32 = 0x30;
    pub const ICR_HIGH: u32 = 0x31;
    pub const TIMER: u32 = 0x32;
    pub const ERROR: u32 = 0x37;
    pub const INITIAL: u32 = 0x38;
    pub const CURRENT: u32 = 0x39;
    pub const DIVIDE: u32 = 0x3e;
    pub const SELF: u32 = 0x3f;
}
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const TSC_DEADLINE: u32 = 2 << 17;
const TO_SELF: u32 = 1 << 18;

/// The vectors that have handlers. Each class of sixteen has one; `NESTING` lets others in while it is in service.
const VECTORS: [u8; 5] = [0x31, 0x41, 0x51, 0x61, NESTING];
const NESTING: u8 = 0x44;

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

static X2APIC: AtomicBool = AtomicBool::new(false);
/// The vectors in the order in which they came; `0x80` more at the end of `NESTING`.
static SEEN: [AtomicU8; 64] = [const { AtomicU8::new(0) }; 64];
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// When the last came.
static WHEN: AtomicU64 = AtomicU64::new(0);
static SOFTWARE: AtomicU64 = AtomicU64::new(0);
static NMIS: AtomicU64 = AtomicU64::new(0);
static NMI_AGAIN: AtomicU64 = AtomicU64::new(0);
static NMI_NESTED: AtomicU64 = AtomicU64::new(0);

fn note(vector: u8) {
    if let Some(place) = SEEN.get(COUNT.fetch_add(1, SeqCst)) {
        place.store(vector, SeqCst);
    }
}

extern "C" fn taken(vector: u8) {
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

fn write(register: u32, value: u32) {
    if X2APIC.load(SeqCst) {
        // SAFETY: the local APIC is this test's; a fault is a finding, which the checks show.
        let _ = unsafe { probe::wrmsr(0x800 + register, value.into()) };
    } else {
        let at: *mut u32 = pv_guest_kernel::mm::ptr(PAGE + u64::from(register) * 16);
        // SAFETY: the page of registers is in the direct map, and this test's.
        unsafe { at.write_volatile(value) };
    }
}

fn read(register: u32) -> u32 {
    if X2APIC.load(SeqCst) {
        probe::rdmsr(0x800 + register).map_or(u32::MAX, |value| value as u32)
    } else {
        let at: *const u32 = pv_guest_kernel::mm::ptr(PAGE + u64::from(register) * 16);
        // SAFETY: as for `write`.
        unsafe { at.read_volatile() }
    }
}

fn to_self(vector: u8) {
    write(reg::ICR, TO_SELF | u32::from(vector));
}

fn send_nmi() {
    let me = cpu::this().id;
    if X2APIC.load(SeqCst) {
        // SAFETY: the handler counts it.
        let _ = unsafe { probe::wrmsr(0x800 + reg::ICR, u64::from(me) << 32 | 4 << 8 | 1 << 14) };
    } else {
        write(reg::ICR_HIGH, me << 24);
        write(reg::ICR, 4 << 8 | 1 << 14);
    }
}

fn cr8() -> u64 {
    let value: u64;
    // SAFETY: reading CR8 changes nothing.
    unsafe { asm!("mov {}, cr8", out(reg) value, options(nomem, nostack)) };
    value
}

/// Sets CR8, and gives what it lets in two instructions to come.
fn set_cr8(value: u64) {
    // SAFETY: only interrupts of this test are held back.
    unsafe { asm!("mov cr8, {}", "nop", "nop", in(reg) value, options(nostack)) };
}

/// Lets interrupts in for two instructions.
fn open() {
    // SAFETY: the handlers note and acknowledge.
    unsafe { asm!("sti", "nop", "nop", "cli", options(nostack)) };
}

/// The vectors that came since this was asked last.
fn seen() -> ([u8; 8], usize) {
    let count = COUNT.swap(0, SeqCst);
    (core::array::from_fn(|i| if i < count { SEEN[i].load(SeqCst) } else { 0 }), count)
}

fn expect(t: &mut Test, what: &str, vectors: &[u8]) {
    let (list, count) = seen();
    t.equal(what, &list[..count.min(8)], vectors);
}

/// A copy of the interrupt table with this test's handlers.
fn install() {
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

async fn run(t: &mut Test) -> Outcome {
    instr::cli();
    install();
    let base = instr::rdmsr(BASE);
    t.equal("the page is where it always is", base & 0xf_ffff_f000, PAGE);
    t.equal("it is on, and not in x2APIC mode", base & 0xc00, 0x800);
    interrupts(t);
    timer(t);
    nmis(t);
    page_of_garbage(t);
    // SAFETY: the mode is this test's affair.
    if unsafe { probe::wrmsr(BASE, base | 0xc00) }.is_ok() {
        X2APIC.store(true, SeqCst);
        interrupts(t);
        self_ipi(t);
        timer(t);
        deadline(t);
        nmis(t);
        all_msrs(t);
    }
    // SAFETY: as it was at first.
    unsafe { instr::wrmsr(BASE, base & !0xc00) };
    t.check("a disabled one has no registers", probe::rdmsr(0x802).is_err());
    // SAFETY: as above.
    unsafe { instr::wrmsr(BASE, base) };
    X2APIC.store(false, SeqCst);
    t.equal(
        "it begins anew in the other mode",
        (read(reg::SVR), read(reg::ID)),
        (0xff, cpu::this().id << 24),
    );
    messages(t, base);
    instr::sti();
    Ok(())
}

fn interrupts(t: &mut Test) {
    let x2 = X2APIC.load(SeqCst);
    let id = cpu::this().id;
    t.equal("identifier", read(reg::ID), if x2 { id } else { id << 24 });
    t.equal("version", read(reg::VERSION) & 0xff, 0x14);
    write(reg::SVR, 0x1ff);
    t.equal("enabled", read(reg::SVR), 0x1ff);
    seen();

    // Order.
    for vector in [0x41, 0x61, 0x51] {
        to_self(vector);
    }
    t.equal("requested", (read(reg::IRR + 2), read(reg::IRR + 3)), (1 << 1 | 1 << 17, 1 << 1));
    expect(t, "nothing comes while interrupts are off", &[]);
    open();
    while read(reg::IRR + 2) != 0 {
        open();
    }
    expect(t, "the highest first", &[0x61, 0x51, 0x41]);
    t.equal("none is in service", read(reg::ISR + 2) | read(reg::ISR + 3), 0);

    // Priorities.
    write(reg::TPR, 0x53);
    t.equal("CR8 is the task priority", (cr8(), read(reg::TPR), read(reg::PPR)), (5, 0x53, 0x53));
    for vector in [0x41, 0x51, 0x61] {
        to_self(vector);
    }
    instr::sti();
    // SAFETY: two instructions more, for the one that may come.
    unsafe { asm!("nop", "nop", options(nomem, nostack)) };
    expect(t, "only what is above the task priority", &[0x61]);
    set_cr8(4);
    expect(t, "the next as soon as the priority allows", &[0x51]);
    t.equal("TPR is CR8", read(reg::TPR), 0x40);
    write(reg::TPR, 0x3f);
    // SAFETY: as above.
    unsafe { asm!("nop", "nop", options(nomem, nostack)) };
    expect(t, "the same by the register", &[0x41]);
    instr::cli();
    write(reg::TPR, 0);
    to_self(NESTING);
    open();
    while read(reg::IRR + 1) != 0 {
        open();
    }
    expect(t, "one of a higher class interrupts a handler", &[NESTING, 0x61, NESTING | 0x80, 0x31]);
    // Many times, each at once.
    instr::sti();
    let mut good = true;
    for round in 0..200u64 {
        set_cr8(round % 16);
        to_self(0x51);
        // SAFETY: as above.
        unsafe { asm!("nop", "nop", options(nomem, nostack)) };
        let (_, count) = seen();
        good &= count == usize::from(round % 16 < 5);
        set_cr8(0);
        let (_, more) = seen();
        good &= count + more == 1;
    }
    t.check("the task priority holds back its class and below, and no more", good);
    instr::cli();

    // What is no interrupt.
    write(reg::ESR, 0);
    to_self(7);
    write(reg::ESR, 0);
    t.equal("a vector below 16 is an error", read(reg::ESR), 1 << 5);
    write(reg::ERROR, 0x41);
    write(reg::ESR, 0);
    to_self(8);
    open();
    expect(t, "of which an interrupt can tell", &[0x41]);
    write(reg::ERROR, MASKED);
    write(reg::SVR, 0xff);
    to_self(0x51);
    open();
    expect(t, "nothing comes while it is disabled", &[]);
    write(reg::SVR, 0x1ff);
    open();
    expect(t, "nor after", &[]);
}

fn self_ipi(t: &mut Test) {
    for vector in [0x41, 0x61, 0x51] {
        write(reg::SELF, vector);
    }
    t.equal("requested", (read(reg::IRR + 2), read(reg::IRR + 3)), (1 << 1 | 1 << 17, 1 << 1));
    open();
    while read(reg::IRR + 2) != 0 {
        open();
    }
    expect(t, "the highest first, by the register for it", &[0x61, 0x51, 0x41]);
    instr::sti();
    write(reg::SELF, 0x31);
    // SAFETY: two instructions for the interrupt.
    unsafe { asm!("nop", "nop", options(nomem, nostack)) };
    expect(t, "at once", &[0x31]);
    instr::cli();
    write(reg::SELF, 5);
    open();
    expect(t, "not one below 16", &[]);
}

/// Waits until that many interrupts came, with them on; whether they did in a long time.
fn wait_for(count: usize) -> bool {
    let start = clock::now();
    instr::sti();
    while COUNT.load(SeqCst) < count && clock::now() - start < 60_000_000_000 {
        core::hint::spin_loop();
    }
    instr::cli();
    COUNT.load(SeqCst) >= count
}

fn timer(t: &mut Test) {
    seen();
    write(reg::DIVIDE, 0xb);
    write(reg::TIMER, 0x51);
    write(reg::INITIAL, 200_000);
    t.equal("initial count", read(reg::INITIAL), 200_000);
    let (first, second) = (read(reg::CURRENT), read(reg::CURRENT));
    t.check("it counts down", first <= 200_000 && second <= first);
    t.check("a timer that fires once", wait_for(1));
    t.equal("the count is over", read(reg::CURRENT), 0);
    expect(t, "its vector", &[0x51]);
    write(reg::TIMER, PERIODIC | 0x61);
    write(reg::INITIAL, 100_000);
    t.check("a periodic timer", wait_for(5));
    let (list, count) = seen();
    t.check("its vector", list.iter().take(count).all(|vector| *vector == 0x61));
    // It goes on while its vector is held back, and comes once then.
    set_cr8(15);
    let start = clock::now();
    instr::sti();
    while read(reg::IRR + 3) == 0 && clock::now() - start < 60_000_000_000 {
        core::hint::spin_loop();
    }
    let (_, held) = seen();
    instr::cli();
    write(reg::TIMER, MASKED | PERIODIC | 0x61);
    let requested = read(reg::IRR + 3);
    instr::sti();
    set_cr8(0);
    instr::cli();
    t.equal("one that is held back is requested", (held, requested), (0, 1 << 1));
    expect(t, "and comes when it may", &[0x61]);
    write(reg::INITIAL, 0);
    t.equal("it is stopped", read(reg::CURRENT), 0);
}

fn deadline(t: &mut Test) {
    write(reg::TIMER, TSC_DEADLINE | 0x41);
    let mut late = [(0, 0); 6];
    for (place, ticks) in late.iter_mut().zip([0, 1_000, 10_000, 50_000, 1_000_000, 10_000_000]) {
        let until = instr::rdtsc() + ticks;
        // SAFETY: the interrupt is this test's.
        unsafe { instr::wrmsr(DEADLINE, until) };
        t.check("a deadline", wait_for(1));
        let when = WHEN.load(SeqCst);
        t.check("is not early", when >= until);
        *place = (ticks, when.saturating_sub(until));
        t.equal("is over", instr::rdmsr(DEADLINE), 0);
        expect(t, "its vector", &[0x41]);
    }
    for (ticks, late) in late {
        println!("a deadline in {ticks} ticks came {late} ticks late");
    }
    // SAFETY: as above; it is taken back.
    unsafe {
        instr::wrmsr(DEADLINE, u64::MAX);
        instr::wrmsr(DEADLINE, 0);
    }
    write(reg::TIMER, MASKED);
}

fn nmis(t: &mut Test) {
    seen();
    NMIS.store(0, SeqCst);
    for masked in [false, true] {
        if !masked {
            instr::sti();
        }
        NMI_AGAIN.store(1, SeqCst);
        let before = NMIS.load(SeqCst);
        send_nmi();
        // The second may have to wait until interrupts are on, and both for an exit of any kind.
        let start = clock::now();
        while NMIS.load(SeqCst) < before + 2 && clock::now() - start < 60_000_000_000 {
            open();
            let _ = instr::cpuid(0, 0);
        }
        instr::cli();
        t.equal("one, and another from its handler", NMIS.load(SeqCst), before + 2);
    }
    t.equal("none before the one before has returned", NMI_NESTED.swap(0, SeqCst), 0);
    let before = SOFTWARE.load(SeqCst);
    // SAFETY: the handlers of both count and return.
    unsafe { asm!("int 18", "int 18", options(nostack)) };
    t.equal("INT 18 is the guest's own", SOFTWARE.load(SeqCst), before + 2);
}

/// Interrupts to another vCPU: one that runs, then one that most often sleeps.
fn messages(t: &mut Test, base: u64) {
    static RECEIVER: AtomicU64 = AtomicU64::new(u64::MAX);
    static DONE: AtomicBool = AtomicBool::new(false);
    let long = |done: &dyn Fn() -> bool| {
        let start = clock::now();
        while !done() && clock::now() - start < 60_000_000_000 {
            core::hint::spin_loop();
        }
        done()
    };
    // This vCPU is busy until the end, so that another takes the task.
    let _detached = task::spawn(async {
        apic::enable();
        RECEIVER.store(cpu::this().id.into(), SeqCst);
        while !DONE.load(SeqCst) {
            core::hint::spin_loop();
        }
    });
    if !long(&|| RECEIVER.load(SeqCst) != u64::MAX) {
        t.check("another vCPU takes a task", false);
        return;
    }
    // SAFETY: the mode is this test's affair.
    if unsafe { probe::wrmsr(BASE, base | 0xc00) }.is_err() {
        return;
    }
    let message = RECEIVER.load(SeqCst) << 32 | u64::from(trap::TEST_VECTOR);
    let mut good = true;
    for round in 0..60 {
        DONE.store(round >= 30, SeqCst);
        let before = events::test_vector_count();
        // SAFETY: the vector's handler counts.
        good &= unsafe { probe::wrmsr(0x800 + reg::ICR, message) }.is_ok();
        good &= long(&|| events::test_vector_count() > before);
        if !good {
            break;
        }
    }
    DONE.store(true, SeqCst);
    t.check("every message to another vCPU arrives", good);
}

/// Garbage into every register; what a guest writes there is its own affair.
fn page_of_garbage(t: &mut Test) {
    for register in (0..0x40).filter(|register| ![reg::ICR, reg::SELF].contains(register)) {
        for value in [u32::MAX, 0x5a5a_5a5a, 0] {
            write(register, value);
        }
        let _ = read(register);
    }
    t.equal("the identifier stays", read(reg::ID), cpu::this().id << 24);
    t.equal("the version stays", read(reg::VERSION) & 0xff, 0x14);
    write(reg::TIMER, MASKED);
    write(reg::ERROR, MASKED);
    write(reg::SVR, 0x1ff);
    open();
    seen();
    to_self(0x51);
    open();
    expect(t, "it works afterwards", &[0x51]);
}

/// Every MSR of the range: those that there are, and no register of the machine's own APIC.
fn all_msrs(t: &mut Test) {
    for msr in 0x800..0x900u32 {
        let there = matches!(msr & 0xff, 2 | 3 | 8 | 0xa | 0xd | 0xf..=0x28 | 0x30 | 0x32..=0x39 | 0x3e);
        let value = probe::rdmsr(msr);
        if value.is_ok() != there {
            t.equal("a register is there or not", (msr, value.is_ok()), (msr, there));
        }
        t.check("of 32 bits", msr == 0x830 || value.unwrap_or(0) >> 32 == 0);
    }
    for msr in (0x800..0x900u32).filter(|msr| *msr != 0x830) {
        // SAFETY: what is refused has no effect.
        let refused = unsafe { probe::wrmsr(msr, 1 << 40) }.is_err();
        if !refused {
            t.equal("upper bits are refused", (msr, refused), (msr, true));
        }
    }
    t.check("the end of interrupt takes only 0", {
        // SAFETY: refused.
        unsafe { probe::wrmsr(0x80b, 1) }.is_err()
    });
    expect(t, "nothing came", &[]);
}
