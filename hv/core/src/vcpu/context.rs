//! What only the CPU that runs a virtual CPU touches.

use crate::apic::{Address, LocalApic};
use crate::exit::PortAccess;
use crate::hw::{Levels, Reg, Requests, VcpuHw};
use crate::mem::{Paging, Trails};
use alloc::sync::Arc;

/// The memory type range registers: kept for the guest to read, without effect, because the nested page tables and
/// the guest's own attributes decide (SDM 3, section 12.11).
#[derive(Clone, Copy, Debug)]
pub struct Mtrrs {
    /// IA32_MTRR_DEF_TYPE.
    pub default: u64,
    /// The fixed ranges: 64K_00000, 16K_80000, 16K_A0000, 4K_C0000 to 4K_F8000.
    pub fixed: [u64; 11],
    /// Base and mask of the variable ranges.
    pub variable: [u64; 2 * Self::VARIABLE],
}

impl Mtrrs {
    /// How many variable ranges there are.
    pub const VARIABLE: usize = 8;
}

impl Default for Mtrrs {
    /// Enabled, everything write-back.
    fn default() -> Self {
        Self { default: 0xc06, fixed: [0x0606_0606_0606_0606; 11], variable: [0; 2 * Self::VARIABLE] }
    }
}

/// What a virtual CPU has begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfinished {
    /// A hypercall, which goes on from this cursor.
    Call(u64),
    /// An access that another domain emulates.
    Port(PortAccess),
}

/// Registers and interrupt controller of a virtual CPU.
#[derive(Debug)]
pub struct Context<H> {
    /// The state that the hardware runs.
    pub hw: H,
    /// Its local interrupt controller.
    pub apic: LocalApic,
    /// How its linear addresses were translated last.
    pub trails: Trails,
    /// Its memory type range registers.
    pub mtrrs: Mtrrs,
    /// The generation of the nested tables for which translations were last forgotten; 0 for none.
    pub flushed: u64,
    /// The domain's call-back vector is to be put in when the guest can take it.
    pub upcall_due: bool,
    /// A non-maskable interrupt is to be put in when the guest can take it.
    pub nmi_due: bool,
    /// What was begun and is to be finished before the guest is entered.
    pub unfinished: Option<Unfinished>,
    /// It was reset by INIT and waits for a start-up message.
    pub waits_for_start: bool,
}

impl<H: VcpuHw> Context<H> {
    pub(super) fn new(mut hw: H, address: Arc<Address>, requests: &Arc<Requests>) -> Self {
        let apic = LocalApic::new(address);
        hw.use_apic(apic.page(), requests);
        hw.set_apic_mode(apic.mode());
        Self {
            hw,
            apic,
            trails: Trails::default(),
            mtrrs: Mtrrs::default(),
            flushed: 0,
            upcall_due: false,
            nmi_due: false,
            unfinished: None,
            waits_for_start: false,
        }
    }

    /// How the guest translates linear addresses now.
    #[inline]
    pub fn paging(&self) -> Paging {
        let hw = &self.hw;
        Paging::new(hw.get(Reg::Cr0), hw.get(Reg::Cr3), hw.get(Reg::Cr4), hw.get(Reg::Efer))
    }

    /// Forgets everything as INIT does.
    pub fn reset(&mut self) {
        self.hw.reset();
        self.hw.request_window(None);
        self.apic.reset();
        self.hw.set_apic_mode(self.apic.mode());
        self.hw.watch_priority(None);
        self.hw.offer(Levels::default());
        self.upcall_due = false;
        self.nmi_due = false;
        self.unfinished = None;
        self.waits_for_start = false;
    }
}
