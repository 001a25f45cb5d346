use std::sync::Arc;

use spin::Mutex;

use super::*;
use crate::xs::{LocalStore, Quota, Server};

fn store() -> LocalStore {
    LocalStore::new(&Arc::new(Mutex::new(Server::new(Quota::default()))), DomainId::DOM0)
}

#[test]
fn both_ends_of_a_new_device_find_each_other() {
    let mut store = store();
    let guest = DomainId::new(3);
    let domain = DomainSpec { domain: guest, name: "guest", memory_kib: 65536, vcpus: 2 };
    create_domain(&mut store, &domain).unwrap();
    let spec = DeviceSpec {
        kind: "vbd",
        number: 51712,
        frontend: guest,
        backend: DomainId::DOM0,
        frontend_keys: &[("virtual-device", "51712")],
        backend_keys: &[("mode", "w")],
    };
    create_device(&mut store, &spec).unwrap();
    let front = Frontend::open(&mut store, "/local/domain/3/device/vbd/51712").unwrap();
    let back = Backend::open(&mut store, front.peer_dir()).unwrap();
    assert_eq!((front.peer(), back.peer()), (DomainId::DOM0, guest));
    assert_eq!(back.peer_dir(), front.dir());
    assert_eq!(list_backends(&mut store, "vbd"), [(guest, 51712)]);
    assert_eq!(front.peer_state(&mut store), XenbusState::Initialising);
    back.set_state(&mut store, XenbusState::InitWait).unwrap();
    assert_eq!(front.peer_state(&mut store), XenbusState::InitWait);
    remove_device(&mut store, "vbd", 51712, guest, DomainId::DOM0).unwrap();
    assert_eq!(front.peer_state(&mut store), XenbusState::Unknown);
    assert_eq!(back.set_state(&mut store, XenbusState::Closed), Err(Errno::ENOENT));
    remove_domain(&mut store, guest).unwrap();
    assert_eq!(store.list(TransactionId::NONE, "/local/domain").unwrap(), ["0"]);
}

#[test]
fn a_directory_that_names_no_peer_does_not_open() {
    let mut store = store();
    store.write(TransactionId::NONE, "/x/backend", b"nonsense").unwrap();
    assert_eq!(Frontend::open(&mut store, "/x"), Err(Errno::EINVAL));
    store.write(TransactionId::NONE, "/x/backend-id", b"70000").unwrap();
    assert_eq!(Frontend::open(&mut store, "/x"), Err(Errno::EINVAL));
    store.write(TransactionId::NONE, "/x/backend-id", b"7").unwrap();
    assert_eq!(Frontend::open(&mut store, "/x"), Err(Errno::EINVAL));
    assert_eq!(Frontend::open(&mut store, "/y"), Err(Errno::ENOENT));
}
