//! A front end of a 32-bit kernel.

use pv_abi::ia32::blkif::{DiscardRequest, IndirectRequest, Request as RingRequest, Response};
use pv_abi::io::blkif::{OP_DISCARD, OP_INDIRECT, OP_READ, OP_WRITE, RSP_ERROR, RSP_OKAY, key};
use zerocopy::{FromBytes, IntoBytes};

use super::hostile_front::{Attacker, publish, unconnected};
use super::*;
use crate::platform::SharedMemory;
use crate::xs::TransactionId;

const PATTERN: [u8; 512] = [0x5a; 512];

fn narrow() -> Attacker {
    let mut front = unconnected(Options::default(), "w", size_of::<RingRequest>());
    let dir = frontend_dir(GUEST, "vbd", 51712);
    let protocol = std::format!("{dir}/{}", key::PROTOCOL);
    front.guest_store.write(TransactionId::NONE, &protocol, key::PROTOCOL_X86_32.as_bytes()).unwrap();
    let port = front.guest.alloc_unbound(DomainId::DOM0).unwrap();
    let grant = front.ring.grants()[0].raw();
    publish(&mut front, &[("ring-ref", grant.into()), ("event-channel", port.raw().into())]);
    assert!(front.back.is_connected(), "{:?}", front.back.failure());
    front
}

fn send<T: zerocopy::IntoBytes + zerocopy::Immutable>(front: &mut Attacker, request: &T) -> (u64, u8, i16) {
    front.ring.push(request).unwrap();
    let _ = front.ring.publish();
    while front.back.poll() == Progress::More {}
    let (_, Response { id, operation, status, .. }) = front.ring.pop().unwrap().expect("an answer");
    (id.get(), operation, status)
}

#[test]
fn a_narrow_front_end_reads_and_writes_what_it_means() {
    let mut front = narrow();
    front.data.memory().copy_in(0, &PATTERN);
    let mut write = RingRequest {
        operation: OP_WRITE,
        nr_segments: 1,
        id: (7 << 40 | 9).into(),
        sector_number: 2000.into(),
        ..RingRequest::default()
    };
    write.seg[0] = front.segment(0, 0);
    assert_eq!(send(&mut front, &write), (7 << 40 | 9, OP_WRITE, RSP_OKAY));
    // Into the next sector of the page, by segments in a page of their own.
    let segments = [front.segment(1, 1)];
    front.data.memory().copy_in(4096, segments.as_bytes());
    let mut read = IndirectRequest {
        operation: OP_INDIRECT,
        indirect_op: OP_READ,
        nr_segments: 1,
        id: 3.into(),
        sector_number: 2000.into(),
        ..IndirectRequest::default()
    };
    read.indirect_grefs[0] = front.data.grants()[1].raw();
    let (read, _) = RingRequest::read_from_prefix(&[read.as_bytes(), &[0; 64]].concat()).unwrap();
    assert_eq!(send(&mut front, &read), (3, OP_READ, RSP_OKAY));
    let mut seen = [0; 512];
    front.data.memory().copy_out(512, &mut seen);
    assert_eq!(seen, PATTERN);
    front.end();
}

#[test]
fn a_narrow_front_end_is_checked_as_any_other() {
    let mut front = narrow();
    let beyond = DiscardRequest {
        operation: OP_DISCARD,
        id: 1.into(),
        sector_number: 2048.into(),
        nr_sectors: 1.into(),
        ..DiscardRequest::default()
    };
    assert_eq!(send(&mut front, &beyond), (1, OP_DISCARD, RSP_ERROR));
    let mut read =
        RingRequest { operation: OP_READ, nr_segments: 12, id: 2.into(), ..RingRequest::default() };
    assert_eq!(send(&mut front, &read), (2, OP_READ, RSP_ERROR));
    read.nr_segments = 1;
    read.seg[0] = front.segment(7, 9);
    assert_eq!(send(&mut front, &read), (2, OP_READ, RSP_ERROR));
    front.end();
}
