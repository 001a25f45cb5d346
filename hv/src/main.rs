//! The Xenolith hypervisor: chooses the virtualization extension, builds the system, runs it.

#![no_std]
#![no_main]

use hv_x86::machine::Machine;

/// Called by `hv_x86` once memory, this CPU and the devices are up.
#[unsafe(no_mangle)]
fn xenolith_main(machine: Machine) -> ! {
    machine.start_cpus(None);
    hv_x86::boot::fail::cannot_start(format_args!("the boot loader gave no boot bundle"))
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    hv_x86::platform::epitaph(info)
}
