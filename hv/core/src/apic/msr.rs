//! The local APIC by model-specific registers: x2APIC mode and the deadline.

use super::address::Destination;
use super::effect::{Effect, Fault, Ipi, IpiKind, Moment};
use super::local::LocalApic;
use super::registers::*;
use super::timer::{self, Mode};
use crate::hw::TscTicks;

/// IA32_APIC_BASE.
pub const MSR_BASE: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
pub const MSR_DEADLINE: u32 = 0x6e0;
/// The first and last of the x2APIC registers.
pub const MSR_FIRST: u32 = 0x800;
/// The last of the x2APIC registers.
pub const MSR_LAST: u32 = 0x8ff;

/// The number in the page of an x2APIC register.
fn register(msr: u32) -> Option<u8> {
    u8::try_from(msr.checked_sub(MSR_FIRST)?).ok()
}

/// Bits of the interrupt command register that must be zero (SDM 3, figure 11-28).
const ICR_RESERVED: u64 = 0xfff3_2000;

impl LocalApic {
    /// Reads one of the APIC's model-specific registers.
    pub fn msr_read(&mut self, msr: u32, moment: Moment<'_>) -> Result<u64, Fault> {
        match msr {
            MSR_BASE => return Ok(self.base()),
            MSR_DEADLINE => {
                let armed = timer::mode(self.lvt_timer()) == Mode::Deadline;
                return Ok(if armed { self.timer.deadline } else { 0 });
            }
            _ => {}
        }
        let register = register(msr).filter(|_| self.is_x2apic()).ok_or(Fault)?;
        match register {
            ICR_HIGH | EOI | SELF_IPI => Err(Fault),
            ICR => {
                let low = self.read(ICR, moment).ok_or(Fault)?;
                let high = self.read(ICR_HIGH, moment).ok_or(Fault)?;
                Ok(u64::from(high) << 32 | u64::from(low))
            }
            _ => self.read(register, moment).map(u64::from).ok_or(Fault),
        }
    }

    /// Writes one of the APIC's model-specific registers.
    pub fn msr_write(&mut self, msr: u32, value: u64, moment: Moment<'_>) -> Result<Effect, Fault> {
        match msr {
            MSR_BASE => return self.set_base(value),
            MSR_DEADLINE => {
                if timer::mode(self.lvt_timer()) != Mode::Deadline {
                    return Ok(Effect::Nothing);
                }
                self.timer.deadline = value;
                return Ok(Effect::Timer((value != 0).then(|| TscTicks::new(value))));
            }
            _ => {}
        }
        let register = register(msr).filter(|_| self.is_x2apic()).ok_or(Fault)?;
        if register == ICR {
            return if value & ICR_RESERVED != 0 { Err(Fault) } else { Ok(self.command(value)) };
        }
        let value = u32::try_from(value).map_err(|_| Fault)?;
        let writable = match register {
            TPR => 0xff,
            EOI | ESR => 0,
            SVR => 0x11ff,
            DIVIDE => 0xb,
            SELF_IPI => {
                let vector = u8::try_from(value).map_err(|_| Fault)?;
                let own = Ipi { kind: IpiKind::Fixed(vector), destination: Destination::Own };
                return Ok(if vector < 16 { Effect::Nothing } else { Effect::Send(own) });
            }
            INITIAL_COUNT => u32::MAX,
            LVT_TIMER..=LVT_ERROR => {
                *LVT_WRITABLE.get(usize::from(register - LVT_TIMER)).ok_or(Fault)? | 1 << 12
            }
            _ => return Err(Fault),
        };
        if value & !writable != 0 {
            return Err(Fault);
        }
        self.write(register, value, moment).ok_or(Fault)
    }
}
