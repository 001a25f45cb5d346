//! The timer: once, periodic, and by the time-stamp counter.

use core::sync::atomic::Ordering::SeqCst;

use pv_guest_kernel::arch::instr;
use pv_guest_kernel::conf::{self, Test};
use pv_guest_kernel::println;
use pv_guest_kernel::xen::identity;

use crate::handlers::{WHEN, expect, seen, wait_for};
use crate::registers::{DEADLINE, MASKED, PERIODIC, TSC_DEADLINE, open, read, reg, set_cr8, to_self, write};

/// The period in counts of 10 ns, by what both hypervisors count: 20 ms, so that a slow computer has time for more than its
/// interrupts.
const PERIOD: u32 = 2_000_000;

pub fn timer(t: &mut Test) {
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
    write(reg::INITIAL, PERIOD);
    t.check("a periodic timer", wait_for(5));
    let (list, count) = seen();
    t.check("its vector", list.iter().take(count).all(|vector| *vector == 0x61));
    if identity().is_xenolith() {
        held_back(t);
    }
    write(reg::INITIAL, 0);
    t.equal("it is stopped", read(reg::CURRENT), 0);
    // It may have come once more between the last look and its end.
    open();
    while read(reg::IRR + 3) != 0 {
        open();
    }
    seen();
    if identity().is_xenolith() {
        masked(t);
    }
}

/// It goes on while its vector is held back by the priority, and comes once then. Only here: see `priorities`.
fn held_back(t: &mut Test) {
    set_cr8(15);
    instr::sti();
    conf::wait_for(|| read(reg::IRR + 3) != 0);
    let (_, held) = seen();
    instr::cli();
    write(reg::TIMER, MASKED | PERIODIC | 0x61);
    let requested = read(reg::IRR + 3);
    instr::sti();
    set_cr8(0);
    instr::cli();
    t.equal("one that is held back is requested", (held, requested), (0, 1 << 1));
    expect(t, "and comes when it may", &[0x61]);
}

/// With interrupts off, one waits while the machine's own timer interrupts this CPU for the second: neither comes.
fn masked(t: &mut Test) {
    write(reg::TIMER, 0x51);
    to_self(0x61);
    write(reg::INITIAL, 5_000_000);
    conf::wait_for(|| read(reg::IRR + 2) & 1 << 17 != 0);
    expect(t, "none comes while interrupts are off, whatever the machine takes", &[]);
    t.equal("both are requested", (read(reg::IRR + 2), read(reg::IRR + 3)), (1 << 17, 1 << 1));
    open();
    while read(reg::IRR + 2) != 0 {
        open();
    }
    expect(t, "each once", &[0x61, 0x51]);
}

pub fn deadline(t: &mut Test) {
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
    // Xen takes one that is so far away for one in the past.
    let far = if identity().is_xenolith() { u64::MAX } else { instr::rdtsc() + (1 << 50) };
    // SAFETY: as above; it is taken back.
    unsafe {
        instr::wrmsr(DEADLINE, far);
        instr::wrmsr(DEADLINE, 0);
    }
    write(reg::TIMER, MASKED);
}
