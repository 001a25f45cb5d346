//! I/O ports: a guest has none. Reads and writes fault, and nothing else happens.
#![no_std]
#![no_main]

use pv_guest_kernel::arch::probe::{self, GENERAL_PROTECTION};
use pv_guest_kernel::conf::{Outcome, Test, skip};
use pv_guest_kernel::xen::identity;

pv_guest_kernel::conformance!(run);

async fn run(t: &mut Test) -> Outcome {
    if identity().domain.is_some_and(|d| d.raw() == 0) {
        return Err(skip("the first domain may have ports"));
    }
    // Timer, keyboard, CMOS, PCI, serial, debug exit, ACPI, Bochs's own, and some of nobody's.
    for port in [
        0x20u16, 0x40, 0x60, 0x64, 0x70, 0x71, 0x80, 0x92, 0xf4, 0x1f0, 0x3f8, 0x604, 0xcf8, 0xcf9, 0xcfc,
        0x8900, 0xb004, 0xffff,
    ] {
        let read = probe::inb(port);
        let denied = match read {
            Err(fault) => fault.vector == GENERAL_PROTECTION,
            // Nothing there is as good an answer as a fault.
            Ok(value) => value == 0xff,
        };
        t.check("a read is denied", denied);
        // SAFETY: if the port exists at all, it is not ours: that the write has no effect is what is tested.
        let write = unsafe { probe::outb(port, 0) };
        t.check("a write is denied", write.is_ok() || write.is_err_and(|f| f.vector == GENERAL_PROTECTION));
    }
    Ok(())
}
