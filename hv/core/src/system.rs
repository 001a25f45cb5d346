//! The whole system: the machine, its frames, its CPUs and the domains on it.
//!
//! # Lock order
//!
//! Locks are taken in this order and never the other way round; of two of a kind that of the lower domain number is
//! taken first:
//!
//! 1. a slot of the domain table (held only to clone or replace an `Arc`)
//! 2. a domain's life
//! 3. a domain's memory (the nested page tables)
//! 4. a domain's grant table
//! 5. a domain's event table
//! 6. a virtual CPU's entity in the scheduler, then a CPU's run queue
//! 7. the frame table's free lists
//! 8. leaves: console buffers, trace rings, the PCI configuration ports
//!
//! The lock around a vCPU's hardware state is outside of this order: the run loop of the CPU that runs the vCPU holds
//! it throughout, and another CPU takes it only for a vCPU that is stopped, holding nothing else.
//!
//! Interrupts are masked in the hypervisor, so no lock is ever taken by an interrupt handler. There is no global lock
//! on the paths of hypercall, event, grant copy and exit.

use crate::boot::Bundle;
use crate::domain::console::TypedInput;
use crate::domain::{Domain, DomainTable};
use crate::event::{EventTable, Peers};
use crate::hw::Platform;
use crate::mem::{FrameTable, Ram};
use crate::pci::{LineTable, Pci};
use alloc::sync::Arc;
use pv_abi::errno::{Errno, Result};
use pv_abi::ids::DomainId;
use spin::Mutex;

/// The whole system. There is one, shared by reference between all CPUs, for as long as the machine runs.
pub struct System<P: Platform> {
    /// The machine.
    pub platform: P,
    /// The table of the machine's frames.
    pub frames: FrameTable,
    /// What domains are made from.
    pub bundle: Bundle<'static>,
    /// All domains.
    pub domains: DomainTable<P>,
    /// The machine's PCI functions.
    pub pci: Pci,
    /// Whose the device interrupts are.
    pub lines: LineTable,
    /// What was typed on the machine's console.
    pub typed: Mutex<TypedInput>,
}

impl<P: Platform> System<P> {
    /// Makes a system without domains.
    pub fn new(platform: P, frames: FrameTable, bundle: Bundle<'static>) -> Self {
        let pci = Pci::scan(&platform);
        Self {
            platform,
            frames,
            bundle,
            domains: DomainTable::default(),
            pci,
            lines: LineTable::default(),
            typed: Mutex::default(),
        }
    }

    /// The machine's memory.
    #[inline]
    pub fn memory(&self) -> &P::Memory {
        self.platform.memory()
    }

    /// The machine's memory with its frame table.
    #[inline]
    pub fn ram(&self) -> Ram<'_, P::Memory> {
        Ram::new(&self.frames, self.platform.memory())
    }

    /// The domain that a call names: `DomainId::SELF` is the caller; `ESRCH` if there is none or it is dying.
    pub fn domain(&self, caller: &Arc<Domain<P>>, id: DomainId) -> Result<Arc<Domain<P>>> {
        if id == DomainId::SELF || id == caller.id {
            return Ok(caller.clone());
        }
        self.domains.get(id).filter(|domain| !domain.life.is_dying()).ok_or(Errno::ESRCH)
    }
}

impl<P: Platform> Peers for System<P> {
    fn with_events<R>(&self, domain: DomainId, act: impl FnOnce(&EventTable) -> R) -> Option<R> {
        self.domains.get(domain).map(|domain| act(&domain.events))
    }
}
