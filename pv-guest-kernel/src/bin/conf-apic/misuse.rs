//! What no sound kernel does.

use pv_guest_kernel::arch::probe;
use pv_guest_kernel::conf::Test;
use pv_guest_kernel::xen::identity;

use crate::handlers::{expect, seen};
use crate::registers::{ASSERT, MASKED, TO_SELF, open, own_id, read, reg, send_self, to_self, write};

/// Garbage into every register; what a guest writes there is its own affair.
pub fn page_of_garbage(t: &mut Test) {
    for register in (0..0x40).filter(|register| ![reg::ICR, reg::SELF].contains(register)) {
        if register == reg::ID && !identity().is_xenolith() {
            continue; // on Xen it can be written
        }
        for value in [u32::MAX, 0x5a5a_5a5a, 0] {
            write(register, value);
        }
        let _ = read(register);
    }
    t.equal("the identifier stays", read(reg::ID), own_id() << 24);
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
pub fn all_msrs(t: &mut Test) {
    for msr in 0x800..0x900u32 {
        if msr == 0x82f && !identity().is_xenolith() {
            continue; // the vector of corrected machine checks, which Xen has
        }
        let there = matches!(msr & 0xff, 2 | 3 | 8 | 0xa | 0xd | 0xf..=0x28 | 0x30 | 0x32..=0x39 | 0x3e);
        let value = probe::rdmsr(msr);
        if value.is_ok() != there {
            t.equal("a register is there or not", (msr, value.is_ok()), (msr, there));
        }
        t.check("of 32 bits", msr == 0x830 || value.unwrap_or(0) >> 32 == 0);
    }
    for msr in (0x800..0x900u32).filter(|msr| *msr != 0x830) {
        if msr == 0x838 && !identity().is_xenolith() {
            continue; // Xen takes any initial count
        }
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

/// INIT and start-up messages to the own vCPU: nothing comes of them. On Xen the vCPU stops, and with the
/// last one the domain.
pub fn init_to_itself(t: &mut Test) {
    let before = (read(reg::SVR), read(reg::ID));
    for message in [5 << 8 | ASSERT, 5 << 8 | ASSERT | TO_SELF, 6 << 8 | ASSERT | 0x10] {
        send_self(message);
        open();
    }
    t.equal("INIT to itself changes nothing", (read(reg::SVR), read(reg::ID)), before);
    to_self(0x51);
    open();
    expect(t, "it works afterwards", &[0x51]);
}
