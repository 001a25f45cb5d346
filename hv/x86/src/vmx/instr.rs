//! The instructions of VMX, with their results checked (Intel SDM volume 3, chapter 31).
//!
//! UNSAFETY: assembler. Each function says which state of the processor it needs.

use core::arch::asm;

use super::failure;
use super::field::{self, Field};

/// Why a VMX instruction failed (section 31.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failed {
    /// VMfailInvalid: there is no current control structure.
    Invalid,
    /// VMfailValid: the VM-instruction error field of the current control structure has this number.
    Valid(u32),
}

impl core::fmt::Display for Failed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Invalid => f.write_str("no control structure is current, or the operand is not one"),
            Self::Valid(number) => write!(f, "{} (error {number})", failure::instruction_error(*number)),
        }
    }
}

/// Turns the two flags that VMX instructions set into a result.
fn check(carry: u8, zero: u8) -> Result<(), Failed> {
    if carry != 0 {
        Err(Failed::Invalid)
    } else if zero != 0 {
        Err(Failed::Valid(try_read(field::INSTRUCTION_ERROR).map_or(0, |error| error as u32)))
    } else {
        Ok(())
    }
}

macro_rules! on_address {
    ($(#[$doc:meta])* $name:ident, $mnemonic:literal) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// What the instruction says.
        ///
        /// # Safety
        /// CR4.VMXE must be set; `page` must be the machine address of a page that the processor may use for this
        /// purpose until it is told otherwise.
        pub unsafe fn $name(page: u64) -> Result<(), Failed> {
            let (carry, zero): (u8, u8);
            // SAFETY: by the caller's promise; the operand is a 64-bit word in memory.
            unsafe {
                asm!(
                    concat!($mnemonic, " qword ptr [{}]"), "setc {}", "setz {}",
                    in(reg) &raw const page, lateout(reg_byte) carry, lateout(reg_byte) zero,
                    options(nostack)
                );
            }
            check(carry, zero)
        }
    };
}

on_address!(
    /// Enters VMX operation, with `page` as the VMXON region.
    vmxon, "vmxon"
);
on_address!(
    /// Writes a control structure back to memory and makes it clear.
    vmclear, "vmclear"
);
on_address!(
    /// Makes a control structure current.
    vmptrld, "vmptrld"
);

fn try_read(field: Field) -> Option<u64> {
    let value: u64;
    let failed: u8;
    // SAFETY: VMREAD changes nothing but its destination and the flags; in VMX operation it does not fault.
    unsafe {
        asm!("vmread {}, {}", "setbe {}", lateout(reg) value, in(reg) field.encoding(), lateout(reg_byte) failed, options(nostack));
    }
    (failed == 0).then_some(value)
}

/// Reads a field of the current control structure. Every field read here exists on every processor that is accepted.
#[inline(always)]
pub fn read(field: Field) -> u64 {
    let value: u64;
    // SAFETY: VMREAD changes nothing but its destination and the flags; a control structure is current. Where it fails,
    // a function that does not return is called, out of the way.
    unsafe {
        asm!(
            "vmread {value}, {field}", "jbe 2f",
            ".pushsection .text.unlikely, \"ax\", @progbits", "2:", "mov rdi, {field}", "call {refused}", ".popsection",
            value = out(reg) value, field = in(reg) field.encoding(), refused = sym read_refused
        );
    }
    value
}

/// Writes a field of the current control structure.
#[inline(always)]
pub fn write(field: Field, value: u64) {
    // SAFETY: a control structure is current, and belongs to the caller; the values are checked where they are made. Where
    // it fails, a function that does not return is called, out of the way.
    unsafe {
        asm!(
            "vmwrite {field}, {value}", "jbe 2f",
            ".pushsection .text.unlikely, \"ax\", @progbits", "2:", "mov rdi, {field}", "call {refused}", ".popsection",
            value = in(reg) value, field = in(reg) field.encoding(), refused = sym write_refused
        );
    }
}

extern "sysv64" fn read_refused(field: u64) -> ! {
    refused("VMREAD", field)
}

extern "sysv64" fn write_refused(field: u64) -> ! {
    refused("VMWRITE", field)
}

#[cold]
fn refused(instruction: &str, field: u64) -> ! {
    let error = try_read(field::INSTRUCTION_ERROR).unwrap_or(0);
    panic!(
        "{instruction} of {} ({field:#x}): {}",
        field::name_of(field),
        failure::instruction_error(error as u32)
    )
}

/// The number of the last VM-instruction error.
pub fn instruction_error() -> u32 {
    try_read(field::INSTRUCTION_ERROR).unwrap_or(0) as u32
}

/// Descriptor of INVEPT and INVVPID.
#[repr(C, align(16))]
struct Operand([u64; 2]);

/// INVEPT of one context (type 1): translations made through this EPT pointer.
pub fn invept_context(pointer: u64) -> Result<(), Failed> {
    invept(1, pointer)
}

/// INVEPT of all contexts (type 2).
pub fn invept_all() -> Result<(), Failed> {
    invept(2, 0)
}

fn invept(kind: u64, pointer: u64) -> Result<(), Failed> {
    let operand = Operand([pointer, 0]);
    let (carry, zero): (u8, u8);
    // SAFETY: forgetting translations is always allowed; the CPU is in VMX operation and has INVEPT (probed).
    unsafe {
        asm!("invept {}, [{}]", "setc {}", "setz {}", in(reg) kind, in(reg) &raw const operand,
            lateout(reg_byte) carry, lateout(reg_byte) zero, options(nostack));
    }
    check(carry, zero)
}

/// INVVPID of all contexts (type 2).
pub fn invvpid_all() -> Result<(), Failed> {
    let operand = Operand([0, 0]);
    let (carry, zero): (u8, u8);
    // SAFETY: as for `invept`.
    unsafe {
        asm!("invvpid {}, [{}]", "setc {}", "setz {}", in(reg) 2u64, in(reg) &raw const operand,
            lateout(reg_byte) carry, lateout(reg_byte) zero, options(nostack));
    }
    check(carry, zero)
}
