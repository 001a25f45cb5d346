//! Port and MSR instructions.

use core::arch::asm;

/// Reads a byte from an I/O port.
///
/// # Safety
///
/// Reading the port must not disturb a device that someone else drives.
pub unsafe fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: by this function's contract.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads a word from an I/O port.
///
/// # Safety
///
/// As for [`in8`].
pub unsafe fn in16(port: u16) -> u16 {
    let value;
    // SAFETY: by this function's contract.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads a double word from an I/O port.
///
/// # Safety
///
/// As for [`in8`].
pub unsafe fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: by this function's contract.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes a byte to an I/O port.
///
/// # Safety
///
/// Writing to the port must not break an invariant of memory or of a device that someone else drives.
pub unsafe fn out8(port: u16, value: u8) {
    // SAFETY: by this function's contract. (Not `nomem`: a device may act on memory.)
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
}

/// Writes a word to an I/O port.
///
/// # Safety
///
/// As for [`out8`].
pub unsafe fn out16(port: u16, value: u16) {
    // SAFETY: by this function's contract.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags)) };
}

/// Writes a double word to an I/O port.
///
/// # Safety
///
/// As for [`out8`].
pub unsafe fn out32(port: u16, value: u32) {
    // SAFETY: by this function's contract.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) };
}

/// Reads a model-specific register.
///
/// # Safety
///
/// The CPU must have it: otherwise the hypervisor panics with a protection fault.
pub unsafe fn rdmsr(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: by this function's contract.
    unsafe {
        asm!(
            "rdmsr", in("ecx") index, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags)
        )
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
///
/// The CPU must have it and accept the value, and the change must not break what the hypervisor runs on.
pub unsafe fn wrmsr(index: u32, value: u64) {
    // SAFETY: by this function's contract.
    unsafe {
        asm!(
            "wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags)
        );
    }
}

/// The time-stamp counter.
#[inline]
pub fn rdtsc() -> u64 {
    // SAFETY: every 64-bit CPU has the instruction, and CR4.TSD does not matter at CPL 0.
    unsafe { core::arch::x86_64::_rdtsc() }
}
