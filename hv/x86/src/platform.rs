//! The PC as policy sees it: [`Platform`] and [`PhysMemory`].

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use hv_core::hw::{
    CpuId, Gsi, HostEvent, HostPhys, LineId, Mfn, MsiMessage, Nanos, NoLine, PhysMemory, Platform, Polarity,
    PowerAction, Trigger, TscTicks,
};

use pv_abi::counters::CounterPage;

use crate::cpu::percpu::{PerCpu, pending};
use crate::cpu::{io, smp, traps};
use crate::dev::{lapic, lines, power, uart};
use crate::heap;
use crate::machine::{Engine, Machine};
use crate::paging::{self, DIRECT_MAP, direct_map_ptr};

/// A PC with the virtualization extension `B`.
pub struct Pc<B> {
    engine: B,
    memory: DirectMap,
    tsc_hz: u64,
    wall_clock_base: u64,
}

impl<B: Engine> Pc<B> {
    /// The platform of a machine.
    pub fn new(machine: &Machine, engine: B) -> Self {
        Self { engine, memory: DirectMap, tsc_hz: machine.tsc_hz, wall_clock_base: machine.wall_clock_base }
    }
}

/// Physical memory through the direct map. It maps RAM only, so that an access to anything else is a page
/// fault of the hypervisor: a panic.
pub struct DirectMap;

impl DirectMap {
    fn place<T>(at: HostPhys) -> *mut T {
        debug_assert!(at.raw().is_multiple_of(align_of::<T>() as u64));
        direct_map_ptr(at.raw()).cast()
    }
}

impl PhysMemory for DirectMap {
    fn read(&self, from: HostPhys, into: &mut [u8]) {
        // SAFETY: the source is RAM or faults, and no reference to it exists; the bytes may change meanwhile,
        // each is what it was at some time.
        unsafe { copy_bytes(into.as_mut_ptr(), direct_map_ptr(from.raw()), into.len()) };
    }

    fn write(&self, to: HostPhys, bytes: &[u8]) {
        // SAFETY: the target is RAM or faults, and no reference to it exists.
        unsafe { copy_bytes(direct_map_ptr(to.raw()), bytes.as_ptr(), bytes.len()) };
    }

    fn copy(&self, to: HostPhys, from: HostPhys, bytes: usize) {
        // SAFETY: as for `read` and `write`.
        unsafe { copy_bytes(direct_map_ptr(to.raw()), direct_map_ptr(from.raw()), bytes) };
    }

    #[inline]
    fn read_words<const N: usize>(&self, from: HostPhys) -> [u64; N] {
        let first: *mut u64 = Self::place(from);
        // SAFETY: RAM or a fault, as for `u64_at`.
        core::array::from_fn(|index| unsafe { AtomicU64::from_ptr(first.add(index)) }.load(Ordering::Relaxed))
    }

    fn zero(&self, frame: Mfn) {
        // SAFETY: as for `write`.
        unsafe {
            core::arch::asm!(
                "rep stosq", inout("rdi") DIRECT_MAP + frame.base().raw() => _, inout("rcx") 512u64 => _,
                in("rax") 0u64, options(nostack, preserves_flags)
            );
        }
    }

    #[inline]
    fn u8_at(&self, at: HostPhys) -> &AtomicU8 {
        // SAFETY: RAM or a fault; all other accesses to such memory are atomic, or copies by `rep movs`.
        unsafe { AtomicU8::from_ptr(Self::place(at)) }
    }

    #[inline]
    fn u16_at(&self, at: HostPhys) -> &AtomicU16 {
        // SAFETY: as above; the caller's address is aligned.
        unsafe { AtomicU16::from_ptr(Self::place(at)) }
    }

    #[inline]
    fn u32_at(&self, at: HostPhys) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(Self::place(at)) }
    }

    #[inline]
    fn u64_at(&self, at: HostPhys) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(Self::place(at)) }
    }

    fn heap_room(&self) -> usize {
        heap::room()
    }
}

/// Copies by `rep movs`, in words of 8 bytes where it can: memory that a guest may write to meanwhile is not
/// read by Rust code.
///
/// # Safety
///
/// Both ranges must be mapped, the target writable, and they must not overlap unless they are the same.
unsafe fn copy_bytes(to: *mut u8, from: *const u8, bytes: usize) {
    let (words, rest) = (bytes / 8, bytes % 8);
    // SAFETY: by this function's contract. The direction flag is clear, as the ABI demands.
    unsafe {
        core::arch::asm!(
            "rep movsq",
            "mov ecx, {rest:e}",
            "rep movsb",
            rest = in(reg) rest,
            inout("rdi") to => _,
            inout("rsi") from => _,
            inout("rcx") words => _,
            options(nostack, preserves_flags)
        );
    }
}

impl<B: Engine> Platform for Pc<B> {
    type Backend = B;
    type Memory = DirectMap;

    #[inline]
    fn backend(&self) -> &B {
        &self.engine
    }

    #[inline]
    fn memory(&self) -> &DirectMap {
        &self.memory
    }

    fn frame_of(&self, page: &'static CounterPage) -> Mfn {
        HostPhys::new(paging::direct_map_phys(page)).mfn()
    }

    fn cpu_count(&self) -> u16 {
        smp::count()
    }

    #[inline]
    fn current_cpu(&self) -> CpuId {
        PerCpu::current().id()
    }

    #[inline]
    fn tsc(&self) -> TscTicks {
        TscTicks::new(io::rdtsc())
    }

    fn tsc_hz(&self) -> u64 {
        self.tsc_hz
    }

    fn wall_clock_base(&self) -> Nanos {
        Nanos::new(self.wall_clock_base)
    }

    fn arm_timer(&self, deadline: Option<TscTicks>) {
        lapic::arm(PerCpu::current(), deadline);
    }

    fn kick(&self, cpu: CpuId) {
        if let Some(cpu) = PerCpu::of(cpu) {
            lapic::kick(cpu);
        }
    }

    fn tell(&self, cpu: CpuId) {
        if let Some(cpu) = PerCpu::of(cpu) {
            lapic::tell(cpu);
        }
    }

    fn idle(&self) {
        self.engine.settle();
        if PerCpu::current().pending.load(Ordering::Acquire) == 0 {
            traps::wait();
        }
    }

    fn take_interrupts(&self) {
        self.engine.settle();
        traps::take_interrupts();
    }

    #[inline]
    fn next_host_event(&self) -> Option<HostEvent> {
        let cpu = PerCpu::current();
        if cpu.pending.load(Ordering::Acquire) == 0 { None } else { take_event(cpu) }
    }

    fn cpuid(&self, leaf: u32, sub_leaf: u32) -> [u32; 4] {
        let result = crate::cpu::features::sub_leaf(leaf, sub_leaf);
        [result.eax, result.ebx, result.ecx, result.edx]
    }

    fn console_write(&self, bytes: &[u8]) {
        uart::write_bytes(bytes);
    }

    fn console_read(&self, into: &mut [u8]) -> usize {
        uart::read_bytes(into)
    }

    fn port_read(&self, port: u16, bytes: u8) -> u32 {
        // SAFETY: policy lets a domain touch only the ports of its own devices, and the hypervisor drives
        // none of them.
        unsafe {
            match bytes {
                1 => io::in8(port).into(),
                2 => io::in16(port).into(),
                _ => io::in32(port),
            }
        }
    }

    fn port_write(&self, port: u16, bytes: u8, value: u32) {
        // SAFETY: as above.
        unsafe {
            match bytes {
                1 => io::out8(port, value as u8),
                2 => io::out16(port, value as u16),
                _ => io::out32(port, value),
            }
        }
    }

    fn register_read(&self, at: HostPhys) -> u32 {
        let register = paging::map_device(at.raw(), 4).cast::<u32>();
        // SAFETY: just mapped, uncached; policy names only registers of PCI functions, which no other code
        // drives.
        unsafe { register.read_volatile() }
    }

    fn register_write(&self, at: HostPhys, value: u32) {
        let register = paging::map_device(at.raw(), 4).cast::<u32>();
        // SAFETY: as above.
        unsafe { register.write_volatile(value) };
    }

    fn route_gsi(
        &self,
        gsi: Gsi,
        trigger: Trigger,
        polarity: Polarity,
        cpu: CpuId,
    ) -> Result<LineId, NoLine> {
        lines::route_gsi(gsi, trigger, polarity, PerCpu::of(cpu).ok_or(NoLine)?)
    }

    fn route_msi(&self, cpu: CpuId) -> Result<(LineId, MsiMessage), NoLine> {
        lines::route_msi(PerCpu::of(cpu).ok_or(NoLine)?)
    }

    fn mask_line(&self, line: LineId, masked: bool) {
        lines::mask(line, masked);
    }

    fn end_line(&self, line: LineId) {
        lines::end(line);
    }

    fn release_line(&self, line: LineId) {
        lines::release(line);
    }

    fn power(&self, action: PowerAction) {
        traps::STOPPING.store(true, Ordering::Release);
        lapic::stop_others();
        power::power(action)
    }
}

/// Takes the next thing that happened on this CPU.
#[cold]
fn take_event(cpu: &PerCpu) -> Option<HostEvent> {
    let single = [
        (pending::TIMER, HostEvent::Timer),
        (pending::KICK, HostEvent::Kick),
        (pending::CONSOLE, HostEvent::ConsoleInput),
    ];
    for (bit, event) in single {
        if cpu.pending.load(Ordering::Acquire) & bit != 0 {
            cpu.pending.fetch_and(!bit, Ordering::AcqRel);
            return Some(event);
        }
    }
    // The lines' bit goes first: a line raised after it was read sets it again.
    cpu.pending.fetch_and(!pending::LINES, Ordering::AcqRel);
    let line = lines::next_raised(cpu)?;
    cpu.set_pending(pending::LINES);
    Some(HostEvent::Line(line))
}

/// The end of a hypervisor that found itself to be wrong: says what it knows, stops the other CPUs, ends an
/// emulated machine.
pub fn epitaph(info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: masks interrupts; nothing is taken from here on.
    unsafe { core::arch::asm!("cli", options(nomem, nostack)) };
    if !traps::STOPPING.swap(true, Ordering::AcqRel) {
        lapic::stop_others();
        uart::write_unlocked(format_args!("\n(hv) panic: {}\n", info.message()));
        if let Some(place) = info.location() {
            uart::write_unlocked(format_args!("(hv) at {}:{}\n", place.file(), place.line()));
        }
        power::off_after_panic()
    }
    crate::cpu::halt_forever()
}

/// Runs `enter` on every CPU, each with the extension enabled.
pub fn run_on_all<T: Sync + 'static>(argument: &'static T, enter: fn(&'static T, CpuId) -> !) -> ! {
    smp::run_on_all(argument, enter)
}
