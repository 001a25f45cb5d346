//! Taking a domain apart.
//!
//! Destroying is a sequence of steps, each of which may be left and taken up again, so that a large domain does not
//! keep its destroyer's CPU from other work. At the end the domain is out of the table; the object, its root table and
//! the pages that the hypervisor shared with it go when the last CPU has let go of it ([`System::reap`]). Frames that
//! others still map stay in quarantine until they unmap them.

use super::{Domain, control};
use crate::grant::end_mappings;
use crate::hw::Platform;
use crate::pci;
use crate::system::System;
use crate::time::GuestArea;
use alloc::sync::Arc;
use pv_abi::errno::{Errno, Result};
use pv_abi::ids::Gfn;

/// About how many table entries or mappings are worked on before other work is looked at.
const BUDGET: u32 = 2048;

/// Whether a long operation is at its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Progress {
    /// It is.
    Done,
    /// It must be called again.
    Again,
}

/// How far the destruction of a domain has come.
#[derive(Debug, Default)]
pub(super) enum Stage {
    /// Its vCPUs are told to stop.
    #[default]
    Stopping,
    /// Its devices are taken away, and whatever is shared with it is closed.
    Disconnecting,
    /// Its event channels are closed, from this port on.
    Closing(u32),
    /// Its mappings of others' grants are ended.
    Unmapping,
    /// Its memory is taken away, from this place on.
    Emptying(Gfn),
    /// Nothing is left.
    Gone,
}

/// Goes on destroying a domain. `EAGAIN` if another CPU is at it.
pub fn destroy<P: Platform>(system: &System<P>, domain: &Arc<Domain<P>>) -> Result<Progress> {
    let mut stage = domain.destruction.try_lock().ok_or(Errno::EAGAIN)?;
    loop {
        let next = match &mut *stage {
            Stage::Stopping => {
                let change = domain.life.begin_destroy();
                system.follow(domain, change);
                if !retire_vcpus(system, domain) {
                    return Ok(Progress::Again);
                }
                Stage::Disconnecting
            }
            Stage::Disconnecting => {
                disconnect(system, domain);
                Stage::Closing(0)
            }
            Stage::Closing(next) => {
                // The interrupts are released already.
                if !domain.events.close_ports(system.memory(), system, next, drop) {
                    return Ok(Progress::Again);
                }
                let account = domain.memory.read().account().clone();
                domain.events.reset().into_iter().for_each(|page| account.put(system.ram(), page));
                Stage::Unmapping
            }
            Stage::Unmapping => {
                if !end_mappings(system.ram(), &**domain, BUDGET) {
                    return Ok(Progress::Again);
                }
                Stage::Emptying(Gfn::new(0))
            }
            Stage::Emptying(next) => {
                if !domain.memory.write().tear_down(system.ram(), next, BUDGET) {
                    return Ok(Progress::Again);
                }
                Stage::Gone
            }
            Stage::Gone => return Ok(Progress::Done),
        };
        *stage = next;
        if let Stage::Gone = *stage {
            domain.console.lock().finish(&system.platform, domain.id);
            domain.life.end_destroy();
            system.domains.bury(domain);
            log::info!("{domain}: destroyed");
            system.tell_control_domains();
            return Ok(Progress::Done);
        }
    }
}

/// Takes the vCPUs out of the scheduler; whether none of them is on a CPU any more.
fn retire_vcpus<P: Platform>(system: &System<P>, domain: &Domain<P>) -> bool {
    for vcpu in &domain.vcpus {
        system.kick(system.scheduler.set_up(vcpu, false, system.platform.tsc()));
        system.timers.forget(vcpu);
    }
    if domain.vcpus.iter().any(|vcpu| vcpu.entity.running_on().is_some()) {
        return false;
    }
    domain.vcpus.iter().for_each(|vcpu| system.scheduler.forget(vcpu));
    true
}

/// What others can reach the domain by, and it them.
fn disconnect<P: Platform>(system: &System<P>, domain: &Domain<P>) {
    pci::release(system, domain);
    if let Some(server) = domain.emulation.close() {
        server.dismiss(system.ram());
    }
    system.domains.all().iter().for_each(|other| control::end_emulation(system, domain.id, other));
    let account = domain.memory.read().account().clone();
    domain.events.retire();
    domain.grants.close();
    for vcpu in &domain.vcpus {
        let areas = core::mem::take(&mut *vcpu.areas.lock());
        let pages = [areas.runstate, areas.clock].into_iter().flatten().flat_map(GuestArea::into_pages);
        pages.flatten().for_each(|page| account.put(system.ram(), page));
    }
}

/// Takes a domain that never ran, and that nobody else can have seen, apart at once.
pub fn destroy_unborn<P: Platform>(system: &System<P>, domain: Arc<Domain<P>>) {
    while destroy(system, &domain) == Ok(Progress::Again) {}
    drop(domain);
    system.reap();
}

impl<P: Platform> Domain<P> {
    /// Gives back what a dead domain had to its end. Nobody else has it any more.
    pub(crate) fn dismantle(self, system: &System<P>) {
        let ram = system.ram();
        self.grants.free_frames(ram);
        ram.free_shared(self.shared_info);
        self.memory.into_inner().free_root(ram);
    }
}
