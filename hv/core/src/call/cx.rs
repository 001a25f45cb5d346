//! What a handler works with: the system, the vCPU that calls, and its memory.

use crate::domain::{Domain, Format};
use crate::event::Wake;
use crate::hw::{Platform, Reg, VcpuHw};
use crate::mem::{Linear, PageRef, Paging};
use crate::system::System;
use crate::vcpu::{Context, Hw, Reason, Vcpu};
use alloc::sync::Arc;
use pv_abi::counters::CounterPage;
use pv_abi::errno::{Errno, Result};
use pv_abi::ids::{DomainId, Gfn};
use pv_abi::transport::Words;

/// What the caller of [`hypercall`](super::hypercall) does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the call may not be finished, or may have stopped the vCPU"]
pub enum After {
    /// The call is done: its result is in RAX, RIP moves past the instruction.
    Continue,
    /// The same, and the scheduler is asked: the vCPU yields, blocks, or may not run any more.
    Reschedule,
    /// The call is not done. Nothing of the guest changes; [`resume`](super::resume) goes on with the cursor that
    /// [`Cx::cursor`] is then, as soon as the CPU has looked at what else waits and the vCPU may run.
    Preempted,
}

/// One call of one vCPU.
pub struct Cx<'a, P: Platform> {
    /// The system.
    pub system: &'a System<P>,
    /// The domain that calls.
    pub domain: &'a Arc<Domain<P>>,
    /// Its vCPU.
    pub vcpu: &'a Arc<Vcpu<P>>,
    /// The vCPU's registers, and how its linear addresses were translated last.
    pub context: &'a mut Context<Hw<P>>,
    /// Where a call that was preempted goes on.
    pub cursor: u64,
    /// What comes after the call when it is done.
    pub(super) after: After,
    /// The caller's counters.
    counters: &'static CounterPage,
    /// The arguments, where they are not in the registers: in a `multicall`.
    pub(super) words: Option<Words>,
}

impl<'a, P: Platform> Cx<'a, P> {
    /// A call of `vcpu`, whose registers are in `context` and whose page of counters is `counters`.
    #[inline]
    pub fn new(
        system: &'a System<P>,
        domain: &'a Arc<Domain<P>>,
        vcpu: &'a Arc<Vcpu<P>>,
        context: &'a mut Context<Hw<P>>,
        counters: &'static CounterPage,
    ) -> Self {
        Self { system, domain, vcpu, context, cursor: 0, after: After::Continue, counters, words: None }
    }

    /// The caller's counters.
    #[inline(always)]
    pub(super) const fn stats(&self) -> &'static CounterPage {
        self.counters
    }

    /// The call's argument in the register with this place in the ABI's order.
    #[inline(always)]
    pub(super) fn word(&self, at: usize) -> u64 {
        if let Some(words) = &self.words {
            return words.get(at).copied().unwrap_or_default();
        }
        let gprs = self.context.hw.gprs();
        match at {
            0 => gprs.rdi,
            1 => gprs.rsi,
            2 => gprs.rdx,
            3 => gprs.r10,
            _ => gprs.r8,
        }
    }

    /// How the caller translates linear addresses now.
    #[inline(always)]
    fn paging(&self) -> Paging {
        Paging::new(
            self.context.hw.get(Reg::Cr0),
            self.context.hw.get(Reg::Cr3),
            self.context.hw.get(Reg::Cr4),
            self.context.hw.get(Reg::Efer),
        )
    }

    /// Does something with the caller's memory by linear address, as its page tables are now. The memory lock is held
    /// meanwhile: nothing else is locked in `work`.
    #[inline]
    pub(super) fn guest<R>(
        &mut self,
        work: impl FnOnce(&mut Linear<'_, Format<P>, P::Memory>) -> Result<R>,
    ) -> Result<R> {
        let paging = self.paging();
        let map = self.domain.memory.read();
        work(&mut Linear::new(&map, self.system.memory(), paging, &mut self.context.trails))
    }

    /// The domain that a call is about: the caller, or any for a caller that controls domains.
    pub(super) fn subject(&self, id: DomainId) -> Result<Arc<Domain<P>>> {
        if id != DomainId::SELF && id != self.domain.id && !self.domain.is_control() {
            return Err(Errno::EPERM);
        }
        self.system.domain(self.domain, id)
    }

    /// Wakes whom an event wakes.
    #[inline(always)]
    pub(super) fn wake(&self, domain: &Arc<Domain<P>>, wake: Wake) {
        if self.after == After::Continue
            && wake.is_upcall_of(self.vcpu.id)
            && Arc::ptr_eq(domain, self.domain)
        {
            // It runs here, does not wait, and looks at the word before it enters the guest.
            self.vcpu.attention.raise(Reason::UPCALL);
        } else if !wake.is_nobody() {
            self.wake_others(domain, wake);
        }
    }

    #[inline(never)] // long, and of many callers
    fn wake_others(&self, domain: &Domain<P>, wake: Wake) {
        self.system.wake(domain, wake);
    }

    /// Makes the vCPUs of a domain forget translations: what [`Flush::perform`](crate::mem::Flush::perform) wants.
    pub(super) fn flusher(&self, domain: &'a Domain<P>) -> impl Fn(u64) + use<'a, P> {
        let (system, stats) = (self.system, self.stats());
        move |generation| {
            stats.flushes.add(1);
            system.flush(domain, generation);
        }
    }

    /// Pins a page of the caller's own.
    pub(super) fn pin(&self, gfn: Gfn) -> Result<PageRef> {
        self.domain.memory.read().pin(self.system.ram(), gfn)
    }

    /// Gives a page back that [`pin`](Self::pin) pinned.
    pub(super) fn unpin(&self, domain: &Domain<P>, page: PageRef) {
        let account = domain.memory.read().account().clone();
        account.put(self.system.ram(), page);
    }
}
