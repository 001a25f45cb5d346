//! Which interface an address is behind.

use alloc::vec::Vec;

use pv_abi::errno::Errno;

use super::super::Mac;
use super::PortId;
use crate::platform::Nanos;

/// How long an address is remembered that is not seen any more.
const AGE_MAX: u64 = 300_000_000_000;

#[derive(Clone, Copy)]
struct Entry {
    port: PortId,
    /// Since when it was not seen; static addresses do not grow old.
    seen: Option<Nanos>,
}

/// Addresses and where they are: static ones of the guests' own interfaces, and learned ones.
pub struct MacTable {
    /// In the order of their addresses.
    entries: Vec<(Mac, Entry)>,
    /// Learned addresses behind one interface.
    per_port: usize,
    /// Learned addresses in all.
    total: usize,
}

impl MacTable {
    /// A table that learns at most so many addresses, behind one interface and in all.
    #[must_use]
    pub const fn new(per_port: usize, total: usize) -> Self {
        Self { entries: Vec::new(), per_port, total }
    }

    /// Enters an address that stays.
    ///
    /// # Errors
    /// `EEXIST` when another interface has it already, `EINVAL` when it stands for a group, `ENOSPC` when there are as
    /// many as may be learned in all.
    pub fn add_static(&mut self, mac: Mac, port: PortId) -> Result<(), Errno> {
        if mac.is_group() {
            return Err(Errno::EINVAL);
        }
        let is_full = self.entries.iter().filter(|(_, entry)| entry.seen.is_none()).count() >= self.total;
        let entry = Entry { port, seen: None };
        match self.place(mac) {
            Ok(known) if known.seen.is_none() && known.port != port => return Err(Errno::EEXIST),
            Ok(known) if known.seen.is_none() => {}
            _ if is_full => return Err(Errno::ENOSPC),
            Ok(known) => *known = entry,
            Err(at) => self.entries.insert(at, (mac, entry)),
        }
        Ok(())
    }

    /// Forgets an address, static or learned. `false` when it is not there.
    pub fn forget(&mut self, mac: Mac) -> bool {
        let found = self.entries.binary_search_by_key(&mac, |(mac, _)| *mac);
        found.is_ok_and(|at| {
            self.entries.remove(at);
            true
        })
    }

    /// All addresses: which interface each is behind, and when it was seen, unless it is static.
    pub fn entries(&self) -> impl Iterator<Item = (Mac, PortId, Option<Nanos>)> {
        self.entries.iter().map(|(mac, entry)| (*mac, entry.port, entry.seen))
    }

    /// The entry of an address, or where it would be.
    fn place(&mut self, mac: Mac) -> Result<&mut Entry, usize> {
        let at = self.entries.binary_search_by_key(&mac, |(mac, _)| *mac)?;
        self.entries.get_mut(at).map(|(_, entry)| entry).ok_or(at)
    }

    /// Notes that a packet from `mac` came in by `port`.
    pub fn learn(&mut self, mac: Mac, port: PortId, now: Nanos) {
        if mac.is_group() {
            return;
        }
        if let Ok(entry) = self.place(mac) {
            // Nobody takes a static address away.
            if entry.seen.is_some() {
                *entry = Entry { port, seen: Some(now) };
            }
            return;
        }
        if !self.has_room(port) {
            self.forget_old(now);
        }
        if self.has_room(port)
            && let Err(at) = self.place(mac)
        {
            self.entries.insert(at, (mac, Entry { port, seen: Some(now) }));
        }
    }

    fn has_room(&self, port: PortId) -> bool {
        let learned = || self.entries.iter().filter(|(_, entry)| entry.seen.is_some());
        learned().count() < self.total
            && learned().filter(|(_, entry)| entry.port == port).count() < self.per_port
    }

    fn forget_old(&mut self, now: Nanos) {
        self.entries.retain(|(_, entry)| entry.seen.is_none_or(|seen| now.since(seen) < AGE_MAX));
    }

    /// Where an address is.
    #[must_use]
    pub fn find(&self, mac: Mac, now: Nanos) -> Option<PortId> {
        let at = self.entries.binary_search_by_key(&mac, |(mac, _)| *mac).ok()?;
        let (_, entry) = self.entries.get(at)?;
        entry.seen.is_none_or(|seen| now.since(seen) < AGE_MAX).then_some(entry.port)
    }

    /// Forgets an interface.
    pub fn remove(&mut self, port: PortId) {
        self.entries.retain(|(_, entry)| entry.port != port);
    }

    /// The number of addresses.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
