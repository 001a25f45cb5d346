//! The store against the rules of its protocol, and both ends of a ring against each other.

mod model;
mod ring;
mod rules;

use std::sync::Arc;

use pv_abi::ids::DomainId;
use spin::Mutex;

use super::*;

const NOW: TransactionId = TransactionId::NONE;

type Shared = Arc<Mutex<Server>>;

fn server() -> Shared {
    Arc::new(Mutex::new(Server::new(Quota::default())))
}

fn dom0(server: &Shared) -> LocalStore {
    LocalStore::new(server, DomainId::DOM0)
}

/// A guest with a directory of its own.
fn guest(server: &Shared, id: u16) -> LocalStore {
    let domain = DomainId::new(id);
    let home = path::domain_home(domain);
    let mut store = dom0(server);
    store.make(NOW, &home).unwrap();
    store.set_permissions(NOW, &home, &[Permission::new(domain, Rights::NONE)]).unwrap();
    LocalStore::unprivileged(server, domain)
}

fn events(store: &mut LocalStore) -> Vec<(String, String)> {
    core::iter::from_fn(|| store.next_event()).map(|event| (event.path, event.token)).collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(path, token)| ((*path).into(), (*token).into())).collect()
}
