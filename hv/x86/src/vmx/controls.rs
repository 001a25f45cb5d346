//! The control bits of a VMCS, set from what the processor's capability MSRs allow (Intel SDM volume 3, appendix A).
#![allow(missing_docs)] // the names of the bits are the manual's

use bitflags::bitflags;

bitflags! {
    /// Pin-based controls (section 25.6.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Pin: u32 {
        const EXTERNAL_INTERRUPT = 1 << 0;
        const NMI = 1 << 3;
        const VIRTUAL_NMI = 1 << 5;
        const PREEMPTION_TIMER = 1 << 6;
        const POSTED_INTERRUPTS = 1 << 7;
    }
}

bitflags! {
    /// Primary processor-based controls (section 25.6.2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Primary: u32 {
        const INTERRUPT_WINDOW = 1 << 2;
        const TSC_OFFSET = 1 << 3;
        const HLT = 1 << 7;
        const INVLPG = 1 << 9;
        const MWAIT = 1 << 10;
        const RDPMC = 1 << 11;
        const RDTSC = 1 << 12;
        const CR3_LOAD = 1 << 15;
        const CR3_STORE = 1 << 16;
        const CR8_LOAD = 1 << 19;
        const CR8_STORE = 1 << 20;
        const TPR_SHADOW = 1 << 21;
        const NMI_WINDOW = 1 << 22;
        const MOV_DR = 1 << 23;
        const IO = 1 << 24;
        const IO_BITMAPS = 1 << 25;
        const MSR_BITMAPS = 1 << 28;
        const MONITOR = 1 << 29;
        const PAUSE = 1 << 30;
        const SECONDARY = 1 << 31;
    }
}

bitflags! {
    /// Secondary processor-based controls (section 25.6.2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Secondary: u32 {
        const APIC_ACCESSES = 1 << 0;
        const EPT = 1 << 1;
        const RDTSCP = 1 << 3;
        const X2APIC_MODE = 1 << 4;
        const VPID = 1 << 5;
        const WBINVD = 1 << 6;
        const UNRESTRICTED = 1 << 7;
        const APIC_REGISTERS = 1 << 8;
        const INTERRUPT_DELIVERY = 1 << 9;
        const PAUSE_LOOP = 1 << 10;
        const INVPCID = 1 << 12;
        const ENCLS = 1 << 15;
        const XSAVES = 1 << 20;
    }
}

bitflags! {
    /// VM-exit controls (section 25.7.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ExitControls: u32 {
        const SAVE_DEBUG = 1 << 2;
        const HOST_64 = 1 << 9;
        const ACKNOWLEDGE = 1 << 15;
        const SAVE_PAT = 1 << 18;
        const LOAD_PAT = 1 << 19;
        const SAVE_EFER = 1 << 20;
        const LOAD_EFER = 1 << 21;
    }
}

bitflags! {
    /// VM-entry controls (section 25.8.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EntryControls: u32 {
        const LOAD_DEBUG = 1 << 2;
        const IA32E = 1 << 9;
        const LOAD_PAT = 1 << 14;
        const LOAD_EFER = 1 << 15;
    }
}

/// A control that is wanted but that the processor does not have, or has always on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The bits that could not be had.
    pub bits: u32,
}

/// What a capability MSR of a group of controls says: bits that must be one, and bits that may be (section A.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    must: u32,
    may: u32,
}

impl Allowed {
    /// Reads the MSR's value.
    pub const fn from_msr(value: u64) -> Self {
        Self { must: value as u32, may: (value >> 32) as u32 }
    }

    /// Whether all of these bits may be set.
    pub const fn can(self, bits: u32) -> bool {
        self.may & bits == bits
    }

    /// The value to use: all that is `needed`, what can be had of `wanted`, and what must be one anyway.
    ///
    /// # Errors
    /// [`Refused`] if a needed bit cannot be set.
    pub const fn choose(self, needed: u32, wanted: u32) -> Result<u32, Refused> {
        let missing = needed & !self.may;
        if missing != 0 {
            return Err(Refused { bits: missing });
        }
        Ok(needed | (wanted & self.may) | self.must)
    }
}

/// The bits of CR0 or CR4 that VMX fixes to one, and those that may be one (sections A.7 and A.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// Bits that must be one.
    pub one: u64,
    /// Bits that may be one.
    pub may: u64,
}

impl Fixed {
    /// The value that the hardware accepts which is nearest to `value`.
    pub const fn apply(self, value: u64) -> u64 {
        (value | self.one) & self.may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_that_must_be_one_are_and_those_that_may_not_are_refused() {
        // The shape of IA32_VMX_TRUE_PINBASED_CTLS: 1, 2 and 4 are always on.
        let allowed = Allowed::from_msr(0x0000_007f_0000_0016);
        assert_eq!(allowed.choose(0x9, 0), Ok(0x1f));
        assert_eq!(allowed.choose(0x9, 0x40 | 0x80), Ok(0x5f));
        assert_eq!(allowed.choose(0x80, 0), Err(Refused { bits: 0x80 }));
        assert!(allowed.can(0x40) && !allowed.can(0xc0));
    }

    #[test]
    fn fixed_bits_are_forced() {
        let fixed = Fixed { one: 0x2000, may: 0x3_72ff };
        assert_eq!(fixed.apply(0), 0x2000);
        assert_eq!(fixed.apply(u64::MAX), 0x3_72ff);
    }
}
