//! From what AMD-V tells of an exit to the exits that policy knows. Pure, so that it is tested on the host.

use hv_core::hw::{Access, ControlAccess, EntryFailure, Exit, Gprs, IoExit, RawExit};
use pv_abi::ids::GuestPhys;

use super::vmcb::code;

/// What the CPU left in the VMCB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Raw {
    /// EXITCODE.
    pub code: u64,
    /// EXITINFO1.
    pub info1: u64,
    /// EXITINFO2.
    pub info2: u64,
}

impl Raw {
    const fn exit(self) -> RawExit {
        RawExit { code: self.code, info: [self.info1, self.info2] }
    }
}

/// The exit in policy's words. Interrupts and NMIs of the host are taken by then.
#[inline]
pub fn decode(raw: Raw, gprs: &Gprs) -> Exit {
    match raw.code {
        code::VMMCALL => Exit::Hypercall,
        code::CPUID => Exit::Cpuid,
        code::HLT => Exit::Halt,
        _ => decode_rare(raw, gprs),
    }
}

fn decode_rare(raw: Raw, gprs: &Gprs) -> Exit {
    match raw.code {
        code::CR_READ..code::DR_READ => control(raw),
        code::EXCEPTION..code::INTR => exception(raw),
        code::INTR | code::NMI | code::SMI | code::INIT => Exit::Interrupted,
        code::VINTR | code::IRET => Exit::WindowOpen,
        code::RDTSC => Exit::Rdtsc,
        code::RDTSCP => Exit::Rdtscp,
        code::RDPMC => Exit::Rdpmc,
        code::INVD | code::WBINVD => Exit::CacheFlush,
        code::PAUSE => Exit::Pause,
        code::IO => io(raw),
        code::MSR => msr(raw, gprs),
        code::TASK_SWITCH => Exit::TaskSwitch,
        code::SHUTDOWN => Exit::TripleFault,
        // Instructions of virtualization, of MONITOR and MWAIT, and RDPRU: guests do not have them.
        code::VMRUN | code::VMLOAD..=code::SKINIT | code::INVLPGA | code::RSM => Exit::Undefined,
        code::MONITOR..=code::MWAIT_ARMED | code::RDPRU => Exit::Undefined,
        code::XSETBV => Exit::Xsetbv,
        code::NESTED_FAULT => nested_fault(raw),
        code::INVALID => Exit::EntryFailed(EntryFailure { reason: "the VMCB is invalid", raw: raw.exit() }),
        code::BUSY => Exit::EntryFailed(EntryFailure { reason: "the VMCB is in use", raw: raw.exit() }),
        _ => Exit::Unknown(raw.exit()),
    }
}

/// EXITINFO1 with decode assists: bit 63 is set for MOV, bits 0 to 3 number the general register (section
/// 15.8.1). Without, the caller fills it in.
fn control(raw: Raw) -> Exit {
    Exit::Control(ControlAccess {
        register: (raw.code & 0xf) as u8,
        write: raw.code >= code::CR_WRITE,
        gpr: (raw.info1 & 0xf) as u8,
    })
}

/// EXITINFO1 is the error code of the vectors that have one (section 15.12).
fn exception(raw: Raw) -> Exit {
    let vector = (raw.code - code::EXCEPTION) as u8;
    let code = matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30).then_some(raw.info1 as u32);
    Exit::Exception { vector, code }
}

/// EXITINFO1: section 15.10.2, figure 15-2.
fn io(raw: Raw) -> Exit {
    Exit::Io(IoExit {
        port: (raw.info1 >> 16) as u16,
        bytes: (raw.info1 >> 4 & 7) as u8,
        write: raw.info1 & 1 == 0,
        string: raw.info1 & 4 != 0,
    })
}

/// EXITINFO1 is 1 for WRMSR (section 15.11).
fn msr(raw: Raw, gprs: &Gprs) -> Exit {
    let index = gprs.rcx as u32;
    if raw.info1 & 1 != 0 { Exit::MsrWrite(index, gprs.edx_eax()) } else { Exit::MsrRead(index) }
}

/// EXITINFO1 is a page-fault error code, EXITINFO2 the guest-physical address (section 15.25.6).
fn nested_fault(raw: Raw) -> Exit {
    Exit::NestedFault {
        gpa: GuestPhys::new(raw.info2),
        gva: None,
        access: Access { write: raw.info1 & 2 != 0, execute: raw.info1 & 0x10 != 0 },
        present: raw.info1 & 1 != 0,
    }
}

/// The length of the instruction that causes an exit, without prefixes; 0 where the exit is not one of a
/// single instruction of fixed length.
pub const fn instruction_length(exit_code: u64) -> u8 {
    match exit_code {
        code::HLT => 1,
        code::CPUID | code::RDTSC | code::RDPMC | code::MSR | code::INVD | code::WBINVD | code::PAUSE => 2,
        code::VMMCALL | code::XSETBV | code::RDTSCP => 3,
        // MOV CR8 needs a REX prefix, or LOCK in front; the others are three bytes.
        0x08 | 0x18 => 4,
        code::CR_READ..code::DR_READ => 3,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: u64, info1: u64, info2: u64) -> Exit {
        decode(
            Raw { code, info1, info2 },
            &Gprs { rax: 0x1_0000_0001, rcx: 0x1_c000_0080, rdx: 0xff_0000_0002, ..Gprs::default() },
        )
    }

    #[test]
    fn every_code_of_appendix_c() {
        for code in 0..=0xa6 {
            let exit = of(code, 0, 0);
            let as_expected = match code {
                0x00..=0x1f => {
                    let (register, write) = ((code & 0xf) as u8, code >= 0x10);
                    exit == Exit::Control(ControlAccess { register, write, gpr: 0 })
                }
                0x20..=0x3f => matches!(exit, Exit::Unknown(_)),
                0x40..=0x5f => {
                    matches!(exit, Exit::Exception { vector, .. } if u64::from(vector) == code - 0x40)
                }
                0x60..=0x63 => exit == Exit::Interrupted,
                0x64 | 0x74 => exit == Exit::WindowOpen,
                0x6e => exit == Exit::Rdtsc,
                0x6f => exit == Exit::Rdpmc,
                0x72 => exit == Exit::Cpuid,
                0x76 | 0x89 => exit == Exit::CacheFlush,
                0x77 => exit == Exit::Pause,
                0x78 => exit == Exit::Halt,
                0x7b => matches!(exit, Exit::Io(_)),
                0x7c => matches!(exit, Exit::MsrRead(_)),
                0x7d => exit == Exit::TaskSwitch,
                0x7f => exit == Exit::TripleFault,
                0x73 | 0x7a | 0x80 | 0x82..=0x86 | 0x8a..=0x8c | 0x8e => exit == Exit::Undefined,
                0x81 => exit == Exit::Hypercall,
                0x87 => exit == Exit::Rdtscp,
                0x8d => exit == Exit::Xsetbv,
                _ => exit == Exit::Unknown(RawExit { code, info: [0, 0] }),
            };
            assert!(as_expected, "code {code:#x} gave {exit:?}");
        }
        assert!(matches!(of(0x400, 0, 0), Exit::NestedFault { .. }));
        assert!(matches!(of(0x401, 7, 8), Exit::Unknown(RawExit { code: 0x401, info: [7, 8] })));
        assert!(matches!(of(u64::MAX, 0, 0), Exit::EntryFailed(_)));
        assert!(matches!(of(u64::MAX - 1, 0, 0), Exit::EntryFailed(_)));
    }

    #[test]
    fn io_information() {
        // IN AL, 60h: type IN, 8 bits, 64-bit addresses.
        let read = IoExit { port: 0x60, bytes: 1, write: false, string: false };
        assert_eq!(of(0x7b, 0x60 << 16 | 0x211, 0), Exit::Io(read));
        // OUT DX, EAX on port CF8h.
        let write = IoExit { port: 0xcf8, bytes: 4, write: true, string: false };
        assert_eq!(of(0x7b, 0xcf8 << 16 | 0x40, 0), Exit::Io(write));
        // REP OUTSW.
        let string = IoExit { port: 0xffff, bytes: 2, write: true, string: true };
        assert_eq!(of(0x7b, 0xffff << 16 | 0x2c, 0), Exit::Io(string));
    }

    #[test]
    fn msr_information() {
        assert_eq!(of(0x7c, 0, 0), Exit::MsrRead(0xc000_0080));
        assert_eq!(of(0x7c, 1, 0), Exit::MsrWrite(0xc000_0080, 0x2_0000_0001));
    }

    #[test]
    fn nested_fault_information() {
        let exit = of(0x400, 0x1_0000_0006, 0xfee0_0300);
        let access = Access { write: true, execute: false };
        assert_eq!(
            exit,
            Exit::NestedFault { gpa: GuestPhys::new(0xfee0_0300), gva: None, access, present: false }
        );
        let fetch = of(0x400, 0x1_0000_0015, 0x1000);
        let access = Access { write: false, execute: true };
        assert_eq!(
            fetch,
            Exit::NestedFault { gpa: GuestPhys::new(0x1000), gva: None, access, present: true }
        );
    }

    #[test]
    fn exceptions_with_and_without_error_code() {
        assert_eq!(of(0x4e, 7, 0), Exit::Exception { vector: 14, code: Some(7) });
        assert_eq!(of(0x46, 7, 0), Exit::Exception { vector: 6, code: None });
    }

    #[test]
    fn control_registers_with_decode_assists() {
        let access = ControlAccess { register: 8, write: true, gpr: 15 };
        assert_eq!(of(0x18, 1 << 63 | 15, 0), Exit::Control(access));
    }

    #[test]
    fn lengths() {
        let lengths = [
            (0x81, 3),
            (0x72, 2),
            (0x7c, 2),
            (0x78, 1),
            (0x8d, 3),
            (0x77, 2),
            (0x10, 3),
            (0x18, 4),
            (0x400, 0),
            (0x7b, 0),
        ];
        for (code, length) in lengths {
            assert_eq!(instruction_length(code), length, "code {code:#x}");
        }
    }
}
