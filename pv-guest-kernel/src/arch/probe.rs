//! Instructions that may fault, as `Result`.
//!
//! Each wrapper lists its instruction in `.extable`; the trap handler then continues behind it with the fault in R11.

use core::arch::asm;

/// An exception that a probed instruction raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The exception's vector.
    pub vector: u8,
    /// Its error code, 0 if it has none.
    pub code: u32,
}

/// #UD.
pub const INVALID_OPCODE: u8 = 6;
/// #GP.
pub const GENERAL_PROTECTION: u8 = 13;
/// #PF.
pub const PAGE_FAULT: u8 = 14;

fn check(r11: u64) -> Result<(), Fault> {
    if r11 >> 63 == 0 { Ok(()) } else { Err(Fault { vector: (r11 >> 32) as u8, code: r11 as u32 }) }
}

macro_rules! probe {
    ($insn:literal, $($operands:tt)*) => {{
        let fault: u64;
        asm!(
            "xor r11d, r11d",
            concat!("2: ", $insn),
            "3:",
            ".pushsection .extable, \"a\", @progbits",
            ".balign 8",
            ".quad 2b, 3b",
            ".popsection",
            out("r11") fault,
            $($operands)*
        );
        check(fault)
    }};
}

/// RDMSR.
pub fn rdmsr(msr: u32) -> Result<u64, Fault> {
    let (lo, hi): (u32, u32);
    // SAFETY: reads only; a fault is caught.
    unsafe { probe!("rdmsr", in("ecx") msr, lateout("eax") lo, lateout("edx") hi)? };
    Ok(u64::from(hi) << 32 | u64::from(lo))
}

/// WRMSR.
///
/// # Safety
/// If the write succeeds, its effect must be one the kernel can live with.
pub unsafe fn wrmsr(msr: u32, value: u64) -> Result<(), Fault> {
    // SAFETY: by the caller's promise; a fault is caught.
    unsafe { probe!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,) }
}

/// IN of one byte.
pub fn inb(port: u16) -> Result<u8, Fault> {
    let v: u8;
    // SAFETY: a read of a port; a fault is caught. Reads with effects are the caller's own affair: the domain is alone.
    unsafe { probe!("in al, dx", in("dx") port, lateout("al") v)? };
    Ok(v)
}

/// OUT of one byte.
///
/// # Safety
/// If it succeeds, the device behind the port must be this domain's.
pub unsafe fn outb(port: u16, value: u8) -> Result<(), Fault> {
    // SAFETY: by the caller's promise; a fault is caught.
    unsafe { probe!("out dx, al", in("dx") port, in("al") value,) }
}

/// A read of eight bytes at a virtual address.
pub fn read(address: u64) -> Result<u64, Fault> {
    let v: u64;
    // SAFETY: reads memory through a register without making a reference; a fault is caught.
    unsafe { probe!("mov {v}, [{a}]", a = in(reg) address, v = lateout(reg) v,)? };
    Ok(v)
}

/// A write of eight bytes at a virtual address.
///
/// # Safety
/// If the address is mapped, nothing else in the kernel may rely on those bytes.
pub unsafe fn write(address: u64, value: u64) -> Result<(), Fault> {
    // SAFETY: by the caller's promise; a fault is caught.
    unsafe { probe!("mov [{a}], {v}", a = in(reg) address, v = in(reg) value,) }
}

/// VMCALL with a number that no hypercall has: which of the two instructions does this processor take?
pub fn vmcall(number: u64) -> Result<i64, Fault> {
    let v: i64;
    // SAFETY: the number is one the hypervisor refuses; a fault is caught.
    unsafe { probe!("vmcall", inlateout("rax") number => v,)? };
    Ok(v)
}

/// VMMCALL, as [`vmcall`].
pub fn vmmcall(number: u64) -> Result<i64, Fault> {
    let v: i64;
    // SAFETY: as for `vmcall`.
    unsafe { probe!("vmmcall", inlateout("rax") number => v,)? };
    Ok(v)
}

/// XSETBV of register 0.
///
/// # Safety
/// If it succeeds, the state components named must be ones the kernel can live with.
pub unsafe fn xsetbv(value: u64) -> Result<(), Fault> {
    // SAFETY: by the caller's promise; a fault is caught.
    unsafe { probe!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32,) }
}

/// An instruction that only a hypervisor may run with nested virtualization (VMRUN with a null block).
pub fn vmrun() -> Result<(), Fault> {
    // SAFETY: RAX = 0 names no control block of ours; in a guest without SVM the instruction faults.
    unsafe { probe!("vmrun", in("rax") 0u64,) }
}
