//! What the processor's VMX can do, and whether that is enough (Intel SDM volume 3, appendix A).

use core::fmt;

use super::controls::{Allowed, EntryControls, ExitControls, Fixed, Pin, Primary, Refused, Secondary};

/// The MSRs of appendix A.
pub mod msr {
    /// Bit 0 locks, bit 2 allows VMX outside of SMX operation (section 24.7).
    pub const FEATURE_CONTROL: u32 = 0x3a;
    /// Revision, size and type of control structures (section A.1).
    pub const BASIC: u32 = 0x480;
    /// Pin-based controls.
    pub const PIN: u32 = 0x481;
    /// Primary processor-based controls.
    pub const PRIMARY: u32 = 0x482;
    /// VM-exit controls.
    pub const EXIT: u32 = 0x483;
    /// VM-entry controls.
    pub const ENTRY: u32 = 0x484;
    /// Rate of the preemption timer, and other things (section A.6).
    pub const MISC: u32 = 0x485;
    /// Bits of CR0 that must be one.
    pub const CR0_FIXED0: u32 = 0x486;
    /// Bits of CR0 that may be one.
    pub const CR0_FIXED1: u32 = 0x487;
    /// Bits of CR4 that must be one.
    pub const CR4_FIXED0: u32 = 0x488;
    /// Bits of CR4 that may be one.
    pub const CR4_FIXED1: u32 = 0x489;
    /// Secondary processor-based controls.
    pub const SECONDARY: u32 = 0x48b;
    /// EPT and VPID.
    pub const EPT_VPID: u32 = 0x48c;
    /// The same four groups without the default1 class (section A.2).
    pub const TRUE_PIN: u32 = 0x48d;
    /// See [`TRUE_PIN`].
    pub const TRUE_PRIMARY: u32 = 0x48e;
    /// See [`TRUE_PIN`].
    pub const TRUE_EXIT: u32 = 0x48f;
    /// See [`TRUE_PIN`].
    pub const TRUE_ENTRY: u32 = 0x490;
}

const FEATURE_LOCKED: u64 = 1 << 0;
const FEATURE_VMX: u64 = 1 << 2;
/// IA32_VMX_BASIC: memory type of control structures is write-back; the TRUE MSRs exist.
const BASIC_TYPE_WRITE_BACK: u64 = 6 << 50;
const BASIC_TYPE_MASK: u64 = 0xf << 50;
const BASIC_TRUE: u64 = 1 << 55;
/// IA32_VMX_EPT_VPID_CAP (section A.10).
mod ept_vpid {
    pub const WALK_4: u64 = 1 << 6;
    pub const WRITE_BACK: u64 = 1 << 14;
    pub const PAGE_2M: u64 = 1 << 16;
    pub const PAGE_1G: u64 = 1 << 17;
    pub const INVEPT: u64 = 1 << 20;
    pub const INVEPT_CONTEXT: u64 = 1 << 25;
    pub const INVEPT_ALL: u64 = 1 << 26;
    pub const INVVPID: u64 = 1 << 32;
    pub const INVVPID_ALL: u64 = 1 << 42;
}

/// The control values to use, and the rest that a virtual CPU needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// The revision to write into control structures.
    pub revision: u32,
    /// Pin-based controls.
    pub pin: u32,
    /// Primary processor-based controls.
    pub primary: u32,
    /// Secondary processor-based controls.
    pub secondary: u32,
    /// VM-exit controls.
    pub exit: u32,
    /// VM-entry controls, for a guest outside of long mode.
    pub entry: u32,
    /// CR0.
    pub cr0: Fixed,
    /// CR4.
    pub cr4: Fixed,
    /// Pages of 1 GiB in extended page tables.
    pub gigabyte_pages: bool,
    /// Address-space identifiers.
    pub vpid: bool,
    /// The preemption timer counts down by one whenever this bit of the time-stamp counter changes.
    pub timer: Option<u8>,
    /// The guest's reads of x2APIC registers, and its writes of the task priority, are served from the page of registers.
    pub x2apic: bool,
    /// A guest that runs takes posted interrupts.
    pub posts: bool,
}

/// What of that which not every processor has is used, for the log.
impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("extended page tables")?;
        for (there, name) in [
            (self.vpid, "address-space identifiers"),
            (self.timer.is_some(), "preemption timer"),
            (self.apic_registers(), "virtual APIC registers"),
            (self.delivers(), "virtual-interrupt delivery"),
            (self.x2apic, "virtual x2APIC mode"),
            (self.posts, "posted interrupts"),
        ] {
            if there {
                write!(f, ", {name}")?;
            }
        }
        Ok(())
    }
}

impl Capability {
    /// The processor serves reads of all registers of the local APIC that have a copy in the page.
    pub const fn apic_registers(&self) -> bool {
        self.secondary & Secondary::APIC_REGISTERS.bits() != 0
    }

    /// An exit for an external interrupt says which, and has told the machine's local APIC that it is taken.
    pub const fn acknowledges(&self) -> bool {
        self.exit & ExitControls::ACKNOWLEDGE.bits() != 0
    }

    /// The processor delivers the local APIC's interrupts by itself, and ends them.
    pub const fn delivers(&self) -> bool {
        self.secondary & Secondary::INTERRUPT_DELIVERY.bits() != 0
    }
}

/// What is missing, in one sentence for the user.
pub type Missing = &'static str;

/// Reads the capabilities through `rdmsr` and decides.
///
/// # Errors
/// The first thing that is missing, and what can be done about it.
pub fn choose(rdmsr: impl Fn(u32) -> u64) -> Result<Capability, Missing> {
    let feature = rdmsr(msr::FEATURE_CONTROL);
    if feature & FEATURE_LOCKED != 0 && feature & FEATURE_VMX == 0 {
        return Err(
            "VT-x is switched off and locked by the firmware: enable \"Intel Virtualization Technology\" in its set-up",
        );
    }
    let basic = rdmsr(msr::BASIC);
    if basic & BASIC_TYPE_MASK != BASIC_TYPE_WRITE_BACK {
        return Err("this processor's VT-x does not keep its control structures in write-back memory");
    }
    let group = |plain, exact| Allowed::from_msr(rdmsr(if basic & BASIC_TRUE != 0 { exact } else { plain }));
    let pins = group(msr::PIN, msr::TRUE_PIN);
    let primaries = group(msr::PRIMARY, msr::TRUE_PRIMARY);
    let exits = group(msr::EXIT, msr::TRUE_EXIT);
    let entries = group(msr::ENTRY, msr::TRUE_ENTRY);
    if !primaries.can(Primary::SECONDARY.bits()) {
        return Err(
            "this processor's VT-x is of its first generation, without extended page tables: a newer one is needed",
        );
    }
    let secondaries = Allowed::from_msr(rdmsr(msr::SECONDARY));
    if !secondaries.can(Secondary::EPT.bits()) {
        return Err("this processor's VT-x has no extended page tables (EPT): a newer one is needed");
    }
    if !secondaries.can(Secondary::UNRESTRICTED.bits()) {
        return Err("this processor's VT-x has no unrestricted guests: a newer one is needed");
    }
    let tables = rdmsr(msr::EPT_VPID);
    let needed = ept_vpid::WALK_4
        | ept_vpid::WRITE_BACK
        | ept_vpid::PAGE_2M
        | ept_vpid::INVEPT
        | ept_vpid::INVEPT_CONTEXT
        | ept_vpid::INVEPT_ALL;
    if tables & needed != needed {
        return Err("this processor's extended page tables lack 2 MiB pages, write-back memory or INVEPT");
    }
    let vpid = secondaries.can(Secondary::VPID.bits())
        && tables & (ept_vpid::INVVPID | ept_vpid::INVVPID_ALL) == ept_vpid::INVVPID | ept_vpid::INVVPID_ALL;
    let lacks =
        |_: Refused| "this processor's VT-x lacks a control that is needed: see the log for the groups";

    let primary_wanted = Primary::PAUSE;
    let mut secondary_wanted = Secondary::RDTSCP
        | Secondary::INVPCID
        | Secondary::WBINVD
        | Secondary::XSAVES
        | Secondary::APIC_REGISTERS
        | Secondary::INTERRUPT_DELIVERY;
    let mut pauses = primary_wanted;
    if secondaries.can(Secondary::PAUSE_LOOP.bits()) {
        secondary_wanted |= Secondary::PAUSE_LOOP;
        pauses = Primary::empty();
    }
    if vpid {
        secondary_wanted |= Secondary::VPID;
    }
    // XSAVES of guests would need a bitmap of its own; without the control the instruction is #UD, as CPUID says.
    secondary_wanted.remove(Secondary::XSAVES);
    let mut capability = Capability {
        revision: (basic & 0x7fff_ffff) as u32,
        pin: pins.choose((Pin::EXTERNAL_INTERRUPT | Pin::NMI | Pin::VIRTUAL_NMI).bits(), 0).map_err(lacks)?,
        primary: primaries
            .choose(
                (Primary::TSC_OFFSET
                    | Primary::HLT
                    | Primary::MWAIT
                    | Primary::MONITOR
                    | Primary::RDPMC
                    | Primary::TPR_SHADOW
                    | Primary::IO_BITMAPS
                    | Primary::MSR_BITMAPS
                    | Primary::SECONDARY)
                    .bits(),
                pauses.bits(),
            )
            .map_err(lacks)?,
        secondary: secondaries
            .choose((Secondary::EPT | Secondary::UNRESTRICTED).bits(), secondary_wanted.bits())
            .map_err(lacks)?,
        exit: exits
            .choose(
                (ExitControls::HOST_64
                    | ExitControls::SAVE_EFER
                    | ExitControls::LOAD_EFER
                    | ExitControls::SAVE_PAT
                    | ExitControls::LOAD_PAT)
                    .bits(),
                (ExitControls::SAVE_DEBUG | ExitControls::ACKNOWLEDGE).bits(),
            )
            .map_err(lacks)?,
        entry: entries
            .choose(
                (EntryControls::LOAD_EFER | EntryControls::LOAD_PAT).bits(),
                EntryControls::LOAD_DEBUG.bits(),
            )
            .map_err(lacks)?,
        cr0: Fixed { one: rdmsr(msr::CR0_FIXED0), may: rdmsr(msr::CR0_FIXED1) },
        cr4: Fixed { one: rdmsr(msr::CR4_FIXED0), may: rdmsr(msr::CR4_FIXED1) },
        gigabyte_pages: tables & ept_vpid::PAGE_1G != 0,
        vpid,
        timer: pins.can(Pin::PREEMPTION_TIMER.bits()).then(|| (rdmsr(msr::MISC) & 0x1f) as u8),
        x2apic: secondaries.can(Secondary::X2APIC_MODE.bits()),
        posts: false,
    };
    // Section 27.2.1.1 wants the other two with it.
    capability.posts =
        pins.can(Pin::POSTED_INTERRUPTS.bits()) && capability.delivers() && capability.acknowledges();
    Ok(capability)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A processor of the kind that everybody has: everything allowed, little forced.
    pub fn haswell(index: u32) -> u64 {
        match index {
            msr::FEATURE_CONTROL => 5,
            msr::BASIC => 0x00da_0400_0000_0012,
            msr::TRUE_PIN => 0x7f_0000_0016,
            msr::TRUE_PRIMARY => 0xfff9_fffe_0400_6172,
            msr::TRUE_EXIT => 0x7f_ffff_0003_6dfb,
            msr::TRUE_ENTRY => 0xffff_0000_11fb,
            msr::SECONDARY => 0x7cff_0000_0000,
            msr::EPT_VPID => 0xf01_0633_4141,
            msr::MISC => 0x3_0481e5,
            msr::CR0_FIXED0 => 0x8000_0021,
            msr::CR0_FIXED1 => 0xffff_ffff,
            msr::CR4_FIXED0 => 0x2000,
            msr::CR4_FIXED1 => 0x1727ff,
            _ => 0,
        }
    }

    #[test]
    fn a_common_processor_is_accepted_and_nothing_forced_is_left_out() {
        let chosen = choose(haswell).unwrap();
        assert_eq!(chosen.revision, 0x12);
        assert_eq!(chosen.pin & 0x16, 0x16);
        assert_eq!(chosen.primary & 0x0400_6172, 0x0400_6172);
        assert!(chosen.vpid && chosen.gigabyte_pages);
        assert_eq!(chosen.secondary & Secondary::PAUSE_LOOP.bits(), Secondary::PAUSE_LOOP.bits());
        assert_eq!(chosen.primary & Primary::PAUSE.bits(), 0);
        assert_eq!(chosen.primary & Primary::TPR_SHADOW.bits(), Primary::TPR_SHADOW.bits());
        assert!(chosen.x2apic && !chosen.delivers() && !chosen.apic_registers(), "that is for servers");
        assert_eq!(
            chosen.secondary & (Secondary::X2APIC_MODE | Secondary::APIC_ACCESSES).bits(),
            0,
            "by mode"
        );
        assert_eq!((chosen.timer, chosen.pin & Pin::PREEMPTION_TIMER.bits()), (Some(5), 0));
        assert_eq!(
            alloc::format!("{chosen}"),
            "extended page tables, address-space identifiers, preemption timer, virtual x2APIC mode"
        );
    }

    #[test]
    fn what_serves_the_local_apic_is_used_where_it_is() {
        let server = |i: u32| {
            haswell(i)
                | match i {
                    msr::SECONDARY => 3 << 40,
                    msr::TRUE_PIN => 1 << 39,
                    _ => 0,
                }
        };
        let without = |index: u32, bits: u64| {
            choose(move |i: u32| server(i) & if i == index { !bits } else { u64::MAX }).unwrap()
        };
        let all = without(0, 0);
        assert!(all.delivers() && all.apic_registers() && all.x2apic);
        assert!(!without(msr::SECONDARY, 1 << 41).delivers());
        assert!(all.posts && all.acknowledges() && all.pin & Pin::POSTED_INTERRUPTS.bits() == 0, "by APIC");
        for (group, bit) in [(msr::SECONDARY, 41), (msr::TRUE_PIN, 39), (msr::TRUE_EXIT, 32 + 15)] {
            assert!(!without(group, 1 << bit).posts, "{group:#x}");
        }
        assert!(!without(msr::TRUE_EXIT, 1 << (32 + 15)).acknowledges());
        assert!(!without(msr::SECONDARY, 1 << 40).apic_registers());
        assert!(!without(msr::SECONDARY, 1 << 36).x2apic);
        assert_eq!(without(msr::TRUE_PIN, 1 << 38).timer, None);
    }

    #[test]
    fn each_thing_that_is_missing_has_its_own_sentence() {
        let without =
            |index: u32, bits: u64| move |i: u32| haswell(i) & if i == index { !bits } else { u64::MAX };
        let cases: [(&str, Result<_, _>); 5] = [
            ("firmware", choose(|i| if i == msr::FEATURE_CONTROL { 1 } else { haswell(i) })),
            ("first generation", choose(without(msr::TRUE_PRIMARY, 1 << 63))),
            ("EPT", choose(without(msr::SECONDARY, 1 << 33))),
            ("unrestricted", choose(without(msr::SECONDARY, 1 << 39))),
            ("2 MiB pages", choose(without(msr::EPT_VPID, 1 << 16))),
        ];
        for (part, result) in cases {
            assert!(result.unwrap_err().contains(part), "{part}");
        }
    }

    #[test]
    fn without_vpid_and_pause_loops_it_still_works() {
        let chosen =
            choose(|i| haswell(i) & if i == msr::SECONDARY { !(1 << 37 | 1 << 42) } else { u64::MAX })
                .unwrap();
        assert!(!chosen.vpid);
        assert_eq!(chosen.primary & Primary::PAUSE.bits(), Primary::PAUSE.bits());
    }
}
