//! Domains: what one is, its life, its console, and the operations of the control calls.

pub mod console;
pub mod control;
mod destroy;
mod life;
mod make;
mod name;
mod params;
mod table;

pub use console::GuestConsole;
pub use destroy::{Progress, destroy, destroy_unborn};
pub use life::{Change, Life, Phase, ShutdownReason};
pub use make::Limits;
pub use name::DomainName;
pub use params::HvmParams;
pub use pv_abi::control::Roles;
pub use table::{DomainTable, SLOTS};

use crate::boot::Layout;
use crate::event::EventTable;
use crate::exit::CpuidPolicy;
use crate::grant::{GrantTable, Party};
use crate::hw::{Backend, Platform};
use crate::ioreq::Emulation;
use crate::mem::{DomainMemory, SharedPage};
use crate::pci::DomainPci;
use crate::sched::Group;
use crate::vcpu::Vcpu;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use pv_abi::ids::{DomainId, VcpuId};
use spin::{Mutex, Once, RwLock};

/// The format of a platform's nested page tables.
pub type Format<P> = <<P as Platform>::Backend as Backend>::Format;
/// The memory of a domain on a platform.
pub type Memory<P> = DomainMemory<Format<P>>;

/// A domain: an address space, its grants and events, and the virtual CPUs that run in it.
///
/// Shared by `Arc`; every part has its own lock or is atomic, in the order that [`crate::system`] gives.
pub struct Domain<P: Platform> {
    /// Its number.
    pub id: DomainId,
    /// Its name, unique among living domains.
    pub name: DomainName,
    /// What it is permitted.
    pub roles: Roles,
    /// Who made it: the other end of its store and console rings. Itself for those made at boot.
    pub parent: DomainId,
    /// Its phase and pauses.
    pub life: Life,
    /// Its special words.
    pub params: HvmParams,
    /// Its memory.
    pub memory: RwLock<Memory<P>>,
    /// The page through which it sees its events and the time (`struct shared_info`).
    pub shared_info: SharedPage,
    /// Its grants, and its mappings of others' grants.
    pub grants: Arc<GrantTable>,
    /// Its event channels.
    pub events: EventTable,
    /// Its virtual CPUs, by their numbers.
    pub vcpus: Vec<Arc<Vcpu<P>>>,
    /// What CPUID says to it.
    pub cpuid: CpuidPolicy,
    /// What its virtual CPUs share of the CPUs.
    pub group: Arc<Group>,
    /// Where it has its memory.
    pub layout: Once<Layout>,
    /// Who emulates ports for it.
    pub emulation: Emulation,
    /// What it has of PCI.
    pub pci: DomainPci,
    /// What it writes to the machine's console.
    pub console: Mutex<GuestConsole>,
    destruction: Mutex<destroy::Stage>,
}

impl<P: Platform> Domain<P> {
    /// Whether the domain may use the control calls.
    pub fn is_control(&self) -> bool {
        self.roles.contains(Roles::CONTROL)
    }

    /// The virtual CPU with this number.
    #[inline]
    pub fn vcpu(&self, id: VcpuId) -> Option<&Arc<Vcpu<P>>> {
        self.vcpus.get(usize::try_from(id.raw()).ok()?)
    }
}

impl<P: Platform> Party for Domain<P> {
    type Format = Format<P>;

    fn id(&self) -> DomainId {
        self.id
    }

    fn memory(&self) -> &RwLock<Memory<P>> {
        &self.memory
    }

    fn grants(&self) -> &Arc<GrantTable> {
        &self.grants
    }
}

impl<P: Platform> fmt::Display for Domain<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.id, self.name)
    }
}

/// A domain's roles as the manifest writes them.
pub struct RoleNames(pub Roles);

impl fmt::Display for RoleNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(Roles::CONTROL, "control"), (Roles::DRIVER, "driver"), (Roles::STORE, "store")];
        let mut first = true;
        for (_, name) in names.into_iter().filter(|(role, _)| self.0.contains(*role)) {
            if !first {
                f.write_str(" ")?;
            }
            first = false;
            f.write_str(name)?;
        }
        if first { f.write_str("none") } else { Ok(()) }
    }
}
