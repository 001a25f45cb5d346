//! Ports that another domain emulates: the guest waits, whatever its emulator and others do meanwhile.

use super::*;
use crate::hw::IoExit;
use crate::vcpu::{Reason, notify};
use pv_abi::control::{Emulate, PortRange};
use pv_abi::ids::{Gfn, Port};
use pv_abi::ioreq::{Ioreq, READ, state};
use std::sync::Mutex;
use zerocopy::{FromBytes, IntoBytes};

/// Where the emulator has its records.
const PAGE: u64 = 0x5000;
const RANGES: [PortRange; 2] =
    [PortRange { first: 0x1f0, last: 0x1f7 }, PortRange { first: 0x3f6, last: 0x3f6 }];
/// RAX of the guest before each access.
const RAX: u64 = 0x1122_3344_5566_7788;

struct Scene {
    system: TestSystem,
    dom0: TestDomain,
    guest: TestDomain,
    port: Port,
    /// RAX after each access.
    seen: Arc<Mutex<Vec<u64>>>,
}

impl Scene {
    fn new() -> Self {
        let system = with(
            &(section("dom0", "4M", "roles = control\nstart = boot") + &section("guest", "4M", "vcpus = 2")),
        );
        boot(&system).unwrap();
        let dom0 = system.domains.get(DomainId::DOM0).unwrap();
        let guest = start(&system, "guest", Some(dom0.id));
        let port = dom0.events.bind_ipi(system.memory(), VcpuId::new(0)).unwrap();
        Self { system, dom0, guest, port, seen: Arc::default() }
    }

    /// The emulator begins.
    fn begin(&self) -> Result<(), Errno> {
        let arg = Emulate {
            domid: self.guest.id,
            port: self.port,
            page: Gfn::new(PAGE >> 12),
            ranges: RANGES,
            pad: 0,
        };
        let page = self.dom0.memory.read().pin(self.system.ram(), arg.page).unwrap();
        control::begin_emulation(&self.system, &self.dom0, &arg, page).map_err(|(errno, page)| {
            let account = self.dom0.memory.read().account().clone();
            account.put(self.system.ram(), page);
            errno
        })
    }

    /// Appends an access of the guest's.
    fn access(&self, port: u16, bytes: u8, write: bool) {
        let id = self.guest.id.raw();
        let scripts = self.system.platform.scripts();
        scripts.then(id, move |vcpu| {
            vcpu.gprs_mut().rax = RAX;
            Exit::Io(IoExit { port, bytes, write, string: false })
        });
        let seen = self.seen.clone();
        scripts.then(id, move |vcpu| {
            seen.lock().unwrap().push(vcpu.gprs().rax);
            Exit::Cpuid
        });
    }

    fn seen(&self) -> Vec<u64> {
        settle(&self.system);
        self.seen.lock().unwrap().clone()
    }

    fn record(&self) -> Ioreq {
        let mut bytes = [0; 32];
        let memory = self.dom0.memory.read();
        crate::mem::Physical::new(&memory, self.system.memory())
            .read(GuestPhys::new(PAGE), &mut bytes)
            .unwrap();
        Ioreq::read_from_bytes(&bytes).unwrap()
    }

    /// What the emulator leaves in the record of vCPU 0.
    fn leave(&self, record: Ioreq) {
        write(&self.system, &self.dom0, PAGE, record.as_bytes());
    }

    fn say(&self) -> Result<(), Errno> {
        control::emulated(&self.system, &self.dom0, self.guest.id, VcpuId::new(0))
    }

    fn end(self) {
        let Self { system, dom0, guest, .. } = self;
        settle(&system);
        end(&system, guest);
        end(&system, dom0);
    }
}

fn answered(data: u32) -> Ioreq {
    Ioreq::port(0, 0, Some(data)).in_state(state::ANSWERED)
}

#[test]
fn an_access_waits_for_its_emulator() {
    let scene = Scene::new();
    scene.begin().unwrap();
    scene.access(0x1f7, 1, false);
    scene.access(0x1f0, 2, true);
    scene.access(0x1ef, 1, false);
    assert_eq!(scene.seen(), [0_u64; 0], "it waits");
    assert!(scene.dom0.events.is_pending(scene.system.memory(), scene.port), "the emulator is told");
    let request = scene.record();
    assert_eq!((request.addr, request.size, request.count), (0x1f7, 1, 1));
    assert_eq!(request.control(), READ | state::READY << 16);
    // An event for the guest, or a call without an answer, does not let it go on.
    notify(&scene.system.platform, &scene.system.scheduler, &scene.guest.vcpus[0], Reason::UPCALL);
    scene.say().unwrap();
    assert_eq!(scene.seen(), [0_u64; 0]);
    scene.leave(answered(0x50));
    assert_eq!(scene.seen(), [0_u64; 0], "it is not told yet");
    scene.say().unwrap();
    assert_eq!(scene.seen(), [RAX & !0xff | 0x50]);
    // The next goes the same way: the old answer is not taken for it.
    let request = scene.record();
    assert_eq!((request.addr, request.data, request.size), (0x1f0, 0x7788, 2));
    assert_eq!(request.control(), state::READY << 16);
    scene.leave(answered(0x1234));
    scene.say().unwrap();
    // A write changes nothing; other ports are nobody's.
    assert_eq!(scene.seen()[1..], [RAX, RAX | 0xff]);
    scene.end();
}

#[test]
fn a_hostile_emulator_gives_wrong_values_and_no_more() {
    let scene = Scene::new();
    scene.begin().unwrap();
    scene.say().unwrap();
    scene.access(0x1f0, 2, false);
    scene.access(0x3f6, 1, false);
    assert_eq!(scene.seen(), [0_u64; 0]);
    for wrong in [0, state::READY, state::BEGUN, 4, 15] {
        scene.leave(answered(7).in_state(wrong));
        scene.say().unwrap();
        assert_eq!(scene.seen(), [0_u64; 0], "{wrong} is no answer");
    }
    // Only what the access reaches is taken; what else the record says does not matter.
    let all_ones = Ioreq::read_from_bytes(&[0xff; 32]).unwrap().in_state(state::ANSWERED);
    scene.leave(all_ones);
    for _ in 0..3 {
        scene.say().unwrap();
    }
    assert_eq!(scene.seen(), [RAX | 0xffff]);
    // The answer that was there is not one to the next access.
    assert_eq!(scene.record().addr, 0x3f6);
    assert_eq!(
        control::emulated(&scene.system, &scene.dom0, scene.guest.id, VcpuId::new(2)),
        Err(Errno::ENOENT)
    );
    // The other vCPU waits for nothing.
    control::emulated(&scene.system, &scene.dom0, scene.guest.id, VcpuId::new(1)).unwrap();
    assert_eq!(scene.seen().len(), 1);
    assert_eq!(scene.begin(), Err(Errno::EBUSY));
    scene.end();
}

#[test]
fn nobody_waits_for_an_emulator_that_is_gone() {
    let scene = Scene::new();
    scene.begin().unwrap();
    scene.access(0x1f7, 1, false);
    assert_eq!(scene.seen(), [0_u64; 0]);
    control::end_own_emulation(&scene.system, &scene.dom0, scene.guest.id).unwrap();
    assert_eq!(scene.seen(), [RAX | 0xff]);
    assert_eq!(scene.say(), Err(Errno::EINVAL));
    scene.begin().unwrap();
    scene.end();
}

#[test]
fn nobody_waits_for_an_emulator_that_is_destroyed() {
    let scene = Scene::new();
    scene.begin().unwrap();
    scene.access(0x1f7, 1, false);
    assert_eq!(scene.seen(), [0_u64; 0]);
    let Scene { system, dom0, guest, seen, .. } = scene;
    end(&system, dom0);
    settle(&system);
    assert_eq!(*seen.lock().unwrap(), [RAX | 0xff]);
    end(&system, guest);
}

#[test]
fn a_guest_that_waits_can_be_stopped_and_destroyed() {
    let scene = Scene::new();
    let before = scene.system.frames.free_pages();
    scene.begin().unwrap();
    scene.access(0x1f7, 1, false);
    scene.access(0x1f7, 1, false);
    assert_eq!(scene.seen(), [0_u64; 0]);
    control::pause(&scene.system, &scene.dom0, scene.guest.id).unwrap();
    scene.leave(answered(1));
    scene.say().unwrap();
    assert_eq!(scene.seen(), [0_u64; 0], "it is paused");
    control::unpause(&scene.system, &scene.dom0, scene.guest.id).unwrap();
    assert_eq!(scene.seen().len(), 1);
    let Scene { system, dom0, guest, .. } = scene;
    let id = guest.id;
    end(&system, guest);
    assert_eq!(control::emulated(&system, &dom0, id, VcpuId::new(0)), Err(Errno::ESRCH));
    assert!(system.frames.free_pages() > before, "the guest's memory is free");
    // The emulator's page is its own again.
    let page = dom0.memory.read().pin(system.ram(), Gfn::new(PAGE >> 12)).unwrap();
    let account = dom0.memory.read().account().clone();
    account.put(system.ram(), page);
    end(&system, dom0);
}

#[test]
fn init_ends_the_wait() {
    let scene = Scene::new();
    scene.begin().unwrap();
    scene.access(0x1f7, 1, false);
    assert_eq!(scene.seen(), [0_u64; 0]);
    let vcpu = &scene.guest.vcpus[0];
    vcpu.context.lock().reset();
    assert_eq!(vcpu.context.lock().unfinished, None);
    scene.end();
}
