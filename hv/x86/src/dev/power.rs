//! How the machine ends.

use hv_core::hw::PowerAction;
use spin::Once;

use super::acpi::SoftOff;
use super::uart;
use crate::boot::fail::STATUS_PANIC;
use crate::cpu::halt_forever;
use crate::cpu::io::{in8, in16, out8, out16};

/// What the ACPI tables told, once they are read.
struct Ways {
    soft_off: Option<SoftOff>,
    reset: Option<(u16, u8)>,
}

static WAYS: Once<Ways> = Once::new();

/// The port of QEMU's `isa-debug-exit` device, where the command line places it: it ends QEMU with the status
/// `2 * value + 1`.
const DEBUG_EXIT: u16 = 0xf4;
/// The port where Bochs expects the word "Shutdown".
const BOCHS_SHUTDOWN: u16 = 0x8900;

/// Keeps what the ACPI tables told.
pub fn init(soft_off: Option<SoftOff>, reset: Option<(u16, u8)>) {
    WAYS.call_once(|| Ways { soft_off, reset });
}

/// Powers the machine off; halts where there is no way to. Whoever asks for it has said so.
pub fn off(status: u8) -> ! {
    uart::drain();
    // SAFETY: nothing runs after this. A machine without the debug-exit device ignores its port.
    unsafe { out8(DEBUG_EXIT, status) };
    if let Some(soft_off) = WAYS.get().and_then(|ways| ways.soft_off.as_ref()) {
        for (port, sleep_type) in [(soft_off.pm1a, soft_off.type_a), (soft_off.pm1b, soft_off.type_b)] {
            if port != 0 {
                // SLP_TYP is bits 10 to 12 and SLP_EN bit 13 (ACPI 6.5, section 4.8.3.2.1).
                // SAFETY: the ACPI tables say that the port is the power-management control register.
                unsafe { out16(port, in16(port) & !0x3c00 | u16::from(sleep_type) << 10 | 1 << 13) };
            }
        }
    }
    for byte in b"Shutdown" {
        // SAFETY: as for the debug-exit port.
        unsafe { out8(BOCHS_SHUTDOWN, *byte) };
    }
    halt_forever()
}

/// Ends an emulated machine after a panic. A real one halts, so that its last words can be read.
pub fn off_after_panic() -> ! {
    uart::write_unlocked(format_args!("(hv) power off, status {STATUS_PANIC}\n"));
    uart::drain();
    // SAFETY: nothing runs after this. A machine without the debug-exit device ignores its port, and one that
    // is not Bochs the other.
    unsafe {
        out8(DEBUG_EXIT, STATUS_PANIC);
        for byte in b"Shutdown" {
            out8(BOCHS_SHUTDOWN, *byte);
        }
    }
    halt_forever()
}

/// Starts the machine again: the ACPI reset register, the keyboard controller, and at last a triple fault.
pub fn reset() -> ! {
    if let Some((port, value)) = WAYS.get().and_then(|ways| ways.reset) {
        // SAFETY: the ACPI tables say that this resets the machine.
        unsafe { out8(port, value) };
    }
    // SAFETY: the keyboard controller's command FEh pulses the reset line; without interrupt descriptor
    // table, an exception resets the CPU.
    unsafe {
        for _ in 0..1000 {
            if in8(0x64) & 2 == 0 {
                break;
            }
        }
        out8(0x64, 0xfe);
        let nothing = x86_64::structures::DescriptorTablePointer { limit: 0, base: x86_64::VirtAddr::zero() };
        x86_64::instructions::tables::lidt(&nothing);
        core::arch::asm!("ud2", options(noreturn));
    }
}

/// Ends the machine.
pub fn power(action: PowerAction) -> ! {
    match action {
        PowerAction::Off(status) => off(status.min(0x7f) as u8),
        PowerAction::Reset => {
            uart::drain();
            reset()
        }
    }
}
