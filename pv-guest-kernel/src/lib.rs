//! A small kernel for paravirtual guests and driver domains, written against the Xen ABI (PVH).
//!
//! The library is everything; `main.rs` chooses the role, and the binaries in `bin/` are test domains of one facility
//! each. A binary names its task with [`main!`], which the kernel runs once memory, traps, events and timers work.
#![no_std]

extern crate alloc;

pub mod arch;
pub mod bench;
pub mod block;
pub mod boot;
pub mod cmdline;
pub mod conf;
pub mod console;
pub mod data;
pub mod dev;
pub mod figures;
pub mod fs;
pub mod logger;
pub mod mm;
pub mod net;
pub mod role;
pub mod shell;
pub mod sync;
pub mod task;
pub mod xen;

pub use boot::Options;

/// Names the task that the kernel runs, and how it is to be started.
///
/// `main!(function)` or `main!(function, OPTIONS)`; the function is `async fn() -> i32` and returns the exit status.
#[macro_export]
macro_rules! main {
    ($function:path) => {
        $crate::main!($function, $crate::Options::DEFAULT);
    };
    ($function:path, $options:expr) => {
        #[unsafe(no_mangle)]
        extern "Rust" fn kernel_options() -> $crate::Options {
            $options
        }

        #[unsafe(no_mangle)]
        extern "Rust" fn kernel_main() -> $crate::boot::MainTask {
            ::alloc::boxed::Box::pin($function())
        }
    };
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::enter_panic();
    println!("\nPANIC {info}");
    console::flush();
    xen::power::crash()
}
