//! The local APIC of a vCPU: registers, interrupts to itself and their order, priorities, the timer, non-maskable
//! interrupts, messages to another vCPU; through memory first, then in x2APIC mode.
//!
//! Interrupts are taken through an interrupt table of this test's own, whose handlers note the vector.
#![no_std]
#![no_main]

mod handlers;
mod misuse;
mod registers;
mod timer;

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use pv_guest_kernel::arch::{apic, instr, probe, trap};
use pv_guest_kernel::conf::{self, Outcome, Test};
use pv_guest_kernel::task;
use pv_guest_kernel::xen::{events, identity};

use handlers::{NESTING, NMI_AGAIN, NMI_NESTED, NMIS, SOFTWARE, expect, install, seen};
use registers::{
    BASE, MASKED, PAGE, X2APIC, cr8, open, own_id, read, reg, send_nmi, set_cr8, to_self, write,
};

pv_guest_kernel::conformance!(run);

async fn run(t: &mut Test) -> Outcome {
    instr::cli();
    install();
    let base = instr::rdmsr(BASE);
    t.equal("the page is where it always is", base & 0xf_ffff_f000, PAGE);
    t.equal("it is on, and not in x2APIC mode", base & 0xc00, 0x800);
    interrupts(t);
    timer::timer(t);
    nmis(t);
    misuse::page_of_garbage(t);
    if identity().is_xenolith() {
        misuse::init_to_itself(t);
    }
    // SAFETY: the mode is this test's affair.
    if unsafe { probe::wrmsr(BASE, base | 0xc00) }.is_ok() {
        X2APIC.store(true, SeqCst);
        interrupts(t);
        self_ipi(t);
        timer::timer(t);
        timer::deadline(t);
        nmis(t);
        misuse::all_msrs(t);
        if identity().is_xenolith() {
            misuse::init_to_itself(t);
        }
    }
    // SAFETY: as it was at first.
    unsafe { instr::wrmsr(BASE, base & !0xc00) };
    t.check("a disabled one has no registers", probe::rdmsr(0x802).is_err());
    // SAFETY: as above.
    unsafe { instr::wrmsr(BASE, base) };
    X2APIC.store(false, SeqCst);
    t.equal("it begins anew in the other mode", (read(reg::SVR), read(reg::ID)), (0xff, own_id() << 24));
    messages(t, base);
    instr::sti();
    Ok(())
}

fn interrupts(t: &mut Test) {
    let ours = identity().is_xenolith();
    let x2 = X2APIC.load(SeqCst);
    let id = own_id();
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

    if ours {
        priorities(t);
    }
    to_self(NESTING);
    open();
    while read(reg::IRR + 1) != 0 {
        open();
    }
    expect(t, "one of a higher class interrupts a handler", &[NESTING, 0x61, NESTING | 0x80, 0x31]);
    // What is no interrupt.
    write(reg::ESR, 0);
    to_self(7);
    write(reg::ESR, 0);
    t.equal("a vector below 16 is an error", read(reg::ESR), 1 << 5);
    write(reg::ERROR, 0x41);
    write(reg::ESR, 0);
    to_self(8);
    open();
    if ours {
        expect(t, "of which an interrupt can tell", &[0x41]);
    }
    // Xen never clears an error, and tells of the first of a kind alone.
    seen();
    write(reg::ERROR, MASKED);
    write(reg::SVR, 0xff);
    to_self(0x51);
    open();
    expect(t, "nothing comes while it is disabled", &[]);
    write(reg::SVR, 0x1ff);
    open();
    expect(t, "nor after", &[]);
}

/// The task priority holds interrupts back.
///
/// Only here: Xen waits for the priority by the processor's virtual interrupt of the same class, which QEMU 7.2 takes
/// for one that can be delivered, so that the guest makes no way; where the guest lowers CR8, QEMU aborts.
fn priorities(t: &mut Test) {
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
        conf::wait_for(|| {
            open();
            let _ = instr::cpuid(0, 0);
            NMIS.load(SeqCst) >= before + 2
        });
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
    // This vCPU is busy until the end, so that another takes the task.
    let _detached = task::spawn(async {
        apic::enable();
        RECEIVER.store(own_id().into(), SeqCst);
        while !DONE.load(SeqCst) {
            core::hint::spin_loop();
        }
    });
    if !conf::wait_for(|| RECEIVER.load(SeqCst) != u64::MAX) {
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
        good &= conf::wait_for(|| events::test_vector_count() > before);
        if !good {
            break;
        }
    }
    DONE.store(true, SeqCst);
    t.check("every message to another vCPU arrives", good);
}
