//! A domain that never answers: it spins with upcalls masked until somebody destroys it. With the word `busy` on its
//! command line it does not even pause, so that nothing ever takes it for one that waits.
#![no_std]
#![no_main]

extern crate alloc;

use pv_guest_kernel::arch::instr;
use pv_guest_kernel::{cmdline, println};

pv_guest_kernel::main!(run);

async fn run() -> i32 {
    // To be heard takes time, and a console that somebody serves.
    if cmdline::flag("busy") {
        instr::cli();
        loop {
            core::hint::black_box(());
        }
    }
    println!("spinning with interrupts off");
    pv_guest_kernel::console::flush();
    instr::cli();
    loop {
        core::hint::spin_loop();
    }
}
