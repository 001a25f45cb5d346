mod cpuid;
mod delivery;
mod instructions;
mod messages;
mod registers;

use super::*;
use crate::event::{InfoPlace, Width};
use crate::hw::{Backend, HostPhys, PhysMemory, Segment, SegmentState, VcpuConfig};
use crate::sched::{CpuMask, Group};
use crate::stats::CounterPages;
use crate::testing::{ScriptedVcpu, TestMachine};
use core::sync::atomic::Ordering::SeqCst;
use pv_abi::ids::{DomainId, VcpuId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::vec::Vec;

pub type TestVcpu = Arc<Vcpu<TestMachine>>;
pub type TestContext = Context<ScriptedVcpu>;

/// Where the `vcpu_info` is.
pub const INFO: HostPhys = HostPhys::new(0x100);

/// A virtual CPU with its surroundings.
pub struct Bench {
    pub machine: TestMachine,
    pub clock: Clock,
    pub vcpu: TestVcpu,
    pub policy: CpuidPolicy,
    pub callback: Option<u8>,
    /// The code at RIP.
    pub code: Vec<u8>,
    /// Guest-physical addresses that are mapped, and whether they can be written.
    pub mapped: HashMap<u64, bool>,
    pub ports: HashMap<u16, u32>,
    pub registers: Mutex<HashMap<u64, u64>>,
    pub page: Mutex<Option<(Gfn, Vec<u8>)>>,
    pub timer: Mutex<Option<Option<TscTicks>>>,
    pub width: Mutex<Option<Width>>,
    pub sent: Mutex<Vec<Ipi>>,
}

pub fn vcpu(machine: &TestMachine, id: u32) -> TestVcpu {
    let config = VcpuConfig { nested_root: HostPhys::new(0), domain: 1 };
    let hw = machine.backend().new_vcpu(config).unwrap();
    let group = Arc::new(Group::new(256, 0));
    let info = Arc::new(InfoPlace::at(INFO));
    let (domain, id, now) = (DomainId::new(1), VcpuId::new(id), TscTicks::new(0));
    let stats = CounterPages::default().take(domain, id);
    Arc::new(Vcpu::new(id, domain, hw, info, group, CpuMask::ALL, stats, now))
}

impl Bench {
    pub fn new() -> Self {
        let machine = TestMachine::new(4);
        let clock = Clock::new(1_000_000_000);
        let topology = Topology { domain: DomainId::new(1), vcpus: 2 };
        let policy = CpuidPolicy::new(|leaf, sub| machine.cpuid(leaf, sub), topology, &clock);
        Self {
            vcpu: vcpu(&machine, 0),
            machine,
            clock,
            policy,
            callback: None,
            code: Vec::new(),
            mapped: HashMap::new(),
            ports: HashMap::new(),
            registers: Mutex::default(),
            page: Mutex::default(),
            timer: Mutex::default(),
            width: Mutex::default(),
            sent: Mutex::default(),
        }
    }

    /// Runs a handler on the virtual CPU's context.
    pub fn with<R>(&self, act: impl FnOnce(&mut TestContext, &Self) -> R) -> R {
        let vcpu = Arc::clone(&self.vcpu);
        let mut context = vcpu.context.lock();
        act(&mut context, self)
    }

    pub fn exit(&self, exit: Exit) -> Resume {
        self.with(|context, bench| handle(exit, context, bench))
    }

    /// 64-bit code with interrupts on.
    pub fn long_mode(&self) {
        self.with(|context, _| {
            let cs = SegmentState { attributes: 0xa9b, limit: u32::MAX, ..SegmentState::default() };
            context.hw.set_segment(Segment::Cs, cs);
            context.hw.set(Reg::Efer, 0xd01);
            context.hw.set(Reg::Cr0, 0x8001_0033);
            context.hw.set(Reg::Cr4, 0x20);
            context.hw.set(Reg::Rflags, 0x202);
            context.hw.set(Reg::Rip, 0x1000);
        });
    }

    pub fn injected(&self) -> Option<Event> {
        self.with(|context, _| context.hw.pending.take())
    }

    pub fn rip(&self) -> u64 {
        self.with(|context, _| context.hw.get(Reg::Rip))
    }

    /// The guest has events to look for.
    pub fn mark(&self) {
        self.machine.memory().u8_at(INFO).store(1, SeqCst);
        self.vcpu.attention.raise(crate::vcpu::Reason::UPCALL);
    }
}

impl Around<TestMachine> for Bench {
    fn platform(&self) -> &TestMachine {
        &self.machine
    }

    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn vcpu(&self) -> &Vcpu<TestMachine> {
        &self.vcpu
    }

    fn cpuid(&self) -> &CpuidPolicy {
        &self.policy
    }

    fn callback_vector(&self) -> Option<u8> {
        self.callback
    }

    fn set_apic_timer(&self, deadline: Option<TscTicks>) {
        *self.timer.lock().unwrap() = Some(deadline);
    }

    fn send_ipi(&self, ipi: Ipi) {
        self.sent.lock().unwrap().push(ipi);
    }

    fn fetch(&self, _context: &mut TestContext, _linear: u64, into: &mut [u8]) -> usize {
        into.iter_mut().zip(&self.code).for_each(|(to, from)| *to = *from);
        into.len().min(self.code.len())
    }

    fn write_page(&self, gfn: Gfn, bytes: &[u8; 4096]) -> Result<(), Errno> {
        if gfn.raw() > 100 {
            return Err(Errno::EFAULT);
        }
        *self.page.lock().unwrap() = Some((gfn, bytes.to_vec()));
        Ok(())
    }

    fn latch_width(&self, width: Width) {
        *self.width.lock().unwrap() = Some(width);
    }

    fn allows(&self, gpa: GuestPhys, access: Access) -> bool {
        self.mapped.get(&gpa.raw()).is_some_and(|writable| *writable || !access.write)
    }

    fn forward(&self, _access: PortAccess) -> bool {
        false
    }

    fn port(&self, access: PortAccess) -> Option<u32> {
        self.ports.get(&access.port).copied()
    }

    fn register(&self, gpa: GuestPhys, _bytes: u8, write: Option<u64>) -> Option<u64> {
        let mut registers = self.registers.lock().unwrap();
        let place = registers.get_mut(&gpa.raw())?;
        if let Some(value) = write {
            *place = value;
        }
        Some(*place)
    }
}
