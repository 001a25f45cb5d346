//! Event channels: the interrupts of the ABI (`xen/event_channel.h`).
//!
//! [`EventTable`] holds a domain's ports and delivers to them by the 2-level ABI (bitmaps in the shared page) or, once
//! the guest asks for it, by the FIFO ABI (queues per vCPU and priority, linked through words in the guest's memory).
//! It works on machine frames that the caller translated and pinned, and tells whom to wake with a [`Wake`]; waking is
//! the caller's.
//!
//! # Locks and invariants
//!
//! One lock per table. An operation that changes two tables takes the lock of the lower domain number first
//! ([`pair`](table)); a send takes its own table's lock, gives it back, and then takes the peer's: the peer's table
//! checks that its port still leads back to the sender.
//!
//! * `channels[a].state == Interdomain { b, q }` in table `a` if and only if the table of `b` says the same of `q`
//!   with the ends exchanged.
//! * The tail of a FIFO queue is a port with a word, or 0. What the guest writes into its words can lose or repeat its
//!   own events; it reaches nothing else, because no link that a guest wrote is ever followed.

mod bind;
mod channel;
mod close;
mod fifo;
mod pages;
mod place;
mod send;
mod table;
mod two_level;

#[cfg(test)]
mod tests;

pub use channel::{ChannelState, Status};
pub use place::InfoPlace;
pub use table::{Closed, EventTable, Peers, Polled, Refused, Sent};
pub use two_level::Width;

use pv_abi::ids::VcpuId;

/// The most virtual CPUs that a domain can have.
pub const MAX_VCPUS: usize = 64;

/// The most ports that a domain can have, unless its configuration says less.
pub const MAX_PORTS: u32 = 1 << pv_abi::event::fifo::LINK_BITS;

/// A set of a domain's virtual CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VcpuSet(u64);

impl VcpuSet {
    /// No virtual CPU.
    pub const EMPTY: Self = Self(0);

    /// Adds the virtual CPU at `index`; those above [`MAX_VCPUS`] do not exist.
    #[inline]
    pub const fn add(&mut self, index: usize) {
        if index < MAX_VCPUS {
            self.0 |= 1 << index;
        }
    }

    /// Removes the virtual CPU at `index`.
    #[inline]
    pub const fn remove(&mut self, index: usize) {
        if index < MAX_VCPUS {
            self.0 &= !(1 << index);
        }
    }

    /// Whether the virtual CPU at `index` is in the set.
    #[inline]
    pub const fn contains(self, index: usize) -> bool {
        index < MAX_VCPUS && self.0 & (1 << index) != 0
    }

    /// Whether nothing is in the set.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Both sets together.
    #[inline]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Iterator for VcpuSet {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let index = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(index)
    }
}

/// Whom an event wakes: the caller owes it to the virtual CPUs named here.
#[must_use = "the virtual CPUs that wait for this event sleep on unless they are woken"]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wake {
    /// Those whose upcall became due: [`Vcpu::upcall`](crate::vcpu::Vcpu::upcall).
    pub upcalls: VcpuSet,
    /// Those that polled for this port: they are unblocked.
    pub pollers: VcpuSet,
    /// The event was not pending before.
    pub fresh: bool,
}

impl Wake {
    /// Nobody is to be woken.
    pub const NOBODY: Self = Self { upcalls: VcpuSet::EMPTY, pollers: VcpuSet::EMPTY, fresh: false };

    /// Whether nobody is to be woken.
    #[inline]
    pub const fn is_nobody(&self) -> bool {
        self.upcalls.is_empty() && self.pollers.is_empty()
    }

    /// Whether it is the upcall of this virtual CPU and nothing else.
    #[inline]
    pub fn is_upcall_of(&self, vcpu: VcpuId) -> bool {
        self.pollers.is_empty() && 1u64.checked_shl(vcpu.raw()) == Some(self.upcalls.0)
    }

    /// Both obligations together.
    pub const fn with(self, other: Self) -> Self {
        Self {
            upcalls: self.upcalls.with(other.upcalls),
            pollers: self.pollers.with(other.pollers),
            fresh: self.fresh || other.fresh,
        }
    }
}
