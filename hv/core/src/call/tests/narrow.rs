//! Calls of 32-bit kernels.

use super::*;
use crate::call::{After, Cx, hypercall, resume};
use crate::hw::{Gprs, PhysMemory, Reg, Segment, SegmentState, VcpuHw};
use crate::testing::TestMachine;
use crate::vcpu::{Context, Hw};
use pv_abi::call::number;
use pv_abi::hvm::{self, Param, param};
use pv_abi::memory::{E820Entry, space};
use pv_abi::{DomainId, Errno, Port, event, grant, ia32, memory, sched};
use zerocopy::FromZeros;

/// Unpaged 32-bit code: linear addresses are physical.
fn narrow(guest: &Guest<'_>) {
    let mut context = guest.vcpu.context.lock();
    let hw = &mut context.hw;
    hw.set(Reg::Cr0, 0x11);
    hw.set(Reg::Efer, 0);
    let flat = |attributes| SegmentState { attributes, limit: u32::MAX, ..Default::default() };
    hw.set_segment(Segment::Cs, flat(0xc9b));
    hw.set_segment(Segment::Ss, flat(0xc93));
}

/// Makes a call from there. What the upper halves of the registers hold does not matter.
fn call(guest: &Guest<'_>, number: u64, args: [u64; 5]) -> i32 {
    const RUBBISH: u64 = 0xdead_beef << 32;
    let mut context = guest.vcpu.context.lock();
    let [rbx, rcx, rdx, rsi, rdi] = args.map(|word| word | RUBBISH);
    let before =
        Gprs { rax: number | RUBBISH, rbx, rcx, rdx, rsi, rdi, r10: 77, r8: 78, ..Default::default() };
    *context.hw.gprs_mut() = before;
    let world = guest.world;
    let make = |context: &mut Context<Hw<TestMachine>>, cursor: Option<u64>| {
        let mut cx = Cx::new(&world.system, &guest.domain, &guest.vcpu, context, guest.vcpu.stats.page());
        let after = match cursor {
            Some(cursor) => resume(&mut cx, cursor),
            None => hypercall(&mut cx),
        };
        (after, cx.cursor)
    };
    let (mut after, mut cursor) = make(&mut context, None);
    while after == After::Preempted {
        assert_eq!(*context.hw.gprs(), before, "a preempted call changed a register");
        guest.preemptions.set(guest.preemptions.get() + 1);
        (after, cursor) = make(&mut context, Some(cursor));
    }
    guest.after.set(after);
    let rax = context.hw.gprs().rax;
    assert_eq!(*context.hw.gprs(), Gprs { rax, ..before }, "a call changes EAX and nothing else");
    u32::try_from(rax).expect("a result has 32 bits").cast_signed()
}

fn refused(errno: Errno) -> i32 {
    i32::try_from(errno.to_return()).unwrap()
}

#[test]
fn the_same_structures_go_the_way_of_all_calls() {
    let world = World::new();
    let a = world.guest("a");
    narrow(&a);
    let version = call(&a, number::XEN_VERSION, [0; 5]);
    assert_eq!(version.cast_unsigned(), pv_abi::version::VERSION);
    let param = Param { domid: DomainId::SELF, index: param::STORE_PFN, ..Param::new_zeroed() };
    let at = a.put(&param).raw();
    assert_eq!(call(&a, number::HVM_OP, [hvm::op::GET_PARAM, at, 0, 0, 0]), 0);
    let wide = a.domain.params.get(param::STORE_PFN).unwrap();
    assert_eq!(a.peek::<Param>(at).value, wide);
    let alloc = event::AllocUnbound { dom: DomainId::SELF, remote_dom: DomainId::DOM0, ..Default::default() };
    let at = a.put(&alloc).raw();
    assert_eq!(call(&a, number::EVENT_CHANNEL_OP, [event::op::ALLOC_UNBOUND, at, 0, 0, 0]), 0);
    assert_ne!(a.peek::<event::AllocUnbound>(at).port, Port::new(0));
}

#[test]
fn structures_that_differ_are_widened() {
    let world = World::new();
    let a = world.guest("a");
    narrow(&a);
    let page = a.page();
    let gpfn = u32::try_from(page.raw()).unwrap();
    let add =
        ia32::AddToPhysmap { domid: DomainId::SELF, space: space::SHARED_INFO, gpfn, ..Default::default() };
    let at = a.put(&add).raw();
    assert_eq!(call(&a, number::MEMORY_OP, [memory::op::ADD_TO_PHYSMAP, at, 0, 0, 0]), 0);
    assert_eq!(world::machine_page(&a, page), a.domain.shared_info.base().mfn());
    // A range, which is preempted: the upper words of the cursor never reach the guest.
    let range =
        ia32::AddToPhysmap { size: 40, space: space::GMFN_RANGE, idx: gpfn + 1, gpfn: gpfn + 1, ..add };
    let at = a.put(&range).raw();
    assert_eq!(call(&a, number::MEMORY_OP, [memory::op::ADD_TO_PHYSMAP, at, 0, 0, 0]), 0);
    assert_eq!(a.preemptions.get(), 1);

    let buffer = a.put(&[0u8; 20 * 8]);
    let map = ia32::MemoryMap { nr_entries: 8, buffer: u32::try_from(buffer.raw()).unwrap() };
    let at = a.put(&map).raw();
    assert_eq!(call(&a, number::MEMORY_OP, [memory::op::MEMORY_MAP, at, 0, 0, 0]), 0);
    let seen = a.peek::<ia32::MemoryMap>(at);
    let expected: std::vec::Vec<E820Entry> = a.domain.memory.read().map().to_vec();
    assert_eq!(seen.nr_entries as usize, expected.len());
    assert_eq!(a.peek::<E820Entry>(buffer.raw()), expected[0]);

    let remove = ia32::RemoveFromPhysmap { domid: DomainId::SELF, pad: 0, gpfn };
    let at = a.put(&remove).raw();
    assert_eq!(call(&a, number::MEMORY_OP, [memory::op::REMOVE_FROM_PHYSMAP, at, 0, 0, 0]), 0);
}

#[test]
fn what_is_not_known_to_be_sound_is_refused() {
    let world = World::new();
    let a = world.guest("a");
    narrow(&a);
    let enosys = refused(Errno::ENOSYS);
    assert_eq!(call(&a, number::GRANT_TABLE_OP, [grant::op::COPY, 0, 0, 0, 0]), enosys);
    assert_eq!(call(&a, number::MULTICALL, [0, 0, 0, 0, 0]), enosys);
    assert_eq!(call(&a, number::MEMORY_OP, [memory::op::POPULATE_PHYSMAP, 0, 0, 0, 0]), enosys);
    assert_eq!(call(&a, 63, [0; 5]), enosys);
    let nowhere = u64::from(u32::MAX - 2);
    let efault = refused(Errno::EFAULT);
    for op in [memory::op::ADD_TO_PHYSMAP, memory::op::MEMORY_MAP, memory::op::REMOVE_FROM_PHYSMAP] {
        assert_eq!(call(&a, number::MEMORY_OP, [op, nowhere, 0, 0, 0]), efault);
    }
    assert_eq!(call(&a, number::SCHED_OP, [sched::op::POLL, nowhere, 0, 0, 0]), efault);
    a.set_level(&mut a.vcpu.context.lock().hw, 3);
    assert_eq!(call(&a, number::XEN_VERSION, [0; 5]), refused(Errno::EPERM));
    narrow(&a);
    a.vcpu.context.lock().hw.set(Reg::Cr0, 0x10);
    assert_eq!(call(&a, number::XEN_VERSION, [0; 5]), refused(Errno::EPERM), "real mode");
}

#[test]
fn a_narrow_guest_has_narrow_bitmaps_and_a_narrow_clock() {
    let world = World::new();
    let (dom0, a) = (world.guest("dom0"), world.guest("a"));
    let alloc =
        &mut event::AllocUnbound { dom: DomainId::SELF, remote_dom: DomainId::DOM0, ..Default::default() };
    for _ in 0..40 {
        pv_abi::stub::evtchn_alloc_unbound(&a, alloc).unwrap();
    }
    let (port, bit) = (alloc.port, alloc.port.raw());
    assert!((32..64).contains(&bit), "the port is in the second word of 32 bits and the first of 64");
    narrow(&a);
    let set = Param {
        domid: DomainId::SELF,
        index: param::CALLBACK_IRQ,
        value: 2 << hvm::CALLBACK_TYPE_SHIFT | 0x20,
        ..Param::new_zeroed()
    };
    let at = a.put(&set).raw();
    assert_eq!(call(&a, number::HVM_OP, [hvm::op::SET_PARAM, at, 0, 0, 0]), 0);
    let shared = a.domain.shared_info.base();
    let word = |offset: usize| {
        let at = crate::hw::HostPhys::new(shared.raw() + offset as u64);
        world.system.memory().u32_at(at).load(core::sync::atomic::Ordering::SeqCst)
    };
    assert_eq!(word(ia32::shared_info::WC_VERSION), 2, "the clock was written");
    let bind =
        &mut event::BindInterdomain { remote_dom: a.domain.id, remote_port: port, ..Default::default() };
    pv_abi::stub::evtchn_bind_interdomain(&dom0, bind).unwrap();
    pv_abi::stub::evtchn_send(&dom0, &event::Send { port: bind.local_port }).unwrap();
    assert_eq!(word(ia32::shared_info::EVTCHN_PENDING + 4), 1 << (bit - 32));
    assert_eq!(word(ia32::shared_info::EVTCHN_PENDING_SEL), 1 << 1);
    assert_eq!(word(8), 0, "where a wide guest has its selector");
    // Masked where narrow guests mask, it is not told again.
    let mask = shared.raw() + ia32::shared_info::EVTCHN_MASK as u64 + 4;
    let ordering = core::sync::atomic::Ordering::SeqCst;
    let memory = world.system.memory();
    memory.u32_at(crate::hw::HostPhys::new(mask)).store(1 << (bit - 32), ordering);
    for offset in [ia32::shared_info::EVTCHN_PENDING + 4, ia32::shared_info::EVTCHN_PENDING_SEL] {
        memory.u32_at(crate::hw::HostPhys::new(shared.raw() + offset as u64)).store(0, ordering);
    }
    pv_abi::stub::evtchn_send(&dom0, &event::Send { port: bind.local_port }).unwrap();
    assert_eq!(word(ia32::shared_info::EVTCHN_PENDING_SEL), 0);
    let unmask = a.put(&event::Unmask { port }).raw();
    assert_eq!(call(&a, number::EVENT_CHANNEL_OP, [event::op::UNMASK, unmask, 0, 0, 0]), 0);
    assert_eq!(word(ia32::shared_info::EVTCHN_PENDING_SEL), 1 << 1);
}

#[test]
fn polling_takes_32_bit_pointers() {
    let world = World::new();
    let a = world.guest("a");
    narrow(&a);
    let ports = u32::try_from(a.put(&[Port::new(u32::MAX)]).raw()).unwrap();
    let poll = ia32::Poll { ports, nr_ports: 1, timeout: 0.into() };
    let at = a.put(&poll).raw();
    assert_eq!(
        call(&a, number::SCHED_OP, [sched::op::POLL, at, 0, 0, 0]),
        refused(Errno::EINVAL),
        "no such port"
    );
    let at = a.put(&ia32::Poll { nr_ports: 0, timeout: 1.into(), ..poll }).raw();
    assert_eq!(call(&a, number::SCHED_OP, [sched::op::POLL, at, 0, 0, 0]), 0);
    assert_eq!(a.after.get(), After::Reschedule);
}
