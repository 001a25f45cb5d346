//! A virtual CPU on VT-x as it begins: what exits, and the state after INIT.

use hv_core::hw::{Gprs, Reg};

use super::controls::Secondary;
use super::debug::DebugRegisters;
use super::instr::write;
use super::msrs::SwitchedMsrs;
use super::registers::CR0_ET;
use super::vcpu::Vcpu;
use super::{field, host, segment};
use crate::paging;

/// Exceptions that exit: #DB and #AC, whose delivery can loop for ever inside the processor, and #MC, the host's.
const INTERCEPTED: u64 = 1 << 1 | 1 << 17 | 1 << 18;

impl Vcpu {
    /// Everything that stays as it is.
    pub(super) fn set_up(&mut self) {
        let c = self.capability;
        write(field::PIN_CONTROLS, c.pin.into());
        write(field::PRIMARY_CONTROLS, c.primary.into());
        write(field::SECONDARY_CONTROLS, c.secondary.into());
        write(field::EXIT_CONTROLS, c.exit.into());
        write(field::ENTRY_CONTROLS, c.entry.into());
        write(field::EXCEPTION_BITMAP, INTERCEPTED);
        for zero in [
            field::PAGE_FAULT_MASK,
            field::PAGE_FAULT_MATCH,
            field::CR3_TARGET_COUNT,
            field::EXIT_MSR_STORE_COUNT,
            field::EXIT_MSR_LOAD_COUNT,
            field::ENTRY_MSR_LOAD_COUNT,
            field::GUEST_DEBUGCTL,
            field::TSC_OFFSET,
            field::TPR_THRESHOLD,
        ] {
            write(zero, 0);
        }
        if c.delivers() {
            for zero in [
                field::GUEST_INTERRUPT_STATUS,
                field::EOI_EXIT0,
                field::EOI_EXIT1,
                field::EOI_EXIT2,
                field::EOI_EXIT3,
            ] {
                write(zero, 0);
            }
        }
        write(field::VMCS_LINK, u64::MAX);
        let (io_a, io_b, msr) = self.bitmaps.addresses(paging::direct_map_phys);
        write(field::IO_BITMAP_A, io_a);
        write(field::IO_BITMAP_B, io_b);
        write(field::MSR_BITMAP, msr);
        if c.secondary & Secondary::PAUSE_LOOP.bits() != 0 {
            // Ticks between two PAUSEs of one loop, and ticks that a loop may take before it exits.
            write(field::PAUSE_GAP, 128);
            write(field::PAUSE_WINDOW, 4096);
        }
        let [cr0, cr4] = self.owned();
        write(field::CR0_MASK, cr0);
        write(field::CR4_MASK, cr4);
        host::write_constant();
    }

    /// The state after INIT: section 10.1.1, table 10-1.
    pub(super) fn reset_all(&mut self) {
        self.gprs = Gprs::default();
        self.vector.reset();
        self.debug = DebugRegisters::default();
        self.msrs = SwitchedMsrs::default();
        self.cr2 = 0;
        self.on_structure(|vcpu| {
            for segment in segment::ALL {
                segment::write(segment, segment::at_reset(segment));
            }
            vcpu.write_reg(Reg::Efer, 0);
            vcpu.write_reg(Reg::Cr0, CR0_ET);
            vcpu.write_reg(Reg::Cr4, 0);
            vcpu.write_reg(Reg::Rflags, 0);
            for (register, value) in [
                (field::GUEST_CR3, 0),
                (field::GUEST_RIP, 0xfff0),
                (field::GUEST_RSP, 0),
                (field::GUEST_DR7, 0x400),
                (field::GUEST_PAT, 0x0007_0406_0007_0406),
                (field::GUEST_SYSENTER_CS, 0),
                (field::GUEST_SYSENTER_ESP, 0),
                (field::GUEST_SYSENTER_EIP, 0),
                (field::GUEST_INTERRUPTIBILITY, 0),
                (field::GUEST_ACTIVITY, 0),
                (field::GUEST_PENDING_DEBUG, 0),
                (field::ENTRY_EVENT, 0),
            ] {
                write(register, value);
            }
            vcpu.entry_event = 0;
            vcpu.primary = vcpu.capability.primary;
            write(field::PRIMARY_CONTROLS, vcpu.primary.into());
        });
    }
}
