//! Reads and writes of a local APIC's registers, by the guest or on behalf of it.

use super::address::Destination;
use super::effect::{Effect, Fault, Ipi, IpiKind, Moment};
use super::local::{BASE_ENABLED, BASE_X2APIC, LocalApic};
use super::registers::*;
use super::timer::{self, Mode};

impl LocalApic {
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
    pub(super) fn publish_all(&self) {
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
