//! One virtual CPU as the hardware runs it.

use super::addr::HostPhys;
use super::apic::{ApicMode, Levels, RegisterPage, Requests};
use super::exit::Exit;
use super::gprs::Gprs;
use super::state::{Reg, Segment, SegmentState};
use super::time::TscTicks;
use alloc::sync::Arc;

/// What kind of event is put into a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// An external interrupt.
    Interrupt,
    /// A non-maskable interrupt; the vector is 2.
    Nmi,
    /// A fault or trap that the guest's own instruction raised.
    Exception,
}

/// An event to put into a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// The kind.
    pub kind: EventKind,
    /// The vector.
    pub vector: u8,
    /// The error code to push, for the exceptions that have one.
    pub code: Option<u32>,
}

impl Event {
    /// An external interrupt of this vector.
    pub const fn interrupt(vector: u8) -> Self {
        Self { kind: EventKind::Interrupt, vector, code: None }
    }

    /// An exception without error code.
    pub const fn exception(vector: u8) -> Self {
        Self { kind: EventKind::Exception, vector, code: None }
    }

    /// An exception with an error code.
    pub const fn exception_with(vector: u8, code: u32) -> Self {
        Self { kind: EventKind::Exception, vector, code: Some(code) }
    }

    /// The invalid-opcode exception, #UD.
    pub const UNDEFINED: Self = Self::exception(6);
    /// The general-protection fault with error code 0, #GP(0).
    pub const PROTECTION: Self = Self::exception_with(13, 0);
    /// A non-maskable interrupt.
    pub const NMI: Self = Self { kind: EventKind::Nmi, vector: 2, code: None };
}

/// An event is already waiting to be put into the guest at its next entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Busy;

/// What [`VcpuHw::request_window`] waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Window {
    /// The guest can take an external interrupt: IF is set and nothing shadows it.
    Interrupt,
    /// The guest can take a non-maskable interrupt.
    Nmi,
}

/// One virtual CPU as the hardware runs it. It is used by one CPU at a time: its owner holds a lock around it.
///
/// An event whose delivery an exit interrupted is put back by the back end itself before the next entry, before
/// anything that [`inject`](Self::inject) adds.
pub trait VcpuHw: Send + 'static {
    /// This CPU begins to run this virtual CPU: loads what is switched only then (vector registers, MSRs).
    fn load(&mut self);
    /// This CPU stops to run this virtual CPU: saves what [`load`](Self::load) loaded.
    fn save(&mut self);
    /// Runs the guest until its next exit. Only between [`load`](Self::load) and [`save`](Self::save).
    fn run(&mut self) -> Exit;

    /// The general registers.
    fn gprs(&self) -> &Gprs;
    /// The general registers, to change.
    fn gprs_mut(&mut self) -> &mut Gprs;
    /// Reads a register.
    fn get(&self, register: Reg) -> u64;
    /// Writes a register. The caller has checked that the value is one that the guest may have.
    fn set(&mut self, register: Reg, value: u64);
    /// Reads a segment register.
    fn segment(&self, segment: Segment) -> SegmentState;
    /// The privilege level: 0 for the guest's kernel, 3 for its programs.
    fn privilege_level(&self) -> u8;
    /// Whether it executes 64-bit code.
    fn is_64_bit(&self) -> bool;
    /// Writes a segment register.
    fn set_segment(&mut self, segment: Segment, state: SegmentState);

    /// Moves RIP past the instruction that caused the last exit, and ends the interrupt shadow.
    fn skip(&mut self);
    /// The same, when that was the instruction of a hypercall.
    fn skip_call(&mut self);
    /// Moves RIP on by `bytes`, for instructions that were decoded in software, and ends the interrupt shadow.
    fn skip_bytes(&mut self, bytes: u8);
    /// Puts an event into the guest at the next entry.
    fn inject(&mut self, event: Event) -> Result<(), Busy>;
    /// Whether the guest could take an external interrupt at its next entry: IF set, no shadow, nothing else put in.
    fn can_take_interrupt(&self) -> bool;
    /// Asks for [`Exit::WindowOpen`] as soon as the guest can take such an event; `None` withdraws.
    fn request_window(&mut self, window: Option<Window>);
    /// Whether a non-maskable interrupt was put in whose handler has not returned yet.
    fn blocks_nmi(&self) -> bool;

    /// The page of its local APIC's registers, and what others request of it. Hardware that can may serve accesses of the
    /// guest from the page, as its owner says; [`Reg::Cr8`] and the page's task priority are then one.
    fn use_apic(&mut self, page: &Arc<RegisterPage>, requests: &Arc<Requests>);
    /// How the guest reaches its local APIC from now on.
    fn set_apic_mode(&mut self, mode: ApicMode);
    /// Whether the hardware delivers the interrupts that [`offer`](Self::offer) names. If not, each is put in by
    /// [`inject`](Self::inject).
    fn delivers_interrupts(&self) -> bool;
    /// Says what there is in the page of registers: after each change that the hardware did not make itself.
    fn offer(&mut self, levels: Levels);
    /// Asks for an exit when the guest lowers its task priority, as CR8 shows it, below this one: [`Exit::Priority`], or
    /// that of the instruction. `None` withdraws. Has no effect where the hardware delivers interrupts.
    fn watch_priority(&mut self, below: Option<u8>);
    /// Asks for [`Exit::Deadline`] at or soon after `deadline`, or shortly before; `None` withdraws, as does
    /// [`save`](Self::save). Returns false, without effect, if the processor has no timer of its own for it, or the
    /// machine's serves better.
    fn set_deadline(&mut self, deadline: Option<TscTicks>) -> bool;

    /// Sets all state as after INIT and the given nested root stays: real mode is never run, the caller sets the rest.
    fn reset(&mut self);
    /// Which nested page tables translate this guest's physical addresses.
    fn set_nested_root(&mut self, root: HostPhys);
    /// Forgets cached nested translations of this virtual CPU before its next entry.
    fn flush_nested(&mut self);
    /// What is added to the time-stamp counter when the guest reads it, modulo 2^64.
    fn set_tsc_offset(&mut self, offset: TscTicks);
    /// Lets the guest use `count` I/O ports from `first` without an exit, or takes that away.
    fn pass_ports(&mut self, first: u16, count: u16, pass: bool);
}
