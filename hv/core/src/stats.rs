//! What is counted of each virtual CPU.
//!
//! Every counter has one writer at a time, the CPU that runs the virtual CPU, so counting is a load and a store
//! without any bus lock. Readers see each counter as it was a moment ago.

use crate::hw::{Exit, TscTicks};
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

    /// Replaces the number.
    fn set(&self, number: u64) {
        self.0.store(number, Relaxed);
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
        Exit::Priority | Exit::ApicWritten(_) => ExitCause::Apic,
        Exit::Deadline => ExitCause::Deadline,
        Exit::TripleFault => ExitCause::TripleFault,
        Exit::Interrupted => ExitCause::HostEvent,
        Exit::Rdpmc | Exit::CacheFlush | Exit::Undefined | Exit::TaskSwitch => ExitCause::Refused,
        Exit::MachineCheck | Exit::EntryFailed(_) | Exit::Unknown(_) => ExitCause::Other,
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
    /// Ticks in the hypervisor up to the last time it left a CPU.
    host_ticks: Counter,
    /// When it came to the CPU where it is, and its guest ticks then; 0 while it is on none.
    since: Counter,
    guest_before: Counter,
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
            since: Counter::default(),
            guest_before: Counter::default(),
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

    /// It comes to a CPU.
    pub fn arrive(&self, now: TscTicks) {
        self.guest_before.set(self.guest_ticks.get());
        self.since.set(now.raw().max(1));
    }

    /// It leaves its CPU.
    pub fn leave(&self, now: TscTicks) {
        let host = self.host_ticks(now);
        self.since.set(0);
        self.host_ticks.set(host);
    }

    /// Ticks in the hypervisor so far, those of the present stay on a CPU included.
    fn host_ticks(&self, now: TscTicks) -> u64 {
        let stay = match self.since.get() {
            0 => 0,
            since => {
                let in_guest = self.guest_ticks.get().wrapping_sub(self.guest_before.get());
                now.raw().saturating_sub(since).saturating_sub(in_guest)
            }
        };
        self.host_ticks.get().wrapping_add(stay)
    }

    /// Adds these counters to those of a domain.
    pub fn add_to(&self, sum: &mut Statistics, now: TscTicks) {
        sum.host_ticks = sum.host_ticks.wrapping_add(self.host_ticks(now));
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
        a.add_to(&mut sum, TscTicks::new(0));
        b.add_to(&mut sum, TscTicks::new(0));
        assert_eq!(sum.exits[ExitCause::Cpuid as usize], 2);
        assert_eq!(sum.exits[ExitCause::MsrWrite as usize], 1);
        assert_eq!(sum.exits[ExitCause::Refused as usize], 1);
        assert_eq!(sum.exits.iter().sum::<u64>(), 4);
        assert_eq!(sum.hypercalls[3], 2);
        assert_eq!(sum.copied_bytes, 4096);
        assert_eq!((a.calls(call), b.exits(ExitCause::Cpuid)), (1, 1));
    }

    #[test]
    fn ticks_of_the_hypervisor_are_known_while_it_runs() {
        let stats = VcpuStats::default();
        let host = |now| {
            let mut sum = Statistics::default();
            stats.add_to(&mut sum, TscTicks::new(now));
            sum.host_ticks
        };
        stats.guest_ticks.add(5);
        stats.arrive(TscTicks::new(1000));
        stats.guest_ticks.add(60);
        assert_eq!(host(1100), 40);
        stats.leave(TscTicks::new(1110));
        assert_eq!((host(1110), host(5000)), (50, 50));
        stats.arrive(TscTicks::new(6000));
        assert_eq!(host(6001), 51);
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
