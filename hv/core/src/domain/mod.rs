//! Domains: what one is, its life, its console, and the operations of the control calls.

mod life;
mod name;
mod params;
mod roles;
mod table;

pub use life::{Change, Life, Phase, ShutdownReason};
pub use name::DomainName;
pub use params::HvmParams;
pub use roles::Roles;
pub use table::{DomainTable, SLOTS};

use crate::hw::Platform;
use core::fmt;
use core::marker::PhantomData;
use pv_abi::ids::DomainId;

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
    _platform: PhantomData<P>,
}

impl<P: Platform> Domain<P> {
    /// Whether the domain may use the control calls.
    pub fn is_control(&self) -> bool {
        self.roles.contains(Roles::CONTROL)
    }
}

impl<P: Platform> fmt::Display for Domain<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.id, self.name)
    }
}
