//! The registers of a local APIC, and which interrupt it gives to its virtual CPU.
//!
//! IRR, ISR, TMR and the task priority are in the page of registers and nowhere else: hardware that delivers interrupts
//! by itself changes them while the guest runs. All other registers are fields of [`LocalApic`], and the page has a copy
//! for the guest to read, which is made anew after each write: whatever a guest put there counts for nothing.

use super::address::Address;
use super::effect::{Effect, Moment};
use super::posted::Posted;
use super::registers::*;
use super::timer::Timer;
use super::vectors::Vectors;
use crate::hw::{ApicMode, Levels, RegisterPage, TscTicks};
use alloc::sync::Arc;

/// A local APIC.
#[derive(Debug)]
pub struct LocalApic {
    pub(super) address: Arc<Address>,
    pub(super) page: Arc<RegisterPage>,
    /// IA32_APIC_BASE.
    pub(super) base: u64,
    pub(super) svr: u32,
    /// Errors since ESR was written, and those that it shows.
    pub(super) errors: [u32; 2],
    pub(super) icr: u64,
    pub(super) lvt: [u32; LVT_COUNT],
    pub(super) timer: Timer,
    /// Something was put into IRR here that was not seen to be gone.
    requested: bool,
}

/// Bits of IA32_APIC_BASE: bootstrap processor, x2APIC mode, enabled.
const BASE_BSP: u64 = 1 << 8;
pub(super) const BASE_X2APIC: u64 = 1 << 10;
pub(super) const BASE_ENABLED: u64 = 1 << 11;

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
            requested: false,
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
    pub(super) fn irr(&self) -> Vectors<'_> {
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
    pub(super) fn tpr(&self) -> u8 {
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
            self.requested = true;
        }
    }

    /// Requests what was posted.
    pub fn collect(&mut self, posted: &Posted) {
        let words = posted.take();
        if self.takes_interrupts() {
            self.irr().merge(words);
            self.requested = true;
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

    pub(super) fn error(&mut self, bit: u32) -> Effect {
        let [present, _] = &mut self.errors;
        let news = *present & bit == 0;
        *present |= bit;
        if let Some(lvt) = self.lvt.last().copied().filter(|lvt| news && lvt & LVT_MASKED == 0) {
            let [vector, ..] = lvt.to_le_bytes();
            if vector >= 16 && self.takes_interrupts() {
                self.irr().insert(vector);
                self.requested = true;
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

    /// Whether there may be requests, where no hardware makes any: the usual answer is no.
    #[inline]
    pub const fn may_have_requests(&self) -> bool {
        self.requested
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
        self.requested = self.irr().highest().is_some();
        self.isr().insert(vector);
    }

    pub(super) fn end_of_interrupt(&mut self) {
        if let Some(vector) = self.isr().highest() {
            self.isr().remove(vector);
        }
    }
}
