use super::*;
use crate::build;
use crate::domain::{Domain, Phase, Progress, ShutdownReason, control, destroy};
use crate::hw::{CpuId, EventKind, Exit, HostEvent, Reg, Segment, SegmentState, VcpuHw};
use crate::testing::{ScriptedVcpu, TestMachine, section, system};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use pv_abi::control::state;
use pv_abi::hvm::param;
use pv_abi::ids::{DomainId, GuestPhys, VcpuId, Virq};
use pv_abi::{Call, Errno};
use std::string::{String, ToString};
use std::vec::Vec;

mod emulation;

type TestSystem = System<TestMachine>;
type TestDomain = Arc<Domain<TestMachine>>;

fn with(manifest: &str) -> TestSystem {
    system(TestMachine::new(64 << 8), manifest)
}

/// Runs the only CPU until it has nothing to do and nothing will happen by itself.
fn settle(system: &TestSystem) {
    let mut cpu = Cpu::new(system);
    for _ in 0..10_000 {
        if cpu.turn() == Turn::Idled {
            let record = system.platform.record.lock().unwrap();
            let waiting = record.events.values().any(|events| !events.is_empty());
            if !waiting && record.timers.values().all(Option::is_none) {
                return;
            }
        }
    }
    panic!("the CPU does not come to rest");
}

fn start(system: &TestSystem, name: &str, parent: Option<DomainId>) -> TestDomain {
    let domain = build::create(system, name, parent).unwrap();
    let change = domain.life.unpause().unwrap();
    system.follow(&domain, change);
    domain
}

fn end(system: &TestSystem, domain: TestDomain) {
    while destroy(system, &domain).unwrap() == Progress::Again {
        settle(system);
    }
    drop(domain);
    system.reap();
}

/// A guest that has come to 64-bit code with flat paging: pages of 1 GiB at the top of its first MiB.
fn enter_long_mode(system: &TestSystem, domain: &Domain<TestMachine>, vcpu: &mut ScriptedVcpu) {
    const TABLES: u64 = 0x8_0000;
    let memory = domain.memory.read();
    let mut guest = crate::mem::Physical::new(&memory, crate::hw::Platform::memory(&system.platform));
    guest.write(GuestPhys::new(TABLES), &(TABLES + 0x1003).to_le_bytes()).unwrap();
    guest.write(GuestPhys::new(TABLES + 0x1000), &0x83_u64.to_le_bytes()).unwrap();
    for (register, value) in [
        (Reg::Cr0, 0x8000_0011),
        (Reg::Cr3, TABLES),
        (Reg::Cr4, 0x20),
        (Reg::Efer, 0x500),
        (Reg::Rflags, 0x202),
    ] {
        vcpu.set(register, value);
    }
    vcpu.set_segment(Segment::Cs, SegmentState { attributes: 0xa9b, ..SegmentState::default() });
}

/// Appends a step that makes a call from 64-bit code, and keeps its result.
fn call(
    system: &Arc<TestSystem>,
    domain: &TestDomain,
    call: Call,
    arguments: &[u64],
) -> Arc<spin::Mutex<i64>> {
    let result = Arc::new(spin::Mutex::new(i64::MAX));
    let row = call.row();
    let mut words: Vec<u64> = row.sub.into_iter().chain(arguments.iter().copied()).collect();
    words.resize(5, 0);
    let (number, words) = (row.number, <[u64; 5]>::try_from(words).unwrap());
    let (weak, weak_domain) = (Arc::downgrade(system), Arc::downgrade(domain));
    let scripts = system.platform.scripts();
    scripts.then(domain.id.raw(), move |vcpu| {
        let (Some(system), Some(domain)) = (weak.upgrade(), weak_domain.upgrade()) else { return Exit::Halt };
        enter_long_mode(&system, &domain, vcpu);
        let [rdi, rsi, rdx, r10, r8] = words;
        let gprs = vcpu.gprs_mut();
        (gprs.rax, gprs.rdi, gprs.rsi, gprs.rdx, gprs.r10, gprs.r8) = (number, rdi, rsi, rdx, r10, r8);
        Exit::Hypercall
    });
    let kept = result.clone();
    scripts.then(domain.id.raw(), move |vcpu| {
        *kept.lock() = vcpu.gprs().rax.cast_signed();
        Exit::Cpuid
    });
    result
}

fn write(system: &TestSystem, domain: &Domain<TestMachine>, at: u64, bytes: &[u8]) {
    let memory = domain.memory.read();
    crate::mem::Physical::new(&memory, system.memory()).write(GuestPhys::new(at), bytes).unwrap();
}

fn injected(system: &TestSystem, domain: DomainId) -> Vec<(EventKind, u8)> {
    let script = system.platform.scripts().of(domain.raw());
    let script = script.lock().unwrap();
    script.injected.iter().map(|event| (event.kind, event.vector)).collect()
}

#[test]
fn a_domain_whose_last_vcpu_halts_with_interrupts_off_is_off() {
    let system = with(&section("one", "4M", ""));
    let one = start(&system, "one", None);
    system.platform.scripts().then(one.id.raw(), |vcpu| {
        vcpu.set(Reg::Rflags, 2);
        Exit::Halt
    });
    settle(&system);
    assert_eq!(one.life.phase(), Phase::ShutDown(ShutdownReason::PowerOff));
    end(&system, one);
}

#[test]
fn a_whole_life() {
    let system =
        with(&(section("dom0", "8M", "roles = control\nstart = boot") + &section("guest", "8M", "")));
    let before = system.frames.free_pages();
    boot(&system).unwrap();
    settle(&system);
    let dom0 = system.domains.get(DomainId::DOM0).unwrap();
    assert_eq!(dom0.life.phase(), Phase::Alive);
    let created = control::create(&system, &dom0, b"guest").unwrap();
    let guest = created.domid;
    let scripts = system.platform.scripts();
    scripts.exit(guest.raw(), Exit::Cpuid);
    scripts.exit(guest.raw(), Exit::Pause);
    settle(&system);
    assert_eq!(scripts.left(guest.raw()), 2, "it is paused");
    control::unpause(&system, &dom0, guest).unwrap();
    settle(&system);
    assert_eq!(scripts.left(guest.raw()), 0);
    let statistics = control::statistics(&system, guest).unwrap();
    let causes = [pv_abi::control::ExitCause::Cpuid, pv_abi::control::ExitCause::Pause];
    assert_eq!(causes.map(|cause| statistics.exits[cause as usize]), [1, 1]);
    control::pause(&system, &dom0, guest).unwrap();
    let info = control::info(&system, guest).unwrap();
    assert_eq!((info.domid, info.name(), info.pauses, info.state), (guest, "guest", 1, state::ALIVE));
    assert_eq!((info.vcpus, info.vcpus_up, info.pages), (1, 1, 2048 + 2));
    assert_eq!(
        control::info(&system, DomainId::new(guest.raw() + 1)).map(|info| info.domid),
        Err(Errno::ESRCH)
    );
    assert_eq!(control::pause(&system, &dom0, DomainId::DOM0), Err(Errno::EINVAL));
    while control::destroy_step(&system, &dom0, guest).unwrap() == Progress::Again {}
    assert_eq!(control::destroy_step(&system, &dom0, guest), Err(Errno::ESRCH));
    settle(&system);
    end(&system, dom0);
    assert_eq!(system.frames.free_pages(), before);
}

#[test]
fn a_crash_stays_in_its_domain() {
    let system = with(&(section("one", "4M", "") + &section("two", "4M", "")));
    let (one, two) = (start(&system, "one", None), start(&system, "two", None));
    let scripts = system.platform.scripts();
    scripts.exit(one.id.raw(), Exit::TripleFault);
    scripts.exit(one.id.raw(), Exit::Cpuid);
    for _ in 0..5 {
        scripts.exit(two.id.raw(), Exit::Cpuid);
    }
    settle(&system);
    assert_eq!(one.life.phase(), Phase::ShutDown(ShutdownReason::Crash));
    assert_eq!(two.life.phase(), Phase::Alive);
    assert_eq!((scripts.left(one.id.raw()), scripts.left(two.id.raw())), (1, 0));
    end(&system, one);
    end(&system, two);
}

#[test]
fn no_exit_harms_the_hypervisor() {
    use crate::hw::{Access, ControlAccess, EntryFailure, IoExit, RawExit};
    let exits = [
        Exit::MsrRead(0xdead),
        Exit::MsrWrite(0xdead, 1),
        Exit::Io(IoExit { port: 0xcfc, bytes: 4, write: true, string: false }),
        Exit::Io(IoExit { port: 0xffff, bytes: 7, write: false, string: true }),
        Exit::NestedFault {
            gpa: GuestPhys::new(u64::MAX),
            gva: None,
            access: Access::default(),
            present: false,
        },
        Exit::NestedFault {
            gpa: GuestPhys::new(0xfee0_0000),
            gva: None,
            access: Access { write: true, execute: false },
            present: false,
        },
        Exit::Control(ControlAccess { register: 9, write: true, gpr: 200 }),
        Exit::Xsetbv,
        Exit::Rdtsc,
        Exit::Rdtscp,
        Exit::Rdpmc,
        Exit::CacheFlush,
        Exit::Undefined,
        Exit::Exception { vector: 99, code: Some(7) },
        Exit::WindowOpen,
        Exit::Priority,
        Exit::ApicWritten(u16::MAX),
        Exit::Deadline,
        Exit::MachineCheck,
        Exit::TaskSwitch,
        Exit::EntryFailed(EntryFailure { reason: "test", raw: RawExit::default() }),
        Exit::Unknown(RawExit { code: 0x999, info: [1, 2] }),
        Exit::Hypercall,
        Exit::Halt,
    ];
    for exit in exits {
        let system = with(&section("guest", "2M", ""));
        let guest = start(&system, "guest", None);
        system.platform.scripts().then(guest.id.raw(), move |vcpu| {
            vcpu.gprs = crate::hw::Gprs { rax: !0, rdi: !0, rsi: !0, rdx: !0, ..vcpu.gprs };
            exit
        });
        settle(&system);
        end(&system, guest);
    }
}

#[test]
fn a_timer_wakes_who_sleeps() {
    let system = Arc::new(with(&section("guest", "4M", "")));
    let guest = start(&system, "guest", None);
    guest.params.set(param::CALLBACK_IRQ, 2 << 56 | 0x55).unwrap();
    let port = guest.events.bind_virq(system.memory(), Virq::TIMER, VcpuId::new(0)).unwrap();
    let deadline = system.clock.nanos(crate::hw::Platform::tsc(&system.platform)).raw() + 5_000_000;
    let timer = call(&system, &guest, Call::SetTimer, &[deadline]);
    let block = call(&system, &guest, Call::SchedBlock, &[]);
    settle(&system);
    assert_eq!((*timer.lock(), *block.lock()), (0, 0));
    assert!(guest.events.is_pending(system.memory(), port));
    assert_eq!(injected(&system, guest.id), [(EventKind::Interrupt, 0x55)]);
    let now = system.clock.nanos(crate::hw::Platform::tsc(&system.platform)).raw();
    assert!(now >= deadline);
    end(&system, guest);
}

#[test]
fn events_go_from_domain_to_domain() {
    let system = Arc::new(with(&(section("one", "4M", "") + &section("two", "4M", ""))));
    let (one, two) = (start(&system, "one", None), start(&system, "two", None));
    settle(&system);
    two.params.set(param::CALLBACK_IRQ, 2 << 56 | 0x31).unwrap();
    let there = two.events.alloc_unbound(system.memory(), one.id).unwrap();
    let (here, _) = one.events.bind_interdomain(system.memory(), &two.events, there).unwrap();
    write(&system, &one, 0x1000, &here.raw().to_le_bytes());
    let sent = call(&system, &one, Call::EvtchnSend, &[0x1000]);
    // Both halted with interrupts off; a vCPU that is down takes no event before it is up again.
    for domain in [&one, &two] {
        let look =
            system.scheduler.set_up(&domain.vcpus[0], true, crate::hw::Platform::tsc(&system.platform));
        system.kick(look);
    }
    settle(&system);
    assert_eq!(*sent.lock(), 0);
    assert!(two.events.is_pending(system.memory(), there));
    assert_eq!(injected(&system, two.id), [(EventKind::Interrupt, 0x31)]);
    assert_eq!(control::statistics(&system, one.id).unwrap().events_sent, 1);
    end(&system, one);
    // Its other end is gone: nothing happens.
    assert!(two.events.send(system.memory(), there).is_ok());
    end(&system, two);
}

#[test]
fn a_guest_shuts_down_and_the_control_domain_is_told() {
    let system = Arc::new(with(
        &(section("dom0", "8M", "roles = control\nstart = boot") + &section("guest", "4M", "")),
    ));
    boot(&system).unwrap();
    let dom0 = system.domains.get(DomainId::DOM0).unwrap();
    let port = dom0.events.bind_virq(system.memory(), Virq::DOM_EXC, VcpuId::new(0)).unwrap();
    let guest = start(&system, "guest", Some(dom0.id));
    write(&system, &guest, 0x2000, &1_u32.to_le_bytes());
    let result = call(&system, &guest, Call::SchedShutdown, &[0x2000]);
    settle(&system);
    assert_eq!(guest.life.phase(), Phase::ShutDown(ShutdownReason::Reboot));
    assert_eq!(*result.lock(), i64::MAX, "it does not run again");
    assert!(dom0.events.is_pending(system.memory(), port));
    let info = control::info(&system, guest.id).unwrap();
    assert_eq!((info.state, info.reason), (state::SHUT_DOWN, 1));
    end(&system, guest);
    end(&system, dom0);
}

#[test]
fn consoles_are_kept_apart() {
    let system = Arc::new(with(
        &(section("dom0", "8M", "roles = control\nstart = boot") + &section("guest", "4M", "")),
    ));
    boot(&system).unwrap();
    let dom0 = system.domains.get(DomainId::DOM0).unwrap();
    let guest = start(&system, "guest", Some(dom0.id));
    let port = dom0.events.bind_virq(system.memory(), Virq::CONSOLE, VcpuId::new(0)).unwrap();
    write(&system, &guest, 0x2000, b"from the guest\nmore");
    let written = call(&system, &guest, Call::ConsoleWrite, &[19, 0x2000]);
    let read = call(&system, &guest, Call::ConsoleRead, &[19, 0x3000]);
    settle(&system);
    assert_eq!((*written.lock(), *read.lock()), (0, Errno::EPERM.to_return()));
    assert_eq!(system.platform.console(), "(d1) from the guest\n");
    system.platform.type_in(b"hi");
    settle(&system);
    assert!(dom0.events.is_pending(system.memory(), port));
    let mut typed = [0; 4];
    assert_eq!(system.typed.lock().read(&mut typed), 2);
    end(&system, guest);
    assert!(system.platform.console().ends_with("(d1) more\n"));
    end(&system, dom0);
}

#[test]
fn boot_says_what_is_missing() {
    assert_eq!(
        boot(&with(&section("guest", "4M", ""))).map_err(|error| error.to_string()),
        Err(String::from("the manifest has no domain with `start = boot`"))
    );
    let system = with(&section("dom0", "400M", "start = boot"));
    let error = boot(&system).unwrap_err().to_string();
    assert!(error.contains("too little memory for the domain `dom0`"), "{error}");
}

#[test]
fn a_page_that_another_maps_outlives_its_domain() {
    use pv_abi::grant::{MapFlags, MapGrantRef};
    let system = with(&(section("owner", "4M", "") + &section("holder", "4M", "")));
    let before = system.frames.free_pages();
    let (owner, holder) = (start(&system, "owner", None), start(&system, "holder", None));
    let gref = pv_abi::GrantRef::new(9);
    owner.grants.preset(system.memory(), gref, holder.id, pv_abi::Gfn::new(0x200)).unwrap();
    write(&system, &owner, 0x20_0000, b"owned");
    let mut ops = [MapGrantRef {
        host_addr: GuestPhys::new(0x1_0000_0000),
        flags: MapFlags::HOST_MAP.bits(),
        gref,
        dom: owner.id,
        ..MapGrantRef::default()
    }];
    let find = |id| system.domains.get(id);
    crate::grant::map_batch(system.ram(), &*holder, find, &mut ops);
    assert_eq!(ops[0].status, pv_abi::grant::GrantStatus::OKAY);
    end(&system, owner);
    // The holder still sees it, and nobody else was given the page.
    let mut bytes = [0; 5];
    let memory = holder.memory.read();
    let mut guest = crate::mem::Physical::new(&memory, crate::hw::Platform::memory(&system.platform));
    guest.read(GuestPhys::new(0x1_0000_0000), &mut bytes).unwrap();
    drop(memory);
    assert_eq!(&bytes, b"owned");
    let free = system.frames.free_pages();
    end(&system, holder);
    assert!(system.frames.free_pages() > free);
    assert_eq!(system.frames.free_pages(), before);
}

#[test]
fn who_spins_is_preempted_and_can_be_destroyed() {
    let system = with(&(section("spinner", "4M", "") + &section("other", "4M", "")));
    let (spinner, other) = (start(&system, "spinner", None), start(&system, "other", None));
    let scripts = system.platform.scripts();
    // The guest runs until the timer of its slice interrupts it.
    for _ in 0..20 {
        let id = spinner.id.raw();
        scripts.then(id, |_| Exit::Interrupted);
    }
    for _ in 0..3 {
        scripts.exit(other.id.raw(), Exit::Cpuid);
    }
    let mut cpu = Cpu::new(&system);
    for _ in 0..200 {
        let slice = 20_000_000;
        system.platform.pass(slice);
        system.platform.raise(CpuId::new(0), HostEvent::Timer);
        let _ran_or_idled = cpu.turn();
    }
    assert_eq!(scripts.left(other.id.raw()), 0, "the other had its turn");
    end(&system, spinner);
    end(&system, other);
}

#[test]
fn a_flush_waits_for_those_in_the_guest_only() {
    let system = with(&section("guest", "4M", "vcpus = 2"));
    let guest = start(&system, "guest", None);
    system.flush(&guest, 1);
    let [first, second] = [&guest.vcpus[0], &guest.vcpus[1]];
    // One that entered under the new generation is not waited for.
    first.entered.store(5, Ordering::SeqCst);
    system.flush(&guest, 5);
    // One that entered under an old generation is told, and leaves.
    second.entered.store(4, Ordering::SeqCst);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !second.attention.is_wanted() {
                std::thread::yield_now();
            }
            second.entered.store(0, Ordering::SeqCst);
        });
        system.flush(&guest, 5);
    });
    assert_eq!(second.entered.load(Ordering::SeqCst), 0);
    first.entered.store(0, Ordering::SeqCst);
    end(&system, guest);
}

#[test]
fn the_machine_ends_with_its_last_control_domain() {
    let manifest = section("one", "4M", "roles = control") + &section("two", "4M", "roles = control");
    let system = with(&(manifest + &section("guest", "4M", "")));
    let guest = start(&system, "guest", None);
    let (one, two) = (start(&system, "one", None), start(&system, "two", None));
    let power = || system.platform.record.lock().unwrap().power;
    system.shut_down(&guest, ShutdownReason::Crash);
    system.shut_down(&one, ShutdownReason::PowerOff);
    assert_eq!(power(), None);
    system.shut_down(&two, ShutdownReason::Crash);
    assert_eq!(power(), Some(crate::hw::PowerAction::Off(1)));
    assert!(system.platform.console().ends_with("(hv) power off, status 1\n"));
    for domain in [guest, one, two] {
        end(&system, domain);
    }
}
