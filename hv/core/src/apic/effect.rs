//! What a local APIC is told, and what follows from what is written to it.

use super::address::Destination;
use crate::hw::TscTicks;
use crate::time::Clock;

/// The time at which a register is read or written.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The guest's time-stamp counter, which is the host's.
    pub now: TscTicks,
    /// The clock.
    pub clock: &'a Clock,
}

/// An access that raises #GP in the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault;

/// What kind of message an inter-processor interrupt is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IpiKind {
    /// An interrupt of this vector, to all addressed.
    Fixed(u8),
    /// An interrupt of this vector, to one of those addressed.
    LowestPriority(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// Reset.
    Init,
    /// Start in real mode at this page.
    Start(u8),
}

/// A message that the guest sends through its interrupt command register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipi {
    /// What it is.
    pub kind: IpiKind,
    /// Who it is for.
    pub destination: Destination,
}

/// What a write leaves for the caller to do.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// The task priority changed: the virtual CPU's CR8 follows, and an interrupt may have become deliverable.
    Priority,
    /// It takes interrupts from now on: those for upcalls that it refused before come again.
    Enabled,
    /// An interrupt ended, and none waits.
    Ended,
    /// The timer is set to this time, or stopped.
    Timer(Option<TscTicks>),
    /// A message is to be sent.
    Send(Ipi),
}
