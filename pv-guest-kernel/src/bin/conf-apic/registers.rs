//! The registers, through memory or as MSRs, and what is done to them most.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};

use pv_guest_kernel::arch::{instr, probe};

pub const BASE: u32 = 0x1b;
pub const DEADLINE: u32 = 0x6e0;
pub const PAGE: u64 = 0xfee0_0000;
/// Registers by their offset in the page divided by 16: also the number behind MSR 800h.
pub mod reg {
    pub const ID: u32 = 0x02;
    pub const VERSION: u32 = 0x03;
    pub const TPR: u32 = 0x08;
    pub const PPR: u32 = 0x0a;
    pub const EOI: u32 = 0x0b;
    pub const SVR: u32 = 0x0f;
    pub const ISR: u32 = 0x10;
    pub const IRR: u32 = 0x20;
    pub const ESR: u32 = 0x28;
    pub const ICR: u32 = 0x30;
    pub const ICR_HIGH: u32 = 0x31;
    pub const TIMER: u32 = 0x32;
    pub const ERROR: u32 = 0x37;
    pub const INITIAL: u32 = 0x38;
    pub const CURRENT: u32 = 0x39;
    pub const DIVIDE: u32 = 0x3e;
    pub const SELF: u32 = 0x3f;
}
pub const MASKED: u32 = 1 << 16;
pub const PERIODIC: u32 = 1 << 17;
pub const TSC_DEADLINE: u32 = 2 << 17;
pub const ASSERT: u32 = 1 << 14;
pub const TO_SELF: u32 = 1 << 18;

/// Whether the registers are reached as MSRs.
pub static X2APIC: AtomicBool = AtomicBool::new(false);

pub fn write(register: u32, value: u32) {
    if X2APIC.load(SeqCst) {
        // SAFETY: the local APIC is this test's; a fault is a finding, which the checks show.
        let _ = unsafe { probe::wrmsr(0x800 + register, value.into()) };
    } else {
        let at: *mut u32 = pv_guest_kernel::mm::ptr(PAGE + u64::from(register) * 16);
        // SAFETY: the page of registers is in the direct map, and this test's.
        unsafe { at.write_volatile(value) };
    }
}

pub fn read(register: u32) -> u32 {
    if X2APIC.load(SeqCst) {
        probe::rdmsr(0x800 + register).map_or(u32::MAX, |value| value as u32)
    } else {
        let at: *const u32 = pv_guest_kernel::mm::ptr(PAGE + u64::from(register) * 16);
        // SAFETY: as for `write`.
        unsafe { at.read_volatile() }
    }
}

pub fn to_self(vector: u8) {
    write(reg::ICR, TO_SELF | u32::from(vector));
}

/// The identifier of this vCPU's, as CPUID tells it.
pub fn own_id() -> u32 {
    instr::cpuid(1, 0)[1] >> 24
}

/// Sends this very vCPU a message, named by its identifier: the lower half of the ICR.
pub fn send_self(message: u32) {
    if X2APIC.load(SeqCst) {
        // SAFETY: as for `write`.
        let _ = unsafe { probe::wrmsr(0x800 + reg::ICR, u64::from(own_id()) << 32 | u64::from(message)) };
    } else {
        write(reg::ICR_HIGH, own_id() << 24);
        write(reg::ICR, message);
    }
}

pub fn send_nmi() {
    send_self(4 << 8 | ASSERT);
}

pub fn cr8() -> u64 {
    let value: u64;
    // SAFETY: reading CR8 changes nothing.
    unsafe { asm!("mov {}, cr8", out(reg) value, options(nomem, nostack)) };
    value
}

/// Sets CR8, and gives what it lets in two instructions to come.
pub fn set_cr8(value: u64) {
    // SAFETY: only interrupts of this test are held back.
    unsafe { asm!("mov cr8, {}", "nop", "nop", in(reg) value, options(nostack)) };
}

/// Lets interrupts in for two instructions.
pub fn open() {
    // SAFETY: the handlers note and acknowledge.
    unsafe { asm!("sti", "nop", "nop", "cli", options(nostack)) };
}
