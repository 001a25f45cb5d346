//! The Xenolith hypervisor: reads the boot bundle, chooses the virtualization extension, builds the system,
//! runs it.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use alloc::vec::Vec;

use hv_core::boot::Bundle;
use hv_core::hw::{Backend, CpuId, HostPhys, Platform};
use hv_core::mem::{FrameTable, RamRange};
use hv_core::system::System;
use hv_x86::boot::fail::cannot_start;
use hv_x86::cpu::smp;
use hv_x86::dev::log as sink;
use hv_x86::machine::{Engine, Machine, Missing};
use hv_x86::platform::Pc;
use hv_x86::svm::Svm;
use hv_x86::vmx::Vmx;
use log::info;
use pv_abi::manifest::Manifest;

/// Called by `hv_x86` once memory, this CPU and the devices are up.
#[unsafe(no_mangle)]
fn xenolith_main(machine: Machine) -> ! {
    sink::set_level(machine.boot.cmdline());
    let archive = machine.bundle().unwrap_or(&[]);
    let bundle = Bundle::parse(archive).unwrap_or_else(|error| cannot_start(format_args!("{error}")));
    let manifest =
        Manifest::parse(bundle.manifest()).unwrap_or_else(|error| cannot_start(format_args!("{error}")));
    sink::set_level(manifest.cmdline());
    let limit = [machine.boot.cmdline(), manifest.cmdline()].into_iter().find_map(cpu_limit);
    // The one place that knows both vendors' names.
    match Svm::probe() {
        Ok(svm) => start(machine, svm, bundle, manifest, limit),
        Err(Missing::Extension) => match Vmx::probe() {
            Ok(vmx) => start(machine, vmx, bundle, manifest, limit),
            Err(missing) => refuse(missing),
        },
        Err(missing) => refuse(missing),
    }
}

/// Says why there is no virtualization extension to use.
fn refuse(missing: Missing) -> ! {
    match missing {
        Missing::Extension => {
            cannot_start(format_args!("the CPU has neither {} nor {}", Svm::NAME, Vmx::NAME))
        }
        Missing::Firmware(reason) | Missing::Feature(reason) => cannot_start(format_args!("{reason}")),
    }
}

/// The number of CPUs to use, from `cpus=` on a command line.
fn cpu_limit(cmdline: &str) -> Option<u16> {
    cmdline
        .split_whitespace()
        .find_map(|word| word.strip_prefix("cpus="))
        .and_then(|number| number.parse().ok())
}

/// Builds the system with the virtualization extension `B` and runs it on all CPUs.
fn start<B: Engine>(
    machine: Machine,
    engine: B,
    bundle: Bundle<'static>,
    manifest: Manifest<'static>,
    limit: Option<u16>,
) -> ! {
    machine.start_cpus(limit);
    let platform = Pc::new(&machine, engine);
    let ranges: Vec<RamRange> = machine
        .free
        .iter()
        .map(|range| RamRange { start: HostPhys::new(range.start), bytes: range.len() })
        .collect();
    let frames = FrameTable::new(platform.memory(), &ranges)
        .unwrap_or_else(|_| cannot_start(format_args!("there is too little memory")));
    info!("{} with {} MiB for domains", B::NAME, frames.free_pages().bytes() >> 20);
    if let Err(reason) = platform.backend().enable() {
        cannot_start(format_args!("{reason}"));
    }
    let system: &'static _ = Box::leak(Box::new(System::new(platform, frames, bundle, manifest)));
    if let Err(error) = hv_core::run::boot(system) {
        cannot_start(format_args!("{error}"));
    }
    smp::run_on_all(system, run)
}

/// Runs virtual CPUs on a CPU.
fn run<B: Engine>(system: &'static System<Pc<B>>, cpu: CpuId) -> ! {
    // The first one has it enabled since before the first domain was made.
    if cpu != CpuId::new(0)
        && let Err(reason) = system.platform.backend().enable()
    {
        panic!("{cpu}: {reason}");
    }
    hv_core::run::cpu(system)
}

/// The end of a hypervisor that found itself to be wrong.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    hv_x86::platform::epitaph(info)
}
