//! Parameters and operations of translated guests (`xen/hvm/hvm_op.h`, `xen/hvm/params.h`).

use crate::ids::DomainId;
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Sub-operations of `hvm_op` (`HVMOP_*`).
pub mod op {
    /// Sets a parameter.
    pub const SET_PARAM: u64 = 0;
    /// Reads a parameter.
    pub const GET_PARAM: u64 = 1;
    /// Flushes the domain's TLBs.
    pub const FLUSH_TLBS: u64 = 5;
    /// Hint about shadow page tables.
    pub const PAGETABLE_DYING: u64 = 9;
    /// Reads the system time.
    pub const GET_TIME: u64 = 10;
    /// Sets the vector of one vCPU's upcall.
    pub const SET_EVTCHN_UPCALL_VECTOR: u64 = 23;
}

/// Numbers of parameters (`HVM_PARAM_*`).
pub mod param {
    /// How the domain is told of events, when no upcall vector is set.
    pub const CALLBACK_IRQ: u32 = 0;
    /// Frame of the XenStore ring.
    pub const STORE_PFN: u32 = 1;
    /// Port of the XenStore ring.
    pub const STORE_EVTCHN: u32 = 2;
    /// Frame of the I/O request page.
    pub const IOREQ_PFN: u32 = 5;
    /// Frame of the buffered I/O request page.
    pub const BUFIOREQ_PFN: u32 = 6;
    /// How missed ticks are treated.
    pub const TIMER_MODE: u32 = 10;
    /// Address of a task state segment for real mode emulation.
    pub const VM86_TSS: u32 = 15;
    /// Frame of an identity page table for guests without paging.
    pub const IDENT_PT: u32 = 12;
    /// Frame of the console ring.
    pub const CONSOLE_PFN: u32 = 17;
    /// Port of the console ring.
    pub const CONSOLE_EVTCHN: u32 = 18;
    /// Reason of shutdown upon a triple fault.
    pub const TRIPLE_FAULT_REASON: u32 = 31;
    /// Width of the saved x87 instruction pointer.
    pub const X87_FIP_WIDTH: u32 = 36;
    /// Number of parameters (`HVM_NR_PARAMS`).
    pub const COUNT: u32 = 39;
}

/// Bits of `param::CALLBACK_IRQ` that hold the kind of call-back (`HVM_PARAM_CALLBACK_IRQ_TYPE_MASK`).
pub const CALLBACK_TYPE_MASK: u64 = 0xff00_0000_0000_0000;
/// Kind: a line of the I/O APIC (`HVM_PARAM_CALLBACK_TYPE_GSI`).
pub const CALLBACK_TYPE_GSI: u64 = 0;
/// Kind: a PCI interrupt pin (`HVM_PARAM_CALLBACK_TYPE_PCI_INTX`).
pub const CALLBACK_TYPE_PCI_INTX: u64 = 1;
/// Kind: a vector, the low eight bits, on every vCPU (`HVM_PARAM_CALLBACK_TYPE_VECTOR`).
pub const CALLBACK_TYPE_VECTOR: u64 = 2;
/// Position of the kind in the parameter.
pub const CALLBACK_TYPE_SHIFT: u32 = 56;

/// Argument of `set_param` and `get_param` (`struct xen_hvm_param`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Param {
    /// Domain whose parameter it is.
    pub domid: DomainId,
    /// Unused.
    pub pad: u16,
    /// Number: see [`param`].
    pub index: u32,
    /// Value.
    pub value: u64,
}
const_assert_eq!(size_of::<Param>(), 16);

/// Argument of `get_time` (`struct xen_hvm_get_time`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetTime {
    /// Out: nanoseconds since the system's start.
    pub now: u64,
}

/// Argument of `set_evtchn_upcall_vector` (`struct xen_hvm_evtchn_upcall_vector`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnUpcallVector {
    /// The vCPU.
    pub vcpu: u32,
    /// Its vector.
    pub vector: u8,
    /// Unused.
    pub pad: [u8; 3],
}
const_assert_eq!(size_of::<EvtchnUpcallVector>(), 8);
