//! The registers of a virtual CPU on AMD-V: where each is kept, and what must be noted when it changes.

use hv_core::hw::{Reg, Segment, SegmentState};

use super::vcpu::{EFER_SVME, SvmVcpu, TSC_AUX};
use super::vmcb::{VmcbSegment, clean, vintr};
use crate::cpu::io::wrmsr;

impl SvmVcpu {
    /// Reads a register.
    pub(super) fn register(&self, register: Reg) -> u64 {
        if is_switched_late(register) {
            self.sync();
        }
        let save = &self.vmcb.save;
        match register {
            Reg::Rip => save.rip,
            Reg::Rsp => save.rsp,
            Reg::Rflags => save.rflags,
            Reg::Cr0 => save.cr0,
            Reg::Cr2 => save.cr2,
            Reg::Cr3 => save.cr3,
            Reg::Cr4 => save.cr4,
            Reg::Cr8 => self.vmcb.control.vintr & vintr::TPR,
            Reg::Dr6 => save.dr6,
            Reg::Dr7 => save.dr7,
            Reg::Efer => save.efer & !EFER_SVME,
            Reg::Star => save.star,
            Reg::Lstar => save.lstar,
            Reg::Cstar => save.cstar,
            Reg::Sfmask => save.sfmask,
            Reg::KernelGsBase => save.kernel_gs_base,
            Reg::SysenterCs => save.sysenter_cs,
            Reg::SysenterEsp => save.sysenter_esp,
            Reg::SysenterEip => save.sysenter_eip,
            Reg::Pat => save.pat,
            Reg::TscAux => self.tsc_aux,
            Reg::Xcr0 => self.vector.xcr0(self.loaded),
        }
    }

    /// Writes a register.
    pub(super) fn set_register(&mut self, register: Reg, value: u64) {
        if is_switched_late(register) {
            self.sync();
        }
        let save = &mut self.vmcb.save;
        match register {
            // These four are loaded at every entry.
            Reg::Rip => save.rip = value,
            Reg::Rsp => save.rsp = value,
            Reg::Rflags => save.rflags = value | 2,
            Reg::Cr8 => {
                self.vmcb.control.vintr = self.vmcb.control.vintr & !vintr::TPR | value & vintr::TPR;
                self.touch(clean::VINTR);
            }
            Reg::Cr0 | Reg::Cr3 | Reg::Cr4 | Reg::Efer => {
                match register {
                    Reg::Cr0 => save.cr0 = value,
                    Reg::Cr3 => save.cr3 = value,
                    Reg::Cr4 => save.cr4 = value,
                    _ => save.efer = value | EFER_SVME,
                }
                self.touch(clean::CONTROL);
            }
            Reg::Cr2 => {
                save.cr2 = value;
                self.touch(clean::CR2);
            }
            Reg::Dr6 | Reg::Dr7 => {
                if register == Reg::Dr6 {
                    save.dr6 = value
                } else {
                    save.dr7 = value
                }
                self.touch(clean::DEBUG);
            }
            Reg::Star => save.star = value,
            Reg::Lstar => save.lstar = value,
            Reg::Cstar => save.cstar = value,
            Reg::Sfmask => save.sfmask = value,
            Reg::KernelGsBase => save.kernel_gs_base = value,
            Reg::SysenterCs => save.sysenter_cs = value,
            Reg::SysenterEsp => save.sysenter_esp = value,
            Reg::SysenterEip => save.sysenter_eip = value,
            Reg::Pat => {
                save.pat = value;
                self.touch(clean::NESTED);
            }
            Reg::TscAux => {
                self.tsc_aux = value;
                if self.loaded && self.capabilities.rdtscp {
                    // SAFETY: the CPU has the MSR; the hypervisor does not use it.
                    unsafe { wrmsr(TSC_AUX, value) };
                }
            }
            Reg::Xcr0 => self.vector.set_xcr0(value, self.loaded),
        }
    }

    /// Reads a segment register.
    pub(super) fn segment_state(&self, segment: Segment) -> SegmentState {
        if matches!(segment, Segment::Fs | Segment::Gs | Segment::Tr | Segment::Ldtr) {
            self.sync();
        }
        let raw = self.segment_ref(segment);
        SegmentState { selector: raw.selector, attributes: raw.attributes, limit: raw.limit, base: raw.base }
    }

    /// Writes a segment register; that of the stack sets the privilege level.
    pub(super) fn set_segment_state(&mut self, segment: Segment, state: SegmentState) {
        if matches!(segment, Segment::Fs | Segment::Gs | Segment::Tr | Segment::Ldtr) {
            self.sync();
        }
        let SegmentState { selector, attributes, limit, base } = state;
        *self.segment_mut(segment) = VmcbSegment { selector, attributes, limit, base };
        if segment == Segment::Ss {
            self.vmcb.save.cpl = (attributes >> 5 & 3) as u8;
        }
        self.touch(clean::SEGMENTS | clean::TABLES);
    }

    fn segment_ref(&self, segment: Segment) -> &VmcbSegment {
        let save = &self.vmcb.save;
        match segment {
            Segment::Cs => &save.cs,
            Segment::Ds => &save.ds,
            Segment::Es => &save.es,
            Segment::Fs => &save.fs,
            Segment::Gs => &save.gs,
            Segment::Ss => &save.ss,
            Segment::Tr => &save.tr,
            Segment::Ldtr => &save.ldtr,
            Segment::Gdtr => &save.gdtr,
            Segment::Idtr => &save.idtr,
        }
    }

    fn segment_mut(&mut self, segment: Segment) -> &mut VmcbSegment {
        let save = &mut self.vmcb.save;
        match segment {
            Segment::Cs => &mut save.cs,
            Segment::Ds => &mut save.ds,
            Segment::Es => &mut save.es,
            Segment::Fs => &mut save.fs,
            Segment::Gs => &mut save.gs,
            Segment::Ss => &mut save.ss,
            Segment::Tr => &mut save.tr,
            Segment::Ldtr => &mut save.ldtr,
            Segment::Gdtr => &mut save.gdtr,
            Segment::Idtr => &mut save.idtr,
        }
    }
}

/// Whether a register is switched by VMLOAD and VMSAVE, not by VMRUN.
const fn is_switched_late(register: Reg) -> bool {
    matches!(
        register,
        Reg::Star
            | Reg::Lstar
            | Reg::Cstar
            | Reg::Sfmask
            | Reg::KernelGsBase
            | Reg::SysenterCs
            | Reg::SysenterEsp
            | Reg::SysenterEip
    )
}
