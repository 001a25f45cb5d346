//! A machine with domains whose guests make calls.

use super::MANIFEST;
use crate::build;
use crate::call::{After, Cx, hypercall, resume, traced_hypercall};
use crate::domain::{Domain, Progress, destroy};
use crate::hw::{Mfn, PAGE_BYTES, Pages, PhysMemory, Reg, Segment, SegmentState, VcpuHw};
use crate::system::System;
use crate::testing::{self, TestMachine};
use crate::vcpu::Vcpu;
use core::cell::Cell;
use pv_abi::ids::{Gfn, GuestPhys, GuestVirt};
use pv_abi::transport::{Transport, Words};
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

const MIB: u64 = 1 << 20;

/// The machine. At its end all domains are destroyed, and every frame must be free again.
pub struct World {
    pub system: System<TestMachine>,
    free: Pages,
}

impl Drop for World {
    fn drop(&mut self) {
        for domain in self.system.domains.all() {
            self.destroy(&domain);
        }
        self.system.reap();
        // A failed test has its own message.
        if !std::thread::panicking() {
            assert_eq!(self.system.frames.free_pages(), self.free, "frames were lost");
        }
    }
}

impl World {
    pub fn new() -> Self {
        let system = testing::system(TestMachine::new(128 * MIB / PAGE_BYTES), MANIFEST);
        let free = system.frames.free_pages();
        Self { system, free }
    }

    /// Destroys a domain; one that is gone already stays so.
    pub fn destroy(&self, domain: &Arc<Domain<TestMachine>>) {
        while destroy(&self.system, domain) == Ok(Progress::Again) {}
    }

    /// Makes a domain of the manifest and a guest in it, as its first vCPU.
    pub fn guest(&self, name: &str) -> Guest<'_> {
        let parent = (name != "dom0").then_some(pv_abi::DomainId::DOM0);
        let domain = build::create(&self.system, name, parent).unwrap_or_else(|error| panic!("{error}"));
        let change = domain.life.unpause().unwrap();
        self.system.follow(&domain, change);
        Guest::new(self, domain)
    }
}

/// Code in a domain: the other end of the stubs.
pub struct Guest<'w> {
    pub world: &'w World,
    pub domain: Arc<Domain<TestMachine>>,
    pub vcpu: Arc<Vcpu<TestMachine>>,
    /// Where the guest's own memory for tests begins: tables first.
    pub base: u64,
    end: u64,
    next: Cell<u64>,
    /// What the last call asked for, besides its result.
    pub after: Cell<After>,
    /// How often calls were preempted.
    pub preemptions: Cell<usize>,
}

/// Guest-virtual addresses are guest-physical ones from the tables up to 1 GiB, except for these 2 MiB, which are
/// nowhere...
pub const HOLE: u64 = 0x3e00_0000;
/// ... and these, which are the guest's own memory, read-only.
pub const READ_ONLY: u64 = 0x3c00_0000;

impl<'w> Guest<'w> {
    fn new(world: &'w World, domain: Arc<Domain<TestMachine>>) -> Self {
        let vcpu = domain.vcpus[0].clone();
        let start = domain.layout.get().unwrap().ranges().last().unwrap().past().base().raw();
        let base = (start - 8 * MIB) & !(2 * MIB - 1);
        let guest = Self {
            world,
            domain,
            vcpu,
            base,
            end: start,
            next: Cell::new(base + 0x10_000),
            after: Cell::new(After::Continue),
            preemptions: Cell::new(0),
        };
        guest.make_tables();
        guest.set_registers();
        guest
    }

    /// Four-level page tables: one entry, one entry, 512 pages of 2 MiB.
    fn make_tables(&self) {
        let (root, middle, pages) = (self.base, self.base + 0x1000, self.base + 0x2000);
        self.poke(root, &(middle | 3));
        self.poke(middle, &(pages | 3));
        for index in 0..512 {
            let at = index * 2 * MIB;
            let entry = match at {
                HOLE => 0,
                // As in a sound kernel, small numbers are no pointers.
                _ if at < self.base => 0,
                READ_ONLY => self.base | 0x81,
                _ => at | 0x83,
            };
            self.poke(pages + index * 8, &entry);
        }
    }

    fn set_registers(&self) {
        let mut context = self.vcpu.context.lock();
        let hw = &mut context.hw;
        hw.set(Reg::Cr0, 0x8001_0011);
        hw.set(Reg::Cr3, self.base);
        hw.set(Reg::Cr4, 0x20);
        hw.set(Reg::Efer, 0x500);
        self.set_level(hw, 0);
    }

    pub fn set_level(&self, hw: &mut impl VcpuHw, level: u16) {
        let state = |attributes| SegmentState {
            attributes: attributes | level << 5,
            limit: u32::MAX,
            ..Default::default()
        };
        hw.set_segment(Segment::Cs, state(0xa9b));
        hw.set_segment(Segment::Ss, state(0xc93));
    }

    /// Memory of the guest that nothing else uses, aligned to a page.
    pub fn page(&self) -> Gfn {
        let at = self.next.get().next_multiple_of(PAGE_BYTES);
        assert!(at < self.end, "the guest of the test has no memory left");
        self.next.set(at + PAGE_BYTES);
        Gfn::new(at / PAGE_BYTES)
    }

    fn room(&self, bytes: usize) -> u64 {
        let at = self.next.get().next_multiple_of(16);
        assert!(at < self.end, "the guest of the test has no memory left");
        self.next.set(at + bytes as u64);
        at
    }

    /// What was lent is not needed any more. From here on memory ends soon after what is lent, so that wild lengths do not
    /// reach far.
    pub fn forget_lent(&self) {
        self.next.set(self.end - 0x2000);
    }

    /// Puts a value into the guest's memory and tells its address.
    pub fn put<T: IntoBytes + Immutable + ?Sized>(&self, value: &T) -> GuestVirt {
        let at = self.room(value.as_bytes().len());
        self.poke(at, value);
        GuestVirt::new(at)
    }

    /// Writes to the guest's physical memory.
    pub fn poke<T: IntoBytes + Immutable + ?Sized>(&self, at: u64, value: &T) {
        let map = self.domain.memory.read();
        let mut physical = crate::mem::Physical::new(&map, self.world.system.memory());
        physical.write(GuestPhys::new(at), value.as_bytes()).unwrap();
    }

    /// Reads the guest's physical memory.
    pub fn peek<T: FromBytes + IntoBytes>(&self, at: u64) -> T {
        let map = self.domain.memory.read();
        crate::mem::Physical::new(&map, self.world.system.memory()).read_value(GuestPhys::new(at)).unwrap()
    }

    /// Whether the guest could still make calls of its own: it may have given its memory away, or have been destroyed.
    pub fn is_sound(&self) -> bool {
        self.forget_lent();
        let at = self.next.get();
        let there = |at: u64| {
            let map = self.domain.memory.read();
            map.translate(self.world.system.memory(), GuestPhys::new(at).gfn())
                .is_some_and(|found| found.rights.write)
        };
        let stack = (at..self.end).step_by(PAGE_BYTES as usize).all(there);
        let args = [pv_abi::version::op::EXTRAVERSION, at, 0, 0, 0];
        !self.domain.life.is_dying() && stack && self.raw(pv_abi::call::number::XEN_VERSION, args) == 0
    }

    /// Makes a call by its registers.
    pub fn raw(&self, number: u64, args: Words) -> i64 {
        self.call(number, &args)
    }
}

impl Transport for Guest<'_> {
    fn call(&self, number: u64, args: &Words) -> i64 {
        let mut context = self.vcpu.context.lock();
        let gprs = context.hw.gprs_mut();
        let before = crate::hw::Gprs {
            rax: number,
            rdi: args[0],
            rsi: args[1],
            rdx: args[2],
            r10: args[3],
            r8: args[4],
            rbx: 0x1111,
            rcx: 0x2222,
            r11: 0x3333,
            ..Default::default()
        };
        *gprs = before;
        let mut cx =
            Cx::new(&self.world.system, &self.domain, &self.vcpu, &mut context, self.vcpu.stats.page());
        let is_traced = self.world.system.trace.is_on();
        let mut after = if is_traced { traced_hypercall(&mut cx) } else { hypercall(&mut cx) };
        for step in 0.. {
            assert!(step < 100_000, "the call never ends");
            if after != After::Preempted {
                break;
            }
            let cursor = cx.cursor;
            assert_eq!(*context.hw.gprs(), before, "a preempted call changed a register");
            self.preemptions.set(self.preemptions.get() + 1);
            cx = Cx::new(&self.world.system, &self.domain, &self.vcpu, &mut context, self.vcpu.stats.page());
            after = resume(&mut cx, cursor);
        }
        self.after.set(after);
        let rax = context.hw.gprs().rax;
        let expected = crate::hw::Gprs { rax, ..before };
        assert_eq!(*context.hw.gprs(), expected, "a call changes RAX and nothing else");
        rax.cast_signed()
    }

    fn lend(&self, bytes: &[u8]) -> u64 {
        self.put(bytes).raw()
    }

    fn lend_mut(&self, bytes: &mut [u8]) -> u64 {
        self.put(&*bytes).raw()
    }

    fn take_back(&self, address: u64, bytes: &mut [u8]) {
        let map = self.domain.memory.read();
        let mut physical = crate::mem::Physical::new(&map, self.world.system.memory());
        physical.read(GuestPhys::new(address), bytes).unwrap();
    }
}

/// The frame behind a guest's page.
pub fn machine_page(guest: &Guest<'_>, gfn: Gfn) -> Mfn {
    guest.domain.memory.read().translate(guest.world.system.memory(), gfn).unwrap().mfn
}

/// Reads the machine's memory.
pub fn machine_bytes(guest: &Guest<'_>, mfn: Mfn, into: &mut [u8]) {
    guest.world.system.memory().read(mfn.base(), into);
}
