//! The machine around the CPUs: interrupts, timers, console, ports, power.

use super::addr::{HostPhys, Mfn};
use super::backend::Backend;
use super::memory::PhysMemory;
use super::time::{Nanos, TscTicks};
use core::fmt;
use pv_abi::counters::CounterPage;

/// The number of a CPU, counted from 0 without gaps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CpuId(u16);

impl CpuId {
    /// Makes a number of a CPU.
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }

    /// The number.
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// The number, to index a table of CPUs with.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu{}", self.0)
    }
}

/// The identifier of a CPU's local interrupt controller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ApicId(u32);

impl ApicId {
    /// Makes an identifier.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The identifier.
    pub const fn raw(self) -> u32 {
        self.0
    }
}

/// A global system interrupt: an input of an I/O interrupt controller (ACPI 6.5, section 5.2.13).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Gsi(u32);

impl Gsi {
    /// Makes a number of an interrupt.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The number.
    pub const fn raw(self) -> u32 {
        self.0
    }
}

/// How an interrupt line signals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names say it
pub enum Trigger {
    Edge,
    Level,
}

/// Which state of an interrupt line signals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names say it
pub enum Polarity {
    High,
    Low,
}

/// A device interrupt that the platform routes: the number under which [`HostEvent::Line`] reports it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LineId(u16);

impl LineId {
    /// Makes a number of a line.
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }

    /// The number.
    pub const fn raw(self) -> u16 {
        self.0
    }
}

/// What a device must write, and where to, to raise its interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsiMessage {
    /// The address of the write.
    pub address: u64,
    /// The data of the write.
    pub data: u32,
}

/// No interrupt line could be had: unknown, in use, or all vectors are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoLine;

/// Something that happened on the host since it was last asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostEvent {
    /// The timer of this CPU reached its deadline.
    Timer,
    /// Another CPU asked this one to look at its work.
    Kick,
    /// The console has received bytes.
    ConsoleInput,
    /// A device raised its interrupt. A level-triggered line stays masked until [`Platform::end_line`].
    Line(LineId),
}

/// How the machine ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PowerAction {
    /// Power off, with a status for those who can see it.
    Off(u32),
    /// Start again.
    Reset,
}

/// The machine.
///
/// The hypervisor runs with interrupts masked; they are taken only in guest mode and in [`idle`](Self::idle). The
/// platform's interrupt handlers only record what happened, for [`next_host_event`](Self::next_host_event): no lock of
/// this crate is ever taken in a handler.
pub trait Platform: Send + Sync + Sized + 'static {
    /// The virtualization extension in use.
    type Backend: Backend;
    /// The machine's memory.
    type Memory: PhysMemory;

    /// The virtualization extension in use.
    fn backend(&self) -> &Self::Backend;
    /// The machine's memory.
    fn memory(&self) -> &Self::Memory;
    /// The frame that this page is: memory of the hypervisor's own, which is not in the frame table.
    fn frame_of(&self, page: &'static CounterPage) -> Mfn;
    /// How many CPUs there are.
    fn cpu_count(&self) -> u16;
    /// The CPU that executes this.
    fn current_cpu(&self) -> CpuId;

    /// The time-stamp counter.
    fn tsc(&self) -> TscTicks;
    /// The frequency of the time-stamp counter, in Hz.
    fn tsc_hz(&self) -> u64;
    /// The wall clock when the time-stamp counter was zero, since 1970-01-01 00:00 UTC.
    fn wall_clock_base(&self) -> Nanos;
    /// Sets this CPU's timer to raise [`HostEvent::Timer`] at or soon after `deadline`; `None` stops it.
    fn arm_timer(&self, deadline: Option<TscTicks>);

    /// Makes `cpu` leave guest mode or [`idle`](Self::idle), and see [`HostEvent::Kick`].
    fn kick(&self, cpu: CpuId);
    /// Makes `cpu` take the requests to the virtual CPU whose guest code it runs, if it runs any
    /// ([`Backend::takes_requests`]); it also leaves [`idle`](Self::idle).
    fn tell(&self, cpu: CpuId);
    /// Waits until something happens on the host; returns at once if something has.
    fn idle(&self);
    /// Takes interrupts that wait, without waiting for one: for long work between two exits.
    fn take_interrupts(&self);
    /// Takes the next thing that happened on this CPU.
    fn next_host_event(&self) -> Option<HostEvent>;

    /// What this CPU's CPUID says of itself: EAX, EBX, ECX, EDX. Leaves that it does not have are zeroes.
    fn cpuid(&self, leaf: u32, sub_leaf: u32) -> [u32; 4];

    /// Writes to the console.
    fn console_write(&self, bytes: &[u8]);
    /// Takes received bytes from the console; returns how many.
    fn console_read(&self, into: &mut [u8]) -> usize;
    /// Reads an I/O port of 1, 2 or 4 bytes.
    fn port_read(&self, port: u16, bytes: u8) -> u32;
    /// Writes an I/O port of 1, 2 or 4 bytes.
    fn port_write(&self, port: u16, bytes: u8, value: u32);

    /// Reads a device's 32-bit register at an aligned address that is not memory.
    fn register_read(&self, at: HostPhys) -> u32;
    /// Writes a device's 32-bit register at an aligned address that is not memory.
    fn register_write(&self, at: HostPhys, value: u32);

    /// Routes a global system interrupt to `cpu`, masked. Routing one again changes its trigger and polarity.
    fn route_gsi(&self, gsi: Gsi, trigger: Trigger, polarity: Polarity, cpu: CpuId)
    -> Result<LineId, NoLine>;
    /// Makes a line for a message-signalled interrupt that goes to `cpu`.
    fn route_msi(&self, cpu: CpuId) -> Result<(LineId, MsiMessage), NoLine>;
    /// Masks or unmasks a line of a global system interrupt; nothing for a message-signalled one.
    fn mask_line(&self, line: LineId, masked: bool);
    /// The interrupt of a level-triggered line has been handled: the line is unmasked again.
    fn end_line(&self, line: LineId);
    /// Gives a line back.
    fn release_line(&self, line: LineId);

    /// Ends the machine. Returns only where the machine cannot be ended: the caller then halts.
    fn power(&self, action: PowerAction);
}
