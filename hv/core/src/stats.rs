//! What is counted of each virtual CPU.
//!
//! Every counter has one writer at a time, the CPU that runs the virtual CPU, so counting is a load and a store
//! without any bus lock. Readers see each counter as it was a moment ago.

use crate::hw::Exit;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use pv_abi::Call;
use pv_abi::control::{EXIT_SLOTS, ExitCause, Statistics};

/// A number that one CPU at a time counts up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `amount`.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// The sum.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The cause under which an exit is counted. Accesses to the APIC's page are told from other nested faults by their
/// handler, with [`VcpuStats::recount`].
#[inline]
pub const fn cause(exit: &Exit) -> ExitCause {
    match exit {
        Exit::Hypercall => ExitCause::Hypercall,
        Exit::Cpuid => ExitCause::Cpuid,
        Exit::MsrRead(_) => ExitCause::MsrRead,
        Exit::MsrWrite(..) => ExitCause::MsrWrite,
        Exit::Io(_) => ExitCause::Io,
        Exit::NestedFault { .. } => ExitCause::NestedFault,
        Exit::Control(_) => ExitCause::ControlRegister,
        Exit::Xsetbv => ExitCause::Xsetbv,
        Exit::Halt => ExitCause::Halt,
        Exit::Pause => ExitCause::Pause,
        Exit::Rdtsc | Exit::Rdtscp => ExitCause::Tsc,
        Exit::Exception { .. } => ExitCause::Exception,
        Exit::WindowOpen => ExitCause::Window,
        Exit::TripleFault => ExitCause::TripleFault,
        Exit::Interrupted => ExitCause::HostEvent,
        Exit::Rdpmc | Exit::CacheFlush | Exit::Undefined | Exit::TaskSwitch => ExitCause::Refused,
        Exit::EntryFailed(_) | Exit::Unknown(_) => ExitCause::Other,
    }
}

/// What is counted of one virtual CPU.
#[derive(Debug)]
#[allow(missing_docs)] // named and explained in `Statistics` of the ABI
pub struct VcpuStats {
    exits: [Counter; EXIT_SLOTS],
    hypercalls: [Counter; Call::COUNT],
    pub unknown_calls: Counter,
    pub events_sent: Counter,
    pub events_delivered: Counter,
    pub events_suppressed: Counter,
    pub copied_bytes: Counter,
    pub copies: Counter,
    pub maps: Counter,
    pub unmaps: Counter,
    pub flushes: Counter,
    pub injections: Counter,
    pub guest_ticks: Counter,
    pub host_ticks: Counter,
}

impl Default for VcpuStats {
    fn default() -> Self {
        Self {
            exits: core::array::from_fn(|_| Counter::default()),
            hypercalls: core::array::from_fn(|_| Counter::default()),
            unknown_calls: Counter::default(),
            events_sent: Counter::default(),
            events_delivered: Counter::default(),
            events_suppressed: Counter::default(),
            copied_bytes: Counter::default(),
            copies: Counter::default(),
            maps: Counter::default(),
            unmaps: Counter::default(),
            flushes: Counter::default(),
            injections: Counter::default(),
            guest_ticks: Counter::default(),
            host_ticks: Counter::default(),
        }
    }
}

impl VcpuStats {
    /// Counts an exit.
    #[inline]
    pub fn exit(&self, exit: &Exit) {
        if let Some(counter) = self.exits.get(cause(exit) as usize) {
            counter.add(1);
        }
    }

    /// Counts the present exit under another cause than the one it was counted under.
    pub fn recount(&self, from: ExitCause, to: ExitCause) {
        if let Some(counter) = self.exits.get(from as usize) {
            counter.add(u64::MAX);
        }
        if let Some(counter) = self.exits.get(to as usize) {
            counter.add(1);
        }
    }

    /// Counts a hypercall.
    #[inline]
    pub fn call(&self, call: Call) {
        if let Some(counter) = self.hypercalls.get(call as usize) {
            counter.add(1);
        }
    }

    /// How many exits of this cause there were.
    pub fn exits(&self, cause: ExitCause) -> u64 {
        self.exits.get(cause as usize).map_or(0, Counter::get)
    }

    /// How often this call was made.
    pub fn calls(&self, call: Call) -> u64 {
        self.hypercalls.get(call as usize).map_or(0, Counter::get)
    }

    /// Adds these counters to those of a domain.
    pub fn add_to(&self, sum: &mut Statistics) {
        for (to, from) in sum.exits.iter_mut().zip(&self.exits) {
            *to = to.wrapping_add(from.get());
        }
        for (to, from) in sum.hypercalls.iter_mut().zip(&self.hypercalls) {
            *to = to.wrapping_add(from.get());
        }
        for (to, from) in [
            (&mut sum.unknown_calls, &self.unknown_calls),
            (&mut sum.events_sent, &self.events_sent),
            (&mut sum.events_delivered, &self.events_delivered),
            (&mut sum.events_suppressed, &self.events_suppressed),
            (&mut sum.copied_bytes, &self.copied_bytes),
            (&mut sum.copies, &self.copies),
            (&mut sum.maps, &self.maps),
            (&mut sum.unmaps, &self.unmaps),
            (&mut sum.flushes, &self.flushes),
            (&mut sum.injections, &self.injections),
            (&mut sum.guest_ticks, &self.guest_ticks),
            (&mut sum.host_ticks, &self.host_ticks),
        ] {
            *to = to.wrapping_add(from.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_two_vcpus_add_up() {
        let (a, b) = (VcpuStats::default(), VcpuStats::default());
        a.exit(&Exit::Cpuid);
        b.exit(&Exit::Cpuid);
        b.exit(&Exit::MsrWrite(0x10, 5));
        b.exit(&Exit::Undefined);
        let call = Call::from_index(3).unwrap();
        a.call(call);
        b.call(call);
        b.copied_bytes.add(4096);
        let mut sum = Statistics::default();
        a.add_to(&mut sum);
        b.add_to(&mut sum);
        assert_eq!(sum.exits[ExitCause::Cpuid as usize], 2);
        assert_eq!(sum.exits[ExitCause::MsrWrite as usize], 1);
        assert_eq!(sum.exits[ExitCause::Refused as usize], 1);
        assert_eq!(sum.exits.iter().sum::<u64>(), 4);
        assert_eq!(sum.hypercalls[3], 2);
        assert_eq!(sum.copied_bytes, 4096);
        assert_eq!((a.calls(call), b.exits(ExitCause::Cpuid)), (1, 1));
    }

    #[test]
    fn an_exit_can_be_counted_under_another_cause() {
        let stats = VcpuStats::default();
        stats.exit(&Exit::NestedFault {
            gpa: pv_abi::GuestPhys::new(0xfee0_0300),
            gva: None,
            access: crate::hw::Access::default(),
            present: false,
        });
        stats.recount(ExitCause::NestedFault, ExitCause::Apic);
        assert_eq!((stats.exits(ExitCause::NestedFault), stats.exits(ExitCause::Apic)), (0, 1));
    }
}
