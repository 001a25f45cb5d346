//! Identity, parameters, vCPUs, consoles, several calls in one, and control.

use super::*;
use crate::call::After;
use crate::domain::{Format, Phase};
use crate::hw::{Platform, PowerAction, Rights};
use crate::mem::Physical;
use crate::testing::TestMachine;
use crate::time::Slot;
use crate::vcpu::Reason;
use pv_abi::call::{MulticallEntry, number};
use pv_abi::control::{self, Created, DomainInfo, Schedule, Statistics, TraceRecord, VcpuState};
use pv_abi::hvm::{EvtchnUpcallVector, GetTime, Param, param};
use pv_abi::ids::{DomainId, Gfn, GuestVirt, VcpuId};
use pv_abi::vcpu::{
    HvmContext, HvmRegisters, HvmX86_64, RegisterArea, RegisterVcpuInfo, RunstateInfo, SetSingleshotTimer,
    runstate,
};
use pv_abi::version::{FeatureInfo, Features, VERSION};
use pv_abi::{Call, Errno, memory, physdev, stub};
use std::string::String;
use std::vec;

#[test]
fn a_guest_learns_who_the_hypervisor_is() {
    let world = World::new();
    let (dom0, a) = (world.guest("dom0"), world.guest("a"));
    assert_eq!(stub::version_number(&a), Ok(u64::from(VERSION)));
    let mut extra = [0xff; 16];
    stub::version_extra(&a, &mut extra).unwrap();
    assert_eq!(&extra[..11], b"-xenolith\0\0");
    let mut capabilities = [0xff; 1024];
    stub::version_capabilities(&a, &mut capabilities).unwrap();
    assert!(capabilities.starts_with(b"hvm-3.0-x86_64\0") && capabilities[1023] == 0);
    assert_eq!(stub::version_pagesize(&a), Ok(4096));
    assert_eq!(stub::version_build_id(&a, GuestVirt::NULL), Err(Errno::ENODATA));
    let features = |guest: &Guest<'_>| {
        let mut info = FeatureInfo::default();
        stub::version_features(guest, &mut info).unwrap();
        Features::from_bits_retain(info.submap)
    };
    assert!(features(&a).contains(Features::AUTO_TRANSLATED_PHYSMAP | Features::NOT_DIRECT_MAPPED));
    assert!(features(&dom0).contains(Features::DOM0 | Features::DIRECT_MAPPED));
    assert_eq!(stub::version_features(&a, &mut FeatureInfo { submap_idx: 1, submap: 0 }), Err(Errno::EINVAL));
    let mut line = [0; 1024];
    assert_eq!(stub::version_commandline(&a, &mut line), Err(Errno::EPERM));
    stub::version_commandline(&dom0, &mut line).unwrap();
    assert!(line.starts_with(b"loglevel=debug\0"));
}

#[test]
fn what_is_not_in_the_table_is_refused_and_counted() {
    let world = World::new();
    let a = world.guest("a");
    let enosys = Errno::ENOSYS.to_return();
    for (number, sub) in [(0, 0), (63, 0), (64, 0), (u64::MAX, 0), (number::SCHED_OP, 6), (number::HVM_OP, 9)]
    {
        assert_eq!(a.raw(number, [sub, 0, 0, 0, 0]), enosys, "{number} {sub}");
    }
    assert_eq!(a.vcpu.stats.unknown_calls.get(), 6);
    stub::version_number(&a).unwrap();
    stub::version_number(&a).unwrap();
    assert_eq!(a.vcpu.stats.calls_of(Call::VersionNumber), 2);
}

#[test]
fn user_programs_make_no_calls() {
    let world = World::new();
    let a = world.guest("a");
    a.set_level(&mut a.vcpu.context.lock().hw, 3);
    assert_eq!(stub::version_number(&a), Err(Errno::EPERM));
    a.set_level(&mut a.vcpu.context.lock().hw, 0);
    assert!(stub::version_number(&a).is_ok());
}

#[test]
fn parameters_have_owners() {
    let world = World::new();
    let (dom0, a) = (world.guest("dom0"), world.guest("a"));
    let get = |guest: &Guest<'_>, domid, index| {
        let mut param = Param { domid, index, ..Default::default() };
        stub::hvm_get_param(guest, &mut param).map(|_| param.value)
    };
    let set = |guest: &Guest<'_>, domid, index, value| {
        stub::hvm_set_param(guest, &Param { domid, index, value, ..Default::default() })
    };
    let store = get(&a, DomainId::SELF, param::STORE_PFN).unwrap();
    assert_ne!(store, 0);
    assert_eq!(get(&dom0, a.domain.id, param::STORE_PFN), Ok(store));
    assert_eq!(get(&a, dom0.domain.id, param::STORE_PFN), Err(Errno::EPERM));
    assert_eq!(get(&a, DomainId::SELF, param::COUNT), Err(Errno::EINVAL));
    assert_eq!(set(&a, DomainId::SELF, param::STORE_PFN, 1), Err(Errno::EPERM));
    assert_eq!(set(&a, DomainId::SELF, param::COUNT, 1), Err(Errno::EINVAL));
    a.vcpu.attention.take(Reason::all());
    set(&a, DomainId::SELF, param::CALLBACK_IRQ, (2 << 56) | 0xf3).unwrap();
    assert!(a.vcpu.attention.peek().contains(Reason::UPCALL));
    assert_eq!(set(&a, DomainId::SELF, param::CALLBACK_IRQ, (2 << 56) | 3), Err(Errno::EINVAL));
    assert_eq!(set(&a, DomainId::SELF, param::CALLBACK_IRQ, 4 << 56), Err(Errno::EINVAL));
    set(&a, DomainId::SELF, param::CALLBACK_IRQ, 1).unwrap();

    let vector = |vcpu, vector| EvtchnUpcallVector { vcpu, vector, ..Default::default() };
    stub::hvm_set_upcall_vector(&a, &vector(1, 0x40)).unwrap();
    assert_eq!(a.domain.vcpus[1].upcall_vector(), Some(0x40));
    assert_eq!(stub::hvm_set_upcall_vector(&a, &vector(2, 0x40)), Err(Errno::ENOENT));
    assert_eq!(stub::hvm_set_upcall_vector(&a, &vector(0, 15)), Err(Errno::EINVAL));
}

#[test]
fn a_second_vcpu_starts_once() {
    let world = World::new();
    let a = world.guest("a");
    let second = VcpuId::new(1);
    assert_eq!(stub::vcpu_up(&a, second), Err(Errno::EINVAL));
    let registers = HvmX86_64 {
        rip: 0x10_0000,
        cr0: 0x8000_0011,
        cr3: 0x1000,
        cr4: 0x20,
        efer: 0x500,
        rflags: 2,
        ..Default::default()
    };
    let context = HvmContext::new(&HvmRegisters::X86_64(registers));
    assert_eq!(stub::vcpu_initialise(&a, second, &HvmContext { mode: 2, ..context }), Err(Errno::EINVAL));
    let without_paging = HvmContext::new(&HvmRegisters::X86_64(HvmX86_64 { cr0: 1, ..registers }));
    assert_eq!(stub::vcpu_initialise(&a, second, &without_paging), Err(Errno::EINVAL));
    stub::vcpu_initialise(&a, second, &context).unwrap();
    assert_eq!(stub::vcpu_initialise(&a, second, &context), Err(Errno::EEXIST));
    assert_eq!(stub::vcpu_initialise(&a, VcpuId::new(0), &context), Err(Errno::EEXIST));
    assert_eq!(stub::vcpu_is_up(&a, second), Ok(0));
    stub::vcpu_up(&a, second).unwrap();
    assert_eq!(stub::vcpu_is_up(&a, second), Ok(1));
    stub::vcpu_down(&a, second).unwrap();
    assert_eq!(stub::vcpu_is_up(&a, second), Ok(0));
    stub::vcpu_down(&a, VcpuId::new(0)).unwrap();
    assert_eq!(a.after.get(), After::Reschedule);
    assert_eq!(stub::vcpu_is_up(&a, VcpuId::new(2)), Err(Errno::ENOENT));
    assert_eq!(a.raw(number::VCPU_OP, [3, 1 << 32, 0, 0, 0]), Errno::EINVAL.to_return());
    stub::vcpu_send_nmi(&a, second).unwrap();
    assert!(a.domain.vcpus[1].attention.peek().contains(Reason::NMI));
}

#[test]
fn timers_are_set_for_oneself() {
    let world = World::new();
    let a = world.guest("a");
    let (me, other) = (VcpuId::new(0), VcpuId::new(1));
    let deadline = || a.vcpu.timers.deadline(Slot::Single);
    stub::set_timer(&a, 1 << 40).unwrap();
    assert!(deadline().is_some());
    stub::set_timer(&a, 0).unwrap();
    assert_eq!(deadline(), None);
    let timer = |timeout_abs_ns, flags| SetSingleshotTimer { timeout_abs_ns, flags, pad: 0 };
    stub::vcpu_set_singleshot_timer(&a, me, &timer(1 << 40, 1)).unwrap();
    assert!(deadline().is_some());
    stub::vcpu_stop_singleshot_timer(&a, me).unwrap();
    assert_eq!(deadline(), None);
    assert_eq!(stub::vcpu_set_singleshot_timer(&a, me, &timer(1, 1)), Err(Errno::ETIME));
    stub::vcpu_set_singleshot_timer(&a, me, &timer(0, 0)).unwrap();
    assert!(deadline().is_some(), "a time that is past fires");
    assert_eq!(stub::vcpu_set_singleshot_timer(&a, other, &timer(1 << 40, 0)), Err(Errno::EINVAL));
    assert_eq!(stub::vcpu_stop_periodic_timer(&a, VcpuId::new(9)), Err(Errno::ENOENT));
    let (mut before, mut after) = (GetTime::default(), GetTime::default());
    stub::hvm_get_time(&a, &mut before).unwrap();
    world.system.platform.pass(10_000_000);
    stub::hvm_get_time(&a, &mut after).unwrap();
    assert!(after.now > before.now);
}

#[test]
fn areas_are_registered_replaced_and_given_up() {
    let world = World::new();
    let a = world.guest("a");
    let me = VcpuId::new(0);
    let mut info = RunstateInfo::default();
    stub::vcpu_runstate_info(&a, me, &mut info).unwrap();
    let page = a.page();
    // Across the end of a page.
    let second = a.page();
    assert_eq!(second.raw(), page.raw() + 1);
    let references = |gfn: Gfn| world.system.ram().references(world::machine_page(&a, gfn));
    let idle = references(page);
    let crossing = RegisterArea { addr: GuestVirt::new(page.base().raw() + 4096 - 8) };
    stub::vcpu_register_runstate(&a, me, &crossing).unwrap();
    assert!(references(page) > idle && references(second) > idle);
    assert!(a.peek::<RunstateInfo>(crossing.addr.raw()).state <= runstate::OFFLINE);
    let within = RegisterArea { addr: GuestVirt::new(page.base().raw()) };
    stub::vcpu_register_runstate(&a, me, &within).unwrap();
    assert_eq!(references(second), idle);
    let odd = RegisterArea { addr: GuestVirt::new(page.base().raw() + 4) };
    assert_eq!(stub::vcpu_register_runstate(&a, me, &odd), Err(Errno::EINVAL));
    stub::vcpu_register_runstate(&a, me, &RegisterArea::default()).unwrap();
    assert_eq!(references(page), idle);

    assert_eq!(stub::vcpu_register_time(&a, me, &crossing), Err(Errno::EINVAL));
    stub::vcpu_register_time(&a, me, &within).unwrap();
    assert_ne!(a.peek::<pv_abi::shared_info::VcpuTimeInfo>(within.addr.raw()).tsc_to_system_mul, 0);
    stub::vcpu_register_time(&a, me, &RegisterArea::default()).unwrap();
    assert_eq!(references(page), idle);

    let place = |mfn, offset| RegisterVcpuInfo { mfn, offset, rsvd: 0 };
    assert_eq!(stub::vcpu_register_info(&a, me, &place(second, 4040)), Err(Errno::EINVAL));
    assert_eq!(stub::vcpu_register_info(&a, me, &place(Gfn::new(1 << 40), 0)), Err(Errno::EINVAL));
    assert_eq!(references(second), idle);
    stub::vcpu_register_info(&a, me, &place(second, 64)).unwrap();
    assert_ne!(a.peek::<pv_abi::shared_info::VcpuInfo>(second.base().raw() + 64).time.tsc_to_system_mul, 0);
    assert!(references(second) > idle);
}

#[test]
fn text_reaches_the_console_and_what_is_typed_its_owner() {
    let world = World::new();
    let (dom0, a) = (world.guest("dom0"), world.guest("a"));
    assert_eq!(stub::console_write(&a, b"hello\n"), Ok(0));
    assert_eq!(stub::console_write(&dom0, b"plain"), Ok(0));
    let expected = std::format!("({}) hello\nplain", a.domain.id);
    assert!(world.system.platform.console().ends_with(&expected), "{}", world.system.platform.console());
    let long: String = "0123456789abcdef".repeat(300);
    assert_eq!(stub::console_write(&dom0, long.as_bytes()), Ok(0));
    assert!(world.system.platform.console().ends_with(&long));
    assert!(dom0.preemptions.get() >= 4);
    world.system.platform.type_in(b"keys");
    let mut buffer = [0; 3];
    assert_eq!(stub::console_read(&a, &mut buffer), Err(Errno::EPERM));
    assert_eq!(stub::console_read(&dom0, &mut buffer), Ok(3));
    assert_eq!(&buffer, b"key");
    assert_eq!(stub::console_read(&dom0, &mut buffer), Ok(1));
    assert_eq!(stub::console_read(&dom0, &mut buffer), Ok(0));
}

#[test]
fn several_calls_in_one_have_a_result_each() {
    let world = World::new();
    let a = world.guest("a");
    let entry = |op, args: [u64; 2]| MulticallEntry { op, args: [args[0], args[1], 0, 0, 0, 0], result: 9 };
    let mut calls = vec![
        entry(number::XEN_VERSION, [0, 0]),
        entry(99, [0, 0]),
        entry(number::MULTICALL, [0, 0]),
        entry(number::MEMORY_OP, [pv_abi::memory::op::MEMORY_MAP, world::HOLE]),
        entry(number::SET_TIMER_OP, [5, 0]),
    ];
    stub::multicall(&a, &mut calls).unwrap();
    let results: vec::Vec<_> =
        calls.iter().map(|call| Errno::from_return(call.result.cast_signed())).collect();
    assert_eq!(
        results,
        [Ok(VERSION.into()), Err(Errno::ENOSYS), Err(Errno::EINVAL), Err(Errno::EFAULT), Ok(0)]
    );
    let mut many = vec![entry(number::XEN_VERSION, [0, 0]); 1000];
    stub::multicall(&a, &mut many).unwrap();
    assert!(many.iter().all(|call| call.result == u64::from(VERSION)));
    assert!(a.preemptions.get() > 10);
}

#[test]
fn a_list_of_calls_may_lie_anywhere() {
    let world = World::new();
    let a = world.guest("a");
    let entry = MulticallEntry { op: number::XEN_VERSION, args: [0; 6], result: 9 };
    let page = a.page();
    let idle = world.system.ram().references(world::machine_page(&a, page));
    let _room = (a.page(), a.page());
    // Aligned and not, within a page and across two.
    for offset in [0, 8, 4096 - 64, 4096 - 32, 4096 - 20, 3] {
        let at = page.base().raw() + offset;
        a.poke(at, &[entry; 100]);
        assert_eq!(a.raw(number::MULTICALL, [at, 100, 0, 0, 0]), 0);
        let done: [MulticallEntry; 100] = a.peek(at);
        assert!(done.iter().all(|call| *call == MulticallEntry { result: VERSION.into(), ..entry }));
    }
    assert_eq!(world.system.ram().references(world::machine_page(&a, page)), idle, "the page stays pinned");
    assert_eq!(a.raw(number::MULTICALL, [world::READ_ONLY, 1, 0, 0, 0]), Errno::EFAULT.to_return());
    // The list ends where memory ends: what was before is done.
    let at = a.domain.layout.get().unwrap().ranges().last().unwrap().past().base().raw() - 128;
    a.poke(at, &[entry; 2]);
    assert_eq!(a.raw(number::MULTICALL, [at, 3, 0, 0, 0]), Errno::EFAULT.to_return());
    assert_eq!(a.peek::<[MulticallEntry; 2]>(at).map(|call| call.result), [u64::from(VERSION); 2]);
}

#[test]
fn a_call_in_a_list_may_give_the_list_away() {
    let world = World::new();
    let a = world.guest("a");
    let page = a.page();
    let pages = [page];
    let reservation = memory::Reservation {
        extent_start: a.put(&pages[..]),
        nr_extents: 1,
        domid: DomainId::SELF,
        ..Default::default()
    };
    let reservation = a.put(&reservation).raw();
    let entry = |op, args: [u64; 2]| MulticallEntry { op, args: [args[0], args[1], 0, 0, 0, 0], result: 9 };
    let calls = [
        entry(number::MEMORY_OP, [memory::op::DECREASE_RESERVATION, reservation]),
        entry(number::XEN_VERSION, [0, 0]),
    ];
    a.poke(page.base().raw(), &calls);
    let frame = world::machine_page(&a, page);
    assert_eq!(a.raw(number::MULTICALL, [page.base().raw(), 2, 0, 0, 0]), 0);
    assert_eq!(world.system.ram().state(frame), crate::mem::frame::FrameState::Free(0), "not kept, not lost");
}

#[test]
fn a_long_call_within_another_goes_on_where_it_was() {
    let world = World::new();
    let a = world.guest("a");
    let pages: vec::Vec<Gfn> = (0..1100).map(|index| Gfn::new(a.base / 4096 + 800 + index)).collect();
    let reservation = memory::Reservation {
        extent_start: a.put(&pages[..]),
        nr_extents: 1100,
        domid: DomainId::SELF,
        ..Default::default()
    };
    let at = a.put(&reservation).raw();
    let entry = |op, args: [u64; 2]| MulticallEntry { op, args: [args[0], args[1], 0, 0, 0, 0], result: 9 };
    let mut calls = [
        entry(number::XEN_VERSION, [0, 0]),
        entry(number::MEMORY_OP, [memory::op::DECREASE_RESERVATION, at]),
        entry(number::MEMORY_OP, [memory::op::POPULATE_PHYSMAP, at]),
    ];
    stub::multicall(&a, &mut calls).unwrap();
    assert_eq!((calls[1].result, calls[2].result), (1100, 1100));
    assert!(a.preemptions.get() >= 2);
}

#[test]
fn control_is_for_those_who_have_the_role() {
    let world = World::new();
    let (dom0, a) = (world.guest("dom0"), world.guest("a"));
    assert_eq!(stub::control_version(&a), Err(Errno::EPERM));
    assert_eq!(stub::control_version(&dom0), Ok(control::VERSION.into()));
    for row in pv_abi::ROWS.iter().filter(|row| row.number == number::CONTROL) {
        assert_eq!(
            a.raw(row.number, [row.sub.unwrap(), 0, 0, 0, 0]),
            Errno::EPERM.to_return(),
            "{}",
            row.name
        );
    }
    let mut info = DomainInfo::default();
    stub::control_info(&dom0, DomainId::new(1), &mut info).unwrap();
    assert_eq!((info.domid, info.name()), (a.domain.id, "a"));
    assert_eq!(stub::control_info(&dom0, DomainId::new(200), &mut info), Err(Errno::ESRCH));
    let mut vcpu = VcpuState::default();
    stub::control_vcpu_info(&dom0, a.domain.id, VcpuId::new(1), &mut vcpu).unwrap();
    assert_eq!(stub::control_vcpu_info(&dom0, a.domain.id, VcpuId::new(7), &mut vcpu), Err(Errno::ENOENT));
    let mut statistics = Statistics::default();
    stub::control_statistics(&dom0, a.domain.id, &mut statistics).unwrap();
    assert!(statistics.hypercalls.iter().sum::<u64>() > 0);
}

#[test]
fn counters_are_mapped_for_the_control_role_and_to_be_read_only() {
    let world = World::new();
    let (dom0, a) = (world.guest("dom0"), world.guest("a"));
    let memory = world.system.memory();
    let place = Gfn::new(0x40_0000);
    let there = |guest: &Guest<'_>| guest.domain.memory.read().translate(memory, place);
    assert_eq!(stub::control_counters(&a, 0, place), Err(Errno::EPERM));
    assert!(there(&a).is_none());
    assert_eq!(stub::control_counters(&dom0, 1000, place), Err(Errno::ENOENT));
    for number in 0..2 {
        stub::control_counters(&dom0, number, place).unwrap();
        let page = world.system.counters.get(number).unwrap();
        let mapping = there(&dom0).unwrap();
        assert_eq!((mapping.mfn, mapping.rights), (world.system.platform.frame_of(page), Rights::READ));
    }
    // No call can be made to write there, and nobody can be granted it.
    {
        let map = dom0.domain.memory.read();
        let mut physical = Physical::<Format<TestMachine>, _>::new(&map, memory);
        assert_eq!(physical.write(place.base(), &[0]), Err(Errno::EFAULT));
        assert_eq!(map.pin(world.system.ram(), place).err(), Some(Errno::EINVAL));
    }
    let remove = memory::RemoveFromPhysmap { domid: DomainId::SELF, pad: [0; 3], gpfn: place };
    stub::memory_remove_from_physmap(&dom0, &remove).unwrap();
    assert!(there(&dom0).is_none());

    // What it counts is what the page shows.
    let owner = a.vcpu.stats.owner().unwrap();
    assert_eq!((owner.domain, owner.vcpu), (a.domain.id, a.vcpu.id));
    let page = (0..).map_while(|number| world.system.counters.get(number));
    let page = page.into_iter().find(|page| page.owner() == Some(owner)).unwrap();
    let before = page.calls_of(Call::VersionNumber);
    stub::version_number(&a).unwrap();
    assert_eq!(page.calls_of(Call::VersionNumber), before + 1);
}

#[test]
fn domains_are_made_paused_and_destroyed() {
    let world = World::new();
    let (dom0, a) = (world.guest("dom0"), world.guest("a"));
    let mut created = Created::default();
    assert_eq!(stub::control_create(&dom0, b"nobody", &mut created), Err(Errno::ENOENT));
    assert_eq!(stub::control_create(&dom0, b"a", &mut created), Err(Errno::EEXIST));
    assert_eq!(stub::control_create(&dom0, &[b'x'; 40], &mut created), Err(Errno::EINVAL));
    let free = world.system.frames.free_pages();
    stub::control_create(&dom0, b"c", &mut created).unwrap();
    assert_ne!((created.console_port.raw(), created.store_port.raw()), (0, 0));
    stub::control_unpause(&dom0, created.domid).unwrap();
    assert_eq!(stub::control_build(&dom0, created.domid, b"c"), Err(Errno::EBUSY));
    stub::control_pause(&dom0, created.domid).unwrap();
    assert_eq!(stub::control_pause(&dom0, DomainId::SELF), Err(Errno::EINVAL));
    let domain = world.system.domains.get(created.domid).unwrap();
    stub::control_destroy(&dom0, created.domid).unwrap();
    assert_eq!(domain.life.phase(), Phase::Dead);
    drop(domain);
    world.system.reap();
    assert_eq!(world.system.frames.free_pages(), free, "all of it is free again");
    assert_eq!(stub::control_destroy(&dom0, created.domid), Err(Errno::ESRCH));
    assert_eq!(stub::control_pause(&dom0, created.domid), Err(Errno::ESRCH));

    let schedule = Schedule { domid: a.domain.id, weight: 512, cap: 50, affinity: 1, ..Default::default() };
    stub::control_schedule(&dom0, &schedule).unwrap();
    assert_eq!((a.domain.group.weight(), a.domain.group.cap()), (512, 50));
    assert_eq!(stub::control_schedule(&dom0, &Schedule { weight: 0, ..schedule }), Err(Errno::EINVAL));
}

#[test]
fn the_machine_is_traced_and_ended() {
    let world = World::new();
    let (dom0, a) = (world.guest("dom0"), world.guest("a"));
    assert!(world.system.trace.set(true));
    stub::version_number(&a).unwrap();
    let mut records = [TraceRecord::default(); 40];
    let count = stub::control_trace(&dom0, 0, &mut records).unwrap();
    assert!(count >= 1);
    assert_eq!(records[0].kind, control::trace::CALL);
    assert_eq!((records[0].a, records[0].b), (Call::VersionNumber as u64, u64::from(VERSION)));
    assert_eq!(stub::control_trace(&dom0, 5, &mut records), Err(Errno::ENOENT));
    assert_eq!(stub::control_power(&dom0, 7, 0), Err(Errno::EINVAL));
    stub::control_power(&dom0, control::POWER_OFF, 3).unwrap();
    assert_eq!(world.system.platform.record.lock().unwrap().power, Some(PowerAction::Off(3)));
}

#[test]
fn devices_that_are_not_there_have_no_interrupts() {
    let world = World::new();
    let (dom0, a) = (world.guest("dom0"), world.guest("a"));
    let mut map = physdev::MapPirq {
        domid: DomainId::SELF,
        kind: physdev::pirq_type::MSI_SEG,
        index: -1,
        pirq: -1,
        devfn: 0x18,
        table_base: 0xfebf_0000,
        ..Default::default()
    };
    assert_eq!(stub::physdev_map_pirq(&a, &mut map), Err(Errno::EPERM));
    assert_eq!(stub::physdev_map_pirq(&dom0, &mut map), Err(Errno::ENODEV));
    map.domid = a.domain.id;
    assert_eq!(stub::physdev_map_pirq(&dom0, &mut map), Err(Errno::EPERM));
    assert_eq!(stub::physdev_eoi(&dom0, &physdev::Eoi { irq: 16 }), Err(Errno::EINVAL));
    let setup = physdev::SetupGsi { gsi: 4, triggering: 2, ..Default::default() };
    assert_eq!(stub::physdev_setup_gsi(&dom0, &setup), Err(Errno::EINVAL));
    let device = physdev::PciDevice { devfn: 0x18, ..Default::default() };
    assert_eq!(stub::physdev_prepare_msix(&dom0, &device), Err(Errno::ENODEV));
    let mut free = physdev::GetFreePirq::default();
    stub::physdev_get_free_pirq(&dom0, &mut free).unwrap();
    assert_ne!(free.pirq, 0);
}
