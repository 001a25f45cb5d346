//! What whoever creates domains and devices writes.

use alloc::format;
use alloc::string::{String, ToString};

use pv_abi::errno::Errno;
use pv_abi::ids::DomainId;

use super::{XenbusState, backend_dir, frontend_dir};
use crate::xs::{Permission, Rights, Store, TransactionId, in_transaction, path};

/// A new domain's entry.
#[derive(Clone, Copy, Debug)]
pub struct DomainSpec<'a> {
    /// The domain.
    pub domain: DomainId,
    /// Its name.
    pub name: &'a str,
    /// Its memory in KiB.
    pub memory_kib: u64,
    /// Its virtual CPUs.
    pub vcpus: u32,
}

/// A device to be made.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSpec<'a> {
    /// `vbd`, `vif`.
    pub kind: &'a str,
    /// The device's number.
    pub number: u32,
    /// Whose device it is.
    pub frontend: DomainId,
    /// Who serves it.
    pub backend: DomainId,
    /// Keys for the front end's directory.
    pub frontend_keys: &'a [(&'a str, &'a str)],
    /// Keys for the back end's directory.
    pub backend_keys: &'a [(&'a str, &'a str)],
}

/// Makes a directory that `owner` writes and `reader` reads.
fn make_owned(
    store: &mut dyn Store,
    transaction: TransactionId,
    dir: &str,
    owner: DomainId,
    reader: Option<DomainId>,
) -> Result<(), Errno> {
    store.make(transaction, dir)?;
    let mut permissions = alloc::vec![Permission::new(owner, Rights::NONE)];
    permissions.extend(reader.map(|reader| Permission::new(reader, Rights::READ)));
    store.set_permissions(transaction, dir, &permissions)
}

/// Makes a domain's directory as guests expect it: their own to read, and some places to write.
///
/// # Errors
/// What the store says.
pub fn create_domain(store: &mut dyn Store, spec: &DomainSpec<'_>) -> Result<(), Errno> {
    let home = path::domain_home(spec.domain);
    let toolstack =
        [Permission::new(DomainId::DOM0, Rights::NONE), Permission::new(spec.domain, Rights::READ)];
    in_transaction(store, |store, transaction| {
        store.remove(transaction, &home).or_else(ignore_missing)?;
        store.make(transaction, &home)?;
        store.set_permissions(transaction, &home, &toolstack)?;
        let fixed = [
            ("name", spec.name.to_string()),
            ("domid", spec.domain.raw().to_string()),
            ("memory/target", spec.memory_kib.to_string()),
            ("memory/static-max", spec.memory_kib.to_string()),
        ];
        for (key, value) in fixed {
            store.write(transaction, &format!("{home}/{key}"), value.as_bytes())?;
        }
        for vcpu in 0..spec.vcpus {
            store.write(transaction, &format!("{home}/cpu/{vcpu}/availability"), b"online")?;
        }
        for dir in ["device", "control"] {
            store.make(transaction, &format!("{home}/{dir}"))?;
        }
        for feature in ["platform-feature-xs_reset_watches", "platform-feature-multiprocessor-suspend"] {
            store.write(transaction, &format!("{home}/control/{feature}"), b"1")?;
        }
        // Where the guest may write.
        for dir in ["data", "drivers", "feature", "attr", "error"] {
            make_owned(store, transaction, &format!("{home}/{dir}"), spec.domain, None)?;
        }
        // What is asked of it, and which of that it can do.
        for node in ["shutdown", "feature-poweroff", "feature-reboot", "feature-suspend", "sysrq"] {
            make_owned(store, transaction, &format!("{home}/control/{node}"), spec.domain, None)?;
        }
        Ok(())
    })
}

/// Removes a domain's directory.
///
/// # Errors
/// What the store says.
pub fn remove_domain(store: &mut dyn Store, domain: DomainId) -> Result<(), Errno> {
    store.remove(TransactionId::NONE, &path::domain_home(domain)).or_else(ignore_missing)
}

fn ignore_missing(error: Errno) -> Result<(), Errno> {
    if error == Errno::ENOENT { Ok(()) } else { Err(error) }
}

/// Makes both directories of a device, in the state `Initialising`.
///
/// # Errors
/// What the store says.
pub fn create_device(store: &mut dyn Store, spec: &DeviceSpec<'_>) -> Result<(), Errno> {
    let front = frontend_dir(spec.frontend, spec.kind, spec.number);
    let back = backend_dir(spec.backend, spec.kind, spec.frontend, spec.number);
    let state = XenbusState::Initialising.as_str();
    let front_id = spec.frontend.raw().to_string();
    let back_id = spec.backend.raw().to_string();
    in_transaction(store, |store, transaction| {
        for dir in [&front, &back] {
            store.remove(transaction, dir).or_else(ignore_missing)?;
        }
        make_owned(store, transaction, &front, spec.frontend, Some(spec.backend))?;
        make_owned(store, transaction, &back, spec.backend, Some(spec.frontend))?;
        let own: [(&str, &str); 3] = [("backend", &back), ("backend-id", &back_id), ("state", state)];
        for (key, value) in own.iter().chain(spec.frontend_keys) {
            write_key(store, transaction, &front, key, value)?;
        }
        let own: [(&str, &str); 4] =
            [("frontend", &front), ("frontend-id", &front_id), ("online", "1"), ("state", state)];
        for (key, value) in own.iter().chain(spec.backend_keys) {
            write_key(store, transaction, &back, key, value)?;
        }
        // The front end must not be able to point the back end elsewhere.
        let fixed =
            [Permission::new(spec.backend, Rights::NONE), Permission::new(spec.frontend, Rights::READ)];
        for key in ["backend", "backend-id"] {
            store.set_permissions(transaction, &format!("{front}/{key}"), &fixed)?;
        }
        Ok(())
    })
}

fn write_key(
    store: &mut dyn Store,
    transaction: TransactionId,
    dir: &str,
    key: &str,
    value: &str,
) -> Result<(), Errno> {
    let full: String = format!("{dir}/{key}");
    store.write(transaction, &full, value.as_bytes())
}

/// Removes both directories of a device.
///
/// # Errors
/// What the store says.
pub fn remove_device(
    store: &mut dyn Store,
    kind: &str,
    number: u32,
    frontend: DomainId,
    backend: DomainId,
) -> Result<(), Errno> {
    for dir in [frontend_dir(frontend, kind, number), backend_dir(backend, kind, frontend, number)] {
        store.remove(TransactionId::NONE, &dir).or_else(ignore_missing)?;
    }
    Ok(())
}
