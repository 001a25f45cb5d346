//! A virtual CPU on AMD-V as it begins: what exits, and the state after INIT.

use hv_core::hw::Gprs;
use zerocopy::FromZeros;

use super::vcpu::{EFER_SVME, SvmVcpu};
use super::vmcb::{VmcbSegment, clean, intercept1, intercept2, vintr};
use super::windows::Nmi;
use super::{GUEST_MSRS, NO_PORTS};
use crate::paging;

/// #DB and #AC exit because a guest could make the CPU deliver them for ever; #MC is the host's.
const EXCEPTIONS: u32 = 1 << 1 | 1 << 17 | 1 << 18;
/// PAUSEs between exits, where the CPU counts them, and the ticks after which it counts anew.
const PAUSE_COUNT: u16 = 4000;
const PAUSE_THRESHOLD: u16 = 128;

impl SvmVcpu {
    /// Sets the state after INIT: section 14.1.3, table 14-1.
    pub(super) fn reset_all(&mut self) {
        self.sync();
        let nested_root = self.vmcb.control.nested_root;
        let (asid, tsc_offset) = (self.vmcb.control.asid, self.vmcb.control.tsc_offset);
        self.vmcb.zero();
        (self.nmi, self.window, self.given, self.held) = (Nmi::Open, false, None, false);
        self.set_intercepts();
        let control = &mut self.vmcb.control;
        control.iopm =
            self.ports.as_ref().map_or(NO_PORTS.phys(), |map| paging::direct_map_phys(&raw const **map));
        control.msrpm = GUEST_MSRS.phys();
        control.vintr = vintr::MASKING;
        control.nested = 1;
        control.nested_root = nested_root;
        control.asid = asid.max(1);
        control.tsc_offset = tsc_offset;
        let data = VmcbSegment { selector: 0, attributes: 0x93, limit: 0xffff, base: 0 };
        let save = &mut self.vmcb.save;
        (save.ds, save.es, save.fs, save.gs, save.ss) = (data, data, data, data, data);
        save.cs = VmcbSegment { selector: 0xf000, attributes: 0x9b, limit: 0xffff, base: 0xffff_0000 };
        save.gdtr = VmcbSegment { limit: 0xffff, ..VmcbSegment::default() };
        save.idtr = save.gdtr;
        save.ldtr = VmcbSegment { attributes: 0x82, limit: 0xffff, ..VmcbSegment::default() };
        save.tr = VmcbSegment { attributes: 0x8b, limit: 0xffff, ..VmcbSegment::default() };
        save.efer = EFER_SVME;
        save.cr0 = 0x6000_0010;
        save.rflags = 2;
        save.rip = 0xfff0;
        save.dr6 = 0xffff_0ff0;
        save.dr7 = 0x400;
        save.pat = 0x0007_0406_0007_0406;
        self.gprs = Gprs::default();
        self.tsc_aux = 0;
        self.vector.reset();
        if self.loaded {
            self.vector.load();
        }
        self.debug = [0; 4];
        self.touch(clean::ALL);
    }

    fn set_intercepts(&mut self) {
        let control = &mut self.vmcb.control;
        control.exceptions = EXCEPTIONS;
        control.intercepts1 = intercept1::INTR
            | intercept1::NMI
            | intercept1::SMI
            | intercept1::INIT
            | intercept1::RDPMC
            | intercept1::CPUID
            | intercept1::INVD
            | intercept1::HLT
            | intercept1::INVLPGA
            | intercept1::IO
            | intercept1::MSR
            | intercept1::TASK_SWITCH
            | intercept1::FERR
            | intercept1::SHUTDOWN;
        control.intercepts2 = intercept2::VMRUN
            | intercept2::VMMCALL
            | intercept2::VMLOAD
            | intercept2::VMSAVE
            | intercept2::STGI
            | intercept2::CLGI
            | intercept2::SKINIT
            | intercept2::WBINVD
            | intercept2::MONITOR
            | intercept2::MWAIT
            | intercept2::MWAIT_ARMED
            | intercept2::XSETBV
            | intercept2::RDPRU;
        if self.capabilities.pause_filter {
            control.intercepts1 |= intercept1::PAUSE;
            control.pause_count = PAUSE_COUNT;
            control.pause_threshold = PAUSE_THRESHOLD;
        }
    }
}
