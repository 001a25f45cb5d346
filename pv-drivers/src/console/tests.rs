use std::string::String;
use std::vec::Vec;

use pv_abi::io::console::OUT_PROD;

use super::*;
use crate::mock::{Domain, Machine};
use crate::platform::{Access, Platform, SharedMemory};

fn pair(machine: &Machine, limit: Limit) -> (ConsoleFront<Domain>, ConsoleBack<Domain>) {
    let (guest, dom0) = (machine.domain(1), machine.domain(0));
    let page = guest.allocate(1).unwrap();
    let grant = guest.grant(dom0.id, &page, 0, Access::ReadWrite).unwrap();
    let unbound = guest.alloc_unbound(dom0.id).unwrap();
    let mapped = dom0.map(guest.id, &[grant], Access::ReadWrite).unwrap();
    let port = dom0.bind_interdomain(guest.id, unbound).unwrap();
    let back = ConsoleBack::new(&dom0, guest.id, mapped, port, limit);
    (ConsoleFront::new(&guest, page, unbound), back)
}

fn shown(back: &mut ConsoleBack<Domain>) -> (Vec<u8>, Progress) {
    let mut bytes = Vec::new();
    let progress = back.poll(&mut |piece| bytes.extend_from_slice(piece));
    (bytes, progress)
}

/// The console page stays granted for the life of a guest.
fn forget(front: ConsoleFront<Domain>) {
    core::mem::forget(front);
}

#[test]
fn text_goes_both_ways_and_over_the_end_of_the_ring() {
    let machine = Machine::new();
    let (mut front, mut back) = pair(&machine, Limit::default());
    let text: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
    let (mut sent, mut got) = (0, Vec::new());
    while got.len() < text.len() {
        sent += front.write(&text[sent..]);
        got.extend(shown(&mut back).0);
    }
    assert_eq!(got, text);
    back.send(b"echo hello\n");
    let mut typed = [0; 64];
    let count = front.read(&mut typed);
    assert_eq!(&typed[..count], b"echo hello\n");
    forget(front);
}

#[test]
fn a_guest_that_writes_too_fast_waits() {
    let machine = Machine::new();
    let (mut front, mut back) = pair(&machine, Limit { bytes_per_second: 1000, burst: 800 });
    assert_eq!(front.write(&[b'x'; 2000]), 2000);
    let (bytes, progress) = shown(&mut back);
    assert_eq!(bytes.len(), 800);
    let Progress::Throttled(until) = progress else { panic!("{progress:?}") };
    machine.advance(until.raw());
    assert_eq!(shown(&mut back).0.len(), 100);
    machine.advance(10_000_000_000);
    assert_eq!(shown(&mut back).0.len(), 800);
    forget(front);
}

#[test]
fn a_guest_with_a_runaway_index_loses_its_console() {
    let machine = Machine::new();
    let (mut front, mut back) = pair(&machine, Limit::default());
    front.write(b"x");
    back.page_for_test().write_u32(OUT_PROD, 5000);
    assert!(matches!(shown(&mut back).1, Progress::Dead(_)));
    back.send(b"lost");
    assert_eq!(front.read(&mut [0; 4]), 0);
    forget(front);
}

#[test]
fn logs_are_lines_of_plain_text() {
    let mut splitter = LineSplitter::new(10);
    let mut lines: Vec<String> = Vec::new();
    splitter.push(b"one\r\n\x1b[2J\x1b[31mtwo\x07\n01234567", &mut |line| lines.push(line.into()));
    splitter.push(b"89abc", &mut |line| lines.push(line.into()));
    splitter.flush(&mut |line| lines.push(line.into()));
    assert_eq!(lines, ["one", "two?", "0123456789", "abc"]);
}
