//! What is counted of each virtual CPU.
//!
//! The counters lie in pages of the ABI ([`pv_abi::counters`]) that domains with the role `control` can map. Every counter
//! has one writer at a time, the CPU that runs the virtual CPU, so counting is a load and a store without any bus lock.
//! Readers see each counter as it was a moment ago.
//!
//! Lock rule: the list of pages has a lock, a leaf.

use crate::hw::{Exit, TscTicks};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Deref;
use pv_abi::control::ExitCause;
use pv_abi::counters::{CounterPage, Owner};
use pv_abi::ids::{DomainId, VcpuId};
use spin::Mutex;

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

/// The pages of all virtual CPUs. None is ever given back: who has mapped one may go on reading it.
#[derive(Debug, Default)]
pub struct CounterPages {
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    all: Vec<&'static CounterPage>,
    serial: u32,
}

impl CounterPages {
    /// A page for a virtual CPU, all zeroes: that of one that is no more, or a new one.
    pub fn take(&self, domain: DomainId, vcpu: VcpuId) -> VcpuStats {
        let mut pages = self.pages.lock();
        let page = match pages.all.iter().copied().find(|page| page.owner().is_none()) {
            Some(page) => {
                page.clear();
                page
            }
            None => {
                let page: &'static CounterPage = Box::leak(Box::default());
                pages.all.push(page);
                page
            }
        };
        pages.serial = pages.serial.checked_add(1).unwrap_or(1);
        page.set_owner(Some(Owner { domain, vcpu, serial: pages.serial }));
        VcpuStats(page)
    }

    /// The page with this number.
    pub fn get(&self, number: u32) -> Option<&'static CounterPage> {
        self.pages.lock().all.get(usize::try_from(number).ok()?).copied()
    }
}

/// The page of one virtual CPU, which is nobody's when this is dropped.
#[derive(Debug)]
pub struct VcpuStats(&'static CounterPage);

impl Deref for VcpuStats {
    type Target = CounterPage;

    #[inline(always)]
    fn deref(&self) -> &CounterPage {
        self.0
    }
}

impl Drop for VcpuStats {
    fn drop(&mut self) {
        self.0.set_owner(None);
    }
}

impl VcpuStats {
    /// The page itself.
    #[inline(always)]
    pub const fn page(&self) -> &'static CounterPage {
        self.0
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

    /// It comes to a CPU.
    pub fn arrive(&self, now: TscTicks) {
        self.guest_before.set(self.guest_ticks.get());
        self.arrived.set(now.raw().max(1));
    }

    /// It leaves its CPU.
    pub fn leave(&self, now: TscTicks) {
        let host = self.host_ticks_until(now.raw());
        self.arrived.set(0);
        self.host_ticks.set(host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pv_abi::Call;
    use pv_abi::control::Statistics;

    fn take(pages: &CounterPages, vcpu: u32) -> VcpuStats {
        pages.take(DomainId::new(1), VcpuId::new(vcpu))
    }

    #[test]
    fn counters_of_two_vcpus_add_up() {
        let pages = CounterPages::default();
        let (a, b) = (take(&pages, 0), take(&pages, 1));
        a.count_exit(cause(&Exit::Cpuid));
        b.count_exit(cause(&Exit::Cpuid));
        b.count_exit(cause(&Exit::MsrWrite(0x10, 5)));
        b.count_exit(cause(&Exit::Undefined));
        let call = Call::from_index(3).unwrap();
        a.count_call(call);
        b.count_call(call);
        b.copied_bytes.add(4096);
        let mut sum = Statistics::default();
        a.add_to(&mut sum, 0);
        b.add_to(&mut sum, 0);
        assert_eq!(sum.exits[ExitCause::Cpuid as usize], 2);
        assert_eq!(sum.exits[ExitCause::MsrWrite as usize], 1);
        assert_eq!(sum.exits[ExitCause::Refused as usize], 1);
        assert_eq!(sum.exits.iter().sum::<u64>(), 4);
        assert_eq!(sum.hypercalls[3], 2);
        assert_eq!(sum.copied_bytes, 4096);
        assert_eq!((a.calls_of(call), b.exits_of(ExitCause::Cpuid)), (1, 1));
    }

    #[test]
    fn ticks_of_the_hypervisor_are_known_while_it_runs() {
        let stats = take(&CounterPages::default(), 0);
        stats.guest_ticks.add(5);
        stats.arrive(TscTicks::new(1000));
        stats.guest_ticks.add(60);
        assert_eq!(stats.host_ticks_until(1100), 40);
        stats.leave(TscTicks::new(1110));
        assert_eq!((stats.host_ticks_until(1110), stats.host_ticks_until(5000)), (50, 50));
        stats.arrive(TscTicks::new(6000));
        assert_eq!(stats.host_ticks_until(6001), 51);
    }

    #[test]
    fn an_exit_can_be_counted_under_another_cause() {
        let stats = take(&CounterPages::default(), 0);
        stats.count_exit(cause(&Exit::NestedFault {
            gpa: pv_abi::GuestPhys::new(0xfee0_0300),
            gva: None,
            access: crate::hw::Access::default(),
            present: false,
        }));
        stats.recount(ExitCause::NestedFault, ExitCause::Apic);
        assert_eq!((stats.exits_of(ExitCause::NestedFault), stats.exits_of(ExitCause::Apic)), (0, 1));
    }

    #[test]
    fn a_page_is_used_again_clean_and_under_another_number() {
        let pages = CounterPages::default();
        let (a, b) = (take(&pages, 0), take(&pages, 1));
        let (first, owner) = (core::ptr::from_ref(a.0), a.owner().unwrap());
        a.count_exit(cause(&Exit::Cpuid));
        drop(a);
        assert_eq!(pages.get(0).unwrap().owner(), None);
        let c = take(&pages, 5);
        assert_eq!(core::ptr::from_ref(c.0), first);
        assert_eq!(c.exits_of(ExitCause::Cpuid), 0);
        assert_ne!(c.owner().unwrap().serial, owner.serial);
        assert_eq!((c.owner().unwrap().vcpu, b.owner().unwrap().vcpu), (VcpuId::new(5), VcpuId::new(1)));
        assert!(pages.get(1).is_some() && pages.get(2).is_none());
    }
}
