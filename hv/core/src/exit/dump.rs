//! What is written when a domain is crashed.

use super::{Around, GuestFault};
use crate::hw::{Platform, Reg, Segment, VcpuHw};
use crate::vcpu::{Context, Hw};
use core::fmt::{self, Write};
use pv_abi::control::TraceRecord;

/// Writes the cause, the registers, the bytes at RIP and the last records of the trace.
pub fn dump<P: Platform>(
    out: &mut impl Write,
    context: &mut Context<Hw<P>>,
    around: &impl Around<P>,
    fault: &GuestFault,
    trace: &[TraceRecord],
) -> fmt::Result {
    let hw = &context.hw;
    let r = hw.gprs();
    let code = hw.segment(Segment::Cs);
    let rip = hw.get(Reg::Rip);
    writeln!(out, "{}: {fault}", around.vcpu())?;
    writeln!(
        out,
        "  rip {rip:016x} cs {:04x} base {:x} attributes {:03x}",
        code.selector, code.base, code.attributes
    )?;
    writeln!(out, "  rflags {:08x} rsp {:016x}", hw.get(Reg::Rflags), hw.get(Reg::Rsp))?;
    writeln!(out, "  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", r.rax, r.rbx, r.rcx, r.rdx)?;
    writeln!(out, "  rsi {:016x} rdi {:016x} rbp {:016x} r8  {:016x}", r.rsi, r.rdi, r.rbp, r.r8)?;
    writeln!(out, "  r9  {:016x} r10 {:016x} r11 {:016x} r12 {:016x}", r.r9, r.r10, r.r11, r.r12)?;
    writeln!(out, "  r13 {:016x} r14 {:016x} r15 {:016x}", r.r13, r.r14, r.r15)?;
    writeln!(
        out,
        "  cr0 {:08x} cr2 {:016x} cr3 {:016x} cr4 {:06x} efer {:04x}",
        hw.get(Reg::Cr0),
        hw.get(Reg::Cr2),
        hw.get(Reg::Cr3),
        hw.get(Reg::Cr4),
        hw.get(Reg::Efer)
    )?;
    let long = code.attributes & (1 << 9) != 0;
    let linear = if long { rip } else { code.base.wrapping_add(rip) & 0xffff_ffff };
    let mut bytes = [0; 16];
    let count = around.fetch(context, linear, &mut bytes);
    out.write_str("  code")?;
    for byte in bytes.iter().take(count) {
        write!(out, " {byte:02x}")?;
    }
    out.write_str(if count == 0 { " cannot be read\n" } else { "\n" })?;
    for record in trace {
        writeln!(
            out,
            "  trace {} {}v{} kind {} {:#x} {:#x}",
            record.tsc, record.domid, record.vcpu, record.kind, record.a, record.b
        )?;
    }
    Ok(())
}
