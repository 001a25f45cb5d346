//! Thin wrappers over single instructions.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, _rdtsc};

/// The time stamp counter.
#[inline(always)]
pub fn rdtsc() -> u64 {
    // SAFETY: RDTSC has no preconditions at privilege level 0.
    unsafe { _rdtsc() }
}

/// One CPUID leaf as EAX, EBX, ECX, EDX.
#[inline]
pub fn cpuid(leaf: u32, sub: u32) -> [u32; 4] {
    let r = __cpuid_count(leaf, sub);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// Are maskable interrupts (event upcalls) delivered?
#[inline(always)]
pub fn interrupts_on() -> bool {
    let flags: u64;
    // SAFETY: reads RFLAGS through the stack; the kernel is built without a red zone.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(nomem, preserves_flags)) };
    flags & 0x200 != 0
}

/// Masks event upcalls on this vCPU.
#[inline(always)]
pub fn cli() {
    // SAFETY: only delays upcalls. Not `nomem`: memory accesses must not move across it.
    unsafe { asm!("cli", options(nostack, preserves_flags)) };
}

/// Lets event upcalls in on this vCPU.
#[inline(always)]
pub fn sti() {
    // SAFETY: the callers are outside every interrupt-safe lock. Not `nomem`, as above.
    unsafe { asm!("sti", options(nostack, preserves_flags)) };
}

/// Stops this vCPU for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: nothing runs on this vCPU afterwards.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Reads a model-specific register that is known to exist.
#[inline]
pub fn rdmsr(msr: u32) -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: reading has no effect on memory; an absent register faults and is reported.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") lo, out("edx") hi, options(nomem, nostack, preserves_flags))
    };
    u64::from(hi) << 32 | u64::from(lo)
}

/// Writes a model-specific register.
///
/// # Safety
/// The value must be one the rest of the kernel can live with (segment bases, EFER, PAT).
#[inline]
pub unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: by the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// The page-table root.
#[inline]
pub fn cr3() -> u64 {
    let v: u64;
    // SAFETY: reading CR3 has no effect.
    unsafe { asm!("mov {}, cr3", out(reg) v, options(nomem, nostack, preserves_flags)) };
    v
}

/// Control register 0.
#[inline]
pub fn cr0() -> u64 {
    let v: u64;
    // SAFETY: reading CR0 has no effect.
    unsafe { asm!("mov {}, cr0", out(reg) v, options(nomem, nostack, preserves_flags)) };
    v
}

/// Control register 4.
#[inline]
pub fn cr4() -> u64 {
    let v: u64;
    // SAFETY: reading CR4 has no effect.
    unsafe { asm!("mov {}, cr4", out(reg) v, options(nomem, nostack, preserves_flags)) };
    v
}

/// Sets bits of control register 4.
///
/// # Safety
/// The bits must name features the processor has and the kernel is prepared for.
#[inline]
pub unsafe fn cr4_set(bits: u64) {
    // SAFETY: by the caller's promise.
    unsafe { asm!("mov cr4, {}", in(reg) cr4() | bits, options(nostack, preserves_flags)) };
}

/// The address of the last page fault.
#[inline]
pub fn cr2() -> u64 {
    let v: u64;
    // SAFETY: reading CR2 has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) v, options(nomem, nostack, preserves_flags)) };
    v
}

/// Writes a byte to an I/O port.
///
/// # Safety
/// The port must belong to a device this domain owns.
#[inline]
pub unsafe fn outb(port: u16, value: u8) {
    // SAFETY: by the caller's promise.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
}
