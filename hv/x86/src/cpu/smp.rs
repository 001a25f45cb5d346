//! Start-up of the other CPUs, one after the other, and their way from there into the run loop.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU16, Ordering};

use hv_core::hw::{ApicId, CpuId};

use super::io::rdtsc;
use super::percpu::{MAX_CPUS, PerCpu};
use super::{features, fpu, traps};
use crate::dev::lapic;
use crate::paging;

/// How long a CPU may take to come up, in milliseconds of the time-stamp counter.
const PATIENCE_MS: u64 = 500;

unsafe extern "C" {
    static ap_trampoline: u8;
    static ap_trampoline_end: u8;
    static mut ap_stack: u64;
    static mut ap_root: u64;
}

/// The number of CPUs that are up.
static COUNT: AtomicU16 = AtomicU16::new(1);

/// What all CPUs do once the system is made: a function and its argument, with their types forgotten.
struct Work {
    enter: unsafe fn(*const (), CpuId) -> !,
    argument: *const (),
}

static WORK: AtomicPtr<Work> = AtomicPtr::new(ptr::null_mut());

/// Keeps the page tables of this CPU for the others. Once, on the boot processor.
pub fn keep_root() {
    let root = x86_64::registers::control::Cr3::read_raw().0.start_address().as_u64();
    // SAFETY: no other CPU runs yet.
    unsafe { ptr::write_volatile(&raw mut ap_root, root) };
}

/// How many CPUs are up.
pub fn count() -> u16 {
    COUNT.load(Ordering::Acquire)
}

/// Sets this CPU up: descriptors, traps, local APIC, vector state.
pub fn set_up(cpu: &'static PerCpu) {
    cpu.descriptors.load();
    traps::load();
    fpu::set_up();
    lapic::set_up();
}

/// Starts the CPUs of `apics` in turn, up to `limit` CPUs in all; one that does not answer is left out with a
/// warning. They start in the page at physical address `trampoline`, below 1 MiB, which must be free RAM.
pub fn start_others(apics: &[ApicId], trampoline: u64, tsc_hz: u64, limit: u16) {
    assert!(trampoline < 1 << 20 && paging::is_ram(trampoline), "CPUs cannot start at {trampoline:#x}");
    let own = PerCpu::current().apic();
    let len = &raw const ap_trampoline_end as usize - &raw const ap_trampoline as usize;
    let page = paging::direct_map_ptr(trampoline);
    // SAFETY: the page is RAM below 1 MiB, which is never handed out; the source is in the image.
    unsafe { ptr::copy_nonoverlapping(&raw const ap_trampoline, page, len) };
    let wait_us = |us: u64| {
        let start = rdtsc();
        while rdtsc() - start < tsc_hz * us / 1_000_000 {
            core::hint::spin_loop();
        }
    };
    for apic in apics.iter().copied().filter(|apic| *apic != own) {
        let number = count();
        if number >= limit.min(MAX_CPUS as u16) {
            break;
        }
        let cpu = PerCpu::create(CpuId::new(number), apic);
        // SAFETY: the CPU that reads it is started below, and the one before has answered or is never waited
        // for again: it was sent INIT.
        unsafe { ptr::write_volatile(&raw mut ap_stack, cpu.stack) };
        // INIT, 10 ms, start-up IPI, again after 200 us if there was no answer: Intel's manual volume 3,
        // section 9.4.4.1.
        lapic::send_init(apic);
        wait_us(10_000);
        for _ in 0..2 {
            lapic::send_startup(apic, (trampoline >> 12) as u8);
            let start = rdtsc();
            while !cpu.up.load(Ordering::Acquire) && rdtsc() - start < tsc_hz / 1000 * PATIENCE_MS {
                core::hint::spin_loop();
            }
            if cpu.up.load(Ordering::Acquire) {
                break;
            }
        }
        if cpu.up.load(Ordering::Acquire) {
            COUNT.store(number + 1, Ordering::Release);
        } else {
            log::warn!("the CPU with local APIC {} does not start", apic.raw());
            lapic::send_init(apic);
        }
    }
}

/// The first Rust code of another CPU: sets it up and waits for work. The entry code calls it on the CPU's
/// own stack, with the boot page tables.
pub(crate) extern "C" fn ap_start() -> ! {
    // The stack lies in `STACKS`, which the boot tables do not map: the entry code activated the real ones
    // before it switched to it.
    let cpu = PerCpu::current();
    set_up(cpu);
    cpu.up.store(true, Ordering::Release);
    loop {
        let work = WORK.load(Ordering::Acquire);
        // SAFETY: null, or leaked by `run_on_all`.
        if let Some(work) = unsafe { work.as_ref() } {
            // SAFETY: `run_on_all` paired the function with an argument of its type.
            unsafe { (work.enter)(work.argument, cpu.id()) }
        }
        core::hint::spin_loop();
    }
}

/// Runs `enter` on every CPU, on the others first.
pub fn run_on_all<T: Sync + 'static>(argument: &'static T, enter: fn(&'static T, CpuId) -> !) -> ! {
    struct Pair<T: 'static>(&'static T, fn(&'static T, CpuId) -> !);
    unsafe fn erased<T: Sync + 'static>(pair: *const (), cpu: CpuId) -> ! {
        // SAFETY: `run_on_all` stored a leaked `Pair<T>` of this very `T`.
        let pair = unsafe { &*pair.cast::<Pair<T>>() };
        (pair.1)(pair.0, cpu)
    }
    let pair = alloc::boxed::Box::leak(alloc::boxed::Box::new(Pair(argument, enter)));
    let work = Work { enter: erased::<T>, argument: ptr::from_ref(pair).cast() };
    WORK.store(alloc::boxed::Box::leak(alloc::boxed::Box::new(work)), Ordering::Release);
    enter(argument, PerCpu::current().id())
}

/// Calls `then` on the stack of `cpu`, whose CPU executes this.
pub fn leave_boot_stack(cpu: &'static PerCpu, then: extern "C" fn() -> !) -> ! {
    // SAFETY: nothing on the old stack is used again, and the new one is this CPU's own.
    unsafe {
        core::arch::asm!(
            "mov rsp, {stack}", "xor ebp, ebp", "call {then}", "ud2", stack = in(reg) cpu.stack,
            then = in(reg) then, options(noreturn)
        );
    }
}

/// Whether what this CPU has matches what the image needs, in words.
pub fn missing() -> Option<&'static str> {
    (features::leaf(1).edx & 1 << 9 == 0).then_some("the CPU has no local APIC")
}
