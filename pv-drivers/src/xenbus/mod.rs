//! How the two ends of a split device find each other: directories in XenStore, and their states (`io/xenbus.h`).
//!
//! Each end owns a directory that it alone writes and the other reads. The toolstack makes both with [`create_device`];
//! the front end opens its own with [`Frontend::open`], the back end with [`Backend::open`]. Everything read from the
//! other's directory is what a hostile peer wrote.

#[cfg(test)]
mod tests;
mod toolstack;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::DomainId;
pub use pv_abi::io::xenbus::XenbusState;

use crate::xs::{Store, TransactionId, path, read_number, read_text};
pub use toolstack::{DeviceSpec, DomainSpec, create_device, create_domain, remove_device, remove_domain};

/// The directory of a device's front end.
#[must_use]
pub fn frontend_dir(domain: DomainId, kind: &str, number: u32) -> String {
    format!("{}/device/{kind}/{number}", path::domain_home(domain))
}

/// The directory of a device's back end.
#[must_use]
pub fn backend_dir(backend: DomainId, kind: &str, frontend: DomainId, number: u32) -> String {
    format!("{}/backend/{kind}/{}/{number}", path::domain_home(backend), frontend.raw())
}

/// Reads the state in a device's directory.
pub fn read_state(store: &mut dyn Store, dir: &str) -> XenbusState {
    match store.read(TransactionId::NONE, &format!("{dir}/state")) {
        Ok(text) => XenbusState::from_text(&text),
        Err(_) => XenbusState::Unknown,
    }
}

/// Writes the state of a device, unless it is that already. A directory without a state is being removed, and gets
/// none again.
///
/// # Errors
/// What the store says, `ENOENT` when the directory has gone.
pub fn write_state(store: &mut dyn Store, dir: &str, state: XenbusState) -> Result<(), Errno> {
    match read_state(store, dir) {
        XenbusState::Unknown => Err(Errno::ENOENT),
        now if now == state => Ok(()),
        _ => store.write(TransactionId::NONE, &format!("{dir}/state"), state.as_str().as_bytes()),
    }
}

/// Names the devices of one kind that the toolstack gave this domain, by their numbers.
pub fn list_frontends(store: &mut dyn Store, kind: &str) -> Vec<u32> {
    let names = store.list(TransactionId::NONE, &format!("device/{kind}")).unwrap_or_default();
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

/// Names the back ends of one kind in this domain: the front end's domain and the device's number.
pub fn list_backends(store: &mut dyn Store, kind: &str) -> Vec<(DomainId, u32)> {
    let mut found = Vec::new();
    for domain in store.list(TransactionId::NONE, &format!("backend/{kind}")).unwrap_or_default() {
        let Ok(id) = domain.parse() else { continue };
        let devices = store.list(TransactionId::NONE, &format!("backend/{kind}/{domain}"));
        for number in devices.unwrap_or_default().iter().filter_map(|name| name.parse().ok()) {
            found.push((DomainId::new(id), number));
        }
    }
    found
}

/// One end of a device: the two directories and the peer.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Ends {
    own: String,
    other: String,
    peer: DomainId,
}

impl Ends {
    fn open(store: &mut dyn Store, own: String, link: &str, link_id: &str) -> Result<Self, Errno> {
        let other = read_text(store, TransactionId::NONE, &format!("{own}/{link}")).ok_or(Errno::ENOENT)?;
        let peer = read_number(store, TransactionId::NONE, &format!("{own}/{link_id}"))
            .and_then(|number| u16::try_from(number).ok())
            .ok_or(Errno::EINVAL)?;
        if !path::is_valid_absolute(&other) {
            return Err(Errno::EINVAL);
        }
        Ok(Self { own, other, peer: DomainId::new(peer) })
    }
}

macro_rules! end {
    ($(#[$doc:meta])* $name:ident, $link:literal, $link_id:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct $name(Ends);

        impl $name {
            /// Opens the device whose own directory is `dir`, which may be relative to this domain's.
            ///
            /// # Errors
            /// `ENOENT` or `EINVAL` when the directory does not name its peer.
            pub fn open(store: &mut dyn Store, dir: &str) -> Result<Self, Errno> {
                Ends::open(store, dir.into(), $link, $link_id).map(Self)
            }

            /// This end's directory.
            #[must_use]
            pub fn dir(&self) -> &str {
                &self.0.own
            }

            /// The other end's directory.
            #[must_use]
            pub fn peer_dir(&self) -> &str {
                &self.0.other
            }

            /// The other end's domain.
            #[must_use]
            pub fn peer(&self) -> DomainId {
                self.0.peer
            }

            /// The path of a key of this end.
            #[must_use]
            pub fn key(&self, name: &str) -> String {
                format!("{}/{name}", self.0.own)
            }

            /// The path of a key of the other end.
            #[must_use]
            pub fn peer_key(&self, name: &str) -> String {
                format!("{}/{name}", self.0.other)
            }

            /// Asks for an event whenever the other end's state changes.
            ///
            /// # Errors
            /// What the store says.
            pub fn watch_peer(&self, store: &mut dyn Store, token: &str) -> Result<(), Errno> {
                match store.watch(&self.peer_key("state"), token) {
                    Ok(()) | Err(Errno::EEXIST) => Ok(()),
                    Err(error) => Err(error),
                }
            }

            /// Ends [`Self::watch_peer`].
            pub fn unwatch_peer(&self, store: &mut dyn Store, token: &str) {
                // It may have gone with the directory.
                let _ = store.unwatch(&self.peer_key("state"), token);
            }

            /// The other end's state.
            pub fn peer_state(&self, store: &mut dyn Store) -> XenbusState {
                read_state(store, &self.0.other)
            }

            /// This end's state.
            pub fn state(&self, store: &mut dyn Store) -> XenbusState {
                read_state(store, &self.0.own)
            }

            /// Writes this end's state.
            ///
            /// # Errors
            /// As [`write_state`].
            pub fn set_state(&self, store: &mut dyn Store, state: XenbusState) -> Result<(), Errno> {
                write_state(store, &self.0.own, state)
            }

            /// Writes why this end gave up to `error` in its directory, for the toolstack to see.
            pub fn report(&self, store: &mut dyn Store, reason: &str) {
                log::warn!("{}: {reason}", self.0.own);
                // Whoever cannot write this cannot write anything else, either.
                let _ = store.write(TransactionId::NONE, &self.key("error"), reason.as_bytes());
            }

            /// Reads a number that the other end published.
            pub fn peer_number(&self, store: &mut dyn Store, name: &str) -> Option<u64> {
                read_number(store, TransactionId::NONE, &self.peer_key(name))
            }

            /// Reads a switch that the other end published.
            pub fn peer_flag(&self, store: &mut dyn Store, name: &str) -> bool {
                self.peer_number(store, name).is_some_and(|number| number != 0)
            }
        }
    };
}

end! {
    /// A device as its front end sees it.
    Frontend, "backend", "backend-id"
}
end! {
    /// A device as its back end sees it.
    Backend, "frontend", "frontend-id"
}
