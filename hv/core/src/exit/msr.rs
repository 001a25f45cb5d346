//! Model-specific registers: what is not in this table raises #GP.
//!
//! Sources: Intel SDM volume 4; AMD64 manual volume 2, appendix A.

use super::{Around, Resume, act, moment, raise};
use crate::apic::{MSR_BASE, MSR_DEADLINE, MSR_FIRST, MSR_LAST};
use crate::hw::{Backend, Event, PAGE_BYTES, Platform, Reg, Segment, VcpuHw};
use crate::vcpu::{Context, Hw, Mtrrs, Reason, legal_efer};
use pv_abi::PAGE_SIZE;
use pv_abi::cpuid::HYPERCALL_MSR;
use pv_abi::ids::Gfn;

const TSC: u32 = 0x10;
const PLATFORM_ID: u32 = 0x17;
const FEATURE_CONTROL: u32 = 0x3a;
const MICROCODE: u32 = 0x8b;
const MTRR_CAP: u32 = 0xfe;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const MISC_ENABLE: u32 = 0x1a0;
const DEBUGCTL: u32 = 0x1d9;
const MTRR_VARIABLE: u32 = 0x200;
const MTRR_VARIABLE_LAST: u32 = 0x20f;
const MTRR_FIX_64K: u32 = 0x250;
const MTRR_FIX_16K: u32 = 0x258;
const MTRR_FIX_16K_LAST: u32 = 0x259;
const MTRR_FIX_4K: u32 = 0x268;
const MTRR_FIX_4K_LAST: u32 = 0x26f;
const PAT: u32 = 0x277;
const MTRR_DEFAULT: u32 = 0x2ff;
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const SFMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;
const SYSCFG: u32 = 0xc001_0010;
const HWCR: u32 = 0xc001_0015;
const NB_CFG: u32 = 0xc001_001f;
const INT_PENDING: u32 = 0xc001_0055;
const DE_CFG: u32 = 0xc001_1029;

/// Fixed and write-combining ranges, and this many variable ones.
const MTRR_CAP_VALUE: u64 = 1 << 8 | 1 << 10 | Mtrrs::VARIABLE as u64;
/// Fast strings on; no branch trace, no event sampling.
const MISC_ENABLE_VALUE: u64 = 1 | 1 << 11 | 1 << 12;
/// The counter runs at the rate of P0.
const HWCR_VALUE: u64 = 1 << 24;
/// LFENCE serializes.
const DE_CFG_VALUE: u64 = 1 << 1;

const CR0_PG: u64 = 1 << 31;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// A guest touched a register that it does not have, or wrote a value that it cannot take.
struct Denied;

/// The place among the fixed ranges.
fn fixed(index: u32) -> Option<usize> {
    let place = match index {
        MTRR_FIX_64K => 0,
        MTRR_FIX_16K..=MTRR_FIX_16K_LAST => 1 + index - MTRR_FIX_16K,
        MTRR_FIX_4K..=MTRR_FIX_4K_LAST => 3 + index - MTRR_FIX_4K,
        _ => return None,
    };
    Some(place as usize)
}

/// The register of the back end that the MSR is.
fn switched(index: u32) -> Option<Reg> {
    Some(match index {
        SYSENTER_CS => Reg::SysenterCs,
        SYSENTER_ESP => Reg::SysenterEsp,
        SYSENTER_EIP => Reg::SysenterEip,
        PAT => Reg::Pat,
        STAR => Reg::Star,
        LSTAR => Reg::Lstar,
        CSTAR => Reg::Cstar,
        SFMASK => Reg::Sfmask,
        KERNEL_GS_BASE => Reg::KernelGsBase,
        TSC_AUX => Reg::TscAux,
        _ => return None,
    })
}

fn read<P: Platform>(
    context: &mut Context<Hw<P>>,
    around: &impl Around<P>,
    index: u32,
) -> Result<u64, Denied> {
    if let Some(register) = switched(index) {
        return Ok(context.hw.get(register));
    }
    let amd = around.cpuid().is_amd();
    Ok(match index {
        EFER => context.hw.get(Reg::Efer),
        TSC => around.platform().tsc().raw(),
        MSR_BASE | MSR_DEADLINE | MSR_FIRST..=MSR_LAST => {
            let cr8 = context.hw.get(Reg::Cr8);
            context.apic.set_cr8(cr8.to_le_bytes()[0]);
            context.apic.msr_read(index, moment(around)).map_err(|_| Denied)?
        }
        FS_BASE => context.hw.segment(Segment::Fs).base,
        GS_BASE => context.hw.segment(Segment::Gs).base,
        MTRR_CAP => MTRR_CAP_VALUE,
        MTRR_DEFAULT => context.mtrrs.default,
        MTRR_VARIABLE..=MTRR_VARIABLE_LAST => {
            *context.mtrrs.variable.get((index - MTRR_VARIABLE) as usize).ok_or(Denied)?
        }
        MCG_CAP | MCG_STATUS | MICROCODE | DEBUGCTL => 0,
        PLATFORM_ID if !amd => 0,
        FEATURE_CONTROL if !amd => 1, // locked, everything off
        MISC_ENABLE if !amd => MISC_ENABLE_VALUE,
        HWCR if amd => HWCR_VALUE,
        DE_CFG if amd => DE_CFG_VALUE,
        SYSCFG | NB_CFG | INT_PENDING if amd => 0,
        _ => *context.mtrrs.fixed.get(fixed(index).ok_or(Denied)?).ok_or(Denied)?,
    })
}

/// Executes RDMSR.
pub fn on_msr_read<P: Platform>(context: &mut Context<Hw<P>>, around: &impl Around<P>, index: u32) -> Resume {
    match read(context, around, index) {
        Ok(value) => {
            context.hw.gprs_mut().set_edx_eax(value);
            context.hw.skip();
            Resume::Continue
        }
        Err(Denied) => raise(context, Event::PROTECTION),
    }
}

const fn is_canonical(address: u64) -> bool {
    let upper = address >> 47;
    upper == 0 || upper == 0x1_ffff
}

/// Whether all bytes are memory types of the PAT: UC, WC, WT, WP, WB, UC-.
fn is_pat(value: u64) -> bool {
    value.to_le_bytes().into_iter().all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

/// Whether a byte is a memory type of the MTRRs: UC, WC, WT, WP, WB.
const fn is_type(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 4..=6)
}

fn write<P: Platform>(
    context: &mut Context<Hw<P>>,
    around: &impl Around<P>,
    index: u32,
    value: u64,
) -> Result<(), Denied> {
    let require = |condition: bool| if condition { Ok(()) } else { Err(Denied) };
    if let Some(register) = switched(index) {
        match index {
            PAT => require(is_pat(value))?,
            SYSENTER_ESP | SYSENTER_EIP | LSTAR | CSTAR | KERNEL_GS_BASE => require(is_canonical(value))?,
            SFMASK | TSC_AUX => require(value <= u64::from(u32::MAX))?,
            _ => {}
        }
        context.hw.set(register, value);
        return Ok(());
    }
    let amd = around.cpuid().is_amd();
    match index {
        EFER => {
            let old = context.hw.get(Reg::Efer);
            let paging = context.hw.get(Reg::Cr0) & CR0_PG != 0;
            require(legal_efer(value) && !(paging && (old ^ value) & EFER_LME != 0))?;
            // LMA is the CPU's.
            context.hw.set(Reg::Efer, value & !EFER_LMA | old & EFER_LMA);
        }
        // The counter is the machine's: the clock that guests are given depends on it.
        TSC => {}
        MSR_BASE | MSR_DEADLINE | MSR_FIRST..=MSR_LAST => {
            let cr8 = context.hw.get(Reg::Cr8);
            context.apic.set_cr8(cr8.to_le_bytes()[0]);
            let effect = context.apic.msr_write(index, value, moment(around)).map_err(|_| Denied)?;
            act(context, around, effect);
            if index == MSR_BASE {
                context.hw.set_apic_mode(context.apic.mode());
                around.vcpu().attention.raise(Reason::APIC);
            }
        }
        HYPERCALL_MSR => {
            hypercall_page(around, value)?;
            around.latch_width(crate::call::width(&context.hw));
        }
        FS_BASE | GS_BASE => {
            require(is_canonical(value))?;
            let segment = if index == FS_BASE { Segment::Fs } else { Segment::Gs };
            let state = context.hw.segment(segment);
            context.hw.set_segment(segment, crate::hw::SegmentState { base: value, ..state });
        }
        MTRR_DEFAULT => {
            let [kind, ..] = value.to_le_bytes();
            require(value & !0xcff == 0 && is_type(kind))?;
            context.mtrrs.default = value;
        }
        MTRR_VARIABLE..=MTRR_VARIABLE_LAST => {
            let [kind, ..] = value.to_le_bytes();
            let reserved = if index & 1 == 0 { 0xf00 } else { 0x7ff };
            require(value & reserved == 0 && value >> 52 == 0 && (index & 1 != 0 || is_type(kind)))?;
            *context.mtrrs.variable.get_mut((index - MTRR_VARIABLE) as usize).ok_or(Denied)? = value;
        }
        DEBUGCTL | MICROCODE | MCG_STATUS => require(value == 0)?,
        MISC_ENABLE if !amd => {}
        HWCR | DE_CFG | SYSCFG | NB_CFG | INT_PENDING if amd => {}
        _ => {
            require(value.to_le_bytes().into_iter().all(is_type))?;
            *context.mtrrs.fixed.get_mut(fixed(index).ok_or(Denied)?).ok_or(Denied)? = value;
        }
    }
    Ok(())
}

/// Fills the page that the guest names: for each hypercall number 32 bytes, of which the first are
/// `mov eax, number; <the vendor's instruction>; ret`.
fn hypercall_page<P: Platform>(around: &impl Around<P>, value: u64) -> Result<(), Denied> {
    // The lower bits number the page; there is one.
    if value & (PAGE_BYTES - 1) != 0 {
        return Err(Denied);
    }
    let mut page = [0xcc; PAGE_SIZE];
    for (number, stub) in (0u32..).zip(page.chunks_exact_mut(32)) {
        let [a, b, c, d] = number.to_le_bytes();
        let [x, y, z] = <P::Backend as Backend>::HYPERCALL;
        let code = [0xb8, a, b, c, d, x, y, z, 0xc3];
        stub.iter_mut().zip(code).for_each(|(to, from)| *to = from);
    }
    around.write_page(Gfn::new(value / PAGE_BYTES), &page).map_err(|_| Denied)
}

/// Executes WRMSR.
pub fn on_msr_write<P: Platform>(
    context: &mut Context<Hw<P>>,
    around: &impl Around<P>,
    index: u32,
    value: u64,
) -> Resume {
    match write(context, around, index, value) {
        Ok(()) => {
            context.hw.skip();
            Resume::Continue
        }
        Err(Denied) => raise(context, Event::PROTECTION),
    }
}
