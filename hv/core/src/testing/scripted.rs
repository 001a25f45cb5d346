//! A back end that plays exits from a list and records what is done to the virtual CPU.

use super::format::PlainFormat;
use crate::hw::{
    ApicMode, Backend, Busy, Event, Exit, Gprs, HostPhys, Levels, NewVcpuError, PageSize, Reg, RegisterPage,
    Requests, Segment, SegmentState, TscTicks, VcpuConfig, VcpuHw, Window,
};
use std::boxed::Box;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::vec::Vec;

/// One step of a guest: changes its registers as guest code would, and says why it stopped.
pub type Step = Box<dyn FnMut(&mut ScriptedVcpu) -> Exit + Send>;

/// What is done to the virtual CPUs of one domain, and what they are to do.
#[derive(Default)]
pub struct Script {
    steps: VecDeque<Step>,
    /// Events put into the guest, oldest first.
    pub injected: Vec<Event>,
    /// How often guest code was entered.
    pub entries: usize,
}

/// The scripts by the number of the domain; shared between the test and the back end.
#[derive(Clone, Default)]
pub struct Scripts {
    by_domain: Arc<Mutex<HashMap<u16, Arc<Mutex<Script>>>>>,
}

impl Scripts {
    /// The script of a domain.
    pub fn of(&self, domain: u16) -> Arc<Mutex<Script>> {
        self.by_domain.lock().unwrap().entry(domain).or_default().clone()
    }

    /// Appends a step to the script of a domain.
    pub fn then(&self, domain: u16, step: impl FnMut(&mut ScriptedVcpu) -> Exit + Send + 'static) {
        self.of(domain).lock().unwrap().steps.push_back(Box::new(step));
    }

    /// Appends an exit to the script of a domain.
    pub fn exit(&self, domain: u16, exit: Exit) {
        self.then(domain, move |_| exit);
    }

    /// Appends a hypercall to the script of a domain.
    pub fn call(&self, domain: u16, number: u64, arguments: [u64; 5]) {
        self.then(domain, move |vcpu| {
            let [rdi, rsi, rdx, r10, r8] = arguments;
            vcpu.gprs = Gprs { rax: number, rdi, rsi, rdx, r10, r8, ..vcpu.gprs };
            Exit::Hypercall
        });
    }

    /// How many steps a domain has not played yet.
    pub fn left(&self, domain: u16) -> usize {
        self.of(domain).lock().unwrap().steps.len()
    }
}

/// The back end.
pub struct Scripted {
    /// What its virtual CPUs do. One that has no step left halts with interrupts on, for ever.
    pub scripts: Scripts,
    /// The largest page it maps.
    pub largest: PageSize,
    /// It takes requests to a virtual CPU while that runs.
    pub takes_requests: bool,
}

impl Default for Scripted {
    fn default() -> Self {
        Self { scripts: Scripts::default(), largest: PageSize::G1, takes_requests: false }
    }
}

impl Backend for Scripted {
    const NAME: &'static str = "scripted";
    const HYPERCALL: [u8; 3] = [0x0f, 0x01, 0xd9];
    type Vcpu = ScriptedVcpu;
    type Format = PlainFormat;

    fn new_vcpu(&self, config: VcpuConfig) -> Result<ScriptedVcpu, NewVcpuError> {
        Ok(ScriptedVcpu {
            script: self.scripts.of(config.domain),
            gprs: Gprs::default(),
            registers: HashMap::new(),
            segments: HashMap::new(),
            nested_root: config.nested_root,
            pending: None,
            window: None,
            tsc_offset: TscTicks::default(),
            loaded: false,
            flushes: 0,
            interruptible: true,
            blocks_nmi: false,
            delivers: false,
            offered: None,
            watched: None,
            apic_mode: ApicMode::default(),
            deadline: None,
            ports: Vec::new(),
        })
    }

    fn largest_page(&self) -> PageSize {
        self.largest
    }

    fn takes_requests(&self) -> bool {
        self.takes_requests
    }
}

/// A virtual CPU that plays its domain's script.
pub struct ScriptedVcpu {
    script: Arc<Mutex<Script>>,
    /// The general registers.
    pub gprs: Gprs,
    /// Registers that were set.
    pub registers: HashMap<u8, u64>,
    /// Segments that were set.
    pub segments: HashMap<u8, SegmentState>,
    /// The root of the nested page tables.
    pub nested_root: HostPhys,
    /// The event of the next entry.
    pub pending: Option<Event>,
    /// The window that was asked for.
    pub window: Option<Window>,
    /// The offset that was set.
    pub tsc_offset: TscTicks,
    /// Whether a CPU has it loaded.
    pub loaded: bool,
    /// How often nested translations were flushed.
    pub flushes: usize,
    /// Whether the guest takes interrupts.
    pub interruptible: bool,
    /// Whether a non-maskable interrupt is in service; set when one is put in.
    pub blocks_nmi: bool,
    /// Whether it delivers interrupts by itself, and has a timer of its own.
    pub delivers: bool,
    /// The last offer: the vectors requested and in service.
    pub offered: Option<Levels>,
    /// The task priority below which an exit was asked for.
    pub watched: Option<u8>,
    /// How the guest reaches its local APIC.
    pub apic_mode: ApicMode,
    /// The deadline that was set.
    pub deadline: Option<TscTicks>,
    /// The ranges of ports passed through: first, count.
    pub ports: Vec<(u16, u16)>,
}

impl VcpuHw for ScriptedVcpu {
    fn load(&mut self) {
        assert!(!self.loaded, "loaded twice");
        self.loaded = true;
    }

    fn save(&mut self) {
        assert!(self.loaded, "saved without being loaded");
        self.deadline = None;
        self.loaded = false;
    }

    fn run(&mut self) -> Exit {
        assert!(self.loaded, "run without being loaded");
        let script = self.script.clone();
        let step = {
            let mut script = script.lock().unwrap();
            script.entries += 1;
            script.injected.extend(self.pending.take());
            script.steps.pop_front()
        };
        match step {
            Some(mut step) => step(self),
            None => {
                self.set(Reg::Rflags, 0x202);
                Exit::Halt
            }
        }
    }

    fn gprs(&self) -> &Gprs {
        &self.gprs
    }

    fn gprs_mut(&mut self) -> &mut Gprs {
        &mut self.gprs
    }

    fn get(&self, register: Reg) -> u64 {
        self.registers.get(&(register as u8)).copied().unwrap_or_default()
    }

    fn set(&mut self, register: Reg, value: u64) {
        self.registers.insert(register as u8, value);
    }

    fn segment(&self, segment: Segment) -> SegmentState {
        self.segments.get(&(segment as u8)).copied().unwrap_or_default()
    }

    fn privilege_level(&self) -> u8 {
        u8::try_from(self.segment(Segment::Ss).attributes >> 5 & 3).unwrap()
    }

    fn is_64_bit(&self) -> bool {
        self.segment(Segment::Cs).attributes & 0x200 != 0
    }

    fn set_segment(&mut self, segment: Segment, state: SegmentState) {
        self.segments.insert(segment as u8, state);
    }

    fn skip(&mut self) {
        self.skip_bytes(3);
    }

    fn skip_call(&mut self) {
        self.skip();
    }

    fn skip_bytes(&mut self, bytes: u8) {
        let rip = self.get(Reg::Rip);
        self.set(Reg::Rip, rip.wrapping_add(u64::from(bytes)));
    }

    fn inject(&mut self, event: Event) -> Result<(), Busy> {
        if self.pending.is_some() {
            return Err(Busy);
        }
        self.pending = Some(event);
        self.blocks_nmi |= event == Event::NMI;
        Ok(())
    }

    fn can_take_interrupt(&self) -> bool {
        self.interruptible && self.pending.is_none()
    }

    fn request_window(&mut self, window: Option<Window>) {
        self.window = window;
    }

    fn blocks_nmi(&self) -> bool {
        self.blocks_nmi
    }

    fn use_apic(&mut self, _page: &Arc<RegisterPage>, _requests: &Arc<Requests>) {}

    fn set_apic_mode(&mut self, mode: ApicMode) {
        self.apic_mode = mode;
    }

    fn delivers_interrupts(&self) -> bool {
        self.delivers
    }

    fn offer(&mut self, levels: Levels) {
        self.offered = Some(levels);
    }

    fn watch_priority(&mut self, below: Option<u8>) {
        self.watched = below;
    }

    fn set_deadline(&mut self, deadline: Option<TscTicks>) -> bool {
        self.deadline = deadline.filter(|_| self.delivers);
        self.delivers
    }

    fn reset(&mut self) {
        self.blocks_nmi = false;
        self.gprs = Gprs::default();
        self.registers.clear();
        self.segments.clear();
        self.pending = None;
        self.window = None;
    }

    fn set_nested_root(&mut self, root: HostPhys) {
        self.nested_root = root;
    }

    fn flush_nested(&mut self) {
        self.flushes += 1;
    }

    fn set_tsc_offset(&mut self, offset: TscTicks) {
        self.tsc_offset = offset;
    }

    fn pass_ports(&mut self, first: u16, count: u16, pass: bool) {
        self.ports.retain(|range| *range != (first, count));
        if pass {
            self.ports.push((first, count));
        }
    }
}
