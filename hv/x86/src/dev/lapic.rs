//! The local APIC of each CPU, through its page of registers or, where the CPU has it, as x2APIC through
//! MSRs.
//!
//! Registers by their offsets in the page: AMD64 manual volume 2, section 16.3; as MSRs 800h + offset / 16:
//! section 16.11.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use hv_core::hw::{ApicId, TscTicks};

use crate::cpu::io::{rdmsr, rdtsc, wrmsr};
use crate::cpu::percpu::{PerCpu, pending};
use crate::cpu::{features, traps};
use crate::paging;

const APIC_BASE: u32 = 0x1b;
const TSC_DEADLINE: u32 = 0x6e0;

mod register {
    pub const ID: u32 = 0x20;
    pub const END_OF_INTERRUPT: u32 = 0xb0;
    pub const SPURIOUS: u32 = 0xf0;
    pub const COMMAND: u32 = 0x300;
    pub const COMMAND_HIGH: u32 = 0x310;
    pub const TIMER: u32 = 0x320;
    pub const LINT0: u32 = 0x350;
    pub const LINT1: u32 = 0x360;
    pub const ERROR: u32 = 0x370;
    pub const TIMER_COUNT: u32 = 0x380;
    pub const TIMER_CURRENT: u32 = 0x390;
    pub const TIMER_DIVIDE: u32 = 0x3e0;
}

const MASKED: u32 = 1 << 16;
/// The timer's mode in which it compares with the time-stamp counter.
const MODE_DEADLINE: u32 = 2 << 17;
/// Delivery modes and level of the interrupt command register.
const COMMAND_NMI: u32 = 4 << 8 | 1 << 14;
const COMMAND_INIT: u32 = 5 << 8 | 1 << 14;
const COMMAND_STARTUP: u32 = 6 << 8 | 1 << 14;
/// To all CPUs but this one.
const ALL_OTHERS: u32 = 3 << 18;
const DELIVERY_PENDING: u32 = 1 << 12;

static X2APIC: AtomicBool = AtomicBool::new(false);
static PAGE: AtomicUsize = AtomicUsize::new(0);
/// Timer counts per tick of the time-stamp counter, times 2^32; 0 means that the timer takes deadlines.
static COUNTS_PER_TICK: AtomicU64 = AtomicU64::new(0);

fn read(register: u32) -> u32 {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: the CPU is in x2APIC mode, and only registers that exist in it are read.
        unsafe { rdmsr(0x800 + register / 16) as u32 }
    } else {
        let pointer = (PAGE.load(Ordering::Relaxed) + register as usize) as *const u32;
        // SAFETY: `init` mapped the page of registers.
        unsafe { pointer.read_volatile() }
    }
}

fn write(register: u32, value: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: the CPU is in x2APIC mode; the local APIC is the hypervisor's own.
        unsafe { wrmsr(0x800 + register / 16, value.into()) }
    } else {
        let pointer = (PAGE.load(Ordering::Relaxed) + register as usize) as *mut u32;
        // SAFETY: `init` mapped the page of registers.
        unsafe { pointer.write_volatile(value) }
    }
}

/// Finds the local APIC and decides how it is used. Once, on the boot processor.
pub fn init() {
    if features::x2apic() {
        X2APIC.store(true, Ordering::Relaxed);
    } else {
        // SAFETY: every CPU with a local APIC has the MSR.
        let base = unsafe { rdmsr(APIC_BASE) } & 0x000f_ffff_ffff_f000;
        PAGE.store(paging::map_device(base, 0x1000) as usize, Ordering::Relaxed);
    }
}

/// The identifier of this CPU's local APIC, by CPUID: before the local APIC is set up.
pub fn initial_id() -> ApicId {
    if features::x2apic() && features::leaf(0xb).ebx != 0 {
        ApicId::new(features::leaf(0xb).edx)
    } else {
        ApicId::new(features::leaf(1).ebx >> 24)
    }
}

/// Enables this CPU's local APIC with all its local interrupts masked but NMI.
pub fn set_up() {
    // SAFETY: every CPU with a local APIC has the MSR; bit 11 enables it, bit 10 is x2APIC mode.
    unsafe {
        let base = rdmsr(APIC_BASE) | 1 << 11;
        wrmsr(APIC_BASE, base);
        if X2APIC.load(Ordering::Relaxed) {
            wrmsr(APIC_BASE, base | 1 << 10);
        }
    }
    write(register::SPURIOUS, 1 << 8 | u32::from(traps::SPURIOUS));
    write(register::LINT0, MASKED);
    write(register::LINT1, COMMAND_NMI & 0x700);
    write(register::ERROR, MASKED);
    write(register::TIMER_DIVIDE, 0b1011);
    set_timer_mode();
}

fn set_timer_mode() {
    let mode = if COUNTS_PER_TICK.load(Ordering::Relaxed) == 0 { MODE_DEADLINE } else { 0 };
    write(register::TIMER, u32::from(traps::TIMER) | mode);
}

/// A running measurement of the timer against the time-stamp counter.
#[must_use]
pub struct Calibration {
    ticks: u64,
    count: u32,
}

/// Starts to measure the timer, if it cannot take deadlines itself. On the boot processor, before others run.
pub fn begin_calibration() -> Option<Calibration> {
    if features::tsc_deadline() {
        return None;
    }
    write(register::TIMER, MASKED);
    write(register::TIMER_COUNT, u32::MAX);
    let ticks = rdtsc();
    Some(Calibration { ticks, count: read(register::TIMER_CURRENT) })
}

impl Calibration {
    /// Ends the measurement, at least a millisecond and at most a second later.
    pub fn end(self) {
        let counts = u64::from(self.count - read(register::TIMER_CURRENT));
        let ticks = rdtsc() - self.ticks;
        write(register::TIMER_COUNT, 0);
        COUNTS_PER_TICK.store(((counts << 32) / ticks).max(1), Ordering::Relaxed);
        set_timer_mode();
    }
}

/// Acknowledges the interrupt being handled.
pub fn end_of_interrupt() {
    write(register::END_OF_INTERRUPT, 0);
}

/// Sets this CPU's timer to `deadline`, or stops it.
pub fn arm(cpu: &PerCpu, deadline: Option<TscTicks>) {
    let wanted = deadline.map_or(0, |deadline| deadline.raw().max(1));
    if cpu.deadline.swap(wanted, Ordering::Relaxed) == wanted {
        return;
    }
    let rate = COUNTS_PER_TICK.load(Ordering::Relaxed);
    if rate == 0 {
        // SAFETY: the CPU has the MSR, since the timer is in this mode.
        unsafe { wrmsr(TSC_DEADLINE, wanted) };
        return;
    }
    let counts = match deadline {
        None => 0,
        Some(deadline) => {
            let distance = deadline.raw().saturating_sub(rdtsc());
            // Rounded up, and never 0, which would stop the timer. What is too far away for the counter
            // interrupts early: the owner asks again.
            let counts = (u128::from(distance) * u128::from(rate)) >> 32;
            (counts + 1).min(u128::from(u32::MAX)) as u32
        }
    };
    write(register::TIMER_COUNT, counts);
}

fn command(target: Option<ApicId>, low: u32) {
    let target = target.map_or(0, ApicId::raw);
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: the CPU is in x2APIC mode. Earlier stores must be seen before the interrupt: the fence
        // orders them before the MSR.
        unsafe {
            core::arch::x86_64::_mm_mfence();
            wrmsr(0x800 + register::COMMAND / 16, u64::from(target) << 32 | u64::from(low));
        }
    } else {
        while read(register::COMMAND) & DELIVERY_PENDING != 0 {
            core::hint::spin_loop();
        }
        write(register::COMMAND_HIGH, target << 24);
        write(register::COMMAND, low);
    }
}

/// Makes another CPU see a kick; nothing is sent while an earlier one is not yet seen.
pub fn kick(cpu: &PerCpu) {
    if cpu.set_pending(pending::KICK) & pending::KICK == 0 && !core::ptr::eq(cpu, PerCpu::current()) {
        command(Some(cpu.apic()), 1 << 14 | u32::from(traps::KICK));
    }
}

/// Makes another CPU take the requests to the virtual CPU that it runs.
pub fn tell(cpu: &PerCpu) {
    command(Some(cpu.apic()), 1 << 14 | u32::from(traps::REQUESTS));
}

/// Resets another CPU, which then waits for a start-up IPI.
pub fn send_init(target: ApicId) {
    command(Some(target), COMMAND_INIT);
}

/// Starts another CPU in real mode in the given page.
pub fn send_startup(target: ApicId, page: u8) {
    command(Some(target), COMMAND_STARTUP | u32::from(page));
}

/// Stops all other CPUs: they halt at the NMI if [`traps::STOPPING`] is set.
pub fn stop_others() {
    if PAGE.load(Ordering::Relaxed) != 0 || X2APIC.load(Ordering::Relaxed) {
        command(None, COMMAND_NMI | ALL_OTHERS);
    }
}

/// The identifier that this CPU's local APIC itself tells.
pub fn id() -> ApicId {
    let raw = read(register::ID);
    ApicId::new(if X2APIC.load(Ordering::Relaxed) { raw } else { raw >> 24 })
}
