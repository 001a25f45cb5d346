//! Bad pointers: every call that takes one refuses it, before it has done anything.

use super::world::{HOLE, READ_ONLY};
use super::*;
use pv_abi::call::Row;
use pv_abi::{Errno, ROWS};

/// The registers of a call all of whose pointers are `pointer`, and whether it has any that it uses.
fn registers(row: &Row, pointer: u64) -> ([u64; 5], bool, bool) {
    let mut words = [0; 5];
    let mut at = 0;
    if let Some(sub) = row.sub {
        words[0] = sub;
        at = 1;
    }
    let (mut reads, mut writes) = (false, false);
    for arg in row.args {
        let kind = arg.kind.split('<').next().unwrap().trim();
        match kind {
            "In" => (words[at], reads) = (pointer, true),
            "InOut" => (words[at], reads, writes) = (pointer, true, true),
            "Out" => (words[at], writes) = (pointer, true),
            "Array" => (words[at], words[at + 1], reads, writes) = (pointer, 1, true, true),
            "Text" => (words[at], words[at + 1], reads) = (1, pointer, true),
            "Buffer" => (words[at], words[at + 1], writes) = (1, pointer, true),
            "Word" | "Ptr" => {}
            other => panic!("unknown kind {other}"),
        }
        at += arg.words;
    }
    (words, reads, writes)
}

#[test]
fn every_call_refuses_pointers_to_nowhere() {
    let world = World::new();
    let dom0 = world.guest("dom0");
    let mut tried = 0;
    for pointer in [HOLE, 0x8000_0000_0000, 0xffff_ffff_ffff_fff0, u64::MAX, HOLE - 1, 0x7fff_ffff_ffff] {
        for row in ROWS {
            let (words, reads, writes) = registers(row, pointer);
            // One byte before the hole is enough for those who take a byte.
            let small = row.args.iter().any(|arg| arg.kind == "Text" || arg.kind == "Buffer");
            if (reads || writes) && !(small && pointer == HOLE - 1) {
                tried += 1;
                let result = dom0.raw(row.number, words);
                assert_eq!(result, Errno::EFAULT.to_return(), "{} at {pointer:#x}", row.name);
            }
        }
    }
    assert!(tried > 300, "only {tried} calls");
}

#[test]
fn every_call_that_writes_refuses_read_only_memory() {
    let world = World::new();
    let dom0 = world.guest("dom0");
    let ports_before = dom0.domain.events.bound().len();
    let mut tried = 0;
    for row in ROWS {
        let (words, _, writes) = registers(row, READ_ONLY);
        // Arrays are written element by element, after the work on each.
        if writes && !row.args.iter().any(|arg| arg.kind.starts_with("Array")) {
            tried += 1;
            assert_eq!(dom0.raw(row.number, words), Errno::EFAULT.to_return(), "{}", row.name);
        }
    }
    assert!(tried > 20, "only {tried} calls");
    assert_eq!(dom0.domain.events.bound().len(), ports_before, "a refused call has no effect");
}

#[test]
fn nested_pointers_are_checked_too() {
    let world = World::new();
    let a = world.guest("a");
    use pv_abi::ids::{DomainId, GuestVirt};
    use pv_abi::memory::{MemoryMap, Reservation};
    use pv_abi::{sched, stub};
    let nowhere = GuestVirt::new(HOLE);
    let reservation =
        Reservation { extent_start: nowhere, nr_extents: 1, domid: DomainId::SELF, ..Default::default() };
    assert_eq!(stub::memory_populate(&a, &reservation), Err(Errno::EFAULT));
    assert_eq!(stub::memory_decrease(&a, &reservation), Err(Errno::EFAULT));
    let mut map = MemoryMap { nr_entries: 4, buffer: nowhere, ..Default::default() };
    assert_eq!(stub::memory_map(&a, &mut map), Err(Errno::EFAULT));
    let poll = sched::Poll { ports: nowhere, nr_ports: 1, ..Default::default() };
    assert_eq!(stub::sched_poll(&a, &poll), Err(Errno::EFAULT));
    assert!(!a.vcpu.entity.is_blocked());
    let area = pv_abi::vcpu::RegisterArea { addr: nowhere };
    assert_eq!(stub::vcpu_register_runstate(&a, pv_abi::VcpuId::new(0), &area), Err(Errno::EFAULT));
}
