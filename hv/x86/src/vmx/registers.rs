//! The registers of a virtual CPU on VT-x that its control structure holds, which is current here.

use hv_core::hw::Reg;

use super::controls::EntryControls;
use super::exits::BLOCKED;
use super::field::{self, Field};
use super::instr::{read, write};
use super::vcpu::Vcpu;

/// CR0: extension type, numeric error, not write-through, cache disable.
pub(super) const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
/// Unrestricted guests own these although VMX fixes them otherwise (section 24.8).
const CR0_UNRESTRICTED: u64 = 1 | 1 << 31;
const CR4_VMXE: u64 = 1 << 13;
const EFER_LMA: u64 = 1 << 10;
/// RFLAGS: bit 1 is always one; IF.
const RFLAGS_ONE: u64 = 1 << 1;
const RFLAGS_TF: u64 = 1 << 8;
/// Pending debug exceptions: single step.
const PENDING_STEP: u64 = 1 << 14;

impl Vcpu {
    /// The bits of CR0 and CR4 that are the hypervisor's.
    #[inline]
    pub(super) const fn owned(&self) -> [u64; 2] {
        let c = self.capability;
        let cr0 = CR0_NW | CR0_CD | CR0_NE | (c.cr0.one & !CR0_UNRESTRICTED) | !c.cr0.may;
        [cr0, c.cr4.one | !c.cr4.may | CR4_VMXE]
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

    #[inline]
    pub(super) fn read_reg(&self, register: Reg) -> u64 {
        match register {
            Reg::Cr0 => Self::visible(read(field::GUEST_CR0), self.shadows[0], self.owned()[0]),
            Reg::Cr4 => Self::visible(read(field::GUEST_CR4), self.shadows[1], self.owned()[1]),
            _ => match Self::reg_field(register) {
                Some(field) => read(field),
                None => self.msrs.get(register, self.loaded).unwrap_or(0),
            },
        }
    }

    pub(super) fn write_reg(&mut self, register: Reg, value: u64) {
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

    #[inline]
    pub(super) fn advance(&mut self, bytes: u64) {
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
