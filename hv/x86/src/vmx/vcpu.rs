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
use super::controls::{EntryControls, Pin, Primary, Secondary};
use super::debug::DebugRegisters;
use super::field::{self, Field};
use super::instr::{self, read, write};
use super::msrs::SwitchedMsrs;
use super::reason::{self, Told};
use super::{entry, failure, host, segment, structure::Structure};
use crate::cpu::fpu::VectorState;
use crate::cpu::io::rdtsc;
use crate::cpu::percpu::PerCpu;
use crate::cpu::tags::Tag;
use crate::cpu::{machine_check, traps};
use crate::paging;

/// CR0: extension type, numeric error, not write-through, cache disable.
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
/// Unrestricted guests own these although VMX fixes them otherwise (section 24.8).
const CR0_UNRESTRICTED: u64 = 1 | 1 << 31;
const CR4_VMXE: u64 = 1 << 13;
const EFER_LMA: u64 = 1 << 10;
/// RFLAGS: bit 1 is always one; IF.
const RFLAGS_ONE: u64 = 1 << 1;
const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_TF: u64 = 1 << 8;
/// Interruptibility (section 25.4.2): blocking by STI, by MOV SS; by NMI.
const BLOCKED: u64 = 0b11;
const BLOCKED_BY_NMI: u64 = 1 << 3;
/// Pending debug exceptions: single step.
const PENDING_STEP: u64 = 1 << 14;
/// Interruption information (section 25.8.3).
const VALID: u32 = 1 << 31;
const HAS_CODE: u32 = 1 << 11;
const TYPE_SHIFT: u32 = 8;
const TYPE_NMI: u32 = 2;
const TYPE_EXCEPTION: u32 = 3;
/// Software interrupt, privileged software exception, software exception: they have an instruction length.
const TYPES_WITH_LENGTH: [u32; 3] = [4, 5, 6];
/// Bit 12 of the exit interruption information: NMI unblocking due to IRET.
const UNBLOCKED_BY_IRET: u32 = 1 << 12;

/// The preemption timer stands in for the machine's when the deadline is nearer than this, in ticks. An entry with it costs
/// about 15 instructions more; a deadline that it reaches, some 30 fewer (the handler of an interrupt, and its end), and the
/// machine's timer need not be set, which takes 20. So it gains as long as three entries or fewer come before the deadline.
const SOON: u64 = 50_000;

/// Exceptions that exit: #DB and #AC, whose delivery can loop for ever inside the processor, and #MC, the host's.
const INTERCEPTED: u64 = 1 << 1 | 1 << 17 | 1 << 18;

/// A virtual CPU on VT-x.
pub struct Vcpu {
    gprs: Gprs,
    structure: Structure,
    bitmaps: Box<Bitmaps>,
    vector: VectorState,
    msrs: SwitchedMsrs,
    debug: DebugRegisters,
    capability: &'static Capability,
    /// What HOST_RSP holds; 0 when the structure was cleared since.
    host_rsp: u64,
    /// The structure was launched since it was last clear.
    launched: bool,
    /// This CPU runs it: the structure is current, and the registers are in the CPU.
    loaded: bool,
    cr2: u64,
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
    primary: u32,
    entry_event: u32,
    /// What the guest sees of CR0 and CR4 where they are the hypervisor's.
    shadows: [u64; 2],
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
    fn on_structure<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
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

    /// Everything that stays as it is.
    fn set_up(&mut self) {
        let c = self.capability;
        write(field::PIN_CONTROLS, c.pin.into());
        write(field::PRIMARY_CONTROLS, c.primary.into());
        write(field::SECONDARY_CONTROLS, c.secondary.into());
        write(field::EXIT_CONTROLS, c.exit.into());
        write(field::ENTRY_CONTROLS, c.entry.into());
        write(field::EXCEPTION_BITMAP, INTERCEPTED);
        for zero in [
            field::PAGE_FAULT_MASK,
            field::PAGE_FAULT_MATCH,
            field::CR3_TARGET_COUNT,
            field::EXIT_MSR_STORE_COUNT,
            field::EXIT_MSR_LOAD_COUNT,
            field::ENTRY_MSR_LOAD_COUNT,
            field::GUEST_DEBUGCTL,
            field::TSC_OFFSET,
            field::TPR_THRESHOLD,
        ] {
            write(zero, 0);
        }
        if c.delivers() {
            for zero in [
                field::GUEST_INTERRUPT_STATUS,
                field::EOI_EXIT0,
                field::EOI_EXIT1,
                field::EOI_EXIT2,
                field::EOI_EXIT3,
            ] {
                write(zero, 0);
            }
        }
        write(field::VMCS_LINK, u64::MAX);
        let (io_a, io_b, msr) = self.bitmaps.addresses(paging::direct_map_phys);
        write(field::IO_BITMAP_A, io_a);
        write(field::IO_BITMAP_B, io_b);
        write(field::MSR_BITMAP, msr);
        if c.secondary & super::controls::Secondary::PAUSE_LOOP.bits() != 0 {
            // Ticks between two PAUSEs of one loop, and ticks that a loop may take before it exits.
            write(field::PAUSE_GAP, 128);
            write(field::PAUSE_WINDOW, 4096);
        }
        let [cr0, cr4] = self.owned();
        write(field::CR0_MASK, cr0);
        write(field::CR4_MASK, cr4);
        host::write_constant();
    }

    /// The bits of CR0 and CR4 that are the hypervisor's.
    #[inline]
    const fn owned(&self) -> [u64; 2] {
        let c = self.capability;
        let cr0 = CR0_NW | CR0_CD | CR0_NE | (c.cr0.one & !CR0_UNRESTRICTED) | !c.cr0.may;
        [cr0, c.cr4.one | !c.cr4.may | CR4_VMXE]
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

    fn write_event(&mut self, info: u32, code: Option<u32>, length: u64) {
        write(field::ENTRY_EVENT, info.into());
        if let Some(code) = code {
            write(field::ENTRY_EVENT_CODE, code.into());
        }
        if TYPES_WITH_LENGTH.contains(&(info >> TYPE_SHIFT & 7)) {
            write(field::ENTRY_EVENT_LENGTH, length);
        }
        self.entry_event = info;
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

    /// Puts an event back whose delivery the exit interrupted (section 28.2.4).
    fn reinject(&mut self) {
        let info = read(field::VECTORING_EVENT) as u32;
        if info & VALID == 0 {
            return;
        }
        let code = (info & HAS_CODE != 0).then(|| read(field::VECTORING_CODE) as u32);
        // Bit 12 is undefined there and reserved in the entry field.
        self.write_event(info & !(1 << 12), code, read(field::EXIT_INSTRUCTION_LENGTH));
        if info >> TYPE_SHIFT & 7 == TYPE_NMI {
            // The entry sets the blocking again; it must not be there before (section 27.3.1.5).
            write(field::GUEST_INTERRUPTIBILITY, read(field::GUEST_INTERRUPTIBILITY) & !BLOCKED_BY_NMI);
        }
    }

    /// Reads what this exit tells, and only that: every VMREAD counts.
    fn told(&mut self, reason: u32) -> Told {
        let mut told = Told { reason, ..Told::default() };
        if reason & reason::ENTRY_FAILED != 0 {
            told.qualification = read(field::EXIT_QUALIFICATION);
            return told;
        }
        match reason as u16 {
            reason::VMCALL
            | reason::CPUID
            | reason::HLT
            | reason::INTERRUPT_WINDOW
            | reason::NMI_WINDOW
            | reason::PREEMPTION_TIMER
            | reason::TPR_BELOW_THRESHOLD
            | reason::PAUSE => {}
            reason::APIC_WRITE => told.qualification = read(field::EXIT_QUALIFICATION),
            reason::RDMSR | reason::WRMSR => {
                told.registers = (self.gprs.rax, self.gprs.rcx, self.gprs.rdx);
            }
            reason::EXTERNAL_INTERRUPT if self.capability.acknowledges() => {
                traps::taken(read(field::EXIT_EVENT) as u8);
            }
            reason::EXTERNAL_INTERRUPT => traps::take_interrupts(),
            reason::EXCEPTION_OR_NMI => {
                told.event = (read(field::EXIT_EVENT) as u32, read(field::EXIT_EVENT_CODE) as u32);
                if !self.host_exception(told.event.0) {
                    told.reason = reason::EXTERNAL_INTERRUPT.into();
                }
                self.reinject();
            }
            reason::EPT_VIOLATION | reason::EPT_MISCONFIGURATION => {
                told.qualification = read(field::EXIT_QUALIFICATION);
                told.guest_physical = read(field::GUEST_PHYSICAL_ADDRESS);
                told.guest_linear = read(field::GUEST_LINEAR_ADDRESS);
                self.reinject();
                // An IRET that faulted had already unblocked NMIs: block them again (section 28.2.3).
                if told.qualification & u64::from(UNBLOCKED_BY_IRET) != 0 && self.entry_event & VALID == 0 {
                    write(
                        field::GUEST_INTERRUPTIBILITY,
                        read(field::GUEST_INTERRUPTIBILITY) | BLOCKED_BY_NMI,
                    );
                }
            }
            reason::TASK_SWITCH => {
                told.qualification = read(field::EXIT_QUALIFICATION);
            }
            _ => {
                told.qualification = read(field::EXIT_QUALIFICATION);
                self.reinject();
            }
        }
        told
    }

    /// NMIs and machine checks are the host's: it takes them before anything else happens. Whether the guest has to do
    /// with it.
    fn host_exception(&self, info: u32) -> bool {
        let kind = info >> TYPE_SHIFT & 7;
        if kind == TYPE_NMI {
            // SAFETY: the handler of NMI only records; its IRET ends the blocking of further NMIs.
            unsafe { core::arch::asm!("int 2") };
        } else if kind == TYPE_EXCEPTION && info as u8 == reason::MACHINE_CHECK {
            return machine_check::judge() == Exit::MachineCheck;
        }
        true
    }

    fn reg_field(register: Reg) -> Option<Field> {
        Some(match register {
            Reg::Rip => field::GUEST_RIP,
            Reg::Rsp => field::GUEST_RSP,
            Reg::Rflags => field::GUEST_RFLAGS,
            Reg::Cr3 => field::GUEST_CR3,
            Reg::Dr7 => field::GUEST_DR7,
            Reg::Efer => field::GUEST_EFER,
            Reg::SysenterCs => field::GUEST_SYSENTER_CS,
            Reg::SysenterEsp => field::GUEST_SYSENTER_ESP,
            Reg::SysenterEip => field::GUEST_SYSENTER_EIP,
            Reg::Pat => field::GUEST_PAT,
            _ => return None,
        })
    }

    /// A control register as the guest sees it: its own bits from the register, the hypervisor's from the shadow.
    const fn visible(actual: u64, shadow: u64, mask: u64) -> u64 {
        (actual & !mask) | (shadow & mask)
    }

    fn read_reg(&self, register: Reg) -> u64 {
        match register {
            Reg::Cr0 => Self::visible(read(field::GUEST_CR0), self.shadows[0], self.owned()[0]),
            Reg::Cr4 => Self::visible(read(field::GUEST_CR4), self.shadows[1], self.owned()[1]),
            _ => match Self::reg_field(register) {
                Some(field) => read(field),
                None => self.msrs.get(register, self.loaded).unwrap_or(0),
            },
        }
    }

    fn write_reg(&mut self, register: Reg, value: u64) {
        match register {
            Reg::Cr0 => {
                // Unrestricted guests may clear PE and PG; the rest of the fixed bits is kept, and caches stay on.
                let fixed = self.capability.cr0.apply(value);
                let free = CR0_UNRESTRICTED;
                let actual = (fixed & !free) | (value & free) | CR0_ET;
                write(field::GUEST_CR0, actual & !(CR0_NW | CR0_CD));
                self.shadows[0] = value | CR0_ET;
                write(field::CR0_SHADOW, self.shadows[0]);
            }
            Reg::Cr4 => {
                write(field::GUEST_CR4, self.capability.cr4.apply(value) | CR4_VMXE);
                self.shadows[1] = value;
                write(field::CR4_SHADOW, value);
            }
            Reg::Efer => {
                write(field::GUEST_EFER, value);
                // VM entry wants its control to agree with EFER.LMA (section 27.3.1.1).
                let control = EntryControls::IA32E.bits();
                let on = value & EFER_LMA != 0;
                let entry = self.capability.entry;
                write(field::ENTRY_CONTROLS, u64::from(if on { entry | control } else { entry & !control }));
            }
            Reg::Rflags => write(field::GUEST_RFLAGS, value | RFLAGS_ONE),
            _ => match Self::reg_field(register) {
                Some(field) => write(field, value),
                None => self.msrs.set(register, value, self.loaded),
            },
        }
    }

    fn advance(&mut self, bytes: u64) {
        let before = read(field::GUEST_RIP);
        let mut rip = before.wrapping_add(bytes);
        // Outside of 64-bit code it wraps at 4 GiB.
        if before >> 32 == 0 && rip >> 32 != 0 && read(field::GUEST_CS_RIGHTS) & 1 << 13 == 0 {
            rip &= 0xffff_ffff;
        }
        write(field::GUEST_RIP, rip);
        let blocked = read(field::GUEST_INTERRUPTIBILITY);
        if blocked & BLOCKED != 0 {
            write(field::GUEST_INTERRUPTIBILITY, blocked & !BLOCKED);
        }
        if read(field::GUEST_RFLAGS) & RFLAGS_TF != 0 {
            // The instruction is done, so its single-step trap is due.
            write(field::GUEST_PENDING_DEBUG, read(field::GUEST_PENDING_DEBUG) | PENDING_STEP);
        }
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
        self.gprs = Gprs::default();
        self.vector.reset();
        self.debug = DebugRegisters::default();
        self.msrs = SwitchedMsrs::default();
        self.cr2 = 0;
        self.on_structure(|vcpu| {
            for segment in segment::ALL {
                segment::write(segment, segment::at_reset(segment));
            }
            vcpu.write_reg(Reg::Efer, 0);
            vcpu.write_reg(Reg::Cr0, CR0_ET);
            vcpu.write_reg(Reg::Cr4, 0);
            vcpu.write_reg(Reg::Rflags, 0);
            for (register, value) in [
                (field::GUEST_CR3, 0),
                (field::GUEST_RIP, 0xfff0),
                (field::GUEST_RSP, 0),
                (field::GUEST_DR7, 0x400),
                (field::GUEST_PAT, 0x0007_0406_0007_0406),
                (field::GUEST_SYSENTER_CS, 0),
                (field::GUEST_SYSENTER_ESP, 0),
                (field::GUEST_SYSENTER_EIP, 0),
                (field::GUEST_INTERRUPTIBILITY, 0),
                (field::GUEST_ACTIVITY, 0),
                (field::GUEST_PENDING_DEBUG, 0),
                (field::ENTRY_EVENT, 0),
            ] {
                write(register, value);
            }
            vcpu.entry_event = 0;
            vcpu.primary = vcpu.capability.primary;
            write(field::PRIMARY_CONTROLS, vcpu.primary.into());
        });
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
