//! Exit reasons, and what of an exit is written in its qualification (Intel SDM volume 3, appendix C and section 28.2).

use hv_core::hw::{Access, ControlAccess, Exit, IoExit, RawExit};
use pv_abi::ids::{GuestPhys, GuestVirt};

/// What the hardware tells about an exit: read once, then decoded without touching the hardware again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The exit reason field, whole.
    pub reason: u32,
    /// The exit qualification.
    pub qualification: u64,
    /// The guest-physical address of an EPT violation.
    pub guest_physical: u64,
    /// The guest-linear address of an EPT violation.
    pub guest_linear: u64,
    /// The exit interruption information and error code.
    pub event: (u32, u32),
    /// RAX, RCX and RDX of the guest, as RDMSR and WRMSR use them.
    pub registers: (u64, u64, u64),
}

macro_rules! reasons {
    ($($number:literal $name:ident $text:literal,)*) => {
        $(#[doc = $text] pub const $name: u16 = $number;)*

        /// The name of a basic exit reason (appendix C).
        pub fn name(basic: u16) -> &'static str {
            match basic {
                $($name => $text,)*
                _ => "a reason without a name in the manual",
            }
        }

        #[cfg(test)]
        pub(super) const ALL: &[u16] = &[$($number),*];
    };
}

reasons! {
    0 EXCEPTION_OR_NMI "exception or non-maskable interrupt",
    1 EXTERNAL_INTERRUPT "external interrupt",
    2 TRIPLE_FAULT "triple fault",
    3 INIT "INIT signal",
    4 SIPI "start-up IPI",
    5 IO_SMI "I/O system-management interrupt",
    6 OTHER_SMI "other system-management interrupt",
    7 INTERRUPT_WINDOW "interrupt window",
    8 NMI_WINDOW "NMI window",
    9 TASK_SWITCH "task switch",
    10 CPUID "CPUID",
    11 GETSEC "GETSEC",
    12 HLT "HLT",
    13 INVD "INVD",
    14 INVLPG "INVLPG",
    15 RDPMC "RDPMC",
    16 RDTSC "RDTSC",
    17 RSM "RSM",
    18 VMCALL "VMCALL",
    19 VMCLEAR "VMCLEAR",
    20 VMLAUNCH "VMLAUNCH",
    21 VMPTRLD "VMPTRLD",
    22 VMPTRST "VMPTRST",
    23 VMREAD "VMREAD",
    24 VMRESUME "VMRESUME",
    25 VMWRITE "VMWRITE",
    26 VMXOFF "VMXOFF",
    27 VMXON "VMXON",
    28 CONTROL_REGISTER "control-register access",
    29 DEBUG_REGISTER "MOV DR",
    30 IO "I/O instruction",
    31 RDMSR "RDMSR",
    32 WRMSR "WRMSR",
    33 ENTRY_GUEST_STATE "VM-entry failure due to invalid guest state",
    34 ENTRY_MSR_LOADING "VM-entry failure due to MSR loading",
    36 MWAIT "MWAIT",
    37 MONITOR_TRAP_FLAG "monitor trap flag",
    39 MONITOR "MONITOR",
    40 PAUSE "PAUSE",
    41 ENTRY_MACHINE_CHECK "VM-entry failure due to machine-check event",
    43 TPR_BELOW_THRESHOLD "TPR below threshold",
    44 APIC_ACCESS "APIC access",
    45 VIRTUALIZED_EOI "virtualized EOI",
    46 GDTR_OR_IDTR "access to GDTR or IDTR",
    47 LDTR_OR_TR "access to LDTR or TR",
    48 EPT_VIOLATION "EPT violation",
    49 EPT_MISCONFIGURATION "EPT misconfiguration",
    50 INVEPT "INVEPT",
    51 RDTSCP "RDTSCP",
    52 PREEMPTION_TIMER "VMX-preemption timer expired",
    53 INVVPID "INVVPID",
    54 CACHE_FLUSH "WBINVD or WBNOINVD",
    55 XSETBV "XSETBV",
    56 APIC_WRITE "APIC write",
    57 RDRAND "RDRAND",
    58 INVPCID "INVPCID",
    59 VMFUNC "VMFUNC",
    60 ENCLS "ENCLS",
    61 RDSEED "RDSEED",
    62 PAGE_LOG_FULL "page-modification log full",
    63 XSAVES "XSAVES",
    64 XRSTORS "XRSTORS",
    65 PCONFIG "PCONFIG",
    66 SPP_EVENT "sub-page-permission event",
    67 UMWAIT "UMWAIT",
    68 TPAUSE "TPAUSE",
    69 LOADIWKEY "LOADIWKEY",
    70 ENCLV "ENCLV",
    72 ENQCMD_PASID "ENQCMD PASID translation failure",
    73 ENQCMDS_PASID "ENQCMDS PASID translation failure",
    74 BUS_LOCK "bus lock",
    75 NOTIFY_WINDOW "instruction time-out",
    76 SEAMCALL "SEAMCALL",
    77 TDCALL "TDCALL",
}

/// Bit 31 of the exit reason: the VM entry failed (section 25.9.1).
pub const ENTRY_FAILED: u32 = 1 << 31;
/// Bit 31 of the interruption information: the field is valid (section 25.9.2).
const EVENT_VALID: u32 = 1 << 31;
/// Bit 11 of the interruption information: there is an error code.
const EVENT_HAS_CODE: u32 = 1 << 11;
const EVENT_TYPE_NMI: u32 = 2;
/// The vector of #MC.
pub const MACHINE_CHECK: u8 = 18;

/// Reads an exit.
pub fn decode(told: &Told) -> Exit {
    if told.reason & ENTRY_FAILED != 0 {
        return Exit::EntryFailed(super::failure::entry_failure(told.reason, told.qualification));
    }
    let (rax, rcx, rdx) = told.registers;
    match told.reason as u16 {
        EXCEPTION_OR_NMI => exception(told),
        EXTERNAL_INTERRUPT | SIPI | INIT => Exit::Interrupted,
        PREEMPTION_TIMER => Exit::Deadline,
        // No vector is asked to exit at its end: were there one, the interrupts that wait are looked at.
        TPR_BELOW_THRESHOLD | VIRTUALIZED_EOI => Exit::Priority,
        APIC_WRITE => Exit::ApicWritten(told.qualification as u16 & 0xfff),
        TRIPLE_FAULT => Exit::TripleFault,
        INTERRUPT_WINDOW | NMI_WINDOW => Exit::WindowOpen,
        TASK_SWITCH => Exit::TaskSwitch,
        CPUID => Exit::Cpuid,
        HLT => Exit::Halt,
        INVD | CACHE_FLUSH => Exit::CacheFlush,
        RDPMC => Exit::Rdpmc,
        RDTSC => Exit::Rdtsc,
        RDTSCP => Exit::Rdtscp,
        VMCALL => Exit::Hypercall,
        CONTROL_REGISTER => control_register(told.qualification),
        IO => io(told.qualification),
        RDMSR => Exit::MsrRead(rcx as u32),
        WRMSR => Exit::MsrWrite(rcx as u32, rdx << 32 | rax & 0xffff_ffff),
        PAUSE => Exit::Pause,
        EPT_VIOLATION => violation(told),
        XSETBV => Exit::Xsetbv,
        GETSEC
        | VMCLEAR..=VMXON
        | MWAIT
        | MONITOR
        | INVEPT
        | INVVPID
        | VMFUNC
        | ENCLS
        | ENCLV
        | PCONFIG
        | RSM
        | UMWAIT
        | TPAUSE
        | LOADIWKEY
        | SEAMCALL
        | TDCALL
        | XSAVES
        | XRSTORS => Exit::Undefined,
        _ => unknown(told),
    }
}

fn unknown(told: &Told) -> Exit {
    Exit::Unknown(RawExit { code: u64::from(told.reason), info: [told.qualification, told.guest_physical] })
}

fn exception(told: &Told) -> Exit {
    let (info, code) = told.event;
    if info & EVENT_VALID == 0 {
        return unknown(told);
    }
    if info >> 8 & 7 == EVENT_TYPE_NMI {
        return Exit::Interrupted;
    }
    if info as u8 == MACHINE_CHECK {
        return Exit::MachineCheck;
    }
    Exit::Exception { vector: info as u8, code: (info & EVENT_HAS_CODE != 0).then_some(code) }
}

/// Table 28-3: exit qualification for control-register accesses.
fn control_register(qualification: u64) -> Exit {
    let register = (qualification & 0xf) as u8;
    let gpr = (qualification >> 8 & 0xf) as u8;
    match qualification >> 4 & 3 {
        0 => Exit::Control(ControlAccess { register, write: true, gpr }),
        1 => Exit::Control(ControlAccess { register, write: false, gpr }),
        // CLTS and LMSW touch bits that the guest owns, so they do not exit under the masks that are set here.
        _ => Exit::Unknown(RawExit { code: u64::from(CONTROL_REGISTER), info: [qualification, 0] }),
    }
}

/// Table 28-5: exit qualification for I/O instructions.
fn io(qualification: u64) -> Exit {
    Exit::Io(IoExit {
        port: (qualification >> 16) as u16,
        bytes: (qualification & 7) as u8 + 1,
        write: qualification & 1 << 3 == 0,
        string: qualification & 1 << 4 != 0,
    })
}

/// Table 28-7: exit qualification for EPT violations.
fn violation(told: &Told) -> Exit {
    let q = told.qualification;
    let linear_valid = q & 1 << 7 != 0;
    let final_access = q & 1 << 8 != 0;
    Exit::NestedFault {
        gpa: GuestPhys::new(told.guest_physical),
        gva: (linear_valid && final_access).then(|| GuestVirt::new(told.guest_linear)),
        access: Access { write: q & 1 << 1 != 0, execute: q & 1 << 2 != 0 },
        present: q & 0b111 << 3 != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(reason: u16, qualification: u64) -> Told {
        Told { reason: u32::from(reason), qualification, ..Told::default() }
    }

    /// Every reason of appendix C, with the class of exit that it must become.
    #[test]
    fn every_reason_of_the_manual_decodes() {
        for &reason in ALL {
            let exit = decode(&told(reason, 0));
            let expected = match reason {
                1 | 3 | 4 => Exit::Interrupted,
                52 => Exit::Deadline,
                43 | 45 => Exit::Priority,
                56 => Exit::ApicWritten(0),
                2 => Exit::TripleFault,
                7 | 8 => Exit::WindowOpen,
                9 => Exit::TaskSwitch,
                10 => Exit::Cpuid,
                12 => Exit::Halt,
                13 | 54 => Exit::CacheFlush,
                15 => Exit::Rdpmc,
                16 => Exit::Rdtsc,
                18 => Exit::Hypercall,
                28 => Exit::Control(ControlAccess { register: 0, write: true, gpr: 0 }),
                30 => Exit::Io(IoExit { port: 0, bytes: 1, write: true, string: false }),
                31 => Exit::MsrRead(0),
                32 => Exit::MsrWrite(0, 0),
                40 => Exit::Pause,
                48 => Exit::NestedFault {
                    gpa: GuestPhys::new(0),
                    gva: None,
                    access: Access::default(),
                    present: false,
                },
                51 => Exit::Rdtscp,
                55 => Exit::Xsetbv,
                11 | 17 | 19..=27 | 36 | 39 | 50 | 53 | 59 | 60 | 63..=65 | 67..=70 | 76 | 77 => {
                    Exit::Undefined
                }
                _ => Exit::Unknown(RawExit { code: u64::from(reason), info: [0, 0] }),
            };
            assert_eq!(exit, expected, "{reason}: {}", name(reason));
            assert!(!name(reason).contains("without a name"));
        }
        assert!(name(35).contains("without a name"));
    }

    #[test]
    fn an_io_exit_is_read_from_its_qualification() {
        // IN AL, 0x3f8: size 0, direction IN (bit 3), port in bits 31:16.
        assert_eq!(
            decode(&told(IO, 0x03f8_0008)),
            Exit::Io(IoExit { port: 0x3f8, bytes: 1, write: false, string: false })
        );
        // REP OUTSD to 0xcf8: size 3, string (bit 4), REP (bit 5).
        assert_eq!(
            decode(&told(IO, 0x0cf8_0033)),
            Exit::Io(IoExit { port: 0xcf8, bytes: 4, write: true, string: true })
        );
    }

    #[test]
    fn control_register_moves_name_register_and_direction() {
        // MOV CR8, R9.
        assert_eq!(
            decode(&told(CONTROL_REGISTER, 0x908)),
            Exit::Control(ControlAccess { register: 8, write: true, gpr: 9 })
        );
        // MOV RBX, CR3.
        assert_eq!(
            decode(&told(CONTROL_REGISTER, 0x313)),
            Exit::Control(ControlAccess { register: 3, write: false, gpr: 3 })
        );
        // LMSW: not something that the masks let through.
        assert!(matches!(decode(&told(CONTROL_REGISTER, 0x30)), Exit::Unknown(_)));
    }

    #[test]
    fn a_violation_tells_the_linear_address_only_of_the_final_access() {
        let mut t = told(EPT_VIOLATION, 0b1_1000_0010);
        t.guest_physical = 0x1234_5678;
        t.guest_linear = 0xffff_8000_0000_0000;
        let expected = |gva, present, access| Exit::NestedFault {
            gpa: GuestPhys::new(0x1234_5678),
            gva,
            access,
            present,
        };
        let write = Access { write: true, execute: false };
        assert_eq!(decode(&t), expected(Some(GuestVirt::new(0xffff_8000_0000_0000)), false, write));
        // Of a page-table walk: valid, but bit 8 clear; the entry is readable.
        t.qualification = 0b0_1000_1010;
        assert_eq!(decode(&t), expected(None, true, write));
    }

    #[test]
    fn exceptions_carry_their_code_and_nmis_are_the_host_s() {
        let mut t = told(EXCEPTION_OR_NMI, 0);
        t.event = (1 << 31 | 1 << 11 | 3 << 8 | 14, 7);
        assert_eq!(decode(&t), Exit::Exception { vector: 14, code: Some(7) });
        t.event = (1 << 31 | 3 << 8 | 6, 7);
        assert_eq!(decode(&t), Exit::Exception { vector: 6, code: None });
        t.event = (1 << 31 | 2 << 8 | 2, 0);
        assert_eq!(decode(&t), Exit::Interrupted);
        t.event = (1 << 31 | 3 << 8 | 18, 0);
        assert_eq!(decode(&t), Exit::MachineCheck);
        t.event = (0, 0);
        assert!(matches!(decode(&t), Exit::Unknown(_)));
    }

    #[test]
    fn a_write_of_an_apic_register_tells_the_offset() {
        assert_eq!(decode(&told(APIC_WRITE, 0x320)), Exit::ApicWritten(0x320));
        assert_eq!(decode(&told(APIC_WRITE, u64::MAX)), Exit::ApicWritten(0xfff));
    }

    #[test]
    fn a_failed_entry_is_told_before_anything_else() {
        assert!(matches!(decode(&Told { reason: 0x8000_0021, ..Told::default() }), Exit::EntryFailed(_)));
    }

    #[test]
    fn the_value_written_to_an_msr_is_the_pair() {
        let mut t = told(WRMSR, 0);
        t.registers = (0xdead_beef_0000_0001, 0xffff_ffff_c000_0080, 0x1_0000_0002);
        assert_eq!(decode(&t), Exit::MsrWrite(0xc000_0080, 0x2_0000_0001));
    }
}
