//! Pages of a guest that stay mapped because it asked for that (`io/netif.h`,
//! `XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING`): packets in them are copied without a call to the hypervisor.
//!
//! # Invariants
//!
//! * A reference is in the table at most once, and what is in the table is mapped.
//! * Nobody keeps a page that was looked up: a page that is taken out is unmapped at once.

use alloc::boxed::Box;
use alloc::vec::Vec;

use pv_abi::ids::{DomainId, GrantRef};

use crate::platform::{Access, Platform};

/// Pages of one queue.
pub(in super::super) const MAPPED_MAX: usize = 1024;
/// Pages of all queues of an interface: each takes one of this domain's mappings, which are for all guests.
const INTERFACE_MAX: usize = 2048;
/// Rows: a power of two. A guest's references are close to each other, and no grant table has so many that a row could
/// become long.
const ROWS: usize = 1024;
/// No entry.
const NONE: u16 = u16::MAX;

struct Entry<M> {
    grant: GrantRef,
    is_writable: bool,
    /// The next one in its row.
    next: u16,
    memory: M,
}

/// The pages of one queue that stay mapped.
pub(in super::super) struct Mapped<M> {
    /// The first entry of each row; no rows while there is no entry.
    rows: Option<Box<[u16; ROWS]>>,
    entries: Vec<Entry<M>>,
    most: usize,
}

const fn row_of(grant: GrantRef) -> usize {
    grant.raw() as usize % ROWS
}

impl<M> Mapped<M> {
    /// An empty table of an interface with so many queues.
    pub fn new(queues: usize) -> Self {
        Self { rows: None, entries: Vec::new(), most: (INTERFACE_MAX / queues.max(1)).min(MAPPED_MAX) }
    }

    /// The most pages.
    pub const fn most(&self) -> usize {
        self.most
    }

    #[inline]
    fn find(&self, grant: GrantRef) -> Option<(usize, &Entry<M>)> {
        let mut at = *self.rows.as_ref()?.get(row_of(grant))?;
        // Past the last entry is no entry: this ends at `NONE`.
        while let Some(entry) = self.entries.get(usize::from(at)) {
            if entry.grant == grant {
                return Some((at.into(), entry));
            }
            at = entry.next;
        }
        None
    }

    /// A page to read from, if it is mapped.
    #[inline]
    pub fn readable(&self, grant: GrantRef) -> Option<&M> {
        self.find(grant).map(|(_, entry)| &entry.memory)
    }

    /// A page to write to, if it is mapped so.
    #[inline]
    pub fn writable(&self, grant: GrantRef) -> Option<&M> {
        self.find(grant).filter(|(_, entry)| entry.is_writable).map(|(_, entry)| &entry.memory)
    }

    /// Maps pages, all of them or none. `false`: there is no room for them, one is there already or named twice, or
    /// one cannot be mapped.
    pub fn add<P: Platform<Memory = M>>(
        &mut self,
        platform: &P,
        peer: DomainId,
        wanted: &[(GrantRef, Access)],
    ) -> bool {
        if self.entries.len() + wanted.len() > self.most
            || wanted.iter().any(|(grant, _)| self.find(*grant).is_some())
        {
            return false;
        }
        let mut sorted: Vec<GrantRef> = wanted.iter().map(|(grant, _)| *grant).collect();
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
            return false;
        }
        let mut fresh = Vec::with_capacity(wanted.len());
        let mut is_good = true;
        for access in [Access::ReadWrite, Access::ReadOnly] {
            let of_kind = wanted.iter().filter(|(_, other)| *other == access);
            let grants: Vec<GrantRef> = of_kind.map(|(grant, _)| *grant).collect();
            if grants.is_empty() || !is_good {
                continue;
            }
            for (grant, result) in grants.iter().zip(platform.map_each(peer, &grants, access)) {
                match result {
                    Ok(memory) => fresh.push((*grant, access, memory)),
                    Err(_) => is_good = false,
                }
            }
        }
        if !is_good {
            platform.unmap(fresh.into_iter().map(|(_, _, memory)| memory).collect());
            return false;
        }
        for (grant, access, memory) in fresh {
            self.insert(grant, access == Access::ReadWrite, memory);
        }
        true
    }

    fn insert(&mut self, grant: GrantRef, is_writable: bool, memory: M) {
        let rows = self.rows.get_or_insert_with(|| Box::new([NONE; ROWS]));
        // There is room: `add` has counted.
        let (Some(row), Ok(number)) = (rows.get_mut(row_of(grant)), u16::try_from(self.entries.len())) else {
            return;
        };
        let next = core::mem::replace(row, number);
        self.entries.push(Entry { grant, is_writable, next, memory });
    }

    /// Puts `to` in the place of the link that leads to entry `number` of a row.
    fn relink(&mut self, row: usize, number: usize, to: u16) {
        let Some(mut link) = self.rows.as_mut().and_then(|rows| rows.get_mut(row)) else { return };
        while usize::from(*link) != number {
            let at = usize::from(*link);
            // The entry is in its row: this ends there.
            let Some(entry) = self.entries.get_mut(at) else { return };
            link = &mut entry.next;
        }
        *link = to;
    }

    /// Takes a page out; the caller unmaps it, or [puts it back](Self::put_back).
    pub fn remove(&mut self, grant: GrantRef) -> Option<(bool, M)> {
        let (number, entry) = self.find(grant)?;
        let next = entry.next;
        self.relink(row_of(grant), number, next);
        // The last one takes its place.
        let last = self.entries.len() - 1;
        if number != last
            && let Some(moved) = self.entries.last().map(|entry| row_of(entry.grant))
        {
            self.relink(moved, last, u16::try_from(number).unwrap_or(NONE));
        }
        let entry = self.entries.swap_remove(number);
        Some((entry.is_writable, entry.memory))
    }

    /// Undoes [`Self::remove`].
    pub fn put_back(&mut self, grant: GrantRef, is_writable: bool, memory: M) {
        self.insert(grant, is_writable, memory);
    }

    /// Takes all out.
    pub fn take_all(&mut self) -> Vec<M> {
        self.rows = None;
        core::mem::take(&mut self.entries).into_iter().map(|entry| entry.memory).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Mapped;
    use pv_abi::ids::GrantRef;
    use std::collections::BTreeMap;
    use std::collections::btree_map::Entry;

    proptest::proptest! {
        #[test]
        fn behaves_as_a_map(steps in proptest::collection::vec((0..40u32, proptest::bool::ANY), 0..200)) {
            let mut table = Mapped::new(1);
            let mut model = BTreeMap::new();
            for (step, (number, adds)) in steps.into_iter().enumerate() {
                // Few rows, so that they become long.
                let grant = GrantRef::new(number % 4 + number / 4 * 1024);
                if !adds {
                    assert_eq!(table.remove(grant), model.remove(&grant));
                } else if let Entry::Vacant(place) = model.entry(grant) {
                    table.insert(grant, step % 2 == 0, step);
                    place.insert((step % 2 == 0, step));
                }
                for number in 0..40 {
                    let grant = GrantRef::new(number % 4 + number / 4 * 1024);
                    let wanted = model.get(&grant);
                    assert_eq!(table.readable(grant), wanted.map(|(_, value)| value));
                    assert_eq!(table.writable(grant), wanted.filter(|(w, _)| *w).map(|(_, value)| value));
                }
            }
            assert_eq!(table.take_all().len(), model.len());
            assert!(model.keys().all(|grant| table.readable(*grant).is_none()));
        }
    }
}
