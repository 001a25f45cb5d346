//! XenStore: the small tree of strings through which domains find each other.
//!
//! * [`Store`] is what a driver needs of it, whoever serves it.
//! * [`XsClient`] talks to a server over a ring page; [`LocalStore`] is the serving domain's own way in.
//! * [`Server`] is the store itself: pure, no memory is shared with anyone. [`RingConnection`] moves its messages
//!   through a guest's ring page.
//!
//! The protocol is that of `docs/misc/xenstore.txt` and `io/xs_wire.h` of the public Xen project.

mod client;
mod connection;
mod local;
pub mod path;
mod permissions;
mod server;
#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::errno::Errno;

pub use client::XsClient;
pub use connection::{Progress, RingConnection};
pub use local::LocalStore;
pub use permissions::{Permission, Rights};
pub use server::{Action, ConnectionId, Quota, Server};

/// The number of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct TransactionId(u32);

impl TransactionId {
    /// No transaction: the operation takes effect at once.
    pub const NONE: Self = Self(0);

    /// Makes an id from its number.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The number on the wire.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }
}

/// Something changed at or below a watched path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchEvent {
    /// What changed; relative if the watch was.
    pub path: String,
    /// What the watcher gave with the watch.
    pub token: String,
}

/// A XenStore, seen by one of its clients.
///
/// Paths are absolute or relative to the client's own directory. Every method is one exchange with the server; with a
/// transaction, changes are seen by others only after [`Store::commit`].
pub trait Store {
    /// Reads a node's value.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`, `EINVAL` for a bad path.
    fn read(&mut self, transaction: TransactionId, path: &str) -> Result<Vec<u8>, Errno>;

    /// Writes a node's value, making the node and its parents as needed.
    ///
    /// # Errors
    /// `EACCES`, `ENOSPC` over quota, `EINVAL`.
    fn write(&mut self, transaction: TransactionId, path: &str, value: &[u8]) -> Result<(), Errno>;

    /// Makes an empty node unless it is there.
    ///
    /// # Errors
    /// As [`Store::write`].
    fn make(&mut self, transaction: TransactionId, path: &str) -> Result<(), Errno>;

    /// Removes a node and all below it. It is no error if only the node itself is missing.
    ///
    /// # Errors
    /// `ENOENT` when the parent is missing, `EACCES`, `EINVAL`.
    fn remove(&mut self, transaction: TransactionId, path: &str) -> Result<(), Errno>;

    /// Names the children of a node.
    ///
    /// # Errors
    /// As [`Store::read`].
    fn list(&mut self, transaction: TransactionId, path: &str) -> Result<Vec<String>, Errno>;

    /// Reads a node's permissions: the owner first.
    ///
    /// # Errors
    /// As [`Store::read`].
    fn permissions(&mut self, transaction: TransactionId, path: &str) -> Result<Vec<Permission>, Errno>;

    /// Replaces a node's permissions.
    ///
    /// # Errors
    /// `EACCES`, `EPERM` when an unprivileged client gives a node away, `EINVAL`.
    fn set_permissions(
        &mut self,
        transaction: TransactionId,
        path: &str,
        permissions: &[Permission],
    ) -> Result<(), Errno>;

    /// Starts a transaction.
    ///
    /// # Errors
    /// `EBUSY`, `ENOSPC` when there are too many.
    fn begin(&mut self) -> Result<TransactionId, Errno>;

    /// Makes a transaction's changes visible, all at once.
    ///
    /// # Errors
    /// `EAGAIN` when somebody changed what it looked at: do it again from the start.
    fn commit(&mut self, transaction: TransactionId) -> Result<(), Errno>;

    /// Forgets a transaction.
    ///
    /// # Errors
    /// `ENOENT` when there is no such transaction.
    fn abort(&mut self, transaction: TransactionId) -> Result<(), Errno>;

    /// Asks for an event now, and whenever something at or below `path` changes.
    ///
    /// # Errors
    /// `EEXIST`, `E2BIG` when there are too many, `EINVAL`.
    fn watch(&mut self, path: &str, token: &str) -> Result<(), Errno>;

    /// Ends a watch.
    ///
    /// # Errors
    /// `ENOENT`.
    fn unwatch(&mut self, path: &str, token: &str) -> Result<(), Errno>;

    /// Takes the next event of the watches, if one has come.
    fn next_event(&mut self) -> Option<WatchEvent>;
}

/// Reads a node's value as text; `None` when the node is missing or may not be read.
pub fn read_text(store: &mut dyn Store, transaction: TransactionId, path: &str) -> Option<String> {
    let value = store.read(transaction, path).ok()?;
    let value = value.strip_suffix(b"\0").unwrap_or(&value);
    core::str::from_utf8(value).ok().map(String::from)
}

/// Reads a node's value as a decimal number; `None` when the node is missing or holds something else.
pub fn read_number(store: &mut dyn Store, transaction: TransactionId, path: &str) -> Option<u64> {
    read_text(store, transaction, path)?.trim().parse().ok()
}

/// Reads a node as a switch: `true` for a number other than zero.
pub fn read_flag(store: &mut dyn Store, path: &str) -> bool {
    read_number(store, TransactionId::NONE, path).is_some_and(|number| number != 0)
}

/// Writes a node with anything that prints.
///
/// # Errors
/// As [`Store::write`].
pub fn write_display(
    store: &mut dyn Store,
    transaction: TransactionId,
    path: &str,
    value: impl core::fmt::Display,
) -> Result<(), Errno> {
    store.write(transaction, path, alloc::format!("{value}").as_bytes())
}

/// Does `work` in a transaction, again from the start as long as somebody interferes, up to 64 times.
///
/// # Errors
/// What `work` says, and `EAGAIN` when others never leave it alone.
pub fn in_transaction<T>(
    store: &mut dyn Store,
    mut work: impl FnMut(&mut dyn Store, TransactionId) -> Result<T, Errno>,
) -> Result<T, Errno> {
    for _ in 0..64 {
        let transaction = store.begin()?;
        let result = match work(store, transaction) {
            Ok(result) => result,
            Err(error) => {
                // The reason for the failure matters more than whether the server still knows the transaction.
                let _ = store.abort(transaction);
                return Err(error);
            }
        };
        match store.commit(transaction) {
            Ok(()) => return Ok(result),
            Err(Errno::EAGAIN) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::EAGAIN)
}

/// Takes a reply apart that consists of texts, each with a zero byte.
fn split_texts(payload: &[u8]) -> Vec<String> {
    let payload = payload.strip_suffix(b"\0").unwrap_or(payload);
    if payload.is_empty() {
        return Vec::new();
    }
    payload.split(|&byte| byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

/// Lists a directory that is too long for one message; from the start again when it changes meanwhile.
fn list_in_parts(
    path: &str,
    mut call: impl FnMut(&[u8]) -> Result<Vec<u8>, Errno>,
) -> Result<Vec<String>, Errno> {
    let (mut names, mut version): (Vec<u8>, Option<Vec<u8>>) = (Vec::new(), None);
    for _ in 0..4096 {
        let part = call(alloc::format!("{path}\0{}\0", names.len()).as_bytes())?;
        let end = part.iter().position(|&byte| byte == 0).ok_or(Errno::EIO)?;
        let (now, rest) = part.split_at(end);
        let rest = rest.get(1..).unwrap_or_default();
        if version.as_deref().is_some_and(|version| version != now) {
            (names, version) = (Vec::new(), None);
            continue;
        }
        version = Some(now.to_vec());
        // The last part ends with an empty name.
        if rest == b"\0" || rest.ends_with(b"\0\0") {
            names.extend_from_slice(rest.strip_suffix(b"\0").unwrap_or(rest));
            return Ok(split_texts(&names));
        }
        if rest.is_empty() {
            return Err(Errno::EIO);
        }
        names.extend_from_slice(rest);
    }
    Err(Errno::EAGAIN)
}
