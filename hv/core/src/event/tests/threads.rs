//! Senders, binders and guests at the same time.

use super::*;
use core::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc;
use std::thread;

#[test]
fn a_guest_that_takes_while_others_send_sees_every_count() {
    const SENDERS: usize = 4;
    const EACH: u64 = 5_000;
    let world = World::new(2, 1);
    world.start_fifo(1, 1);
    let ends: Vec<_> = (0..SENDERS).map(|_| world.connect(1, 2)).collect();
    let counts: Vec<_> = (0..SENDERS).map(|_| AtomicU64::new(0)).collect();
    // What a wake does: the guest looks once for each message.
    let (upcall, upcalls) = mpsc::channel();
    let mut guest = FifoGuest::new(&world.memory, 1, 0);
    guest.take();
    thread::scope(|scope| {
        for (index, (_, here)) in ends.iter().enumerate() {
            let (world, counts, upcall) = (&world, &counts, upcall.clone());
            scope.spawn(move || {
                for _ in 0..EACH {
                    counts[index].fetch_add(1, SeqCst);
                    if world.send(2, *here).upcalls.contains(0) {
                        upcall.send(()).unwrap();
                    }
                }
            });
        }
        drop(upcall);
        let mut seen = [0; SENDERS];
        while upcalls.recv().is_ok() {
            for port in guest.take() {
                let index = ends.iter().position(|(there, _)| *there == port).unwrap();
                seen[index] = counts[index].load(SeqCst);
            }
        }
        assert_eq!(seen, [EACH; SENDERS], "an event was lost");
    });
}

#[test]
fn closing_from_both_ends_and_binding_again_leaves_pairs() {
    let world = World::new(2, 1);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for (own, other) in [(1, 2), (2, 1)] {
            let (world, stop) = (&world, &stop);
            scope.spawn(move || {
                let table = world.table(own);
                for round in 0..3_000u32 {
                    let port = p(1 + round % 8);
                    match round % 4 {
                        0 => drop(table.alloc_unbound(&world.memory, d(other))),
                        1 => drop(table.bind_interdomain(&world.memory, world.table(other), port)),
                        2 => {
                            if let Ok(Sent::There { domain, port }) = table.send(&world.memory, port) {
                                let _ = world.tables[&domain].deliver(&world.memory, port, d(own));
                            }
                        }
                        _ => drop(table.close(&world.memory, world, port)),
                    }
                    if table.bound().len() > 100 {
                        let _ = world.reset(own);
                    }
                }
                stop.store(true, SeqCst);
            });
        }
    });
    assert!(stop.load(SeqCst));
    for (own, other) in [(1, 2), (2, 1)] {
        for (port, status) in world.table(own).bound() {
            if let ChannelState::Interdomain { remote, port: there } = status.state {
                assert_eq!(remote, d(other));
                let back = world.table(other).status(there).unwrap().state;
                assert_eq!(back, ChannelState::Interdomain { remote: d(own), port });
            }
        }
    }
}
