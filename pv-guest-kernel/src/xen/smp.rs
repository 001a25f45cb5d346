//! Starting the other vCPUs.
//!
//! A vCPU is given its first registers in 64-bit mode (VCPUOP_initialise), so it needs no code in low memory: it starts
//! at `ap_start` on its own stack, with the tables of vCPU 0 and RDI = its `PerCpu`.

use core::sync::atomic::Ordering;
use core::time::Duration;

use pv_abi::vcpu::{HvmContext, HvmRegisters, HvmX86_64};
use pv_abi::{Errno, VcpuId};

use super::{clock, events, hv, shared, stub};
use crate::arch::cpu::{self, MAX_CPUS, PerCpu};
use crate::arch::{entry, instr, stack};
use crate::task;

/// Gives vCPU `id` its first registers.
pub fn initialise(id: u32, rip: u64, rsp: u64, rdi: u64) -> Result<(), Errno> {
    let efer = instr::rdmsr(0xc000_0080);
    let context = HvmContext::new(&HvmRegisters::X86_64(HvmX86_64 {
        rip,
        rsp,
        rdi,
        rflags: 2,
        cr0: instr::cr0(),
        cr3: instr::cr3(),
        cr4: instr::cr4(),
        efer,
        ..HvmX86_64::default()
    }));
    stub::vcpu_initialise(hv(), VcpuId::new(id), &context).map(|_| ())
}

/// Starts every vCPU this domain has; returns when they run tasks, or are given up.
pub async fn start_all() {
    let before = clock::now();
    let mut started = 1;
    for id in 1..MAX_CPUS as u32 {
        match stub::vcpu_is_up(hv(), VcpuId::new(id)) {
            Err(_) => break,
            Ok(0) => {}
            Ok(_) => continue,
        }
        let cpu = PerCpu::create(id);
        shared::register_vcpu_info(cpu);
        events::init_cpu(cpu, events::abi());
        let result = initialise(
            id,
            entry::ap_start as *const () as u64,
            stack::allocate() - 8,
            &raw const *cpu as u64,
        )
        .and_then(|()| stub::vcpu_up(hv(), VcpuId::new(id)).map(|_| ()));
        match result {
            Ok(()) => started += 1,
            Err(e) => log::error!("vCPU {id} does not start: {e}"),
        }
    }
    for cpu in cpu::all() {
        let mut tries = 0;
        while !cpu.online.load(Ordering::Acquire) && tries < 1000 {
            task::sleep(Duration::from_millis(1 + tries / 50)).await;
            tries += 1;
        }
        if !cpu.online.load(Ordering::Acquire) {
            log::error!("vCPU {} was started and says nothing", cpu.id);
        }
    }
    if started > 1 {
        log::info!("{started} vCPUs up in {} us", (clock::now() - before) / 1000);
    }
}

/// First Rust code of a secondary vCPU.
#[unsafe(no_mangle)]
extern "C" fn ap_rust(cpu: &'static PerCpu) -> ! {
    cpu.install();
    events::init_cpu_ports(cpu);
    cpu.online.store(true, Ordering::Release);
    instr::sti();
    task::executor::run_forever()
}
