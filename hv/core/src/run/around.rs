//! What the handlers of exits need of the system around a virtual CPU.

use crate::apic::Ipi;
use crate::domain::{Domain, Format};
use crate::event::Width;
use crate::exit::{Around, CpuidPolicy, PortAccess};
use crate::hw::{Access, HostPhys, IoExit, PAGE_BYTES, Platform, TscTicks};
use crate::mem::{Linear, Physical};
use crate::pci;
use crate::system::System;
use crate::time::{Clock, Slot};
use crate::vcpu::{Context, Hw, Vcpu};
use alloc::sync::Arc;
use pv_abi::errno::Errno;
use pv_abi::hvm::{CALLBACK_TYPE_SHIFT, CALLBACK_TYPE_VECTOR, param};
use pv_abi::ids::{Gfn, GuestPhys, GuestVirt};

/// A virtual CPU with its domain in the system.
pub struct Surroundings<'a, P: Platform> {
    /// The system.
    pub system: &'a System<P>,
    /// The domain.
    pub domain: &'a Arc<Domain<P>>,
    /// The virtual CPU.
    pub vcpu: &'a Arc<Vcpu<P>>,
}

impl<P: Platform> Around<P> for Surroundings<'_, P> {
    fn platform(&self) -> &P {
        &self.system.platform
    }

    fn clock(&self) -> &Clock {
        &self.system.clock
    }

    fn vcpu(&self) -> &Vcpu<P> {
        self.vcpu
    }

    fn cpuid(&self) -> &CpuidPolicy {
        &self.domain.cpuid
    }

    fn callback_vector(&self) -> Option<u8> {
        let word = self.domain.params.get(param::CALLBACK_IRQ).ok()?;
        let [vector, ..] = word.to_le_bytes();
        (word >> CALLBACK_TYPE_SHIFT == CALLBACK_TYPE_VECTOR && vector >= 16).then_some(vector)
    }

    fn set_apic_timer(&self, deadline: Option<TscTicks>) {
        let cpu = self.system.platform.current_cpu();
        self.system.timers.set(cpu, self.vcpu, Slot::Apic, deadline);
    }

    fn send_ipi(&self, ipi: Ipi) {
        let System { platform, scheduler, .. } = self.system;
        let signature = self.domain.cpuid.signature();
        crate::exit::send_ipi(platform, scheduler, &self.domain.vcpus, self.vcpu, ipi, signature);
    }

    fn fetch(&self, context: &mut Context<Hw<P>>, linear: u64, into: &mut [u8]) -> usize {
        let paging = context.paging();
        let memory = self.domain.memory.read();
        let mut guest =
            Linear::<Format<P>, _>::new(&memory, self.system.memory(), paging, &mut context.trails);
        // The rest of the first page, and what lies in the next one.
        let room = PAGE_BYTES - linear % PAGE_BYTES;
        let (head, tail) = into.split_at_mut(into.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
        if guest.read_bytes(GuestVirt::new(linear), head).is_err() {
            return 0;
        }
        match linear.checked_add(room).map(|next| guest.read_bytes(GuestVirt::new(next), tail)) {
            Some(Ok(())) => head.len() + tail.len(),
            _ => head.len(),
        }
    }

    fn write_page(&self, gfn: Gfn, bytes: &[u8; 4096]) -> Result<(), Errno> {
        let memory = self.domain.memory.read();
        let mut guest = Physical::<Format<P>, _>::new(&memory, self.system.memory());
        guest.write(gfn.checked_base().ok_or(Errno::EFAULT)?, bytes)
    }

    fn latch_width(&self, width: Width) {
        crate::call::latch_width(self.system, self.domain, width);
    }

    fn allows(&self, gpa: GuestPhys, access: Access) -> bool {
        let memory = self.domain.memory.read();
        memory.translate(self.system.memory(), gpa.gfn()).is_some_and(|there| {
            there.rights.read
                && (there.rights.write || !access.write)
                && (there.rights.execute || !access.execute)
        })
    }

    fn forward(&self, access: PortAccess) -> bool {
        let memory = self.system.memory();
        let Some((owner, port)) = self.domain.emulation.publish(memory, self.vcpu.id, access) else {
            return false;
        };
        if let Some(owner) = self.system.domains.get(owner) {
            self.system.wake(&owner, owner.events.raise_ipi(memory, port));
        }
        true
    }

    fn port(&self, access: PortAccess) -> Option<u32> {
        let PortAccess { port, bytes, value } = access;
        let io = IoExit { port, bytes, write: value.is_some(), string: false };
        pci::access(self.system, self.domain, io, value.unwrap_or(0))
    }

    fn register(&self, gpa: GuestPhys, bytes: u8, write: Option<u64>) -> Option<u64> {
        // Registers are where the machine has them.
        pci::table_access(self.system, self.domain, HostPhys::new(gpa.raw()), bytes, write)
    }
}
