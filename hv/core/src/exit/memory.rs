//! Accesses that the nested page tables do not allow.

use super::mmio::{self, Device};
use super::{Around, GuestFault, Resume, act, moment, raise};
use crate::apic;
use crate::hw::{Access, Event, PAGE_BYTES, Platform};
use crate::vcpu::{Context, Hw};
use pv_abi::control::ExitCause;
use pv_abi::ids::GuestPhys;

/// Decides about an access that the nested page tables did not allow.
///
/// A write to memory that is mapped for reading only, such as a grant, raises #GP, as on Xen. Where no memory is, the
/// access is emulated: the page of the local APIC, registers that the domain was given, and elsewhere as on a bus
/// without a device, again as Xen does for PVH guests. A fetch from there, or an instruction that is not emulated,
/// crashes the domain.
pub(super) fn on_fault<P: Platform>(
    context: &mut Context<Hw<P>>,
    around: &impl Around<P>,
    gpa: GuestPhys,
    access: Access,
    present: bool,
) -> Resume {
    let apic_page = gpa.raw() & !(PAGE_BYTES - 1) == apic::PAGE && context.apic.is_memory_mapped();
    if apic_page {
        around.vcpu().stats.recount(ExitCause::NestedFault, ExitCause::Apic);
    } else if around.allows(gpa, access) {
        return Resume::Continue; // it was mapped in the meantime
    } else if present && access.write && around.allows(gpa, Access::default()) {
        return raise(context, Event::PROTECTION);
    }
    if access.execute {
        return Resume::Crash(GuestFault::Fetch(gpa));
    }
    let mut device = Bus { around, gpa, apic_page };
    match mmio::emulate(context, around, &mut device) {
        Ok(()) => Resume::Continue,
        Err(mmio::NotEmulated) => Resume::Crash(GuestFault::NotEmulated { gpa, access }),
    }
}

/// What answers at a guest-physical address.
struct Bus<'a, A> {
    around: &'a A,
    gpa: GuestPhys,
    apic_page: bool,
}

impl<P: Platform, A: Around<P>> Device<P> for Bus<'_, A> {
    fn read(&mut self, context: &mut Context<Hw<P>>, bytes: u8) -> u64 {
        if !self.apic_page {
            let aligned = self.gpa.raw().is_multiple_of(u64::from(bytes.max(1)));
            let answer = if aligned { self.around.register(self.gpa, bytes, None) } else { None };
            return answer.unwrap_or(u64::MAX);
        }
        let cr8 = crate::hw::VcpuHw::get(&context.hw, crate::hw::Reg::Cr8);
        context.apic.set_cr8(cr8.to_le_bytes()[0]);
        let offset = self.offset();
        let word = context.apic.mmio_read(offset & !3, moment(self.around));
        u64::from(word) >> (8 * (offset & 3))
    }

    fn write(&mut self, context: &mut Context<Hw<P>>, bytes: u8, value: u64) {
        if !self.apic_page {
            if self.gpa.raw().is_multiple_of(u64::from(bytes.max(1))) {
                let _nothing_there = self.around.register(self.gpa, bytes, Some(value));
            }
            return;
        }
        // Registers are written as aligned words of 32 bits; what else does is undefined (SDM 3, section 11.4.1).
        let offset = self.offset();
        if bytes == 4 && offset & 3 == 0 {
            #[allow(clippy::cast_possible_truncation)] // four bytes
            let effect = context.apic.mmio_write(offset, value as u32, moment(self.around));
            act(context, self.around, effect);
        }
    }
}

impl<A> Bus<'_, A> {
    fn offset(&self) -> u16 {
        u16::try_from(self.gpa.raw() & (PAGE_BYTES - 1)).unwrap_or(0)
    }
}
