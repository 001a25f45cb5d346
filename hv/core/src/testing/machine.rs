//! A machine for tests.

use super::memory::VecMemory;
use super::scripted::{Scripted, Scripts};
use crate::hw::{
    CpuId, Gsi, HostEvent, HostPhys, LineId, Mfn, MsiMessage, Nanos, NoLine, Platform, Polarity, PowerAction,
    Trigger, TscTicks,
};
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};
use pv_abi::counters::CounterPage;
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::vec::Vec;

/// What a route leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names say it
pub enum Route {
    Gsi { gsi: Gsi, trigger: Trigger, polarity: Polarity, cpu: CpuId },
    Msi { cpu: CpuId },
}

/// What happened to a [`TestMachine`].
#[derive(Default)]
pub struct Record {
    /// Everything written to the console.
    pub console: Vec<u8>,
    /// Bytes that the console will receive.
    pub typed: VecDeque<u8>,
    /// Events by CPU.
    pub events: HashMap<u16, VecDeque<HostEvent>>,
    /// How often each CPU was kicked.
    pub kicks: HashMap<u16, usize>,
    /// How often each CPU was told of requests.
    pub told: HashMap<u16, usize>,
    /// The armed timer of each CPU.
    pub timers: HashMap<u16, Option<TscTicks>>,
    /// The routes in use.
    pub routes: HashMap<LineId, Route>,
    /// Lines that are masked.
    pub masked: Vec<LineId>,
    /// Lines that were ended, oldest first.
    pub ended: Vec<LineId>,
    /// The last value written to each I/O port by width.
    pub ports: HashMap<(u16, u8), u32>,
    /// The last value written to each device register.
    pub registers: HashMap<HostPhys, u32>,
    /// How the machine was ended.
    pub power: Option<PowerAction>,
    /// How often a CPU idled.
    pub idles: usize,
    next_line: u16,
}

/// Configuration space of the PCI devices of a test: registers by address, and which bits of them can be written.
#[derive(Default)]
pub struct PciSpace {
    /// The registers, by bus, device, function and offset as in the address port (bit 31 clear).
    pub registers: HashMap<u32, u32>,
    /// Bits that can be written; a register without an entry ignores writes.
    pub writable: HashMap<u32, u32>,
}

/// A machine with [`VecMemory`] and the [`Scripted`] back end, whose devices are lists.
pub struct TestMachine {
    backend: Scripted,
    memory: VecMemory,
    cpus: u16,
    tsc: AtomicU64,
    /// How many ticks pass from one look at the counter to the next.
    pub step: AtomicU64,
    /// What happened.
    pub record: Mutex<Record>,
    /// Its PCI devices.
    pub pci: Mutex<PciSpace>,
}

std::thread_local! {
    static CURRENT: Cell<u16> = const { Cell::new(0) };
}

impl TestMachine {
    /// A machine with one CPU and memory of `frames` frames.
    pub fn new(frames: u64) -> Self {
        Self::with_cpus(frames, 1)
    }

    /// A machine with `cpus` CPUs and memory of `frames` frames.
    pub fn with_cpus(frames: u64, cpus: u16) -> Self {
        Self {
            backend: Scripted::default(),
            memory: VecMemory::new(frames),
            cpus,
            tsc: AtomicU64::new(1_000_000),
            step: AtomicU64::new(100),
            record: Mutex::default(),
            pci: Mutex::default(),
        }
    }

    /// Whether its CPUs take requests to a virtual CPU while they run it.
    pub fn set_takes_requests(&mut self, takes: bool) {
        self.backend.takes_requests = takes;
    }

    /// What its guests do.
    pub fn scripts(&self) -> &Scripts {
        &self.backend.scripts
    }

    /// From now on this thread plays `cpu`.
    pub fn become_cpu(&self, cpu: CpuId) {
        assert!(cpu.raw() < self.cpus);
        CURRENT.set(cpu.raw());
    }

    /// Lets time pass.
    pub fn pass(&self, ticks: u64) {
        self.tsc.fetch_add(ticks, Ordering::Relaxed);
    }

    /// Something happens on a CPU.
    pub fn raise(&self, cpu: CpuId, event: HostEvent) {
        self.record.lock().unwrap().events.entry(cpu.raw()).or_default().push_back(event);
    }

    /// Somebody types.
    pub fn type_in(&self, bytes: &[u8]) {
        self.record.lock().unwrap().typed.extend(bytes);
        self.raise(CpuId::new(0), HostEvent::ConsoleInput);
    }

    /// What was written to the console.
    pub fn console(&self) -> std::string::String {
        std::string::String::from_utf8_lossy(&self.record.lock().unwrap().console).into_owned()
    }

    fn new_line(record: &mut Record, route: Route) -> LineId {
        let line = LineId::new(record.next_line);
        record.next_line += 1;
        record.routes.insert(line, route);
        line
    }
}

impl Platform for TestMachine {
    type Backend = Scripted;
    type Memory = VecMemory;

    fn backend(&self) -> &Scripted {
        &self.backend
    }

    fn memory(&self) -> &VecMemory {
        &self.memory
    }

    fn frame_of(&self, page: &'static CounterPage) -> Mfn {
        HostPhys::new(core::ptr::from_ref(page) as u64).mfn()
    }

    fn cpu_count(&self) -> u16 {
        self.cpus
    }

    fn current_cpu(&self) -> CpuId {
        CpuId::new(CURRENT.get())
    }

    fn tsc(&self) -> TscTicks {
        TscTicks::new(self.tsc.fetch_add(self.step.load(Ordering::Relaxed), Ordering::Relaxed))
    }

    fn tsc_hz(&self) -> u64 {
        1_000_000_000
    }

    fn wall_clock_base(&self) -> Nanos {
        Nanos::new(1_700_000_000_000_000_000)
    }

    fn arm_timer(&self, deadline: Option<TscTicks>) {
        self.record.lock().unwrap().timers.insert(CURRENT.get(), deadline);
    }

    fn kick(&self, cpu: CpuId) {
        *self.record.lock().unwrap().kicks.entry(cpu.raw()).or_default() += 1;
        self.raise(cpu, HostEvent::Kick);
    }

    fn tell(&self, cpu: CpuId) {
        *self.record.lock().unwrap().told.entry(cpu.raw()).or_default() += 1;
    }

    /// If nothing is waiting, time passes until the timer's deadline.
    fn idle(&self) {
        let cpu = CURRENT.get();
        let mut record = self.record.lock().unwrap();
        record.idles += 1;
        if record.events.entry(cpu).or_default().is_empty()
            && let Some(Some(deadline)) = record.timers.insert(cpu, None)
        {
            self.tsc.fetch_max(deadline.raw(), Ordering::Relaxed);
            record.events.entry(cpu).or_default().push_back(HostEvent::Timer);
        }
    }

    fn take_interrupts(&self) {}

    fn next_host_event(&self) -> Option<HostEvent> {
        self.record.lock().unwrap().events.get_mut(&CURRENT.get())?.pop_front()
    }

    /// A plain 64-bit CPU with XSAVE, an x2APIC and a time-stamp counter deadline.
    fn cpuid(&self, leaf: u32, sub_leaf: u32) -> [u32; 4] {
        match (leaf, sub_leaf) {
            (0, _) => [0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
            (1, _) => [0x0066_0f51, 0x0004_0800, 0x9ed8_3203, 0x178b_fbff],
            (7, 0) => [0, 0x0000_0129, 0x8, 0],
            (0xd, 0) => [7, 832, 832, 0],
            (0xd, 2) => [256, 576, 0, 0],
            (0x8000_0000, _) => [0x8000_0008, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
            (0x8000_0001, _) => [0x0066_0f51, 0, 0x0000_0007, 0x2e10_0800],
            (0x8000_0008, _) => [0x3028, 0, 0, 0],
            _ => [0; 4],
        }
    }

    fn console_write(&self, bytes: &[u8]) {
        self.record.lock().unwrap().console.extend_from_slice(bytes);
    }

    fn console_read(&self, into: &mut [u8]) -> usize {
        let mut record = self.record.lock().unwrap();
        let count = into.len().min(record.typed.len());
        into.iter_mut().zip(record.typed.drain(..count)).for_each(|(to, from)| *to = from);
        count
    }

    fn port_read(&self, port: u16, bytes: u8) -> u32 {
        let address = self.record.lock().unwrap().ports.get(&(0xcf8, 4)).copied().unwrap_or_default();
        if !(0xcfc..0xd00).contains(&port) {
            return u32::MAX >> (32 - 8 * u32::from(bytes));
        }
        let register = self.pci.lock().unwrap().registers.get(&(address & 0x00ff_fffc)).copied();
        let value = register.unwrap_or(u32::MAX) >> (8 * u32::from(port - 0xcfc));
        value & (u32::MAX >> (32 - 8 * u32::from(bytes)))
    }

    fn port_write(&self, port: u16, bytes: u8, value: u32) {
        let mut record = self.record.lock().unwrap();
        record.ports.insert((port, bytes), value);
        if (0xcfc..0xd00).contains(&port) {
            let address = record.ports.get(&(0xcf8, 4)).copied().unwrap_or_default() & 0x00ff_fffc;
            let mut pci = self.pci.lock().unwrap();
            let shift = 8 * u32::from(port - 0xcfc);
            let writable = pci.writable.get(&address).copied().unwrap_or_default();
            let mask = ((u32::MAX >> (32 - 8 * u32::from(bytes))) << shift) & writable;
            if let Some(register) = pci.registers.get_mut(&address) {
                *register = (*register & !mask) | ((value << shift) & mask);
            }
        }
    }

    fn register_read(&self, at: HostPhys) -> u32 {
        self.record.lock().unwrap().registers.get(&at).copied().unwrap_or_default()
    }

    fn register_write(&self, at: HostPhys, value: u32) {
        assert!(at.raw().is_multiple_of(4) && at.mfn() >= self.memory.end(), "{at} is no register");
        self.record.lock().unwrap().registers.insert(at, value);
    }

    fn route_gsi(
        &self,
        gsi: Gsi,
        trigger: Trigger,
        polarity: Polarity,
        cpu: CpuId,
    ) -> Result<LineId, NoLine> {
        if gsi.raw() >= 24 {
            return Err(NoLine);
        }
        let mut record = self.record.lock().unwrap();
        let line = Self::new_line(&mut record, Route::Gsi { gsi, trigger, polarity, cpu });
        record.masked.push(line);
        Ok(line)
    }

    fn route_msi(&self, cpu: CpuId) -> Result<(LineId, MsiMessage), NoLine> {
        let line = Self::new_line(&mut self.record.lock().unwrap(), Route::Msi { cpu });
        Ok((line, MsiMessage { address: 0xfee0_0000, data: 0x4000 | u32::from(line.raw()) }))
    }

    fn mask_line(&self, line: LineId, masked: bool) {
        let mut record = self.record.lock().unwrap();
        record.masked.retain(|present| *present != line);
        if masked {
            record.masked.push(line);
        }
    }

    fn end_line(&self, line: LineId) {
        self.record.lock().unwrap().ended.push(line);
    }

    fn release_line(&self, line: LineId) {
        let route = self.record.lock().unwrap().routes.remove(&line);
        assert!(route.is_some(), "line {line:?} is released twice");
    }

    fn power(&self, action: PowerAction) {
        self.record.lock().unwrap().power = Some(action);
    }
}
