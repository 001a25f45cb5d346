//! Making domains from the boot bundle.
//!
//! [`create`] makes a domain that never ran: its memory, its kernel and start information, its rings, its devices. What
//! can be refused is refused with a sentence, and what was made until then is taken apart again: no frame is lost.

mod error;
mod load;

pub use error::{BuildError, Cause};

use crate::boot::{Kernel, Layout, layout};
use crate::domain::{Domain, DomainName, Limits, Memory, Phase};
use crate::hw::{Order, PAGE_BYTES, PageSize, Pages, Platform};
use crate::pci;
use crate::system::System;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use load::Images;
use pv_abi::control::{Created, Roles};
use pv_abi::errno::{Errno, Result};
use pv_abi::hvm::param;
use pv_abi::ids::{DomainId, Gfn, GrantRef, GuestPhys, Port};
use pv_abi::manifest::DomainConfig;

/// The grant that shares the console's ring (`GNTTAB_RESERVED_CONSOLE` of `grant_table.h`).
const CONSOLE_GRANT: GrantRef = GrantRef::new(0);
/// The grant that shares the store's ring (`GNTTAB_RESERVED_XENSTORE`).
const STORE_GRANT: GrantRef = GrantRef::new(1);
/// Pages that a domain may have beyond its memory: the two rings.
const SPECIAL_PAGES: u64 = 2;
/// The end of the addresses where a domain's memory for devices lies: what 32-bit devices reach.
const DEVICE_END: u64 = 4 << 30;

/// Makes the domain of this name from the manifest. It is paused once. `parent` is who serves its console and store; a
/// domain made at boot has none.
pub fn create<P: Platform>(
    system: &System<P>,
    name: &str,
    parent: Option<DomainId>,
) -> core::result::Result<Arc<Domain<P>>, BuildError> {
    let failed = |cause: Cause| cause.of(name);
    let config = system.manifest().domain(name).ok_or_else(|| failed(Cause::NotInManifest))?;
    let images = Images::find(system, &config).map_err(failed)?;
    let domain = insert(system, &config, parent).map_err(failed)?;
    if let Err(cause) = populate(system, &domain, &config, &images) {
        let needed = config.memory;
        crate::domain::destroy_unborn(system, domain);
        // Only now the frames that it had are free again.
        let free = system.frames.free_pages().bytes();
        return Err(failed(match cause {
            Cause::Internal(Errno::ENOMEM) => Cause::TooLittleMemory { wanted: needed, free },
            cause => cause,
        }));
    }
    log::info!(
        "{domain}: {} KiB, {} vCPU, kernel {}, roles: {}",
        config.memory >> 10,
        config.vcpus,
        config.kernel,
        crate::domain::RoleNames(config.roles)
    );
    Ok(domain)
}

/// Loads the kernel of a section into a domain that never ran.
pub fn reload<P: Platform>(
    system: &System<P>,
    domain: &Arc<Domain<P>>,
    section: &str,
) -> core::result::Result<(), BuildError> {
    let failed = |cause: Cause| cause.of(section);
    let config = system.manifest().domain(section).ok_or_else(|| failed(Cause::NotInManifest))?;
    let images = Images::find(system, &config).map_err(failed)?;
    if domain.life.phase() != Phase::Created {
        return Err(failed(Cause::Internal(Errno::EBUSY)));
    }
    let layout = domain.layout.get().ok_or_else(|| failed(Cause::Internal(Errno::EINVAL)))?;
    load::load(system, domain, &config, layout, &images).map_err(failed)
}

/// What the creator of a domain needs to know to serve it.
pub fn created<P: Platform>(domain: &Domain<P>) -> Created {
    let port = |index| {
        let value = domain.params.get(index).unwrap_or_default();
        Port::new(u32::try_from(value).unwrap_or_default())
    };
    Created {
        domid: domain.id,
        pad: 0,
        console_port: port(param::CONSOLE_EVTCHN),
        store_port: port(param::STORE_EVTCHN),
    }
}

/// Enters a domain without memory into the table.
fn insert<P: Platform>(
    system: &System<P>,
    config: &DomainConfig<'_>,
    parent: Option<DomainId>,
) -> core::result::Result<Arc<Domain<P>>, Cause> {
    let name = DomainName::new(config.name).ok_or(Cause::NotInManifest)?;
    // Two that create the same at the same time: the lock makes one of them see the other's.
    let _guard = system.creation.lock();
    if system.domains.all().iter().any(|other| other.name == name && other.life.phase() != Phase::Dead) {
        return Err(Cause::Exists);
    }
    let limits = Limits {
        memory: Pages::new(config.memory / PAGE_BYTES + SPECIAL_PAGES),
        vcpus: config.vcpus,
        weight: config.weight,
        cap: config.cap,
        cpus: config.cpus.bits(),
        grant_frames: config.grant_frames,
    };
    system.domains.insert(
        |id| {
            let functions = system.pci.assign(config, system.manifest(), id)?;
            let made =
                Domain::new(system, id, name, config.roles, parent.unwrap_or(id), limits, functions.clone());
            made.map_err(|errno| {
                functions.iter().for_each(|function| function.give_up());
                if errno == Errno::ENOMEM { Cause::NoHeap } else { Cause::Internal(errno) }
            })
        },
        Cause::TooManyDomains,
    )
}

fn populate<P: Platform>(
    system: &System<P>,
    domain: &Arc<Domain<P>>,
    config: &DomainConfig<'_>,
    images: &Images<'_>,
) -> core::result::Result<(), Cause> {
    let layout = {
        let mut memory = domain.memory.write();
        let layout = if config.roles.contains(Roles::DRIVER) {
            one_to_one(system, &mut memory, config.memory)?
        } else {
            ordinary(system, &mut memory, config.memory)?
        };
        pci::map_registers(system, &mut memory, domain.pci.functions())?;
        layout
    };
    if domain.parent != domain.id {
        connect(system, domain)?;
    }
    domain.memory.write().set_map(layout.memory_map().iter().map(load::e820).collect());
    let layout = domain.layout.call_once(|| layout);
    load::load(system, domain, config, layout, images)
}

/// Memory from address 0 on, in blocks as large as there are.
fn ordinary<P: Platform>(
    system: &System<P>,
    memory: &mut Memory<P>,
    bytes: u64,
) -> core::result::Result<Layout, Cause> {
    let layout = Layout::ordinary(bytes)?;
    for range in layout.ranges() {
        let mut next = range.first();
        while !memory.fill(system.ram(), &mut next, range.past(), u64::MAX)? {}
    }
    Ok(layout)
}

/// Memory in one piece, where the machine has it.
fn one_to_one<P: Platform>(
    system: &System<P>,
    memory: &mut Memory<P>,
    bytes: u64,
) -> core::result::Result<Layout, Cause> {
    let pages = bytes / PAGE_BYTES;
    let not_contiguous = || Cause::NotContiguous { wanted: bytes, free: system.frames.free_pages().bytes() };
    // Aligned to the largest page that it could use, so that nested tables are small and the kernel's fit.
    let large = if bytes >= PageSize::G1.pages() * PAGE_BYTES { PageSize::G1 } else { PageSize::M2 };
    let align = |size: PageSize| if pages >= size.pages() { size.order() } else { Order::PAGE };
    let frames = system
        .ram()
        .alloc_contiguous(pages, align(large))
        .or_else(|_| system.ram().alloc_contiguous(pages, align(PageSize::M2)))
        .map_err(|_| not_contiguous())?;
    let base = frames.mfn().base().raw();
    if base.saturating_add(bytes) > DEVICE_END {
        system.ram().free(frames);
        return Err(not_contiguous());
    }
    memory.adopt(system.ram(), frames, Gfn::new(base / PAGE_BYTES))?;
    Ok(Layout::one_to_one(GuestPhys::new(base), bytes)?)
}

/// Makes the rings of the console and the store, shared with the parent, and the ports beside them.
fn connect<P: Platform>(system: &System<P>, domain: &Domain<P>) -> Result<()> {
    let rings = [
        (layout::CONSOLE_GFN, CONSOLE_GRANT, param::CONSOLE_PFN, param::CONSOLE_EVTCHN),
        (layout::STORE_GFN, STORE_GRANT, param::STORE_PFN, param::STORE_EVTCHN),
    ];
    for (gfn, grant, page_param, port_param) in rings {
        domain.memory.write().populate(system.ram(), gfn, Order::PAGE)?;
        domain.grants.preset(system.memory(), grant, domain.parent, gfn)?;
        let port = domain.events.alloc_unbound(system.memory(), domain.parent)?;
        domain.params.set(page_param, gfn.raw())?;
        domain.params.set(port_param, port.raw().into())?;
    }
    Ok(())
}

/// The file of the bundle with this name.
fn file<P: Platform>(system: &System<P>, name: &str) -> core::result::Result<&'static [u8], Cause> {
    system.bundle.file(name).ok_or_else(|| Cause::NoFile(name.to_string()))
}

/// Reads and checks the kernel of this name.
fn kernel<P: Platform>(system: &System<P>, name: &str) -> core::result::Result<Kernel<'static>, Cause> {
    Kernel::parse(file(system, name)?).map_err(|error| Cause::Kernel(name.to_string(), error))
}

/// The sizes of what is loaded beside the kernel.
fn sizes(modules: &[&[u8]]) -> Vec<u64> {
    modules.iter().map(|module| module.len() as u64).collect()
}

#[cfg(test)]
mod tests;
