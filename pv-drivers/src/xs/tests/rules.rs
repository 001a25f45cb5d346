//! Rules, one by one.

use std::format;
use std::string::ToString;

use pv_abi::io::xs_wire::kind;

use super::*;

#[test]
fn nodes_are_written_read_listed_and_removed() {
    let server = server();
    let mut store = dom0(&server);
    store.write(NOW, "/a/b/c", b"value\0with any bytes").unwrap();
    assert_eq!(store.read(NOW, "/a/b/c").unwrap(), b"value\0with any bytes");
    assert_eq!(store.read(NOW, "/a/b").unwrap(), b"");
    store.make(NOW, "/a/d").unwrap();
    store.make(NOW, "/a/d").unwrap();
    assert_eq!(store.list(NOW, "/a").unwrap(), ["b", "d"]);
    assert_eq!(store.list(NOW, "/a/d").unwrap(), Vec::<String>::new());
    assert_eq!(store.read(NOW, "/x"), Err(Errno::ENOENT));
    store.remove(NOW, "/a/b").unwrap();
    assert_eq!(store.read(NOW, "/a/b/c"), Err(Errno::ENOENT));
    // Removing what is not there is no error, unless its parent is not there, either.
    store.remove(NOW, "/a/b").unwrap();
    assert_eq!(store.remove(NOW, "/x/y"), Err(Errno::ENOENT));
    assert_eq!(store.remove(NOW, "/"), Err(Errno::EINVAL));
    for bad in ["", "//", "/a/", "/a b", "a//b"] {
        assert_eq!(store.read(NOW, bad), Err(Errno::EINVAL), "{bad}");
        assert_eq!(store.write(NOW, bad, b""), Err(Errno::EINVAL), "{bad}");
    }
}

#[test]
fn relative_paths_are_in_the_domain() {
    let server = server();
    let mut guest = guest(&server, 3);
    guest.write(NOW, "data/x", b"1").unwrap();
    assert_eq!(dom0(&server).read(NOW, "/local/domain/3/data/x").unwrap(), b"1");
    assert_eq!(guest.read(NOW, "/local/domain/3/data/x").unwrap(), b"1");
}

#[test]
fn guests_stay_in_their_directories() {
    let server = server();
    let mut one = guest(&server, 1);
    let mut two = guest(&server, 2);
    one.write(NOW, "secret", b"1").unwrap();
    assert_eq!(two.read(NOW, "/local/domain/1/secret"), Err(Errno::EACCES));
    assert_eq!(two.write(NOW, "/local/domain/1/secret", b"2"), Err(Errno::EACCES));
    assert_eq!(two.remove(NOW, "/local/domain/1/secret"), Err(Errno::EACCES));
    assert_eq!(two.list(NOW, "/local/domain/1"), Err(Errno::EACCES));
    // Not even whether a node exists is told.
    assert_eq!(two.read(NOW, "/local/domain/1/nothing"), Err(Errno::EACCES));
    assert_eq!(two.write(NOW, "/new", b""), Err(Errno::EACCES));
    let list =
        [Permission::new(DomainId::new(1), Rights::NONE), Permission::new(DomainId::new(2), Rights::READ)];
    one.set_permissions(NOW, "secret", &list).unwrap();
    assert_eq!(one.permissions(NOW, "secret").unwrap(), list);
    assert_eq!(two.read(NOW, "/local/domain/1/secret").unwrap(), b"1");
    assert_eq!(two.write(NOW, "/local/domain/1/secret", b"2"), Err(Errno::EACCES));
    // A reader does not change permissions, and an owner does not give a node away.
    assert_eq!(two.set_permissions(NOW, "/local/domain/1/secret", &list), Err(Errno::EACCES));
    let away = [Permission::new(DomainId::new(2), Rights::BOTH)];
    assert_eq!(one.set_permissions(NOW, "secret", &away), Err(Errno::EPERM));
    assert_eq!(one.set_permissions(NOW, "secret", &[]), Err(Errno::EINVAL));
}

#[test]
fn new_nodes_take_after_their_parent_and_belong_to_who_makes_them() {
    let server = server();
    let mut store = dom0(&server);
    let mut one = guest(&server, 1);
    let shared = [
        Permission::new(DomainId::DOM0, Rights::NONE),
        Permission::new(DomainId::new(1), Rights::BOTH),
        Permission::new(DomainId::new(2), Rights::READ),
    ];
    store.make(NOW, "/shared").unwrap();
    store.set_permissions(NOW, "/shared", &shared).unwrap();
    one.write(NOW, "/shared/x", b"").unwrap();
    let mut wanted = shared.to_vec();
    wanted[0].domain = DomainId::new(1);
    assert_eq!(one.permissions(NOW, "/shared/x").unwrap(), wanted);
    store.write(NOW, "/shared/x/y", b"").unwrap();
    assert_eq!(store.permissions(NOW, "/shared/x/y").unwrap(), wanted);
}

#[test]
fn watches_fire_at_once_and_for_what_is_below() {
    let server = server();
    let mut store = dom0(&server);
    store.watch("/a", "t").unwrap();
    assert_eq!(events(&mut store), pairs(&[("/a", "t")]));
    assert_eq!(store.watch("/a", "t"), Err(Errno::EEXIST));
    store.watch("/a", "u").unwrap();
    events(&mut store);
    store.write(NOW, "/a/b", b"1").unwrap();
    store.write(NOW, "/ab", b"1").unwrap();
    assert_eq!(events(&mut store), pairs(&[("/a/b", "t"), ("/a/b", "u")]));
    store.unwatch("/a", "u").unwrap();
    assert_eq!(store.unwatch("/a", "u"), Err(Errno::ENOENT));
    store.remove(NOW, "/a").unwrap();
    assert_eq!(events(&mut store), pairs(&[("/a", "t")]));
    // Nothing happens, nobody is told.
    store.remove(NOW, "/a").unwrap();
    assert_eq!(events(&mut store), []);
}

#[test]
fn a_watch_below_a_removed_node_fires() {
    let server = server();
    let mut store = dom0(&server);
    store.write(NOW, "/a/b/c", b"").unwrap();
    store.watch("/a/b/c", "c").unwrap();
    store.watch("/a/b/x", "x").unwrap();
    store.watch("/a/b", "b").unwrap();
    events(&mut store);
    store.remove(NOW, "/a").unwrap();
    let mut heard = events(&mut store);
    heard.sort();
    assert_eq!(heard, pairs(&[("/a/b", "b"), ("/a/b/c", "c")]));
}

#[test]
fn relative_watches_hear_relative_paths() {
    let server = server();
    let mut one = guest(&server, 1);
    one.watch("device", "d").unwrap();
    assert_eq!(events(&mut one), pairs(&[("device", "d")]));
    dom0(&server).write(NOW, "/local/domain/1/device/vbd", b"").unwrap();
    assert_eq!(events(&mut one), pairs(&[("device/vbd", "d")]));
}

#[test]
fn depth_limits_a_watch() {
    let server = server();
    let mut store = dom0(&server);
    let id = server.lock().connect(DomainId::DOM0, true);
    server.lock().call_local(id, kind::WATCH, NOW, b"/a\0t\x001\0").unwrap();
    assert!(server.lock().next_event(id).is_some());
    store.write(NOW, "/a/b", b"").unwrap();
    assert_eq!(server.lock().next_event(id).unwrap().path, "/a/b");
    store.write(NOW, "/a/b/c", b"").unwrap();
    assert_eq!(server.lock().next_event(id), None);
    assert_eq!(server.lock().call_local(id, kind::WATCH, NOW, b"/a\0t\0x\0"), Err(Errno::EINVAL));
}

#[test]
fn a_client_hears_only_of_what_it_may_read() {
    let server = server();
    let mut one = guest(&server, 1);
    let mut two = guest(&server, 2);
    two.watch("/local/domain/1/x", "spy").unwrap();
    two.watch("/", "all").unwrap();
    events(&mut two);
    one.write(NOW, "x", b"").unwrap();
    one.remove(NOW, "x").unwrap();
    assert_eq!(events(&mut two), []);
}

#[test]
fn special_watches_tell_of_domains_to_the_privileged() {
    let server = server();
    let mut store = dom0(&server);
    store.watch("@introduceDomain", "in").unwrap();
    store.watch("@releaseDomain", "out").unwrap();
    events(&mut store);
    let mut one = guest(&server, 1);
    assert_eq!(events(&mut store), pairs(&[("@introduceDomain", "in")]));
    assert_eq!(one.watch("@releaseDomain", "x"), Err(Errno::EACCES));
    drop(one);
    assert_eq!(events(&mut store), pairs(&[("@releaseDomain", "out")]));
}

#[test]
fn a_domains_successor_inherits_nothing() {
    let server = server();
    let mut store = dom0(&server);
    let mut one = guest(&server, 1);
    one.write(NOW, "secret", b"").unwrap();
    store.write(NOW, "/granted", b"").unwrap();
    let list =
        [Permission::new(DomainId::DOM0, Rights::NONE), Permission::new(DomainId::new(1), Rights::BOTH)];
    store.set_permissions(NOW, "/granted", &list).unwrap();
    assert_eq!(server.lock().nodes_owned(DomainId::new(1)), 2);
    drop(one);
    assert_eq!(server.lock().nodes_owned(DomainId::new(1)), 0);
    let mut again = LocalStore::unprivileged(&server, DomainId::new(1));
    assert_eq!(again.read(NOW, "/granted"), Err(Errno::EACCES));
    assert_eq!(again.read(NOW, "secret"), Err(Errno::EACCES));
    assert_eq!(store.permissions(NOW, "/granted").unwrap(), &list[..1]);
}

#[test]
fn transactions_are_seen_whole_or_not_at_all() {
    let server = server();
    let (mut one, mut two) = (dom0(&server), dom0(&server));
    two.watch("/a", "t").unwrap();
    events(&mut two);
    let t = one.begin().unwrap();
    one.write(t, "/a/x", b"1").unwrap();
    one.write(t, "/a/y", b"2").unwrap();
    assert_eq!(one.read(t, "/a/x").unwrap(), b"1");
    assert_eq!(two.read(NOW, "/a/x"), Err(Errno::ENOENT));
    assert_eq!(events(&mut two), []);
    one.commit(t).unwrap();
    assert_eq!(two.list(NOW, "/a").unwrap(), ["x", "y"]);
    assert_eq!(events(&mut two), pairs(&[("/a/x", "t"), ("/a/y", "t")]));
    let t = one.begin().unwrap();
    one.remove(t, "/a").unwrap();
    one.abort(t).unwrap();
    assert_eq!(two.list(NOW, "/a").unwrap(), ["x", "y"]);
    assert_eq!(one.commit(t), Err(Errno::ENOENT));
    assert_eq!(one.read(t, "/a"), Err(Errno::ENOENT));
}

#[test]
fn transactions_conflict_over_what_they_looked_at() {
    let server = server();
    let (mut one, mut two) = (dom0(&server), dom0(&server));
    type Work = fn(&mut LocalStore, TransactionId) -> Result<(), Errno>;
    let read: Work = |s, t| s.read(t, "/a/x").map(|_| ());
    let read_missing: Work = |s, t| s.read(t, "/a/none").map_or(Ok(()), |_| Ok(()));
    let list: Work = |s, t| s.list(t, "/a").map(|_| ());
    let write: Work = |s, t| s.write(t, "/a/x", b"new");
    let remove: Work = |s, t| s.remove(t, "/a");
    let cases: [(Work, Work, bool); 9] = [
        (read, |s, t| s.write(t, "/a/x", b"2"), true),
        (read, |s, t| s.write(t, "/a/z", b"2"), false),
        (read, |s, t| s.remove(t, "/a/x"), true),
        (read_missing, |s, t| s.write(t, "/a/none", b""), true),
        (list, |s, t| s.write(t, "/a/new", b""), true),
        (list, |s, t| s.write(t, "/a/x", b"2"), false),
        (write, |s, t| s.write(t, "/a/x", b"2"), true),
        (write, |s, t| s.write(t, "/b", b"2"), false),
        (remove, |s, t| s.write(t, "/a/y/deep", b"2"), true),
    ];
    for (number, (work, interfere, conflicts)) in cases.into_iter().enumerate() {
        two.remove(NOW, "/a").unwrap();
        two.write(NOW, "/a/x", b"1").unwrap();
        two.write(NOW, "/a/y", b"1").unwrap();
        let t = one.begin().unwrap();
        work(&mut one, t).unwrap();
        interfere(&mut two, NOW).unwrap();
        let wanted = if conflicts { Err(Errno::EAGAIN) } else { Ok(()) };
        assert_eq!(one.commit(t), wanted, "case {number}");
    }
}

#[test]
fn helper_repeats_until_nobody_interferes() {
    let server = server();
    let (mut one, mut two) = (dom0(&server), dom0(&server));
    two.write(NOW, "/count", b"0").unwrap();
    let mut rounds = 0;
    let result = in_transaction(&mut one, |store, t| {
        let value = read_number(store, t, "/count").unwrap();
        rounds += 1;
        if rounds < 4 {
            two.write(NOW, "/count", rounds.to_string().as_bytes()).unwrap();
        }
        write_display(store, t, "/count", value + 100)
    });
    assert_eq!((result, rounds), (Ok(()), 4));
    assert_eq!(two.read(NOW, "/count").unwrap(), b"103");
}

#[test]
fn what_guests_store_and_remember_is_bounded_in_bytes() {
    let quota = Quota { bytes: 1000, ..Quota::default() };
    let server = Arc::new(Mutex::new(Server::new(quota)));
    let mut one = guest(&server, 1);
    // The directory's own name counts.
    one.write(NOW, "a", &[0; 900]).unwrap();
    assert_eq!(one.write(NOW, "b", &[0; 100]), Err(Errno::ENOSPC));
    assert_eq!(one.write(NOW, "a", &[0; 1000]), Err(Errno::ENOSPC));
    assert_eq!(one.write(NOW, &"n".repeat(99), b""), Err(Errno::ENOSPC));
    assert_eq!(one.list(NOW, "/local/domain/1").unwrap(), ["a"], "nothing is half done");
    one.write(NOW, "a", &[0; 500]).unwrap();
    one.write(NOW, "b", &[0; 400]).unwrap();
    one.remove(NOW, "a").unwrap();
    one.write(NOW, "c", &[0; 500]).unwrap();
    // In transactions, all together.
    let (first, second) = (one.begin().unwrap(), one.begin().unwrap());
    for _ in 0..2 {
        one.write(first, "c", &[0; 500]).unwrap();
    }
    assert_eq!(one.write(first, "c", b""), Err(Errno::ENOSPC));
    assert_eq!(one.write(second, "c", b""), Err(Errno::ENOSPC));
    one.commit(first).unwrap();
    one.write(second, "c", b"").unwrap();
    one.abort(second).unwrap();
    one.remove(NOW, "b").unwrap();
    one.remove(NOW, "c").unwrap();
    one.write(NOW, "a", &[0; 900]).unwrap();
}

#[test]
fn quotas_hold_for_guests() {
    let quota = Quota { nodes: 10, watches: 3, transactions: 2, node_size: 100, ..Quota::default() };
    let server = Arc::new(Mutex::new(Server::new(quota)));
    let mut one = guest(&server, 1);
    // The directory itself counts.
    for n in 0..9 {
        one.write(NOW, &format!("n{n}"), b"").unwrap();
    }
    assert_eq!(one.write(NOW, "more", b""), Err(Errno::ENOSPC));
    one.write(NOW, "n0", &[0; 100]).unwrap();
    assert_eq!(one.write(NOW, "n0", &[0; 101]), Err(Errno::ENOSPC));
    one.remove(NOW, "n0").unwrap();
    assert_eq!(one.write(NOW, "a/b", b""), Err(Errno::ENOSPC));
    one.write(NOW, "more", b"").unwrap();
    for n in 0..3 {
        one.watch("x", &n.to_string()).unwrap();
    }
    assert_eq!(one.watch("x", "3"), Err(Errno::E2BIG));
    let first = one.begin().unwrap();
    one.begin().unwrap();
    assert_eq!(one.begin(), Err(Errno::ENOSPC));
    // Two transactions do not exceed together what each keeps.
    one.remove(NOW, "more").unwrap();
    one.abort(first).unwrap();
    let t = one.begin().unwrap();
    one.write(t, "last", b"").unwrap();
    one.write(NOW, "other", b"").unwrap();
    assert!(matches!(one.commit(t), Err(Errno::ENOSPC | Errno::EAGAIN)));
    let many: Vec<_> = (0..17).map(|n| Permission::new(DomainId::new(n), Rights::READ)).collect();
    let mut many = many;
    many[0].domain = DomainId::new(1);
    assert_eq!(one.set_permissions(NOW, "n1", &many), Err(Errno::ENOSPC));
    // Privileged clients are not bound.
    for n in 0..30 {
        dom0(&server).write(NOW, &format!("/local/domain/1/d{n}"), &[0; 200]).unwrap();
    }
}

#[test]
fn a_guest_that_does_not_listen_costs_a_bounded_amount() {
    let server = server();
    let mut one = guest(&server, 1);
    one.watch("data", "t").unwrap();
    for n in 0..800 {
        one.write(NOW, &format!("data/{n}"), b"").unwrap();
        one.write(NOW, &format!("data/{n}"), b"again").unwrap();
    }
    let heard = events(&mut one);
    assert!(heard.len() <= 513, "{}", heard.len());
    // One says: look at everything.
    assert!(heard.iter().any(|(path, _)| path == "data"));
}

#[test]
fn long_lists_come_in_parts() {
    let server = server();
    let mut store = dom0(&server);
    let names: Vec<String> = (0..900).map(|n| format!("a-rather-long-name-{n:04}")).collect();
    for name in &names {
        store.write(NOW, &format!("/many/{name}"), b"").unwrap();
    }
    assert_eq!(store.list(NOW, "/many").unwrap(), names);
    store.write(NOW, "/few/x", b"").unwrap();
    let id = server.lock().connect(DomainId::DOM0, true);
    let part = server.lock().call_local(id, kind::DIRECTORY_PART, NOW, b"/few\x000\0").unwrap();
    assert!(part.ends_with(b"\0x\0\0"));
    store.make(NOW, "/none").unwrap();
    let part = server.lock().call_local(id, kind::DIRECTORY_PART, NOW, b"/none\x000\0").unwrap();
    assert!(part.ends_with(b"\0\0"));
}

#[test]
fn malformed_messages_are_refused() {
    let server = server();
    let id = server.lock().connect(DomainId::new(1), false);
    let call = |kind, payload: &[u8]| server.lock().call_local(id, kind, NOW, payload);
    for kind in [
        kind::READ,
        kind::DIRECTORY,
        kind::GET_PERMS,
        kind::WRITE,
        kind::MKDIR,
        kind::RM,
        kind::SET_PERMS,
        kind::WATCH,
        kind::UNWATCH,
        kind::TRANSACTION_END,
        kind::DIRECTORY_PART,
        kind::GET_DOMAIN_PATH,
        kind::IS_DOMAIN_INTRODUCED,
    ] {
        for payload in [&b""[..], b"x", b"/a\0b\0c\0d\0", b"\xff\xff\0", b"/a"] {
            let result = call(kind, payload);
            assert!(result.is_err(), "{kind} {payload:?} {result:?}");
        }
    }
    for kind in [kind::INTRODUCE, kind::RELEASE, kind::RESUME, kind::CONTROL] {
        assert_eq!(call(kind, b"1\x002\x003\0"), Err(Errno::EACCES));
    }
    for kind in [kind::SET_TARGET, kind::WATCH_EVENT, kind::ERROR, 20, 23, kind::INVALID, u32::MAX] {
        assert_eq!(call(kind, b"1\0"), Err(Errno::ENOSYS));
    }
    assert_eq!(call(kind::GET_DOMAIN_PATH, b"7\0").unwrap(), b"/local/domain/7\0");
    assert_eq!(call(kind::IS_DOMAIN_INTRODUCED, b"7\0").unwrap(), b"F\0");
    assert_eq!(call(kind::IS_DOMAIN_INTRODUCED, b"1\0").unwrap(), b"T\0");
}

#[test]
fn reset_forgets_watches_and_transactions() {
    let server = server();
    let mut one = guest(&server, 1);
    one.watch("x", "t").unwrap();
    events(&mut one);
    let t = one.begin().unwrap();
    one.reset_for_test();
    one.write(NOW, "x", b"").unwrap();
    assert_eq!(events(&mut one), []);
    assert_eq!(one.commit(t), Err(Errno::ENOENT));
}

#[test]
fn introduce_and_release_are_passed_on() {
    let server = server();
    let id = server.lock().connect(DomainId::DOM0, true);
    server.lock().call_local(id, kind::INTRODUCE, NOW, b"5\x001234\x007\0").unwrap();
    let wanted = Action::Introduce { domain: DomainId::new(5), port: pv_abi::ids::Port::new(7) };
    assert_eq!(server.lock().next_action(), Some(wanted));
    assert_eq!(server.lock().call_local(id, kind::RELEASE, NOW, b"5\0"), Err(Errno::ENOENT));
    let other = server.lock().connect(DomainId::new(5), false);
    server.lock().call_local(id, kind::RELEASE, NOW, b"5\0").unwrap();
    assert_eq!(server.lock().next_action(), Some(Action::Release { domain: DomainId::new(5) }));
    server.lock().disconnect(other);
}
