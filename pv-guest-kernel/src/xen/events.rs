//! Event channels: this kernel's interrupt controller.
//!
//! Two flavours behind one set of functions: FIFO queues, one for each vCPU and priority, in shared memory
//! (`event_channel.h`, `struct evtchn_fifo_control_block`), and the older 2-level bitmap. The flavour is chosen at boot.
//! An upcall runs with upcalls masked, takes what is queued, highest priority first, and for each port either calls its
//! function or wakes its task. Ports' slots live for ever, so the upcall looks them up without a lock.
//!
//! A port stays masked from its allocation until [`listen`] or [`on`] says who wants it.

mod bind;
mod report;

pub use bind::{adopt, alloc_unbound, bind_interdomain, bind_ipi, bind_pirq, bind_virq};
pub use report::{InUse, count, list};

use core::cell::UnsafeCell;
use core::future::poll_fn;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use core::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use pv_abi::event::fifo::{Consumer, EventArray, EventPage, LiveControlBlock};
use pv_abi::event::{
    BindVcpu, Close, ExpandArray, InitControl, Send, SetPriority, Unmask, Unmasked, two_level,
};
use pv_abi::{Errno, Gfn, Port, Result, VcpuId, Virq, hvm};

use super::{hv, params, shared, stub};
use crate::arch::cpu::{self, PerCpu};
use crate::arch::trap;
use crate::mm::{self, frames};
use crate::sync::IrqMutex;
use crate::task::signal::Signal;
use crate::task::timer;

/// How events are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Abi {
    /// Bitmaps in shared_info.
    TwoLevel = 0,
    /// Queues in shared memory.
    Fifo = 1,
}

const SLOTS_PER_CHUNK: u32 = 256;
/// Ports the 2-level flavour has.
pub const TWO_LEVEL_PORTS: u32 = 4096;

/// The priority of timers and IPIs.
pub const PRIORITY_HIGH: u32 = 0;
/// The priority a port has unless told otherwise.
pub const PRIORITY_DEFAULT: u32 = 7;
/// The lowest priority.
pub const PRIORITY_LOW: u32 = 15;

/// A vCPU's end of its FIFO queues.
pub struct Queues {
    control: AtomicPtr<LiveControlBlock>,
    /// Touched only in this vCPU's upcall.
    consumer: UnsafeCell<Consumer>,
}

impl Default for Queues {
    fn default() -> Self {
        Self::new()
    }
}

impl Queues {
    /// Not set up.
    pub const fn new() -> Self {
        Queues { control: AtomicPtr::new(core::ptr::null_mut()), consumer: UnsafeCell::new(Consumer::new()) }
    }
}

/// What the kernel keeps for a port.
struct Slot {
    /// A `fn(usize)`, or 0.
    function: AtomicUsize,
    argument: AtomicUsize,
    bound: AtomicBool,
    fired: AtomicBool,
    count: AtomicU64,
    waker: AtomicWaker,
    name: IrqMutex<&'static str>,
}

static ABI: AtomicU8 = AtomicU8::new(Abi::TwoLevel as u8);
static ARRAY: EventArray = EventArray::new();
/// Held while the array grows.
static GROWING: IrqMutex<()> = IrqMutex::new(());
static SLOTS: [AtomicPtr<[Slot; SLOTS_PER_CHUNK as usize]>; 512] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; 512];
static TEST_COUNT: AtomicU64 = AtomicU64::new(0);

/// The flavour in use.
pub fn abi() -> Abi {
    if ABI.load(Ordering::Relaxed) == Abi::Fifo as u8 { Abi::Fifo } else { Abi::TwoLevel }
}

/// Sets up the running vCPU's events; vCPU 0 goes first and decides the flavour.
///
/// The upcall comes by the vector of HVM_PARAM_CALLBACK_IRQ: unlike a per-vCPU vector it needs no end-of-interrupt at a
/// local APIC.
pub fn init_cpu(cpu: &'static PerCpu, wanted: Abi) {
    if cpu.id == 0 && wanted == Abi::Fifo {
        for mask in &shared::info().evtchn_mask {
            mask.store(u64::MAX, Ordering::Relaxed);
        }
        match init_fifo(cpu) {
            Ok(()) => ABI.store(Abi::Fifo as u8, Ordering::Release),
            Err(e) => log::warn!("no FIFO event channels ({e}): using the 2-level ones"),
        }
    } else if cpu.id != 0 && abi() == Abi::Fifo {
        init_fifo(cpu).unwrap_or_else(|e| panic!("event queues of vCPU {}: {e}", cpu.id));
    }
    if cpu.id == 0 {
        let vector = hvm::CALLBACK_TYPE_VECTOR << hvm::CALLBACK_TYPE_SHIFT | u64::from(trap::UPCALL_VECTOR);
        if let Err(e) = params::set(hvm::param::CALLBACK_IRQ, vector) {
            panic!("cannot set the upcall vector: {e}");
        }
    }
}

fn init_fifo(cpu: &PerCpu) -> Result<()> {
    let frame = frames::allocate_zeroed().ok_or(Errno::ENOMEM)?;
    let mut arg = InitControl {
        control_gfn: Gfn::new(frame.gfn()),
        offset: 0,
        vcpu: VcpuId::new(cpu.id),
        ..InitControl::default()
    };
    stub::evtchn_init_control(hv(), &mut arg).inspect_err(|_| frames::free(frame))?;
    cpu.queues.control.store(mm::ptr(frame.0), Ordering::Release);
    Ok(())
}

/// Binds the running vCPU's timer and IPI ports.
pub fn init_cpu_ports(cpu: &'static PerCpu) {
    let timer = bind_virq(Virq::TIMER, cpu.id).unwrap_or_else(|e| panic!("no timer event: {e}"));
    let _ = set_priority(timer, PRIORITY_HIGH);
    cpu.timer_port.store(timer.raw(), Ordering::Release);
    on(timer, "timer", |_| timer::on_timer(), 0);
    let ipi = bind_ipi(cpu.id).unwrap_or_else(|e| panic!("no IPI event: {e}"));
    let _ = set_priority(ipi, PRIORITY_HIGH + 1);
    on(ipi, "ipi", |_| {}, 0);
    cpu.ipi_port.store(ipi.raw(), Ordering::Release);
}

fn slot(port: u32) -> Option<&'static Slot> {
    let chunk = SLOTS.get((port / SLOTS_PER_CHUNK) as usize)?.load(Ordering::Acquire);
    // SAFETY: null, or a chunk that `ensure` leaked.
    let chunk = unsafe { chunk.as_ref() }?;
    Some(&chunk[(port % SLOTS_PER_CHUNK) as usize])
}

/// Makes room for a port: its slot, and its word in the event array.
fn ensure(port: Port) -> Result<()> {
    let number = port.raw();
    let chunk = SLOTS.get((number / SLOTS_PER_CHUNK) as usize).ok_or(Errno::ENOSPC)?;
    if chunk.load(Ordering::Acquire).is_null() {
        let new = alloc::boxed::Box::new(core::array::from_fn(|_| Slot {
            function: AtomicUsize::new(0),
            argument: AtomicUsize::new(0),
            bound: AtomicBool::new(false),
            fired: AtomicBool::new(false),
            count: AtomicU64::new(0),
            waker: AtomicWaker::new(),
            name: IrqMutex::new(""),
        }));
        let raw = alloc::boxed::Box::into_raw(new);
        if chunk.compare_exchange(core::ptr::null_mut(), raw, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: nobody else has seen this one.
            drop(unsafe { alloc::boxed::Box::from_raw(raw) });
        }
    }
    if abi() == Abi::Fifo {
        let _growing = GROWING.lock();
        while number >= ARRAY.capacity() {
            let frame = frames::allocate_zeroed().ok_or(Errno::ENOMEM)?;
            // SAFETY: a fresh, zeroed page of ours that is never given back; the page is all atomics.
            let page: &'static EventPage = unsafe { &*mm::ptr::<EventPage>(frame.0) };
            let first = ARRAY.capacity();
            stub::evtchn_expand_array(hv(), &ExpandArray { array_gfn: Gfn::new(frame.gfn()) })
                .inspect_err(|_| frames::free(frame))?;
            if ARRAY.push(page).is_err() {
                return Err(Errno::ENOSPC);
            }
            for port in first..ARRAY.capacity() {
                ARRAY.mask(Port::new(port));
            }
        }
    } else if number >= TWO_LEVEL_PORTS {
        return Err(Errno::ENOSPC);
    }
    Ok(())
}

/// Notes whose events a port's are. The bitmap's words are shared: without this a vCPU would take events of another,
/// such as its timer's.
fn assign(port: Port, vcpu: u32) {
    let (word, bit) = (port.raw() as usize / 64, 1 << (port.raw() % 64));
    for cpu in cpu::all() {
        if let Some(word) = cpu.ports.get(word) {
            if cpu.id == vcpu {
                word.fetch_or(bit, Ordering::SeqCst)
            } else {
                word.fetch_and(!bit, Ordering::SeqCst)
            };
        }
    }
}

fn bound(port: Port, slot_name: &'static str, vcpu: u32) -> Result<Port> {
    if let Err(e) = ensure(port) {
        let _ = stub::evtchn_close(hv(), &Close { port });
        return Err(e);
    }
    mask(port);
    assign(port, vcpu);
    if let Some(slot) = slot(port.raw()) {
        slot.function.store(0, Ordering::Relaxed);
        slot.fired.store(false, Ordering::Relaxed);
        slot.count.store(0, Ordering::Relaxed);
        *slot.name.lock() = slot_name;
        slot.bound.store(true, Ordering::Release);
    }
    Ok(port)
}

/// Moves a port to another vCPU.
pub fn bind_vcpu(port: Port, vcpu: u32) -> Result<()> {
    let bind = || stub::evtchn_bind_vcpu(hv(), &BindVcpu { port, vcpu: VcpuId::new(vcpu) }).map(|_| ());
    if abi() == Abi::Fifo {
        return bind();
    }
    // An event that was told to the vCPU before is told to the new one when the mask goes.
    let was_masked = is_masked(port);
    mask(port);
    let moved = bind();
    if moved.is_ok() {
        assign(port, vcpu);
    }
    if !was_masked {
        unmask(port);
    }
    moved
}

/// Chooses a port's queue (FIFO only).
pub fn set_priority(port: Port, priority: u32) -> Result<()> {
    stub::evtchn_set_priority(hv(), &SetPriority { port, priority }).map(|_| ())
}

/// Sends an event. A dead port is not an error of the sender.
#[inline]
pub fn notify(port: Port) {
    let _ = stub::evtchn_send(hv(), &Send { port });
}

/// Wakes a vCPU from its idle loop.
pub fn kick(cpu: &PerCpu) {
    let port = cpu.ipi_port.load(Ordering::Relaxed);
    if port != 0 {
        notify(Port::new(port));
    }
}

/// Closes a port.
pub fn close(port: Port) {
    if let Some(slot) = slot(port.raw()) {
        slot.bound.store(false, Ordering::Release);
        slot.function.store(0, Ordering::Relaxed);
    }
    mask(port);
    if let Err(e) = stub::evtchn_close(hv(), &Close { port }) {
        log::debug!("close {port}: {e}");
    }
    if let Some(slot) = slot(port.raw()) {
        slot.fired.store(true, Ordering::Release);
        slot.waker.wake();
    }
}

/// Masks a port.
pub fn mask(port: Port) {
    match abi() {
        Abi::Fifo => ARRAY.mask(port),
        Abi::TwoLevel => two_level::mask(shared::info(), port),
    }
}

/// Clears a port's mask; an event that came meanwhile is delivered.
pub fn unmask(port: Port) {
    let unmasked = match abi() {
        Abi::Fifo => ARRAY.unmask(port),
        Abi::TwoLevel => two_level::unmask(shared::info(), port),
    };
    if unmasked == Unmasked::Pending {
        let _ = stub::evtchn_unmask(hv(), &Unmask { port });
    }
}

/// Is the port's event pending?
pub fn is_pending(port: Port) -> bool {
    match abi() {
        Abi::Fifo => ARRAY.is_pending(port),
        Abi::TwoLevel => two_level::is_pending(shared::info(), port),
    }
}

/// Is the port masked?
pub fn is_masked(port: Port) -> bool {
    match abi() {
        Abi::Fifo => ARRAY.is_masked(port),
        Abi::TwoLevel => shared::info()
            .evtchn_mask
            .get(port.raw() as usize / 64)
            .is_some_and(|w| w.load(Ordering::Relaxed) >> (port.raw() % 64) & 1 == 1),
    }
}

/// Clears a pending event that nobody listens to (a masked port that was polled).
pub fn clear_pending(port: Port) {
    match abi() {
        Abi::Fifo => ARRAY.clear_pending(port),
        Abi::TwoLevel => two_level::clear_pending(shared::info(), port),
    };
}

/// Calls a function for each event of a port, in the upcall.
pub fn on(port: Port, name: &'static str, function: fn(usize), argument: usize) {
    if let Some(slot) = slot(port.raw()) {
        *slot.name.lock() = name;
        slot.argument.store(argument, Ordering::Relaxed);
        slot.function.store(function as usize, Ordering::Release);
    }
    unmask(port);
}

/// Raises a signal for each event of a port, in the upcall. One signal for many ports makes waiting for all of them as
/// cheap as for one.
pub fn raise_on(port: Port, name: &'static str, signal: &'static Signal) {
    on(port, name, raise, core::ptr::from_ref(signal) as usize);
}

fn raise(signal: usize) {
    // SAFETY: only `raise_on` names this function, and gives it the address of a signal that lives for ever.
    unsafe { &*(signal as *const Signal) }.raise();
}

/// Lets tasks wait for a port's events.
pub fn listen(port: Port, name: &'static str) {
    if let Some(slot) = slot(port.raw()) {
        *slot.name.lock() = name;
        slot.function.store(0, Ordering::Release);
    }
    unmask(port);
}

/// Waits for an event that came since the last wait. One task at a time may wait for a port.
pub async fn wait(port: Port) {
    poll_fn(|cx| poll_wait(port, cx)).await;
}

/// As [`wait`], for hand-written futures.
pub fn poll_wait(port: Port, cx: &mut Context<'_>) -> Poll<()> {
    let Some(slot) = slot(port.raw()) else { return Poll::Ready(()) };
    if slot.fired.load(Ordering::Relaxed) && slot.fired.swap(false, Ordering::AcqRel) {
        return Poll::Ready(());
    }
    slot.waker.register(cx.waker());
    if slot.fired.swap(false, Ordering::AcqRel) || !slot.bound.load(Ordering::Acquire) {
        return Poll::Ready(());
    }
    Poll::Pending
}

/// Makes the next [`wait`] return at once, as if an event had come.
pub fn pretend(port: Port) {
    if let Some(slot) = slot(port.raw()) {
        slot.fired.store(true, Ordering::Release);
        slot.waker.wake();
    }
}

#[inline(always)]
fn dispatch(cpu: &PerCpu, port: u32) {
    let Some(slot) = slot(port) else { return };
    slot.count.fetch_add(1, Ordering::Relaxed);
    cpu.events.fetch_add(1, Ordering::Relaxed);
    let function = slot.function.load(Ordering::Acquire);
    if function != 0 {
        // SAFETY: only `on` stores a value, and it stores a `fn(usize)`.
        let function: fn(usize) = unsafe { core::mem::transmute(function) };
        function(slot.argument.load(Ordering::Relaxed));
    } else {
        slot.fired.store(true, Ordering::Release);
        slot.waker.wake();
    }
}

/// The upcall: takes every event of this vCPU.
pub fn upcall() {
    let cpu = cpu::this();
    cpu.upcalls.fetch_add(1, Ordering::Relaxed);
    let info = shared::vcpu_info(cpu);
    if info.upcall_pending.load(Ordering::Relaxed) == 0 {
        cpu.idle_upcalls.fetch_add(1, Ordering::Relaxed);
    }
    if abi() == Abi::TwoLevel {
        return two_level::scan(info, shared::info(), &cpu.ports, |port| dispatch(cpu, port.raw()));
    }
    loop {
        info.upcall_pending.store(0, Ordering::SeqCst);
        take_fifo(cpu);
        if info.upcall_pending.load(Ordering::SeqCst) == 0 {
            return;
        }
    }
}

fn take_fifo(cpu: &PerCpu) {
    // SAFETY: null, or the mapped control block of this vCPU, all atomics.
    let Some(control) = (unsafe { cpu.queues.control.load(Ordering::Relaxed).as_ref() }) else { return };
    // SAFETY: upcalls do not nest, and only this vCPU's upcall comes here.
    let consumer = unsafe { &mut *cpu.queues.consumer.get() };
    while let Some(port) = consumer.next(control, &ARRAY) {
        dispatch(cpu, port.raw());
    }
}

/// The upcall by a per-vCPU vector, which tests switch on: counts, acknowledges at the local APIC, and does the same.
pub fn test_vector() {
    TEST_COUNT.fetch_add(1, Ordering::Relaxed);
    upcall();
    crate::arch::apic::end_of_interrupt();
}

/// How often the per-vCPU vector came.
pub fn test_vector_count() -> u64 {
    TEST_COUNT.load(Ordering::Relaxed)
}
