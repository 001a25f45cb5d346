//! The kernel: an application guest or a driver domain, as `role=` on the command line says.
#![no_std]
#![no_main]

extern crate alloc;

use pv_guest_kernel::{main, println};

main!(run);

async fn run() -> i32 {
    println!("hello");
    pv_guest_kernel::task::sleep(core::time::Duration::from_millis(100)).await;
    println!("hello again");
    0
}
