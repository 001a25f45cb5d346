//! Client and server over a ring page.

use std::boxed::Box;
use std::format;
use std::sync::Mutex as StdMutex;
use std::vec;

use proptest::prelude::*;
use pv_abi::io::xs_wire::{self, CONNECTION, Header, RECONNECT, REQ_PROD, RSP_CONS, RSP_PROD, kind};
use zerocopy::IntoBytes;

use super::super::connection::Fault;
use super::*;
use crate::mock::{Domain, Machine, Memory};
use crate::platform::{Access, Platform, SharedMemory};
use crate::ring::{StreamLayout, StreamWriter};

type Connection = Arc<StdMutex<RingConnection<Domain>>>;

struct Pair {
    client: XsClient<Domain>,
    connection: Connection,
    /// Another view of the page, for mischief.
    page: Memory,
}

fn pair(server: &Shared) -> Pair {
    let machine = Machine::new();
    let (guest, dom0) = (machine.domain(1), machine.domain(0));
    let page = guest.allocate(1).unwrap();
    let grant = guest.grant(dom0.id, &page, 0, Access::ReadWrite).unwrap();
    let unbound = guest.alloc_unbound(dom0.id).unwrap();
    let map = || dom0.map(guest.id, &[grant], Access::ReadWrite).unwrap();
    let port = dom0.bind_interdomain(guest.id, unbound).unwrap();
    let home = path::domain_home(guest.id);
    let mut local = super::dom0(server);
    local.make(NOW, &home).unwrap();
    local.set_permissions(NOW, &home, &[Permission::new(guest.id, Rights::NONE)]).unwrap();
    let connection = RingConnection::new(&dom0, server, guest.id, map(), port);
    let connection = Arc::new(StdMutex::new(connection));
    let other = connection.clone();
    let wait = Box::new(move |_| {
        other.lock().unwrap().poll();
    });
    let view = map();
    Pair { client: XsClient::new(&guest, adopt(page), unbound, wait), connection, page: view }
}

/// The page lives as long as its guest: it is never given back.
fn adopt(page: Memory) -> Memory {
    let other = page.clone_for_test();
    core::mem::forget(page);
    other
}

#[test]
fn a_guest_uses_the_store_through_its_ring() {
    let server = server();
    let Pair { mut client, connection, .. } = pair(&server);
    client.write(NOW, "data/x", b"hello").unwrap();
    assert_eq!(client.read(NOW, "data/x").unwrap(), b"hello");
    assert_eq!(client.read(NOW, "data/y"), Err(Errno::ENOENT));
    // Longer than the ring.
    let value = vec![b'v'; 2000];
    client.write(NOW, "data/long", &value).unwrap();
    assert_eq!(client.read(NOW, "data/long").unwrap(), value);
    assert_eq!(client.list(NOW, "data").unwrap(), ["long", "x"]);
    let result = in_transaction(&mut client, |store, t| store.write(t, "data/t", b"1"));
    assert_eq!(result, Ok(()));
    client.watch("data", "token").unwrap();
    assert_eq!(client.next_event().unwrap().path, "data");
    super::dom0(&server).write(NOW, "/local/domain/1/data/x", b"2").unwrap();
    connection.lock().unwrap().poll();
    let event = client.next_event().unwrap();
    assert_eq!((event.path.as_str(), event.token.as_str()), ("data/x", "token"));
    assert_eq!(client.write(NOW, "/elsewhere", b""), Err(Errno::EACCES));
    let long = "x".repeat(5000);
    assert_eq!(client.write(NOW, &long, b""), Err(Errno::E2BIG));
}

#[test]
fn long_lists_pass_through_a_ring() {
    let server = server();
    let Pair { mut client, .. } = pair(&server);
    let names: Vec<String> = (0..400).map(|n| format!("some-name-to-fill-the-list-{n:03}")).collect();
    for name in &names {
        client.write(NOW, &format!("data/{name}"), b"").unwrap();
    }
    assert_eq!(client.list(NOW, "data").unwrap(), names);
}

#[test]
fn requests_may_be_sent_before_answers_are_read() {
    let server = server();
    let Pair { mut client, connection, .. } = pair(&server);
    let ids: Vec<_> =
        (0..50).map(|n| client.send(kind::WRITE, NOW, format!("k{n}\0v").as_bytes()).unwrap()).collect();
    for id in ids {
        loop {
            if let Some(reply) = client.take_reply(id) {
                assert_eq!(reply.unwrap(), b"OK\0");
                break;
            }
            connection.lock().unwrap().poll();
            client.poll();
        }
    }
}

#[test]
fn a_message_that_claims_to_be_too_long_closes_the_connection() {
    let server = server();
    let Pair { connection, page, .. } = pair(&server);
    let header = Header { kind: kind::READ, req_id: 1, tx_id: 0, len: 4097 };
    StreamWriter::attach(StreamLayout::STORE_REQ, &page).write(&page, header.as_bytes()).unwrap();
    let wanted = Progress::Dead(Fault::TooLong { len: 4097 });
    assert_eq!(connection.lock().unwrap().poll(), wanted);
    assert_eq!(page.read_u32(xs_wire::ERROR), xs_wire::ERROR_PROTO);
    assert_eq!(connection.lock().unwrap().poll(), wanted);
}

#[test]
fn runaway_indices_close_the_connection_and_a_reconnection_opens_it() {
    for (index, value) in [(REQ_PROD, 5000), (RSP_CONS, 5000)] {
        let server = server();
        let Pair { mut client, connection, page } = pair(&server);
        client.watch("x", "t").unwrap();
        page.write_u32(index, value);
        // Something to say, so that both directions are looked at.
        super::dom0(&server).write(NOW, "/local/domain/1/x", b"").unwrap();
        assert!(matches!(connection.lock().unwrap().poll(), Progress::Dead(Fault::Ring(_))));
        assert_eq!(page.read_u32(xs_wire::ERROR), xs_wire::ERROR_RINGIDX);
        page.write_u32(CONNECTION, RECONNECT);
        assert_eq!(connection.lock().unwrap().poll(), Progress::Idle);
        assert_eq!(page.read_u32(CONNECTION), xs_wire::CONNECTED);
        assert_eq!(page.read_u32(xs_wire::ERROR), xs_wire::ERROR_NONE);
        assert_eq!(page.read_u32(RSP_PROD), 0);
    }
}

#[test]
fn a_guest_that_reads_no_answers_stops_being_served() {
    let server = server();
    let Pair { connection, page, .. } = pair(&server);
    let mut writer = StreamWriter::attach(StreamLayout::STORE_REQ, &page);
    let header = Header { kind: kind::GET_DOMAIN_PATH, req_id: 1, tx_id: 0, len: 2 };
    let message = [header.as_bytes(), b"1\0"].concat();
    let mut sent = 0;
    for _ in 0..1000 {
        sent += writer.write(&page, &message).unwrap();
        if connection.lock().unwrap().poll() == Progress::Idle && writer.free(&page).unwrap() < 18 {
            break;
        }
    }
    // Both rings are full and at most one message is in between.
    assert!(sent < 3 * 1024, "{sent}");
}

#[test]
fn a_server_that_lies_is_given_up() {
    type Mischief = fn(&Memory);
    let cases: [Mischief; 3] = [
        |page| page.write_u32(RSP_PROD, 5000),
        |page| page.write_u32(xs_wire::REQ_CONS, 77),
        |page| {
            let header = Header { kind: kind::READ, req_id: 1, tx_id: 0, len: 1 << 20 };
            StreamWriter::attach(StreamLayout::STORE_RSP, page).write(page, header.as_bytes()).unwrap();
        },
    ];
    for mischief in cases {
        let server = server();
        let Pair { mut client, page, .. } = pair(&server);
        mischief(&page);
        assert_eq!(client.read(NOW, "x"), Err(Errno::EIO));
        assert_eq!(client.send(kind::READ, NOW, b"x\0").err(), Some(Errno::EIO));
    }
}

#[test]
fn answers_to_nothing_are_dropped() {
    let server = server();
    let Pair { mut client, page, connection } = pair(&server);
    let mut writer = StreamWriter::attach(StreamLayout::STORE_RSP, &page);
    let header = Header { kind: kind::READ, req_id: 99, tx_id: 0, len: 0 };
    writer.write(&page, header.as_bytes()).unwrap();
    client.poll();
    assert!(client.next_event().is_none());
    drop(connection);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes in a guest's ring are survived.
    #[test]
    fn any_bytes_are_survived(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20)) {
        let server = server();
        let Pair { connection, page, .. } = pair(&server);
        let mut writer = StreamWriter::attach(StreamLayout::STORE_REQ, &page);
        for piece in pieces {
            // Lengths small enough that messages are whole now and then.
            let mut piece = piece;
            for byte in piece.iter_mut().skip(13).step_by(16) {
                *byte = 0;
            }
            if writer.write(&page, &piece).is_err() {
                break;
            }
            for _ in 0..3 {
                connection.lock().unwrap().poll();
            }
        }
        prop_assert_eq!(super::dom0(&server).list(NOW, "/").unwrap(), ["local"]);
    }
}
