//! Putting a kernel and what it needs into a domain's memory.

use super::{Cause, file, kernel, sizes};
use crate::boot::acpi;
use crate::boot::start_of_day::{Module, start_info, start_info_bytes};
use crate::boot::{Kernel, Layout};
use crate::domain::{Domain, Format};
use crate::event::Width;
use crate::hw::{PAGE_BYTES, Platform};
use crate::mem::Physical;
use crate::system::System;
use crate::time::{publish_clock, publish_wall_clock};
use crate::vcpu::StartState;
use alloc::vec::Vec;
use pv_abi::control::Roles;
use pv_abi::errno::{Errno, Result};
use pv_abi::ids::GuestPhys;
use pv_abi::manifest::DomainConfig;
use pv_abi::memory::E820Entry;
use pv_abi::start_info::HvmMemmapEntry;
use pv_abi::start_info::{SIF_INITDOMAIN, SIF_PRIVILEGED};

/// What is loaded: checked before anything is allocated.
pub(super) struct Images<'a> {
    kernel: Kernel<'a>,
    modules: Vec<&'a [u8]>,
}

impl Images<'static> {
    /// Finds what a domain wants in the bundle. A control domain gets the manifest as its first module.
    pub fn find<P: Platform>(
        system: &System<P>,
        config: &DomainConfig<'_>,
    ) -> core::result::Result<Self, Cause> {
        let kernel = kernel(system, config.kernel)?;
        let mut modules = Vec::new();
        if config.roles.contains(Roles::CONTROL) {
            modules.push(system.bundle.manifest().as_bytes());
        }
        if let Some(initrd) = config.initrd {
            modules.push(file(system, initrd)?);
        }
        Ok(Self { kernel, modules })
    }
}

/// Loads everything and sets the first vCPU to its entry.
pub(super) fn load<P: Platform>(
    system: &System<P>,
    domain: &Domain<P>,
    config: &DomainConfig<'_>,
    layout: &Layout,
    images: &Images<'_>,
) -> core::result::Result<(), Cause> {
    let map = layout.memory_map();
    let names = alloc::vec![""; images.modules.len()];
    let info_bytes = start_info_bytes(config.cmdline, &names, &map);
    let placement = layout.place(&images.kernel, &sizes(&images.modules), info_bytes)?;
    let modules: Vec<_> = images
        .modules
        .iter()
        .zip(&placement.modules)
        .map(|(data, at)| Module { at: *at, bytes: data.len() as u64, cmdline: "" })
        .collect();
    let privileged = config.roles.contains(Roles::CONTROL);
    let flags = if privileged { SIF_PRIVILEGED | SIF_INITDOMAIN } else { 0 };
    let info = start_info(placement.info, flags, config.cmdline, &modules, &map, layout.acpi());
    {
        let memory = domain.memory.read();
        let mut guest = Physical::<Format<P>, _>::new(&memory, system.memory());
        for segment in images.kernel.segments() {
            let at = placement.of(segment);
            guest.write(at, segment.data)?;
            zero(&mut guest, at, segment.data.len() as u64, segment.bytes)?;
        }
        for (data, at) in images.modules.iter().zip(&placement.modules) {
            guest.write(*at, data)?;
        }
        guest.write(placement.info, &info)?;
        guest.write(layout.acpi(), &acpi::tables(layout.acpi(), config.vcpus))?;
    }
    // The clock's parameters never change: they are written once.
    let now = system.platform.tsc();
    let base = system.platform.wall_clock_base();
    publish_wall_clock(system.memory(), domain.shared_info.base(), Width::default(), base);
    for at in domain.vcpus.iter().filter_map(|vcpu| vcpu.info.time()) {
        publish_clock(system.memory(), at, &system.clock, now);
    }
    let vcpu = domain.vcpus.first().ok_or(Cause::NoVcpu)?;
    let entry = u32::try_from(placement.entry.raw()).map_err(|_| Errno::EINVAL)?;
    vcpu.claim_start();
    StartState::pvh(entry, placement.info).apply(&mut vcpu.context.lock());
    let look = system.scheduler.set_up(vcpu, true, now);
    system.kick(look);
    Ok(())
}

/// Fills the part of a segment that is not in the file: it is zero already, unless the kernel is loaded again.
fn zero<F: crate::hw::EntryFormat, M: crate::hw::PhysMemory>(
    guest: &mut Physical<'_, F, M>,
    at: GuestPhys,
    from: u64,
    to: u64,
) -> Result<()> {
    const ZEROES: [u8; pv_abi::PAGE_SIZE] = [0; pv_abi::PAGE_SIZE];
    let mut done = from;
    while done < to {
        let Some(place) = at.checked_add(done) else { break };
        let count = (to - done).min(PAGE_BYTES - place.offset());
        let zeroes = usize::try_from(count).ok().and_then(|count| ZEROES.get(..count)).unwrap_or(&ZEROES);
        guest.write(place, zeroes)?;
        done += count;
    }
    Ok(())
}

/// An entry of the memory map as `XENMEM_memory_map` tells it.
pub(super) fn e820(entry: &HvmMemmapEntry) -> E820Entry {
    E820Entry { addr: entry.addr, size: entry.size, kind: entry.kind }
}
