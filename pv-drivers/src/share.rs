//! Pages granted to a peer, and what becomes of them when the peer does not let go.
//!
//! Invariant: memory inside a [`Shared`] is dropped only after all its grants were ended; if a peer still maps one,
//! memory and grants go to [`Platform::retire`], which most platforms implement with a [`Quarantine`].

use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, GrantRef};

use crate::platform::{Access, Platform, SharedMemory};

/// Own pages, all granted to one peer, in page order.
pub struct Shared<P: Platform> {
    platform: P,
    memory: Option<P::Memory>,
    grants: Vec<GrantRef>,
}

impl<P: Platform> Shared<P> {
    /// Allocates zeroed pages and grants every one to `peer`.
    ///
    /// # Errors
    /// `ENOMEM` or `ENOSPC`; nothing stays allocated or granted.
    pub fn new(platform: &P, peer: DomainId, pages: usize, access: Access) -> Result<Self, Errno> {
        let memory = platform.allocate(pages)?;
        let mut shared = Self { platform: platform.clone(), memory: None, grants: Vec::with_capacity(pages) };
        for page in 0..pages {
            // A failure drops `shared`, which ends the grants already made; `memory` is still our own.
            let grant = match platform.grant(peer, &memory, page, access) {
                Ok(grant) => grant,
                Err(error) => {
                    shared.memory = Some(memory);
                    return Err(error);
                }
            };
            shared.grants.push(grant);
        }
        shared.memory = Some(memory);
        Ok(shared)
    }

    /// The memory.
    #[must_use]
    pub fn memory(&self) -> &P::Memory {
        match &self.memory {
            Some(memory) => memory,
            None => unreachable!("memory is there from `new` to `drop`"),
        }
    }

    /// The memory, for what needs it alone.
    #[must_use]
    pub fn memory_mut(&mut self) -> &mut P::Memory {
        match &mut self.memory {
            Some(memory) => memory,
            None => unreachable!("memory is there from `new` to `drop`"),
        }
    }

    /// The grants, one for each page in order.
    #[must_use]
    pub fn grants(&self) -> &[GrantRef] {
        &self.grants
    }
}

impl<P: Platform> Drop for Shared<P> {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else { return };
        let platform = &self.platform;
        let mut left = core::mem::take(&mut self.grants);
        left.retain(|&grant| platform.ungrant(grant).is_err());
        if left.is_empty() {
            drop(memory);
        } else {
            log::debug!("{} pages stay away: the peer still maps {} of them", memory.pages(), left.len());
            platform.retire(memory, left);
        }
    }
}

/// Pages whose grants could not be ended yet: a helper for implementations of [`Platform::retire`].
pub struct Quarantine<M> {
    held: Vec<(M, Vec<GrantRef>)>,
}

impl<M: SharedMemory> Quarantine<M> {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self { held: Vec::new() }
    }

    /// Takes pages in.
    pub fn add(&mut self, memory: M, grants: Vec<GrantRef>) {
        self.held.push((memory, grants));
    }

    /// Tries again to end every grant, and returns the pages that are free now. Drop them outside your locks.
    #[must_use]
    pub fn retry(&mut self, mut ungrant: impl FnMut(GrantRef) -> Result<(), Errno>) -> Vec<M> {
        let mut free = Vec::new();
        let held = core::mem::take(&mut self.held);
        for (memory, mut grants) in held {
            grants.retain(|&grant| ungrant(grant).is_err());
            if grants.is_empty() {
                free.push(memory);
            } else {
                self.held.push((memory, grants));
            }
        }
        free
    }

    /// The number of pages held.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.held.iter().map(|(memory, _)| memory.pages()).sum()
    }
}

impl<M: SharedMemory> Default for Quarantine<M> {
    fn default() -> Self {
        Self::new()
    }
}
