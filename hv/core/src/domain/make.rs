//! Making a domain: its parts, without memory.

use super::{Domain, DomainName, GuestConsole, HvmParams, Life, Roles};
use crate::event::{EventTable, MAX_PORTS};
use crate::exit::{CpuidPolicy, Topology};
use crate::grant::{GrantLimits, GrantTable};
use crate::hw::{Backend, Pages, PhysMemory, Platform, VcpuConfig};
use crate::ioreq::Emulation;
use crate::mem::{DomainMemory, PhysmapConfig};
use crate::pci::{DomainPci, Function};
use crate::sched::{CpuMask, Group};
use crate::system::System;
use crate::vcpu::Vcpu;
use alloc::sync::Arc;
use alloc::vec::Vec;
use pv_abi::errno::{Errno, Result};
use pv_abi::ids::{DomainId, VcpuId};
use spin::{Mutex, Once, RwLock};

/// What a domain takes of the hypervisor's heap when it is made, and each of its virtual CPUs, in bytes: no less than it is.
const HEAP: (usize, usize) = (64 << 10, 32 << 10);
/// Ports and mappings that every domain may have; a large one may have one of each for each of its pages.
const LEAST: u32 = 4096;

/// How much a domain may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Its memory.
    pub memory: Pages,
    /// Its virtual CPUs.
    pub vcpus: u32,
    /// Its share of the CPUs.
    pub weight: u32,
    /// The most it may use of the CPUs, in percent of one; 0 is no limit.
    pub cap: u32,
    /// The CPUs that it may run on.
    pub cpus: u64,
    /// Frames of its grant table.
    pub grant_frames: u32,
}

impl<P: Platform> Domain<P> {
    /// Makes a domain without memory, paused once. On failure everything is given back.
    pub fn new(
        system: &System<P>,
        id: DomainId,
        name: DomainName,
        roles: Roles,
        parent: DomainId,
        limits: Limits,
        functions: Vec<Arc<Function>>,
    ) -> Result<Self> {
        let ram = system.ram();
        let vcpu_count = usize::try_from(limits.vcpus).map_err(|_| Errno::EINVAL)?;
        let (whole, each) = HEAP;
        if system.memory().heap_room() < whole + each * vcpu_count {
            return Err(Errno::ENOMEM);
        }
        let by_size = u32::try_from(limits.memory.raw()).unwrap_or(u32::MAX).max(LEAST);
        let most = GrantLimits::default();
        let grants = GrantLimits { frames: limits.grant_frames, mappings: most.mappings.min(by_size) };
        let config = PhysmapConfig {
            owner: id,
            maximum: Pages::new(limits.memory.raw() + grants.charge().raw()),
            largest: system.platform.backend().largest_page(),
            one_to_one: roles.contains(Roles::DRIVER),
        };
        let memory = DomainMemory::new(ram, config)?;
        let shared_info = match ram.alloc_zeroed() {
            Ok(page) => ram.as_shared(page, id),
            Err(error) => {
                memory.free_root(ram);
                return Err(error.into());
            }
        };
        let grants = match GrantTable::new(ram, id, memory.account().clone(), grants) {
            Ok(grants) => Arc::new(grants),
            Err(error) => {
                ram.free_shared(shared_info);
                memory.free_root(ram);
                return Err(error);
            }
        };
        let mut domain = Self {
            id,
            name,
            roles,
            parent,
            life: Life::new(),
            params: HvmParams::default(),
            memory: RwLock::new(memory),
            events: EventTable::new(id, shared_info.base(), vcpu_count, MAX_PORTS.min(by_size)),
            shared_info,
            grants,
            vcpus: Vec::new(),
            cpuid: CpuidPolicy::new(
                |leaf, sub| system.platform.cpuid(leaf, sub),
                Topology { domain: id, vcpus: limits.vcpus },
                &system.clock,
            ),
            group: Arc::new(Group::new(limits.weight, limits.cap)),
            layout: Once::new(),
            emulation: Emulation::default(),
            pci: DomainPci::new(functions),
            console: Mutex::new(GuestConsole::default()),
            destruction: Mutex::default(),
        };
        if let Err(errno) = domain.add_vcpus(system, limits) {
            domain.dismantle(system);
            return Err(errno);
        }
        Ok(domain)
    }

    fn add_vcpus(&mut self, system: &System<P>, limits: Limits) -> Result<()> {
        let config = VcpuConfig { nested_root: self.memory.get_mut().root(), domain: self.id.raw() };
        let now = system.platform.tsc();
        let affinity =
            Some(CpuMask::new(limits.cpus)).filter(|mask| !mask.is_empty()).unwrap_or(CpuMask::ALL);
        for number in 0..limits.vcpus {
            let id = VcpuId::new(number);
            let mut hw = system.platform.backend().new_vcpu(config).map_err(|_| Errno::ENOMEM)?;
            for (first, count) in self.pci.ports() {
                crate::hw::VcpuHw::pass_ports(&mut hw, first, count, true);
            }
            let info = self.events.info(id).ok_or(Errno::EINVAL)?;
            let stats = system.counters.take(self.id, id);
            let vcpu = Arc::new(Vcpu::new(id, self.id, hw, info, self.group.clone(), affinity, stats, now));
            // As the domain's life says: it is paused once.
            let _nobody_runs_it = system.scheduler.pause(&vcpu, now);
            self.vcpus.push(vcpu);
        }
        Ok(())
    }
}
