//! What an exit tells, and the events that it interrupted or that the next entry delivers.

use hv_core::hw::Exit;

use super::field;
use super::instr::{read, write};
use super::reason::{self, Told};
use super::vcpu::Vcpu;
use crate::cpu::{machine_check, traps};

/// Interruptibility (section 25.4.2): blocking by STI, by MOV SS; by NMI.
pub(super) const BLOCKED: u64 = 0b11;
pub(super) const BLOCKED_BY_NMI: u64 = 1 << 3;
/// Interruption information (section 25.8.3).
pub(super) const VALID: u32 = 1 << 31;
pub(super) const HAS_CODE: u32 = 1 << 11;
pub(super) const TYPE_SHIFT: u32 = 8;
pub(super) const TYPE_NMI: u32 = 2;
pub(super) const TYPE_EXCEPTION: u32 = 3;
/// Software interrupt, privileged software exception, software exception: they have an instruction length.
const TYPES_WITH_LENGTH: [u32; 3] = [4, 5, 6];
/// Bit 12 of the exit interruption information: NMI unblocking due to IRET.
const UNBLOCKED_BY_IRET: u32 = 1 << 12;

impl Vcpu {
    #[inline]
    pub(super) fn write_event(&mut self, info: u32, code: Option<u32>, length: u64) {
        write(field::ENTRY_EVENT, info.into());
        if let Some(code) = code {
            write(field::ENTRY_EVENT_CODE, code.into());
        }
        if TYPES_WITH_LENGTH.contains(&(info >> TYPE_SHIFT & 7)) {
            write(field::ENTRY_EVENT_LENGTH, length);
        }
        self.entry_event = info;
    }

    /// Puts an event back whose delivery the exit interrupted (section 28.2.4).
    fn reinject(&mut self) {
        let info = read(field::VECTORING_EVENT) as u32;
        if info & VALID == 0 {
            return;
        }
        let code = (info & HAS_CODE != 0).then(|| read(field::VECTORING_CODE) as u32);
        // Bit 12 is undefined there and reserved in the entry field.
        self.write_event(info & !(1 << 12), code, read(field::EXIT_INSTRUCTION_LENGTH));
        if info >> TYPE_SHIFT & 7 == TYPE_NMI {
            // The entry sets the blocking again; it must not be there before (section 27.3.1.5).
            write(field::GUEST_INTERRUPTIBILITY, read(field::GUEST_INTERRUPTIBILITY) & !BLOCKED_BY_NMI);
        }
    }

    /// Reads what this exit tells, and only that: every VMREAD counts.
    #[inline]
    pub(super) fn told(&mut self, reason: u32) -> Told {
        let mut told = Told { reason, ..Told::default() };
        if reason & reason::ENTRY_FAILED != 0 {
            told.qualification = read(field::EXIT_QUALIFICATION);
            return told;
        }
        match reason as u16 {
            reason::VMCALL
            | reason::CPUID
            | reason::HLT
            | reason::INTERRUPT_WINDOW
            | reason::NMI_WINDOW
            | reason::PREEMPTION_TIMER
            | reason::TPR_BELOW_THRESHOLD
            | reason::PAUSE => {}
            reason::APIC_WRITE => told.qualification = read(field::EXIT_QUALIFICATION),
            reason::RDMSR | reason::WRMSR => {
                told.registers = (self.gprs.rax, self.gprs.rcx, self.gprs.rdx);
            }
            reason::EXTERNAL_INTERRUPT if self.capability.acknowledges() => {
                traps::taken(read(field::EXIT_EVENT) as u8);
            }
            reason::EXTERNAL_INTERRUPT => traps::take_interrupts(),
            reason::EXCEPTION_OR_NMI => {
                told.event = (read(field::EXIT_EVENT) as u32, read(field::EXIT_EVENT_CODE) as u32);
                if !self.host_exception(told.event.0) {
                    told.reason = reason::EXTERNAL_INTERRUPT.into();
                }
                self.reinject();
            }
            reason::EPT_VIOLATION | reason::EPT_MISCONFIGURATION => {
                told.qualification = read(field::EXIT_QUALIFICATION);
                told.guest_physical = read(field::GUEST_PHYSICAL_ADDRESS);
                told.guest_linear = read(field::GUEST_LINEAR_ADDRESS);
                self.reinject();
                // An IRET that faulted had already unblocked NMIs: block them again (section 28.2.3).
                if told.qualification & u64::from(UNBLOCKED_BY_IRET) != 0 && self.entry_event & VALID == 0 {
                    write(
                        field::GUEST_INTERRUPTIBILITY,
                        read(field::GUEST_INTERRUPTIBILITY) | BLOCKED_BY_NMI,
                    );
                }
            }
            reason::TASK_SWITCH => {
                told.qualification = read(field::EXIT_QUALIFICATION);
            }
            _ => {
                told.qualification = read(field::EXIT_QUALIFICATION);
                self.reinject();
            }
        }
        told
    }

    /// NMIs and machine checks are the host's: it takes them before anything else happens. Whether the guest has to do
    /// with it.
    fn host_exception(&self, info: u32) -> bool {
        let kind = info >> TYPE_SHIFT & 7;
        if kind == TYPE_NMI {
            // SAFETY: the handler of NMI only records; its IRET ends the blocking of further NMIs.
            unsafe { core::arch::asm!("int 2") };
        } else if kind == TYPE_EXCEPTION && info as u8 == reason::MACHINE_CHECK {
            return machine_check::judge() == Exit::MachineCheck;
        }
        true
    }
}
