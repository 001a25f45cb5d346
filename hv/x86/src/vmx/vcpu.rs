//! A virtual CPU on VT-x.
//!
//! Most of its state is in its control structure, which is reached by VMREAD and VMWRITE while it is current on this
//! CPU. It is current from `load` to `save`, and for the moment of an access from elsewhere: [`Vcpu::on_structure`] sees
//! to that, and puts back what was current before. Between uses it is clear, so that any CPU may take it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use hv_core::hw::{
    ApicMode, Busy, Event, EventKind, Exit, Gprs, HostPhys, Levels, Reg, RegisterPage, Requests, Segment,
    SegmentState, TscTicks, VcpuConfig, VcpuHw, Window,
};

use super::bitmaps::Bitmaps;
use super::capability::Capability;
use super::controls::{Pin, Primary, Secondary};
use super::debug::DebugRegisters;
use super::exits::{BLOCKED, BLOCKED_BY_NMI, HAS_CODE, TYPE_EXCEPTION, TYPE_NMI, TYPE_SHIFT, VALID};
use super::field;
use super::instr::{self, read, write};
use super::msrs::SwitchedMsrs;
use super::reason;
use super::{entry, failure, host, segment, structure::Structure};
use crate::cpu::fpu::VectorState;
use crate::cpu::io::rdtsc;
use crate::cpu::percpu::PerCpu;
use crate::cpu::tags::Tag;
use crate::cpu::traps;
use crate::paging;

/// RFLAGS: interrupts are taken.
const RFLAGS_IF: u64 = 1 << 9;

/// The preemption timer stands in for the machine's when the deadline is nearer than this, in ticks. An entry with it costs
/// about 15 instructions more; a deadline that it reaches, some 30 fewer (the handler of an interrupt, and its end), and the
/// machine's timer need not be set, which takes 20. So it gains as long as three entries or fewer come before the deadline.
const SOON: u64 = 50_000;

/// A virtual CPU on VT-x.
pub struct Vcpu {
    pub(super) gprs: Gprs,
    structure: Structure,
    pub(super) bitmaps: Box<Bitmaps>,
    pub(super) vector: VectorState,
    pub(super) msrs: SwitchedMsrs,
    pub(super) debug: DebugRegisters,
    pub(super) capability: &'static Capability,
    /// What HOST_RSP holds; 0 when the structure was cleared since.
    host_rsp: u64,
    /// The structure was launched since it was last clear.
    launched: bool,
    /// This CPU runs it: the structure is current, and the registers are in the CPU.
    pub(super) loaded: bool,
    pub(super) cr2: u64,
    /// The page of the local APIC's registers and the requests to it, of which the structure has the addresses.
    apic: Option<(Arc<RegisterPage>, Arc<Requests>)>,
    /// When the preemption timer is to end guest mode; 0 for never.
    deadline: u64,
    /// The EPT pointer (section 25.6.11).
    tables: u64,
    tag: Option<Tag>,
    flush: bool,
    /// Copies of fields that decide often.
    pin: u32,
    pub(super) primary: u32,
    pub(super) entry_event: u32,
    /// What the guest sees of CR0 and CR4 where they are the hypervisor's.
    pub(super) shadows: [u64; 2],
    /// The reason of the last exit.
    last: u16,
}

impl Vcpu {
    /// Makes one in its reset state; nothing if memory ran out.
    pub fn new(config: VcpuConfig, capability: &'static Capability) -> Option<Self> {
        let mut vcpu = Self {
            gprs: Gprs::default(),
            structure: Structure::new(capability.revision)?,
            bitmaps: Bitmaps::new()?,
            vector: VectorState::new()?,
            msrs: SwitchedMsrs::default(),
            debug: DebugRegisters::default(),
            capability,
            host_rsp: 0,
            launched: false,
            loaded: false,
            cr2: 0,
            apic: None,
            deadline: 0,
            tables: 0,
            tag: None,
            flush: true,
            pin: capability.pin,
            primary: capability.primary,
            entry_event: 0,
            shadows: [0; 2],
            last: 0,
        };
        vcpu.on_structure(Self::set_up);
        vcpu.reset();
        vcpu.set_nested_root(config.nested_root);
        Some(vcpu)
    }

    /// Runs `f` with the structure current, and puts back what was current before.
    pub(super) fn on_structure<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
        if self.loaded {
            return f(self);
        }
        self.launched = false;
        self.host_rsp = 0;
        let structure = self.structure.handle();
        structure.visit(|| f(self))
    }

    fn clear(&mut self) {
        self.structure.clear();
        self.launched = false;
        self.host_rsp = 0;
    }

    fn write_primary(&mut self, bit: Primary, on: bool) {
        let wanted = if on { self.primary | bit.bits() } else { self.primary & !bit.bits() };
        if wanted != self.primary {
            self.primary = wanted;
            write(field::PRIMARY_CONTROLS, wanted.into());
        }
    }

    fn write_pin(&mut self, bit: Pin, on: bool) {
        let wanted = if on { self.pin | bit.bits() } else { self.pin & !bit.bits() };
        if wanted != self.pin {
            self.pin = wanted;
            write(field::PIN_CONTROLS, wanted.into());
        }
    }

    /// Makes the preemption timer end guest mode at the deadline: it counts from each entry on (section 26.5.1). Rounded
    /// up; what is too far away for it ends guest mode early, and is asked for again.
    fn set_timer(&self) {
        let shift = self.capability.timer.unwrap_or(0);
        let left = self.deadline.saturating_sub(rdtsc());
        let count = if left == 0 { 0 } else { (left >> shift) + 1 };
        write(field::PREEMPTION_TIMER, count.min(u32::MAX.into()));
    }

    /// Gives the virtual CPU a tag of its own if its last one is not good any more (section 29.4).
    fn freshen(&mut self, cpu: &PerCpu) {
        if self.flush || !cpu.tags.is_good(cpu.id(), self.tag) {
            self.renew(cpu);
        }
    }

    #[cold]
    fn renew(&mut self, cpu: &PerCpu) {
        let vpid = self.capability.vpid;
        // Without VPID every entry and exit flushes linear mappings by itself; one tag then serves all.
        let fresh = cpu.tags.take(cpu.id(), if vpid { 1 << 16 } else { 2 });
        if fresh.flush_all {
            let flushed = if vpid { instr::invvpid_all() } else { Ok(()) }.and_then(|()| instr::invept_all());
            if let Err(error) = flushed {
                panic!("translations could not be flushed: {error}");
            }
        } else if let Err(error) = instr::invept_context(self.tables) {
            panic!("INVEPT: {error}");
        }
        if vpid {
            write(field::VPID, fresh.tag.number().into());
        }
        self.tag = Some(fresh.tag);
        self.flush = false;
    }
}

const CALL: u32 = reason::VMCALL as u32;
const IDENTIFY: u32 = reason::CPUID as u32;

impl VcpuHw for Vcpu {
    fn load(&mut self) {
        let cpu = PerCpu::current();
        self.structure.make_current();
        cpu.guest.store(self.structure.address(), Ordering::Relaxed);
        self.loaded = true;
        host::write_for_this_cpu(cpu);
        self.msrs.load();
        self.debug.load();
        self.vector.load();
    }

    fn save(&mut self) {
        self.vector.save();
        self.debug.save();
        self.msrs.save();
        self.set_deadline(None);
        self.clear();
        self.loaded = false;
        PerCpu::current().guest.store(0, Ordering::Relaxed);
    }

    fn run(&mut self) -> Exit {
        self.freshen(PerCpu::current());
        if self.deadline != 0 {
            self.set_timer();
        }
        // SAFETY: CR2 is the guest's to have; the hypervisor's own page faults are bugs that end it.
        unsafe { core::arch::asm!("mov cr2, {}", in(reg) self.cr2, options(nomem, nostack)) };
        // SAFETY: `load` made this virtual CPU's structure current, and `set_up` and `reset` filled it.
        let failed =
            unsafe { entry::enter(&raw mut self.gprs, u64::from(self.launched), &raw mut self.host_rsp) };
        // SAFETY: reading CR2 changes nothing.
        unsafe { core::arch::asm!("mov {}, cr2", out(reg) self.cr2, options(nomem, nostack)) };
        if failed != 0 {
            return Exit::EntryFailed(failure::control_failure(instr::instruction_error()));
        }
        self.launched = true;
        self.entry_event = 0;
        let reason = read(field::EXIT_REASON) as u32;
        self.last = reason as u16;
        // The two that are most frequent tell nothing more.
        match reason {
            CALL => return Exit::Hypercall,
            IDENTIFY => return Exit::Cpuid,
            _ => {}
        }
        let told = self.told(reason);
        reason::decode(&told)
    }

    fn gprs(&self) -> &Gprs {
        &self.gprs
    }

    fn gprs_mut(&mut self) -> &mut Gprs {
        &mut self.gprs
    }

    fn get(&self, register: Reg) -> u64 {
        match register {
            Reg::Cr2 => self.cr2,
            Reg::Cr8 => self.apic.as_ref().map_or(0, |(page, _)| page.cr8().into()),
            Reg::Xcr0 => self.vector.xcr0(self.loaded),
            Reg::Dr6 => self.debug.dr6(self.loaded),
            _ if self.loaded => self.read_reg(register),
            _ => self.structure.handle().visit(|| self.read_reg(register)),
        }
    }

    fn set(&mut self, register: Reg, value: u64) {
        match register {
            Reg::Cr2 => self.cr2 = value,
            Reg::Cr8 => {
                if let Some((page, _)) = &self.apic {
                    page.set_cr8(value as u8);
                }
            }
            Reg::Xcr0 => self.vector.set_xcr0(value, self.loaded),
            Reg::Dr6 => self.debug.set_dr6(value, self.loaded),
            _ => self.on_structure(|vcpu| vcpu.write_reg(register, value)),
        }
    }

    fn segment(&self, segment: Segment) -> SegmentState {
        if self.loaded {
            segment::read(segment)
        } else {
            self.structure.handle().visit(|| segment::read(segment))
        }
    }

    fn privilege_level(&self) -> u8 {
        segment::privilege_level()
    }

    fn is_64_bit(&self) -> bool {
        segment::is_64_bit()
    }

    fn set_segment(&mut self, segment: Segment, state: SegmentState) {
        self.on_structure(|_| segment::write(segment, state));
    }

    fn skip(&mut self) {
        let length = read(field::EXIT_INSTRUCTION_LENGTH);
        self.advance(length);
    }

    #[inline]
    fn skip_call(&mut self) {
        self.skip();
    }

    fn skip_bytes(&mut self, bytes: u8) {
        self.advance(bytes.into());
    }

    fn inject(&mut self, event: Event) -> Result<(), Busy> {
        if self.entry_event & VALID != 0 {
            return Err(Busy);
        }
        let kind = match event.kind {
            EventKind::Interrupt => 0,
            EventKind::Nmi => TYPE_NMI,
            EventKind::Exception => TYPE_EXCEPTION,
        };
        let code = if event.code.is_some() { HAS_CODE } else { 0 };
        let info = VALID | code | kind << TYPE_SHIFT | u32::from(event.vector);
        self.on_structure(|vcpu| vcpu.write_event(info, event.code, 0));
        Ok(())
    }

    fn can_take_interrupt(&self) -> bool {
        self.entry_event & VALID == 0
            && read(field::GUEST_RFLAGS) & RFLAGS_IF != 0
            && read(field::GUEST_INTERRUPTIBILITY) & BLOCKED == 0
    }

    fn request_window(&mut self, window: Option<Window>) {
        self.write_primary(Primary::INTERRUPT_WINDOW, window == Some(Window::Interrupt));
        self.write_primary(Primary::NMI_WINDOW, window == Some(Window::Nmi));
    }

    fn blocks_nmi(&self) -> bool {
        self.entry_event & VALID != 0 && self.entry_event >> TYPE_SHIFT & 7 == TYPE_NMI
            || read(field::GUEST_INTERRUPTIBILITY) & BLOCKED_BY_NMI != 0
    }

    fn use_apic(&mut self, page: &Arc<RegisterPage>, requests: &Arc<Requests>) {
        let address = paging::direct_map_phys(Arc::as_ptr(page).cast::<u8>());
        let descriptor = paging::direct_map_phys(Arc::as_ptr(requests).cast::<u8>());
        self.on_structure(|vcpu| {
            write(field::VIRTUAL_APIC, address);
            if vcpu.capability.posts {
                write(field::POSTED_DESCRIPTOR, descriptor);
                write(field::POSTED_VECTOR, traps::REQUESTS.into());
            }
        });
        self.apic = Some((Arc::clone(page), Arc::clone(requests)));
    }

    fn set_apic_mode(&mut self, mode: ApicMode) {
        let capability = self.capability;
        let x2apic = capability.x2apic && mode == ApicMode::Registers;
        let controls = capability.secondary | if x2apic { Secondary::X2APIC_MODE.bits() } else { 0 };
        self.bitmaps.pass_x2apic(capability, x2apic);
        self.on_structure(|_| write(field::SECONDARY_CONTROLS, controls.into()));
    }

    #[inline]
    fn delivers_interrupts(&self) -> bool {
        self.capability.delivers()
    }

    fn offer(&mut self, levels: Levels) {
        if self.capability.delivers() {
            let status = u64::from(levels.in_service) << 8 | u64::from(levels.requested);
            let posts = levels.enabled && self.capability.posts;
            self.on_structure(|vcpu| {
                write(field::GUEST_INTERRUPT_STATUS, status);
                vcpu.write_pin(Pin::POSTED_INTERRUPTS, posts);
            });
        }
    }

    fn watch_priority(&mut self, below: Option<u8>) {
        if !self.capability.delivers() {
            // Not above the priority that there is: entries check that (section 27.2.1.1).
            let below = below.unwrap_or(0).min(self.get(Reg::Cr8) as u8);
            self.on_structure(|_| write(field::TPR_THRESHOLD, below.into()));
        }
    }

    fn set_deadline(&mut self, deadline: Option<TscTicks>) -> bool {
        // It costs something at each entry, the machine's timer only when it fires: see `SOON`.
        let soon = |deadline: &TscTicks| {
            self.capability.timer.is_some() && deadline.raw().saturating_sub(rdtsc()) < SOON
        };
        let deadline = deadline.filter(soon).map_or(0, |deadline| deadline.raw().max(1));
        self.write_pin(Pin::PREEMPTION_TIMER, deadline != 0);
        self.deadline = deadline;
        deadline != 0
    }

    fn reset(&mut self) {
        self.reset_all();
    }

    fn set_nested_root(&mut self, root: HostPhys) {
        // Section 25.6.11: write-back tables, four levels.
        self.tables = root.raw() | 3 << 3 | 6;
        let tables = self.tables;
        self.on_structure(|_| write(field::EPT_POINTER, tables));
        self.flush = true;
    }

    fn flush_nested(&mut self) {
        self.flush = true;
    }

    fn set_tsc_offset(&mut self, offset: TscTicks) {
        self.on_structure(|_| write(field::TSC_OFFSET, offset.raw()));
    }

    fn pass_ports(&mut self, first: u16, count: u16, pass: bool) {
        self.bitmaps.pass_ports(first, count, pass);
    }
}
