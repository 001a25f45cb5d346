//! One virtual CPU on AMD-V.

use alloc::boxed::Box;
use core::arch::asm;
use core::sync::atomic::Ordering;

use alloc::sync::Arc;
use hv_core::hw::{
    ApicMode, Busy, Event, EventKind, Exit, Gprs, HostPhys, Levels, NewVcpuError, Reg, RegisterPage,
    Requests, Segment, SegmentState, TscTicks, VcpuConfig, VcpuHw, Window,
};
use zerocopy::FromZeros;

use super::decode::{self, Raw};
use super::maps::PortMap;
use super::vmcb::{Vmcb, clean, code, intercept1, tlb};
use super::windows::Nmi;
use super::{Capabilities, event, fetch, run};
use crate::cpu::fpu::VectorState;
use crate::cpu::io::wrmsr;
use crate::cpu::percpu::PerCpu;
use crate::cpu::tags::Tag;
use crate::cpu::{machine_check, traps};
use crate::paging;

pub(super) const EFER_SVME: u64 = 1 << 12;
const RFLAGS_IF: u64 = 1 << 9;
pub(super) const TSC_AUX: u32 = 0xc000_0103;

/// One virtual CPU on AMD-V.
pub struct SvmVcpu {
    pub(super) gprs: Gprs,
    /// The VMCB holds something for the next entry only, or has fields without their clean bits.
    pub(super) touched: bool,
    /// How long the instruction is that exited; 0 where it must be looked for. Nobody puts prefixes before those that are
    /// frequent.
    pub(super) length: u8,
    pub(super) capabilities: Capabilities,
    pub(super) vmcb_phys: u64,
    pub(super) vmcb: Box<Vmcb>,
    pub(super) tag: Option<Tag>,
    /// The CPU that loaded it last.
    cpu: &'static PerCpu,
    pub(super) loaded: bool,
    pub(super) vector: VectorState,
    pub(super) debug: [u64; 4],
    pub(super) tsc_aux: u64,
    pub(super) ports: Option<Box<PortMap>>,
    pub(super) nmi: Nmi,
    /// Policy asked for a window for interrupts.
    pub(super) window: bool,
    /// The virtual interrupt that the guest takes next.
    pub(super) given: Option<u8>,
    /// Policy waits for a lower task priority.
    pub(super) held: bool,
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
            cpu: PerCpu::current(),
            loaded: false,
            vector: VectorState::new().ok_or(NewVcpuError)?,
            debug: [0; 4],
            tsc_aux: 0,
            ports: None,
            nmi: Nmi::Open,
            window: false,
            given: None,
            held: false,
        };
        vcpu.set_nested_root(config.nested_root);
        vcpu.reset();
        Ok(vcpu)
    }

    /// Notes that fields changed.
    pub(super) fn touch(&mut self, bits: u32) {
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
    pub(super) fn sync(&self) {
        let cpu = PerCpu::current();
        if cpu.guest.load(Ordering::Relaxed) == self.vmcb_phys {
            run::settle(cpu);
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
        if self.given.is_some() {
            self.look_at_given();
        }
    }

    /// An exit interrupted the delivery of an event: it is put back.
    #[cold]
    fn put_back(&mut self) {
        if self.given.is_none()
            && let Some(again) = event::again(self.vmcb.control.exit_int_info)
        {
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
        self.cpu = cpu;
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
            if self.cpu.guest.load(Ordering::Relaxed) != self.vmcb_phys {
                run::settle(self.cpu);
                // SAFETY: `load` was called on this CPU, by this trait's contract.
                unsafe { run::prepare(self.cpu, self.vmcb_phys) };
            }
            self.vmcb.save.rax = self.gprs.rax;
            // SAFETY: prepared above, or by an earlier turn, which `guest` tells.
            unsafe { run::enter(&mut self.gprs, self.vmcb_phys) };
            self.gprs.rax = self.vmcb.save.rax;
            if self.touched {
                self.entered();
            }
            if event::is_valid(self.vmcb.control.exit_int_info) {
                self.put_back();
            }
            let exit = self.vmcb.control.exit_code;
            // Before all others: the most frequent one.
            if exit == code::VMMCALL {
                return Exit::Hypercall;
            }
            match exit {
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

    #[inline(always)] // most callers name the register
    fn get(&self, register: Reg) -> u64 {
        self.register(register)
    }

    fn set(&mut self, register: Reg, value: u64) {
        self.set_register(register, value);
    }

    fn segment(&self, segment: Segment) -> SegmentState {
        self.segment_state(segment)
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
        self.set_segment_state(segment, state);
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

    #[inline]
    fn skip_call(&mut self) {
        let next = self.vmcb.control.next_rip;
        self.vmcb.save.rip = if next == 0 { self.vmcb.save.rip.wrapping_add(3) } else { next };
        self.vmcb.control.shadow &= !1;
    }

    fn skip_bytes(&mut self, bytes: u8) {
        self.vmcb.save.rip = self.vmcb.save.rip.wrapping_add(bytes.into());
        self.vmcb.control.shadow &= !1;
    }

    #[inline(always)] // most callers name the kind
    fn inject(&mut self, event: Event) -> Result<(), Busy> {
        self.inject_event(event)
    }

    #[inline]
    fn can_take_interrupt(&self) -> bool {
        self.vmcb.save.rflags & RFLAGS_IF != 0
            && self.vmcb.control.shadow & 1 == 0
            && self.given.is_none()
            && !event::is_valid(self.vmcb.control.event)
    }

    fn request_window(&mut self, window: Option<Window>) {
        self.request_window_of(window);
    }

    fn blocks_nmi(&self) -> bool {
        self.is_in_nmi()
    }

    // The page of registers is policy's alone.
    fn use_apic(&mut self, _page: &Arc<RegisterPage>, _requests: &Arc<Requests>) {}

    fn set_apic_mode(&mut self, _mode: ApicMode) {}

    #[inline]
    fn delivers_interrupts(&self) -> bool {
        false
    }

    fn offer(&mut self, _levels: Levels) {}

    fn watch_priority(&mut self, below: Option<u8>) {
        self.hold(below.is_some());
    }

    #[inline]
    fn set_deadline(&mut self, _deadline: Option<TscTicks>) -> bool {
        false
    }

    fn reset(&mut self) {
        self.reset_all();
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
