//! The state in which a virtual CPU starts.

use super::context::Context;
use crate::hw::{Gprs, Reg, Segment, SegmentState, VcpuHw};
use pv_abi::errno::{Errno, Result};
use pv_abi::ids::GuestPhys;
use pv_abi::vcpu::{HvmContext, HvmRegisters, HvmX86_32, HvmX86_64};

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// The bits of CR0 that exist.
const CR0_BITS: u64 = 0xe005_003f;
/// The bits of CR4 that guests may set: up to PCE, OSFXSR, OSXMMEXCPT, UMIP, FSGSBASE, PCIDE, OSXSAVE, SMEP, SMAP, PKE.
const CR4_BITS: u64 = 0x0077_0fff;
/// The bits of EFER that guests may set: SCE, LME, LMA, NXE, FFXSR.
const EFER_BITS: u64 = 0x4d01;

/// Whether a guest may load this value into CR0.
pub const fn legal_cr0(value: u64) -> bool {
    value & !CR0_BITS == 0
        && (value & CR0_PG == 0 || value & CR0_PE != 0)
        && (value & CR0_NW == 0 || value & CR0_CD != 0)
}

/// Whether a guest may load this value into CR4.
pub const fn legal_cr4(value: u64) -> bool {
    value & !CR4_BITS == 0
}

/// Whether a guest may write this value to EFER.
pub const fn legal_efer(value: u64) -> bool {
    value & !EFER_BITS == 0
}

/// The registers with which a virtual CPU starts. Those that are not named are as after reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StartState {
    gprs: Gprs,
    rip: u64,
    rsp: u64,
    rflags: u64,
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    cs: SegmentState,
    ds: SegmentState,
    es: SegmentState,
    ss: SegmentState,
    tr: SegmentState,
}

const fn flat(attributes: u16) -> SegmentState {
    SegmentState { selector: 0, attributes, limit: u32::MAX, base: 0 }
}

/// A present, accessed, writable 32-bit data segment of 4 GiB.
const DATA: SegmentState = flat(0xc93);
/// A present, busy 32-bit task segment.
const TASK: SegmentState = SegmentState { selector: 0, attributes: 0x8b, limit: 0x67, base: 0 };

impl StartState {
    /// The state of the first virtual CPU of a PVH guest: 32-bit, flat segments, no paging, the address of the start
    /// information in EBX (`arch-x86/hvm/start_info.h`).
    pub fn pvh(entry: u32, start_info: GuestPhys) -> Self {
        Self {
            gprs: Gprs { rbx: start_info.raw(), ..Gprs::default() },
            rip: u64::from(entry),
            rsp: 0,
            rflags: 2,
            cr0: CR0_PE | CR0_ET,
            cr3: 0,
            cr4: 0,
            efer: 0,
            cs: flat(0xc9b),
            ds: DATA,
            es: DATA,
            ss: DATA,
            tr: TASK,
        }
    }

    /// The state after a start-up message: real mode at the start of `page` (SDM 3, table 10-1 and section 9.4.4).
    pub fn real_mode(page: u8, signature: u32) -> Self {
        let real = |attributes| SegmentState { selector: 0, attributes, limit: 0xffff, base: 0 };
        let code = SegmentState { selector: u16::from(page) << 8, base: u64::from(page) << 12, ..real(0x9b) };
        Self {
            gprs: Gprs { rdx: u64::from(signature), ..Gprs::default() },
            rip: 0,
            rsp: 0,
            rflags: 2,
            cr0: CR0_ET | CR0_CD | CR0_NW,
            cr3: 0,
            cr4: 0,
            efer: 0,
            cs: code,
            ds: real(0x93),
            es: real(0x93),
            ss: real(0x93),
            tr: real(0x8b),
        }
    }

    /// The state that `VCPUOP_initialise` asks for, if it is one that a CPU can be in.
    pub fn from_context(context: &HvmContext) -> Result<Self> {
        let state = match context.registers().ok_or(Errno::EINVAL)? {
            HvmRegisters::X86_32(registers) => Self::from_32(&registers)?,
            HvmRegisters::X86_64(registers) => Self::from_64(&registers)?,
        };
        if !legal_cr0(state.cr0) || !legal_cr4(state.cr4) || !legal_efer(state.efer) {
            return Err(Errno::EINVAL);
        }
        Ok(state)
    }

    fn from_32(registers: &HvmX86_32) -> Result<Self> {
        let r = registers;
        let segment = |attributes: u16, limit: u32, base: u32| SegmentState {
            selector: 0,
            attributes,
            limit,
            base: u64::from(base),
        };
        let paging = r.cr0 & (1 << 31) != 0;
        let long = r.efer & EFER_LME != 0 && paging;
        if long != (r.efer & EFER_LMA != 0) || (long && u64::from(r.cr4) & CR4_PAE == 0) {
            return Err(Errno::EINVAL);
        }
        let state = Self {
            gprs: Gprs {
                rax: r.eax.into(),
                rcx: r.ecx.into(),
                rdx: r.edx.into(),
                rbx: r.ebx.into(),
                rbp: r.ebp.into(),
                rsi: r.esi.into(),
                rdi: r.edi.into(),
                ..Gprs::default()
            },
            rip: r.eip.into(),
            rsp: r.esp.into(),
            rflags: u64::from(r.eflags) & 0x003f_7fd5 | 2,
            cr0: u64::from(r.cr0) | CR0_ET,
            cr3: r.cr3.into(),
            cr4: r.cr4.into(),
            efer: r.efer,
            cs: segment(r.cs_ar, r.cs_limit, r.cs_base),
            ds: segment(r.ds_ar, r.ds_limit, r.ds_base),
            es: segment(r.es_ar, r.es_limit, r.es_base),
            ss: segment(r.ss_ar, r.ss_limit, r.ss_base),
            tr: segment(r.tr_ar, r.tr_limit, r.tr_base),
        };
        let legal = is_code(&state.cs)
            && is_data(&state.ss)
            && [&state.ds, &state.es].into_iter().all(|s| s.attributes & PRESENT == 0 || is_data(s))
            && is_task(&state.tr)
            // Long mode in 64-bit form is what the other kind of context is for.
            && state.cs.attributes & LONG == 0;
        if legal { Ok(state) } else { Err(Errno::EINVAL) }
    }

    fn from_64(registers: &HvmX86_64) -> Result<Self> {
        let r = registers;
        let on = CR0_PE | CR0_PG;
        let long = EFER_LME | EFER_LMA;
        if r.cr0 & on != on || r.cr4 & CR4_PAE == 0 || r.efer & long != long || !is_canonical(r.rip) {
            return Err(Errno::EINVAL);
        }
        Ok(Self {
            gprs: Gprs {
                rax: r.rax,
                rcx: r.rcx,
                rdx: r.rdx,
                rbx: r.rbx,
                rbp: r.rbp,
                rsi: r.rsi,
                rdi: r.rdi,
                ..Gprs::default()
            },
            rip: r.rip,
            rsp: r.rsp,
            rflags: r.rflags & 0x003f_7fd5 | 2,
            cr0: r.cr0 | CR0_ET,
            cr3: r.cr3 & 0x000f_ffff_ffff_ffff,
            cr4: r.cr4,
            efer: r.efer,
            cs: flat(0xa9b),
            ds: DATA,
            es: DATA,
            ss: DATA,
            tr: TASK,
        })
    }

    /// Puts a virtual CPU, which does not run, into this state.
    pub fn apply<H: VcpuHw>(&self, context: &mut Context<H>) {
        context.hw.reset();
        let hw = &mut context.hw;
        *hw.gprs_mut() = self.gprs;
        for (register, value) in [
            (Reg::Efer, self.efer),
            (Reg::Cr4, self.cr4),
            (Reg::Cr3, self.cr3),
            (Reg::Cr0, self.cr0),
            (Reg::Rip, self.rip),
            (Reg::Rsp, self.rsp),
            (Reg::Rflags, self.rflags),
            (Reg::Pat, 0x0007_0406_0007_0406),
            (Reg::Dr6, 0xffff_0ff0),
            (Reg::Dr7, 0x400),
            (Reg::Xcr0, 1),
        ] {
            hw.set(register, value);
        }
        for (segment, state) in [
            (Segment::Cs, self.cs),
            (Segment::Ds, self.ds),
            (Segment::Es, self.es),
            (Segment::Fs, self.es),
            (Segment::Gs, self.es),
            (Segment::Ss, self.ss),
            (Segment::Tr, self.tr),
        ] {
            hw.set_segment(segment, state);
        }
        let table = SegmentState { limit: 0xffff, ..SegmentState::default() };
        hw.set_segment(Segment::Ldtr, SegmentState { attributes: 0x82, ..table });
        hw.set_segment(Segment::Gdtr, table);
        hw.set_segment(Segment::Idtr, table);
        context.waits_for_start = false;
    }
}

const PRESENT: u16 = 1 << 7;
const LONG: u16 = 1 << 9;

fn has_shape(segment: &SegmentState) -> bool {
    // With the granularity bit the limit's lower 12 bits are ones, without its upper ones are zeroes.
    let granular = segment.attributes & (1 << 11) != 0;
    let fits = if granular { segment.limit & 0xfff == 0xfff } else { segment.limit <= 0xf_ffff };
    segment.attributes & 0xf000 == 0 && segment.attributes & PRESENT != 0 && fits
}

fn is_code(segment: &SegmentState) -> bool {
    has_shape(segment) && segment.attributes & 0x18 == 0x18
}

fn is_data(segment: &SegmentState) -> bool {
    has_shape(segment) && segment.attributes & 0x1a == 0x12
}

fn is_task(segment: &SegmentState) -> bool {
    has_shape(segment) && matches!(segment.attributes & 0x1f, 3 | 11)
}

const fn is_canonical(address: u64) -> bool {
    let upper = address >> 47;
    upper == 0 || upper == 0x1_ffff
}
