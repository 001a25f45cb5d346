//! What a guest that wants too much gets: an error, and nobody waits for it.

use super::*;
use crate::domain::Progress;
use core::sync::atomic::Ordering::Relaxed;
use pv_abi::call::{MulticallEntry, number};
use pv_abi::event::{self, AllocUnbound};
use pv_abi::grant::{GrantStatus, SetupTable};
use pv_abi::ids::{DomainId, Port};
use pv_abi::{Errno, stub};
use std::string::ToString;
use std::vec;
use std::vec::Vec;

/// Lets guests fill the hypervisor's heap by so many bytes.
fn set_room(world: &World, bytes: usize) {
    world.system.memory().heap_room.store(bytes, Relaxed);
}

/// Allocates ports until that is refused.
fn use_up_ports(guest: &Guest<'_>) -> (usize, Errno) {
    let mut count = 0;
    loop {
        let mut alloc = AllocUnbound { remote_dom: DomainId::DOM0, ..AllocUnbound::default() };
        match stub::evtchn_alloc_unbound(guest, &mut alloc) {
            Ok(_) => count += 1,
            Err(errno) => return (count, errno),
        }
    }
}

#[test]
fn what_a_guest_makes_longer_leaves_the_hypervisor_its_heap() {
    let world = World::new();
    let a = world.guest("a");
    set_room(&world, 10_000);
    // A list doubles: one of 512 ports of 16 bytes fits, one of 1,024 does not.
    let (ports, errno) = use_up_ports(&a);
    assert_eq!(errno, Errno::ENOMEM);
    assert!((255..=512).contains(&ports), "{ports}");
    let frames = a.put(&[0_u64; 64][..]);
    let mut setup =
        [SetupTable { dom: DomainId::SELF, nr_frames: 64, frame_list: frames, ..SetupTable::default() }];
    stub::grant_setup_table(&a, &mut setup).unwrap();
    assert_eq!(setup[0].status, GrantStatus::GENERAL_ERROR);
    set_room(&world, 0);
    let control = a.page();
    let mut init = event::InitControl { control_gfn: control, ..Default::default() };
    assert_eq!(stub::evtchn_init_control(&a, &mut init), Err(Errno::ENOMEM));
    let idle = world.system.ram().references(world::machine_page(&a, control));
    // All of it works where there is room again.
    set_room(&world, usize::MAX);
    assert_eq!(use_up_ports(&a), (4095 - ports, Errno::ENOSPC));
    stub::grant_setup_table(&a, &mut setup).unwrap();
    assert_eq!(setup[0].status, GrantStatus::OKAY);
    stub::evtchn_init_control(&a, &mut init).unwrap();
    assert_eq!(world.system.ram().references(world::machine_page(&a, control)), idle + 1);
    assert_eq!(use_up_ports(&a).1, Errno::ENOSPC, "no more than it has pages");
}

#[test]
fn no_domain_is_made_without_room_for_it() {
    let world = World::new();
    set_room(&world, 64 << 10);
    let refused = crate::build::create(&world.system, "a", None).err().unwrap();
    assert_eq!(refused.errno(), Errno::ENOMEM);
    assert!(refused.to_string().contains("memory of its own"), "{refused}");
    set_room(&world, 1 << 20);
    let _made = world.guest("a");
}

#[test]
fn closing_many_ports_gives_way_to_others() {
    let world = World::new();
    let (a, dom0) = (world.guest("a"), world.guest("dom0"));
    assert_eq!(use_up_ports(&a), (4095, Errno::ENOSPC));
    stub::evtchn_reset(&a, &event::Reset { dom: DomainId::SELF }).unwrap();
    assert_eq!(a.preemptions.get(), 3);
    assert!(a.domain.events.bound().is_empty());
    assert_eq!(use_up_ports(&a), (4095, Errno::ENOSPC));
    // A domain that ends with as many.
    let mut steps = 0;
    while crate::domain::destroy(&world.system, &a.domain) == Ok(Progress::Again) {
        steps += 1;
    }
    assert!(steps >= 3, "{steps}");
    let port = Port::new(4095);
    let mut bind =
        event::BindInterdomain { remote_dom: a.domain.id, remote_port: port, ..Default::default() };
    assert_eq!(stub::evtchn_bind_interdomain(&dom0, &mut bind), Err(Errno::ESRCH));
}

#[test]
fn a_list_of_slow_calls_gives_way_to_others() {
    let world = World::new();
    let a = world.guest("a");
    let mut calls: Vec<_> = vec![MulticallEntry { op: number::XEN_VERSION, args: [0; 6], result: 9 }; 64];
    stub::multicall(&a, &mut calls).unwrap();
    assert_eq!(a.preemptions.get(), 0);
    world.system.platform.step.store(world.system.scheduler.slice(), Relaxed);
    stub::multicall(&a, &mut calls).unwrap();
    assert_eq!(a.preemptions.get(), 7);
    assert!(calls.iter().all(|call| call.result == u64::from(pv_abi::version::VERSION)));
}

#[test]
fn a_guest_that_floods_the_console_gives_way_to_others() {
    let world = World::new();
    let (a, dom0) = (world.guest("a"), world.guest("dom0"));
    let text = [b'x'; 1024];
    stub::console_write(&a, &text).unwrap();
    stub::console_write(&dom0, &text).unwrap();
    assert_eq!((a.preemptions.get(), dom0.preemptions.get()), (7, 0));
}
