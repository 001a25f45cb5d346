//! Control registers, XSETBV and the time-stamp counter.

use super::{Around, CpuidPolicy, GuestFault, Resume, raise};
use crate::hw::{ControlAccess, Event, Platform, RawExit, Reg, Segment, TscTicks, VcpuHw};
use crate::vcpu::{Context, Hw, Reason, legal_cr0, legal_cr4};

const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RSP: u8 = 4;

/// Executes a move to or from a control register.
pub(super) fn on_control<P: Platform>(
    context: &mut Context<Hw<P>>,
    around: &impl Around<P>,
    access: ControlAccess,
) -> Resume {
    let register = match access.register {
        0 => Reg::Cr0,
        3 => Reg::Cr3,
        4 => Reg::Cr4,
        8 => Reg::Cr8,
        other => {
            return Resume::Crash(GuestFault::Unknown(RawExit { code: u64::from(other), info: [0; 2] }));
        }
    };
    if !access.write {
        let value = context.hw.get(register);
        if access.gpr == RSP {
            context.hw.set(Reg::Rsp, value);
        } else if let Some(place) = context.hw.gprs_mut().numbered_mut(access.gpr) {
            *place = value;
        }
        context.hw.skip();
        return Resume::Continue;
    }
    let value = if access.gpr == RSP {
        context.hw.get(Reg::Rsp)
    } else {
        context.hw.gprs().numbered(access.gpr).unwrap_or(0)
    };
    let legal = match register {
        Reg::Cr0 => write_cr0(context, value),
        Reg::Cr4 => write_cr4(context, value),
        Reg::Cr8 => {
            let legal = value < 16;
            if legal {
                context.hw.set(Reg::Cr8, value);
                context.apic.set_cr8(value.to_le_bytes()[0]);
                around.vcpu().attention.raise(Reason::APIC);
            }
            legal
        }
        _ => {
            // Bit 63 only says that translations are kept.
            let address = value & !(1 << 63);
            let legal = address >> 52 == 0;
            if legal {
                context.hw.set(Reg::Cr3, address);
            }
            legal
        }
    };
    if legal {
        context.hw.skip();
        Resume::Continue
    } else {
        raise(context, Event::PROTECTION)
    }
}

/// Loads CR0, and enters or leaves long mode with paging (AMD64 manual volume 2, section 14.6).
fn write_cr0<H: VcpuHw>(context: &mut Context<H>, value: u64) -> bool {
    let efer = context.hw.get(Reg::Efer);
    let old = context.hw.get(Reg::Cr0);
    let long = value & CR0_PG != 0 && efer & EFER_LME != 0;
    let enters = long && old & CR0_PG == 0;
    let code_is_long = context.hw.segment(Segment::Cs).attributes & (1 << 9) != 0;
    if !legal_cr0(value)
        || (enters && (context.hw.get(Reg::Cr4) & CR4_PAE == 0 || code_is_long))
        || (old & CR0_PG != 0 && value & CR0_PG == 0 && efer & EFER_LMA != 0 && code_is_long)
    {
        return false;
    }
    let efer = if long { efer | EFER_LMA } else { efer & !EFER_LMA };
    context.hw.set(Reg::Efer, efer);
    context.hw.set(Reg::Cr0, value | 1 << 4);
    true
}

fn write_cr4<H: VcpuHw>(context: &mut Context<H>, value: u64) -> bool {
    let long = context.hw.get(Reg::Efer) & EFER_LMA != 0;
    let legal = legal_cr4(value) && !(long && value & CR4_PAE == 0);
    if legal {
        context.hw.set(Reg::Cr4, value);
    }
    legal
}

/// Executes XSETBV (SDM 1, section 13.3).
pub(super) fn on_xsetbv<H: VcpuHw>(context: &mut Context<H>, policy: &CpuidPolicy) -> Resume {
    let value = context.hw.gprs().edx_eax();
    let user = context.hw.segment(Segment::Ss).attributes >> 5 & 3 != 0;
    // Only XCR0; x87 always; AVX only with SSE.
    let legal = !user
        && context.hw.gprs().rcx & 0xffff_ffff == 0
        && value & !policy.xcr0() == 0
        && value & 1 != 0
        && value & 6 != 4;
    if !legal {
        return raise(context, Event::PROTECTION);
    }
    context.hw.set(Reg::Xcr0, value);
    context.hw.skip();
    Resume::Continue
}

/// Executes RDTSC or RDTSCP.
pub(super) fn on_rdtsc<H: VcpuHw>(context: &mut Context<H>, now: TscTicks, with_aux: bool) -> Resume {
    let aux = context.hw.get(Reg::TscAux) & 0xffff_ffff;
    let gprs = context.hw.gprs_mut();
    gprs.set_edx_eax(now.raw());
    if with_aux {
        gprs.rcx = aux;
    }
    context.hw.skip();
    Resume::Continue
}
