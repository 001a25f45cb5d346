//! The registers of a local APIC, and which interrupt it gives to its virtual CPU.
//!
//! IRR, ISR, TMR and the task priority are in the page of registers and nowhere else: hardware that delivers interrupts
//! by itself changes them while the guest runs. All other registers are fields of [`LocalApic`], and the page has a copy
//! for the guest to read, which is made anew after each write: whatever a guest put there counts for nothing.

use super::address::{Address, Destination};
use super::posted::Posted;
use super::registers::*;
use super::timer::{self, Mode, Timer};
use super::vectors::Vectors;
use crate::hw::{ApicMode, Levels, RegisterPage, TscTicks};
use crate::time::Clock;
use alloc::sync::Arc;

/// The time at which a register is read or written.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The guest's time-stamp counter, which is the host's.
    pub now: TscTicks,
    /// The clock.
    pub clock: &'a Clock,
}

/// An access that raises #GP in the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault;

/// What kind of message an inter-processor interrupt is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IpiKind {
    /// An interrupt of this vector, to all addressed.
    Fixed(u8),
    /// An interrupt of this vector, to one of those addressed.
    LowestPriority(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// Reset.
    Init,
    /// Start in real mode at this page.
    Start(u8),
}

/// A message that the guest sends through its interrupt command register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipi {
    /// What it is.
    pub kind: IpiKind,
    /// Who it is for.
    pub destination: Destination,
}

/// What a write leaves for the caller to do.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// The task priority changed: the virtual CPU's CR8 follows, and an interrupt may have become deliverable.
    Priority,
    /// It takes interrupts from now on: those for upcalls that it refused before come again.
    Enabled,
    /// An interrupt ended, and none waits.
    Ended,
    /// The timer is set to this time, or stopped.
    Timer(Option<TscTicks>),
    /// A message is to be sent.
    Send(Ipi),
}

/// A local APIC.
#[derive(Debug)]
pub struct LocalApic {
    address: Arc<Address>,
    page: Arc<RegisterPage>,
    /// IA32_APIC_BASE.
    base: u64,
    svr: u32,
    /// Errors since ESR was written, and those that it shows.
    errors: [u32; 2],
    icr: u64,
    lvt: [u32; LVT_COUNT],
    pub(super) timer: Timer,
}

/// Bits of IA32_APIC_BASE: bootstrap processor, x2APIC mode, enabled.
const BASE_BSP: u64 = 1 << 8;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLED: u64 = 1 << 11;

impl LocalApic {
    /// The APIC of a virtual CPU after power-on: xAPIC mode, all masked.
    pub fn new(address: Arc<Address>) -> Self {
        let bsp = if address.id() == 0 { BASE_BSP } else { 0 };
        let mut apic = Self {
            address,
            page: Arc::default(),
            base: super::PAGE | BASE_ENABLED | bsp,
            svr: 0xff,
            errors: [0; 2],
            icr: 0,
            lvt: [LVT_MASKED; LVT_COUNT],
            timer: Timer::default(),
        };
        apic.reset();
        apic
    }

    /// The state after INIT: everything but the base register and the identifier.
    pub fn reset(&mut self) {
        self.svr = 0xff;
        self.errors = [0; 2];
        self.icr = 0;
        self.lvt = [LVT_MASKED; LVT_COUNT];
        self.timer = Timer::default();
        self.page.set(TPR, 0);
        self.irr().clear();
        self.isr().clear();
        self.tmr().clear();
        self.address.set_ldr(0);
        self.address.set_dfr(u32::MAX);
        self.address.set_mode(self.is_x2apic());
        self.publish_all();
    }

    /// The page of its registers, for the hardware.
    pub const fn page(&self) -> &Arc<RegisterPage> {
        &self.page
    }

    #[inline]
    fn irr(&self) -> Vectors<'_> {
        Vectors::new(&self.page, IRR)
    }

    #[inline]
    fn isr(&self) -> Vectors<'_> {
        Vectors::new(&self.page, ISR)
    }

    fn tmr(&self) -> Vectors<'_> {
        Vectors::new(&self.page, TMR)
    }

    #[inline]
    fn tpr(&self) -> u8 {
        let [low, ..] = self.page.get(TPR).to_le_bytes();
        low
    }

    // ---- Interrupts ----

    fn is_enabled(&self) -> bool {
        self.base & BASE_ENABLED != 0
    }

    /// Whether it is in x2APIC mode.
    pub fn is_x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    /// How the guest reaches its registers.
    pub fn mode(&self) -> ApicMode {
        match self.base & (BASE_ENABLED | BASE_X2APIC) {
            BASE_ENABLED => ApicMode::Memory,
            0 | BASE_X2APIC => ApicMode::Disabled,
            _ => ApicMode::Registers,
        }
    }

    /// Whether its registers are in memory.
    pub fn is_memory_mapped(&self) -> bool {
        self.mode() == ApicMode::Memory
    }

    /// Whether software has enabled it, so that it takes interrupts.
    pub fn takes_interrupts(&self) -> bool {
        self.is_enabled() && self.svr & SVR_ENABLED != 0
    }

    /// Requests an interrupt.
    pub fn request(&mut self, vector: u8) {
        if vector < 16 {
            let _goes_with_the_rest = self.error(ESR_RECEIVED_ILLEGAL);
        } else if self.takes_interrupts() {
            self.irr().insert(vector); // edge-triggered, all of them: TMR stays clear
        }
    }

    /// Requests what was posted.
    pub fn collect(&mut self, posted: &Posted) {
        let words = posted.take();
        if self.takes_interrupts() {
            self.irr().merge(words);
        }
    }

    /// The timer reached its time. Returns when it fires next, if it is periodic.
    pub fn timer_fired(&mut self, moment: Moment<'_>) -> Option<TscTicks> {
        let lvt = self.lvt_timer();
        self.timer.fired(lvt);
        if lvt & LVT_MASKED == 0 {
            let [vector, ..] = lvt.to_le_bytes();
            self.request(vector);
        }
        self.timer.next(lvt, moment.now, moment.clock)
    }

    pub(super) fn lvt_timer(&self) -> u32 {
        let [timer, ..] = self.lvt;
        timer
    }

    fn error(&mut self, bit: u32) -> Effect {
        let [present, _] = &mut self.errors;
        let news = *present & bit == 0;
        *present |= bit;
        if let Some(lvt) = self.lvt.last().copied().filter(|lvt| news && lvt & LVT_MASKED == 0) {
            let [vector, ..] = lvt.to_le_bytes();
            if vector >= 16 && self.takes_interrupts() {
                self.irr().insert(vector);
                return Effect::Priority;
            }
        }
        Effect::Nothing
    }

    /// The task priority, as CR8 shows it.
    pub fn cr8(&self) -> u8 {
        self.page.cr8()
    }

    /// The guest wrote CR8.
    #[inline]
    pub fn set_cr8(&mut self, cr8: u8) {
        self.page.set_cr8(cr8);
    }

    /// The priority below and at which interrupts wait (SDM 3, section 11.8.3.1).
    pub fn processor_priority(&self) -> u8 {
        let service = self.isr().highest().unwrap_or(0) & 0xf0;
        let tpr = self.tpr();
        if tpr & 0xf0 >= service { tpr } else { service }
    }

    /// The interrupt that the virtual CPU gets next.
    #[inline]
    pub fn pending(&self) -> Option<u8> {
        let vector = self.irr().highest()?;
        (vector & 0xf0 > self.processor_priority() & 0xf0 && self.takes_interrupts()).then_some(vector)
    }

    /// The class of the interrupt that waits for the guest to lower its task priority below it.
    #[inline]
    pub fn held_by_priority(&self) -> Option<u8> {
        let class = self.irr().highest()? >> 4;
        (class <= self.cr8() && self.takes_interrupts()).then_some(class)
    }

    /// What hardware that delivers interrupts by itself has to know. None is requested as long as the guest has not
    /// enabled the APIC.
    pub fn levels(&self) -> Levels {
        let enabled = self.takes_interrupts();
        Levels {
            requested: self.irr().highest().filter(|_| enabled).unwrap_or(0),
            in_service: self.isr().highest().unwrap_or(0),
            enabled,
        }
    }

    /// The virtual CPU takes the interrupt of this vector.
    pub fn accept(&mut self, vector: u8) {
        self.irr().remove(vector);
        self.isr().insert(vector);
    }

    fn end_of_interrupt(&mut self) {
        if let Some(vector) = self.isr().highest() {
            self.isr().remove(vector);
        }
    }

    // ---- Registers ----

    /// IA32_APIC_BASE.
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Writes IA32_APIC_BASE. The page stays where it is, and the modes follow each other as SDM 3, section 11.12.5
    /// allows.
    pub fn set_base(&mut self, value: u64) -> Result<Effect, Fault> {
        let modes = BASE_ENABLED | BASE_X2APIC;
        if value & !modes != self.base & !modes {
            return Err(Fault);
        }
        let (was, is) = (self.base & modes, value & modes);
        let legal = match (was, is) {
            (same, other) if same == other => return Ok(Effect::Nothing),
            (_, BASE_X2APIC) => false,
            (0, is) => is == BASE_ENABLED,
            (BASE_ENABLED, _) => true,
            (_, is) => is == 0,
        };
        if !legal {
            return Err(Fault);
        }
        self.base = value;
        if is == 0 {
            self.reset();
            return Ok(Effect::Timer(None));
        }
        self.address.set_mode(self.is_x2apic());
        self.publish_all();
        Ok(Effect::Nothing)
    }

    /// Reads a register, by its number in the page.
    pub(super) fn read(&self, register: u8, moment: Moment<'_>) -> Option<u32> {
        match register {
            CURRENT_COUNT => Some(self.timer.count(self.lvt_timer(), moment.now, moment.clock)),
            register => self.stored(register),
        }
    }

    /// Reads a register that changes by writes and interrupts alone.
    fn stored(&self, register: u8) -> Option<u32> {
        #[allow(clippy::cast_possible_truncation)] // the halves
        Some(match register {
            ID if self.is_x2apic() => self.address.id(),
            ID => self.address.id() << 24,
            VERSION => 0x14 | (LVT_COUNT as u32 - 1) << 16,
            TPR => u32::from(self.tpr()),
            APR | RRD | EOI if !self.is_x2apic() => 0,
            PPR => u32::from(self.processor_priority()),
            LDR => self.address.ldr(),
            DFR if !self.is_x2apic() => self.address.dfr(),
            SVR => self.svr,
            ISR..ESR => self.page.get(register),
            ESR => {
                let [_, shown] = self.errors;
                shown
            }
            ICR => self.icr as u32,
            ICR_HIGH => (self.icr >> 32) as u32,
            LVT_TIMER..=LVT_ERROR => *self.lvt.get(usize::from(register - LVT_TIMER))?,
            INITIAL_COUNT => self.timer.initial,
            DIVIDE => self.timer.divide,
            _ => return None,
        })
    }

    /// Puts a copy of a register that this value keeps into the page, for the guest to read.
    fn publish(&self, register: u8) {
        if let Some(value) = self.stored(register) {
            self.page.set(register, value);
        }
    }

    /// As `publish`, for all of them.
    fn publish_all(&self) {
        COPIED.iter().for_each(|register| self.publish(*register));
    }

    /// Writes a register, by its number in the page; `None` if there is none that can be written.
    pub(super) fn write(&mut self, register: u8, value: u32, moment: Moment<'_>) -> Option<Effect> {
        let effect = self.change(register, value, moment);
        match register {
            TPR | EOI => {}
            SVR => self.publish_all(), // LVT entries follow
            register => self.publish(register),
        }
        effect
    }

    fn change(&mut self, register: u8, value: u32, moment: Moment<'_>) -> Option<Effect> {
        Some(match register {
            TPR => {
                self.page.set(TPR, value & 0xff);
                Effect::Priority
            }
            EOI => {
                self.end_of_interrupt();
                // What it kept waiting may be delivered now.
                if self.irr().highest().is_some() { Effect::Priority } else { Effect::Ended }
            }
            LDR if !self.is_x2apic() => {
                self.address.set_ldr(value & 0xff00_0000);
                Effect::Nothing
            }
            DFR if !self.is_x2apic() => {
                self.address.set_dfr(value | 0x0fff_ffff);
                Effect::Nothing
            }
            SVR => {
                self.svr = value & 0x1ff;
                if value & SVR_ENABLED == 0 {
                    self.lvt.iter_mut().for_each(|lvt| *lvt |= LVT_MASKED);
                    Effect::Priority // what waits is not to be delivered
                } else {
                    Effect::Enabled
                }
            }
            ESR => {
                let [present, shown] = &mut self.errors;
                *shown = core::mem::take(present);
                Effect::Nothing
            }
            ICR => {
                self.icr = (self.icr & !0xffff_ffff) | u64::from(value & 0x000c_cfff);
                self.send()
            }
            ICR_HIGH if !self.is_x2apic() => {
                self.icr = (self.icr & 0xffff_ffff) | u64::from(value & 0xff00_0000) << 32;
                Effect::Nothing
            }
            LVT_TIMER..=LVT_ERROR => return self.write_lvt(register, value, moment),
            INITIAL_COUNT => {
                if timer::mode(self.lvt_timer()) == Mode::Deadline {
                    return Some(Effect::Nothing);
                }
                self.timer.start(value, moment.now);
                Effect::Timer(self.timer.next(self.lvt_timer(), moment.now, moment.clock))
            }
            DIVIDE => {
                // A count that is under way is taken as if it had run at the new rate from its beginning.
                self.timer.divide = value & 0xb;
                Effect::Timer(self.timer.next(self.lvt_timer(), moment.now, moment.clock))
            }
            _ => return None,
        })
    }

    fn write_lvt(&mut self, register: u8, value: u32, moment: Moment<'_>) -> Option<Effect> {
        let index = usize::from(register - LVT_TIMER);
        let mut value = value & LVT_WRITABLE.get(index)?;
        if self.svr & SVR_ENABLED == 0 {
            value |= LVT_MASKED;
        }
        let before = core::mem::replace(self.lvt.get_mut(index)?, value);
        if register != LVT_TIMER {
            return Some(Effect::Nothing);
        }
        let deadline = |lvt| timer::mode(lvt) == Mode::Deadline;
        if deadline(before) != deadline(value) {
            // Changing to or from this mode stops the timer (SDM 3, section 11.5.4.1).
            self.timer.deadline = 0;
            self.timer.start(0, moment.now);
        }
        Some(Effect::Timer(self.timer.next(value, moment.now, moment.clock)))
    }

    /// Writes the whole interrupt command register, as x2APIC mode does.
    pub(super) fn command(&mut self, value: u64) -> Effect {
        self.icr = value & 0xffff_ffff_000c_cfff;
        self.send()
    }

    /// Sends the interrupt command register's message.
    fn send(&mut self) -> Effect {
        let [vector, ..] = self.icr.to_le_bytes();
        #[allow(clippy::cast_possible_truncation)] // the upper half
        let field = (self.icr >> 32) as u32;
        let field = if self.is_x2apic() { field } else { field >> 24 };
        let destination = match (self.icr >> 18) & 3 {
            1 => Destination::Own,
            2 => Destination::All,
            3 => Destination::Others,
            _ if self.icr & (1 << 11) != 0 => Destination::Logical(field),
            _ => Destination::Physical(field),
        };
        let kind = match (self.icr >> 8) & 7 {
            0 | 1 if vector < 16 => {
                return self.error(ESR_SEND_ILLEGAL);
            }
            0 => IpiKind::Fixed(vector),
            1 => IpiKind::LowestPriority(vector),
            4 => IpiKind::Nmi,
            // A level de-assert of INIT only synchronises arbitration and does nothing here.
            5 if self.icr & (1 << 15) != 0 && self.icr & (1 << 14) == 0 => return Effect::Nothing,
            5 => IpiKind::Init,
            6 => IpiKind::Start(vector),
            _ => return Effect::Nothing,
        };
        Effect::Send(Ipi { kind, destination })
    }

    /// Reads the register at `offset` of the page. Parts of a register that are not its first 32 bits read as zero.
    pub fn mmio_read(&mut self, offset: u16, moment: Moment<'_>) -> u32 {
        let register = u8::try_from(offset >> 4).ok().filter(|_| offset & 15 == 0);
        match register {
            Some(register) => self.read(register, moment).unwrap_or_else(|| {
                let _at_the_next_delivery = self.error(ESR_ILLEGAL_REGISTER);
                0
            }),
            None => 0,
        }
    }

    /// Writes the register at `offset` of the page.
    pub fn mmio_write(&mut self, offset: u16, value: u32, moment: Moment<'_>) -> Effect {
        let register = u8::try_from(offset >> 4).ok().filter(|_| offset & 15 == 0);
        let Some(register) = register else { return Effect::Nothing };
        self.write(register, value, moment).unwrap_or_else(|| self.error(ESR_ILLEGAL_REGISTER))
    }

    /// Does what a write of the register at `offset` means that the hardware has already put into the page.
    pub fn written(&mut self, offset: u16, moment: Moment<'_>) -> Effect {
        let [register, ..] = (offset >> 4).to_le_bytes();
        match register {
            // Only a vector that is no interrupt's is left to the hypervisor.
            SELF_IPI if self.is_x2apic() => self.error(ESR_SEND_ILLEGAL),
            register => self.mmio_write(u16::from(register) << 4, self.page.get(register), moment),
        }
    }
}
