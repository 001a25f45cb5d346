//! What the hypervisor does when a guest stops: one function for each reason.
//!
//! The functions work on the [`Context`] of the virtual CPU that stopped, which the run loop holds locked, and on what
//! surrounds it ([`Around`]). Each says how to go on with a [`Resume`]. Nothing that a guest does makes one of them
//! fail: it gets what hardware would give it, or its domain is crashed with a [`GuestFault`].
//!
//! Hypercalls are not here: see `crate::call`.

mod control;
mod cpuid;
mod deliver;
mod dump;
mod ipi;
mod memory;
mod mmio;
mod msr;
mod port;

#[cfg(test)]
mod tests;

pub use cpuid::{CpuidPolicy, Topology, on_cpuid};
pub use deliver::{deliver, is_deliverable, on_halt, on_window};
pub use dump::dump;
pub use ipi::send_ipi;
pub use msr::{on_msr_read, on_msr_write};
pub use port::finish_port;

use crate::apic::{Effect, Ipi, Moment};
use crate::domain::ShutdownReason;
use crate::event::Width;
use crate::hw::{Access, EntryFailure, Event, Exit, Platform, RawExit, Reg, TscTicks, VcpuHw};
use crate::time::Clock;
use crate::vcpu::{Context, Hw, Vcpu};
use core::fmt;
use pv_abi::errno::Errno;
use pv_abi::ids::{Gfn, GuestPhys};

/// How a virtual CPU goes on after an exit.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resume {
    /// It enters the guest again.
    Continue,
    /// It sleeps until something is to be put into it.
    Block,
    /// It waits until another domain has done this access, and is told so by [`finish_port`].
    Emulated(PortAccess),
    /// It lets others run first.
    Yield,
    /// It stops: only another virtual CPU can start it again.
    Down,
    /// Its domain shuts down.
    Shutdown(ShutdownReason),
    /// Its domain is crashed.
    Crash(GuestFault),
}

/// Why a domain is crashed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestFault {
    /// Three nested faults.
    TripleFault,
    /// It fetched instructions from where no memory is.
    Fetch(GuestPhys),
    /// It touched a place without memory by an instruction that is not emulated.
    NotEmulated {
        /// The place.
        gpa: GuestPhys,
        /// What it wanted.
        access: Access,
    },
    /// It switched tasks by hardware.
    TaskSwitch,
    /// The machine failed under it.
    MachineCheck,
    /// The hardware refused its state.
    EntryFailed(EntryFailure),
    /// It stopped for a reason that nothing asked for.
    Unknown(RawExit),
}

impl fmt::Display for GuestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TripleFault => f.write_str("triple fault"),
            Self::Fetch(gpa) => write!(f, "instruction fetch from {gpa}, where no memory is"),
            Self::NotEmulated { gpa, access } => {
                let kind = if access.write { "write to" } else { "read of" };
                write!(f, "{kind} {gpa}, where no memory is, by an instruction that is not emulated")
            }
            Self::TaskSwitch => f.write_str("task switch by hardware"),
            Self::MachineCheck => f.write_str("machine check: its memory or its processor is not sound"),
            Self::EntryFailed(failure) => write!(
                f,
                "state refused by the hardware: {} ({:#x}, {:#x?})",
                failure.reason, failure.raw.code, failure.raw.info
            ),
            Self::Unknown(raw) => write!(f, "unexpected exit {:#x} ({:#x?})", raw.code, raw.info),
        }
    }
}

/// An access to an I/O port that the hardware did not let through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortAccess {
    /// The port.
    pub port: u16,
    /// The width in bytes: 1, 2 or 4.
    pub bytes: u8,
    /// The value that is written; `None` for a read.
    pub value: Option<u32>,
}

/// What surrounds the virtual CPU that stopped.
pub trait Around<P: Platform> {
    /// The machine.
    fn platform(&self) -> &P;
    /// The clock.
    fn clock(&self) -> &Clock;
    /// The virtual CPU.
    fn vcpu(&self) -> &Vcpu<P>;
    /// What CPUID says in its domain.
    fn cpuid(&self) -> &CpuidPolicy;
    /// The vector of its domain's call-back (`HVM_PARAM_CALLBACK_IRQ` of the vector kind).
    fn callback_vector(&self) -> Option<u8>;
    /// Sets or stops the timer of its local APIC.
    fn set_apic_timer(&self, deadline: Option<TscTicks>);
    /// Sends a message from its local APIC: [`send_ipi`] with its domain's virtual CPUs.
    fn send_ipi(&self, ipi: Ipi);
    /// Reads guest memory at a linear address, as far as there is any; how many bytes.
    fn fetch(&self, context: &mut Context<Hw<P>>, linear: u64, into: &mut [u8]) -> usize;
    /// Reads or writes guest memory at a guest-physical frame, for the hypercall page.
    fn write_page(&self, gfn: Gfn, bytes: &[u8; 4096]) -> Result<(), Errno>;
    /// Takes the width of what the guest shares with the hypervisor from the mode that it is in.
    fn latch_width(&self, width: Width);
    /// Whether the nested tables allow an access now: another CPU may have changed them since the exit.
    fn allows(&self, gpa: GuestPhys, access: Access) -> bool;
    /// Hands an access to a port to the domain that emulates it, if there is one; whether it did.
    fn forward(&self, access: PortAccess) -> bool;
    /// Serves an access to a port that its domain has a part in, such as the PCI configuration ports of driver domains:
    /// the value read. `None` if it has not.
    fn port(&self, access: PortAccess) -> Option<u32>;
    /// Serves an aligned access to a register at a guest-physical address, such as PCI configuration space in memory:
    /// the value read. `None` if nothing is there.
    fn register(&self, gpa: GuestPhys, bytes: u8, write: Option<u64>) -> Option<u64>;
}

/// Puts an exception into the guest. If an event waits already, it was interrupted by this exit: the instruction is
/// executed again after it, and exits again.
pub(crate) fn raise<H: VcpuHw>(context: &mut Context<H>, event: Event) -> Resume {
    let _busy_means_later = context.hw.inject(event);
    Resume::Continue
}

/// Does what a write to the local APIC asks for.
pub(crate) fn act<P: Platform>(context: &mut Context<Hw<P>>, around: &impl Around<P>, effect: Effect) {
    match effect {
        Effect::Nothing => {}
        Effect::Ended => {
            if context.hw.delivers_interrupts() {
                around.vcpu().attention.raise(crate::vcpu::Reason::APIC);
            }
        }
        Effect::Priority => {
            let cr8 = context.apic.cr8();
            context.hw.set(Reg::Cr8, u64::from(cr8));
            around.vcpu().attention.raise(crate::vcpu::Reason::APIC);
        }
        Effect::Enabled => {
            around.vcpu().attention.raise(crate::vcpu::Reason::UPCALL | crate::vcpu::Reason::APIC);
        }
        Effect::Timer(deadline) => around.set_apic_timer(deadline),
        Effect::Send(ipi) => around.send_ipi(ipi),
    }
}

/// The time for a handler.
pub(crate) fn moment<'a, P: Platform>(around: &'a impl Around<P>) -> Moment<'a> {
    Moment { now: around.platform().tsc(), clock: around.clock() }
}

/// Handles every exit but hypercalls and those of the host, which are `Continue` here: the run loop has them itself.
pub fn handle<P: Platform>(exit: Exit, context: &mut Context<Hw<P>>, around: &impl Around<P>) -> Resume {
    match exit {
        Exit::Hypercall | Exit::Interrupted | Exit::Deadline => Resume::Continue,
        Exit::Cpuid => {
            on_cpuid(context, around.vcpu().id, around.cpuid());
            Resume::Continue
        }
        Exit::MsrRead(index) => on_msr_read(context, around, index),
        Exit::MsrWrite(index, value) => on_msr_write(context, around, index, value),
        Exit::Io(access) => port::on_io(context, around, access),
        Exit::NestedFault { gpa, access, present, .. } => {
            memory::on_fault(context, around, gpa, access, present)
        }
        Exit::Control(access) => control::on_control(context, around, access),
        Exit::Xsetbv => control::on_xsetbv(context, around.cpuid()),
        Exit::Halt => on_halt(context, around),
        Exit::Pause => Resume::Yield, // the instruction has been executed
        Exit::Rdtsc => control::on_rdtsc(context, around.platform().tsc(), false),
        Exit::Rdtscp => control::on_rdtsc(context, around.platform().tsc(), true),
        Exit::Rdpmc => raise(context, Event::PROTECTION),
        Exit::CacheFlush => {
            // Memory of guests is coherent.
            context.hw.skip();
            Resume::Continue
        }
        Exit::Undefined => raise(context, Event::UNDEFINED),
        Exit::Exception { vector, code } => {
            let event = match code {
                Some(code) => Event::exception_with(vector, code),
                None => Event::exception(vector),
            };
            raise(context, event)
        }
        Exit::WindowOpen => on_window(context, around.vcpu()),
        Exit::Priority => {
            around.vcpu().attention.raise(crate::vcpu::Reason::APIC);
            Resume::Continue
        }
        Exit::ApicWritten(offset) => {
            let effect = context.apic.written(offset, moment(around));
            act(context, around, effect);
            Resume::Continue
        }
        Exit::MachineCheck => Resume::Crash(GuestFault::MachineCheck),
        Exit::TripleFault => Resume::Crash(GuestFault::TripleFault),
        Exit::TaskSwitch => Resume::Crash(GuestFault::TaskSwitch),
        Exit::EntryFailed(failure) => Resume::Crash(GuestFault::EntryFailed(failure)),
        Exit::Unknown(raw) => Resume::Crash(GuestFault::Unknown(raw)),
    }
}
