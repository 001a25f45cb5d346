//! One virtual CPU on AMD-V.

use alloc::boxed::Box;
use core::arch::asm;
use core::sync::atomic::Ordering;

use alloc::sync::Arc;
use hv_core::hw::{
    ApicMode, Busy, Event, EventKind, Exit, Gprs, HostPhys, NewVcpuError, Reg, RegisterPage, Segment,
    SegmentState, TscTicks, VcpuConfig, VcpuHw, Window,
};
use zerocopy::FromZeros;

use super::decode::{self, Raw};
use super::maps::PortMap;
use super::vmcb::{Vmcb, VmcbSegment, clean, code, intercept1, intercept2, tlb, vintr};
use super::{Capabilities, GUEST_MSRS, NO_PORTS, event, fetch, run};
use crate::cpu::fpu::VectorState;
use crate::cpu::io::wrmsr;
use crate::cpu::percpu::PerCpu;
use crate::cpu::tags::Tag;
use crate::cpu::{features, machine_check, traps};
use crate::paging;

const EFER_SVME: u64 = 1 << 12;
const RFLAGS_IF: u64 = 1 << 9;
const TSC_AUX: u32 = 0xc000_0103;
/// #DB and #AC exit because a guest could make the CPU deliver them for ever; #MC is the host's.
const EXCEPTIONS: u32 = 1 << 1 | 1 << 17 | 1 << 18;
/// PAUSEs between exits, where the CPU counts them, and the ticks after which it counts anew.
const PAUSE_COUNT: u16 = 4000;
const PAUSE_THRESHOLD: u16 = 128;

/// How far the guest is with a non-maskable interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Nmi {
    /// It has none.
    #[default]
    Open,
    /// It is in the handler: IRET exits.
    Handler,
    /// It is about to execute the handler's IRET, at this address: until that is done the next one would nest. A window
    /// for interrupts is open, which most often comes right after it.
    Returning(u64),
}

/// One virtual CPU on AMD-V.
pub struct SvmVcpu {
    gprs: Gprs,
    /// The VMCB holds something for the next entry only, or has fields without their clean bits.
    touched: bool,
    /// How long the instruction is that exited; 0 where it must be looked for. Nobody puts prefixes before those that are
    /// frequent.
    length: u8,
    capabilities: Capabilities,
    vmcb_phys: u64,
    vmcb: Box<Vmcb>,
    tag: Option<Tag>,
    loaded: bool,
    vector: VectorState,
    debug: [u64; 4],
    tsc_aux: u64,
    ports: Option<Box<PortMap>>,
    nmi: Nmi,
    /// Policy asked for a window for interrupts.
    window: bool,
    /// Policy waits for a lower task priority.
    held: bool,
}

impl SvmVcpu {
    pub(super) fn new(config: VcpuConfig, capabilities: Capabilities) -> Result<Self, NewVcpuError> {
        let vmcb = Vmcb::new_box_zeroed().map_err(|_| NewVcpuError)?;
        let mut vcpu = Self {
            gprs: Gprs::default(),
            touched: true,
            length: 0,
            capabilities,
            vmcb_phys: paging::direct_map_phys(&raw const *vmcb),
            vmcb,
            tag: None,
            loaded: false,
            vector: VectorState::new().ok_or(NewVcpuError)?,
            debug: [0; 4],
            tsc_aux: 0,
            ports: None,
            nmi: Nmi::Open,
            window: false,
            held: false,
        };
        vcpu.set_nested_root(config.nested_root);
        vcpu.reset();
        Ok(vcpu)
    }

    /// Notes that fields changed.
    fn touch(&mut self, bits: u32) {
        self.vmcb.control.clean &= !bits;
        self.touched = true;
    }

    /// Takes a tag that holds no translations, from the CPU that executes this.
    fn take_tag(&mut self) {
        let cpu = PerCpu::current();
        let fresh = cpu.tags.take(cpu.id(), self.capabilities.asids);
        self.tag = Some(fresh.tag);
        self.vmcb.control.asid = fresh.tag.number();
        if fresh.flush_all {
            self.vmcb.control.tlb_control = tlb::FLUSH_ALL;
        }
        self.touch(clean::ASID);
    }

    /// Brings the VMCB up to date with the state that VMRUN does not switch: the guest's next entry loads it
    /// again.
    fn sync(&self) {
        let cpu = PerCpu::current();
        if cpu.guest.load(Ordering::Relaxed) == self.vmcb_phys {
            run::settle(cpu);
        }
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

    /// What must be undone after an entry that had something special, and what an exit leaves to do.
    #[cold]
    fn entered(&mut self) {
        self.touched = false;
        let control = &mut self.vmcb.control;
        control.event = 0;
        control.tlb_control = tlb::KEEP;
        control.clean = clean::ALL;
    }

    /// An exit interrupted the delivery of an event: it is put back.
    #[cold]
    fn put_back(&mut self) {
        if let Some(again) = event::again(self.vmcb.control.exit_int_info) {
            self.vmcb.control.event = again;
            self.touched = true;
        }
    }

    /// The exits that are finished here. `None` means that the guest goes on.
    #[cold]
    fn finish(&mut self) -> Option<Exit> {
        let control = &self.vmcb.control;
        let raw = Raw { code: control.exit_code, info1: control.exit_info1, info2: control.exit_info2 };
        self.length = u8::from(raw.code == code::HLT);
        match raw.code {
            code::INTR | code::NMI | code::SMI | code::INIT => {
                run::settle(PerCpu::current());
                traps::take_interrupts();
                Some(Exit::Interrupted)
            }
            code::VINTR => {
                if let Nmi::Returning(_) = self.nmi {
                    self.nmi = Nmi::Open;
                }
                self.request_window(None);
                Some(Exit::WindowOpen)
            }
            code::IRET => {
                // The NMI blocks others until IRET has run: a shadow holds the window back that long.
                self.vmcb.control.intercepts1 &= !intercept1::IRET;
                self.vmcb.control.shadow |= 1;
                self.nmi = Nmi::Returning(self.vmcb.save.rip);
                self.set_windows();
                None
            }
            code::PAUSE => {
                // The exit is before the instruction, which has nothing more to do.
                self.skip();
                Some(Exit::Pause)
            }
            0x41 | 0x51 => {
                // #DB and #AC are the guest's own affair; the way through here makes sure that interrupts are
                // taken between two of them.
                let exit = decode::decode(raw, &self.gprs);
                if let Exit::Exception { vector, code } = exit {
                    self.vmcb.control.event =
                        event::encode(Event { kind: EventKind::Exception, vector, code });
                    self.touched = true;
                }
                None
            }
            0x52 => {
                run::settle(PerCpu::current());
                Some(machine_check::judge())
            }
            code::CR_READ..code::DR_READ => {
                let mut exit = decode::decode(raw, &self.gprs);
                if raw.info1 >> 63 == 0
                    && let Exit::Control(access) = &mut exit
                {
                    access.gpr = fetch::control_register_gpr(&self.vmcb);
                }
                Some(exit)
            }
            _ => Some(decode::decode(raw, &self.gprs)),
        }
    }

    /// Makes the hardware exit for what is waited for.
    fn set_windows(&mut self) {
        let window = self.window || matches!(self.nmi, Nmi::Returning(_));
        let control = &mut self.vmcb.control;
        if window {
            // A virtual interrupt of the highest priority is never delivered: its intercept exits just before.
            control.vintr |= vintr::IRQ | vintr::PRIORITY | vintr::IGNORE_TPR;
            control.intercepts1 |= intercept1::VINTR;
        } else {
            control.vintr &= !(vintr::IRQ | vintr::PRIORITY | vintr::IGNORE_TPR);
            control.intercepts1 &= !intercept1::VINTR;
        }
        // While such an interrupt waits, writes of CR8 exit too: QEMU ends with an assertion when such a write makes a
        // virtual interrupt deliverable.
        if window || self.held {
            control.cr_writes |= 1 << 8;
        } else {
            control.cr_writes &= !(1 << 8);
        }
        self.touch(clean::INTERCEPTS | clean::VINTR);
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

impl Drop for SvmVcpu {
    fn drop(&mut self) {
        // Its VMCB must not stay the one to which `settle` saves.
        self.sync();
    }
}

impl VcpuHw for SvmVcpu {
    fn load(&mut self) {
        let cpu = PerCpu::current();
        if !cpu.tags.is_good(cpu.id(), self.tag) {
            self.take_tag();
        }
        // Another CPU may have run it since: nothing that this one kept is good (section 15.15.4).
        self.touch(clean::ALL);
        self.loaded = true;
        self.vector.load();
        // SAFETY: the CPU has the MSR where the feature says so; the debug registers are used by nobody else.
        unsafe {
            if self.capabilities.rdtscp {
                wrmsr(TSC_AUX, self.tsc_aux);
            }
            let [a, b, c, d] = self.debug;
            asm!(
                "mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", in(reg) a, in(reg) b,
                in(reg) c, in(reg) d, options(nomem, nostack)
            );
        }
    }

    fn save(&mut self) {
        self.sync();
        self.vector.save();
        self.loaded = false;
        let (a, b, c, d): (u64, u64, u64, u64);
        // SAFETY: reading debug registers changes nothing (CR4.DE does not matter for these).
        unsafe {
            asm!(
                "mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", out(reg) a, out(reg) b,
                out(reg) c, out(reg) d, options(nomem, nostack)
            );
        }
        self.debug = [a, b, c, d];
    }

    #[inline]
    fn run(&mut self) -> Exit {
        loop {
            let cpu = PerCpu::current();
            if cpu.guest.load(Ordering::Relaxed) != self.vmcb_phys {
                run::settle(cpu);
                // SAFETY: `load` was called on this CPU, by this trait's contract.
                unsafe { run::prepare(cpu, self.vmcb_phys) };
            }
            // SAFETY: prepared above, or by an earlier turn, which `guest` tells.
            unsafe { run::enter(&mut self.gprs, (&raw mut *self.vmcb).cast(), self.vmcb_phys) };
            if self.touched {
                self.entered();
            }
            if event::is_valid(self.vmcb.control.exit_int_info) {
                self.put_back();
            }
            match self.vmcb.control.exit_code {
                code::VMMCALL => {
                    self.length = 3;
                    return Exit::Hypercall;
                }
                code::CPUID => {
                    self.length = 2;
                    return Exit::Cpuid;
                }
                _ => {
                    if let Some(exit) = self.finish() {
                        return exit;
                    }
                }
            }
        }
    }

    #[inline]
    fn gprs(&self) -> &Gprs {
        &self.gprs
    }

    #[inline]
    fn gprs_mut(&mut self) -> &mut Gprs {
        &mut self.gprs
    }

    fn get(&self, register: Reg) -> u64 {
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

    fn set(&mut self, register: Reg, value: u64) {
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

    fn segment(&self, segment: Segment) -> SegmentState {
        if matches!(segment, Segment::Fs | Segment::Gs | Segment::Tr | Segment::Ldtr) {
            self.sync();
        }
        let raw = self.segment_ref(segment);
        SegmentState { selector: raw.selector, attributes: raw.attributes, limit: raw.limit, base: raw.base }
    }

    #[inline]
    fn privilege_level(&self) -> u8 {
        self.vmcb.save.cpl
    }

    #[inline]
    fn is_64_bit(&self) -> bool {
        self.vmcb.save.cs.attributes & 1 << 9 != 0
    }

    fn set_segment(&mut self, segment: Segment, state: SegmentState) {
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

    #[inline]
    fn skip(&mut self) {
        // Where the CPU does not tell it the field stays zero.
        let next = match (self.vmcb.control.next_rip, self.length) {
            (0, 0) => fetch::next_rip(&self.vmcb),
            (0, length) => self.vmcb.save.rip.wrapping_add(length.into()),
            (next, _) => next,
        };
        self.vmcb.save.rip = next;
        self.vmcb.control.shadow &= !1;
    }

    fn skip_bytes(&mut self, bytes: u8) {
        self.vmcb.save.rip = self.vmcb.save.rip.wrapping_add(bytes.into());
        self.vmcb.control.shadow &= !1;
    }

    fn inject(&mut self, event: Event) -> Result<(), Busy> {
        if event::is_valid(self.vmcb.control.event) {
            return Err(Busy);
        }
        self.vmcb.control.event = event::encode(event);
        self.touched = true;
        if event.kind == EventKind::Nmi {
            // Until the guest's IRET no other NMI may come.
            self.vmcb.control.intercepts1 |= intercept1::IRET;
            self.nmi = Nmi::Handler;
            self.set_windows();
        }
        Ok(())
    }

    #[inline]
    fn can_take_interrupt(&self) -> bool {
        self.vmcb.save.rflags & RFLAGS_IF != 0
            && self.vmcb.control.shadow & 1 == 0
            && !event::is_valid(self.vmcb.control.event)
    }

    fn request_window(&mut self, window: Option<Window>) {
        match window {
            Some(Window::Interrupt) => self.window = true,
            // The window after IRET, whose exit `inject` asked for, is that for NMIs too.
            Some(Window::Nmi) => return,
            None => self.window = false,
        }
        self.set_windows();
    }

    fn blocks_nmi(&self) -> bool {
        match self.nmi {
            Nmi::Open => false,
            Nmi::Handler => true,
            Nmi::Returning(iret) => self.vmcb.save.rip == iret,
        }
    }

    // The page of registers is policy's alone.
    fn use_apic(&mut self, _page: &Arc<RegisterPage>) {}

    fn set_apic_mode(&mut self, _mode: ApicMode) {}

    #[inline]
    fn delivers_interrupts(&self) -> bool {
        false
    }

    fn offer(&mut self, _requested: u8, _in_service: u8) {}

    fn watch_priority(&mut self, below: Option<u8>) {
        if self.held != below.is_some() {
            self.held = below.is_some();
            self.set_windows();
        }
    }

    #[inline]
    fn set_deadline(&mut self, _deadline: Option<TscTicks>) -> bool {
        false
    }

    fn reset(&mut self) {
        self.sync();
        let nested_root = self.vmcb.control.nested_root;
        let (asid, tsc_offset) = (self.vmcb.control.asid, self.vmcb.control.tsc_offset);
        self.vmcb.zero();
        (self.nmi, self.window, self.held) = (Nmi::Open, false, false);
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
        // The state after INIT: section 14.1.3, table 14-1.
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

    fn set_nested_root(&mut self, root: HostPhys) {
        self.vmcb.control.nested_root = root.raw();
        self.touch(clean::NESTED);
        self.flush_nested();
    }

    fn flush_nested(&mut self) {
        // A tag that holds no translations of it: taken by `load`, or here if it is loaded.
        self.tag = None;
        if self.loaded {
            self.take_tag();
        }
    }

    fn set_tsc_offset(&mut self, offset: TscTicks) {
        self.vmcb.control.tsc_offset = offset.raw();
        self.touch(clean::INTERCEPTS);
    }

    fn pass_ports(&mut self, first: u16, count: u16, pass: bool) {
        if self.ports.is_none() && pass {
            // Without memory for a map of its own every port exits, and policy handles each access: slower,
            // not wrong.
            self.ports = PortMap::new();
            if let Some(map) = &self.ports {
                self.vmcb.control.iopm = paging::direct_map_phys(&raw const **map);
                self.touch(clean::PERMISSIONS);
            }
        }
        if let Some(map) = &mut self.ports {
            map.pass(first, count, pass);
            self.touch(clean::PERMISSIONS);
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

/// Whether this CPU has TSC_AUX.
pub(super) fn has_tsc_aux() -> bool {
    features::rdtscp()
}
