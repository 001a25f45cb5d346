//! Grants: how a domain lets another one use pages of its memory (version 1, `xen/grant_table.h`).
//!
//! The granting domain writes entries into pages that it shares with the hypervisor. An entry in use is *pinned*: the
//! hypervisor counts its readers and writers here and shows them in the entry's flags, so that the granter knows when
//! it may take a grant back. A mapping also holds a reference to the frame, which thus is given to nobody else before
//! the mapping has ended, whatever the granter does to its memory.
//!
//! Locks, in this order: the memory locks of both domains (lower number first); the granter's table; the mapper's list
//! of mappings. No two tables and no two lists are locked at a time.

mod copy;
mod map;
mod table;
mod track;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

pub use copy::copy_batch;
pub use map::{end_mappings, map_batch, unmap_batch};
pub use table::{GrantLimits, GrantTable, Usage};

use crate::hw::EntryFormat;
use crate::mem::DomainMemory;
use crate::mem::pair::Ranked;
use alloc::sync::Arc;
use pv_abi::ids::DomainId;
use spin::RwLock;

/// What a grant operation needs of a domain.
pub trait Party {
    /// The format of its nested tables.
    type Format: EntryFormat;

    /// Its number.
    fn id(&self) -> DomainId;
    /// Its memory.
    fn memory(&self) -> &RwLock<DomainMemory<Self::Format>>;
    /// Its grant table. A mapping keeps the table that it came from.
    fn grants(&self) -> &Arc<GrantTable>;
}

fn ranked<D: Party>(domain: &D) -> Ranked<'_, DomainMemory<D::Format>> {
    Ranked { id: domain.id(), lock: domain.memory() }
}
