//! Console output: long lines, every byte, more than the ring holds.
#![no_std]
#![no_main]

use pv_abi::Errno;
use pv_abi::call::number;
use pv_guest_kernel::conf::{Outcome, Test, raw};
use pv_guest_kernel::{console, print, println};

pv_guest_kernel::conformance!(run);

async fn run(t: &mut Test) -> Outcome {
    println!("a line");
    for i in 0..200 {
        print!("{i} ");
    }
    println!();
    for i in 0..100 {
        println!("line {i:3} of more text than the ring of the console holds at a time {:>40}", i);
    }
    console::flush();
    t.check("everything was taken", true);
    // The hypervisor's own console is not ours to read, and refuses bad pointers.
    let bad = raw(number::CONSOLE_IO, [number::CONSOLE_WRITE, 100, 0x1000, 0, 0]);
    t.check("a text nowhere", matches!(bad, Err(Errno::EFAULT | Errno::EPERM | Errno::ENOSYS)));
    let bad = raw(number::CONSOLE_IO, [number::CONSOLE_READ, 100, 0x1000, 0, 0]);
    t.check("a buffer nowhere", bad.is_err() || bad == Ok(0));
    let bad = raw(number::CONSOLE_IO, [7, 0, 0, 0, 0]);
    t.check("an operation that is none", bad.is_err());
    Ok(())
}
