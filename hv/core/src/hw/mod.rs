//! The seam between policy and machine: what the hypervisor's unsafe half must provide.
//!
//! Everything in this crate is written against the traits of this module: [`Platform`] is the machine, [`Backend`]
//! the vendor's virtualization extension, [`VcpuHw`] one virtual CPU of it, [`EntryFormat`] one entry of its nested
//! page tables, [`PhysMemory`] the machine's memory. None has default bodies, so no back end can be half-finished.

mod addr;
mod apic;
mod backend;
mod exit;
mod gprs;
mod memory;
mod platform;
mod state;
mod time;
mod vcpu;

pub use addr::{HostPhys, Mfn, Order, PAGE_BYTES, PAGE_SHIFT, PageSize, Pages};
pub use apic::{ApicMode, Levels, RegisterPage, Requests};
pub use backend::{Backend, CachePolicy, Entry, EntryFormat, NewVcpuError, Rights, VcpuConfig};
pub use exit::{Access, ControlAccess, EntryFailure, Exit, ExitClass, IoExit, RawExit};
pub use gprs::Gprs;
pub use memory::PhysMemory;
pub use platform::{
    ApicId, CpuId, Gsi, HostEvent, LineId, MsiMessage, NoLine, Platform, Polarity, PowerAction, Trigger,
};
pub use state::{Reg, Segment, SegmentState};
pub use time::{Nanos, TscTicks};
pub use vcpu::{Busy, Event, EventKind, VcpuHw, Window};
