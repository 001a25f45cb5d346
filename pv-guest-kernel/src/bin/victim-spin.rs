//! A domain that never answers: it spins with upcalls masked until somebody destroys it.
#![no_std]
#![no_main]

extern crate alloc;

use pv_guest_kernel::arch::instr;
use pv_guest_kernel::println;

pv_guest_kernel::main!(run);

async fn run() -> i32 {
    println!("spinning with interrupts off");
    pv_guest_kernel::console::flush();
    instr::cli();
    loop {
        core::hint::spin_loop();
    }
}
