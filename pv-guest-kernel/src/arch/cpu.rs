//! Per-CPU data, reached through GS.
//!
//! Invariant: from `install` on, GS's base points at this vCPU's `PerCpu`, which lives for ever. There is no preemption
//! and no migration except at an `await`, so a reference from [`this`] is good for the current poll.
//! Fields are atomics, or are touched by their own vCPU only with upcalls masked.

use alloc::boxed::Box;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use pv_abi::event::two_level::PortSet;

use super::gdt::Tables;
use crate::sync::IrqMutex;
use crate::task::deadlines::Deadlines;
use crate::xen::events::Queues;

/// As many vCPUs as the kernel will start.
pub const MAX_CPUS: usize = 64;

/// What one vCPU has for itself.
#[repr(C)]
pub struct PerCpu {
    /// Points at this structure: `gs:[0]`.
    this: *const PerCpu,
    /// The vCPU's number.
    pub id: u32,
    /// In its idle loop (a waker that finds it so sends an IPI event, unless it is the waker's own vCPU).
    pub idle: AtomicBool,
    /// Up and running tasks.
    pub online: AtomicBool,
    /// Port of the event that other vCPUs send to wake this one; 0 = none.
    pub ipi_port: AtomicU32,
    /// Port of this vCPU's VIRQ_TIMER; 0 = none.
    pub timer_port: AtomicU32,
    /// Address of the registered `vcpu_info`.
    pub vcpu_info: AtomicUsize,
    /// Upcalls taken.
    pub upcalls: AtomicU64,
    /// Upcalls taken with no event pending, which nobody sent.
    pub idle_upcalls: AtomicU64,
    /// Events handled.
    pub events: AtomicU64,
    /// Polls of tasks.
    pub polls: AtomicU64,
    /// Times the vCPU blocked.
    pub blocks: AtomicU64,
    /// Ports whose events are this vCPU's (2-level only).
    pub ports: PortSet,
    /// FIFO queues of this vCPU.
    pub queues: Queues,
    /// Tasks that sleep until a time, and their timer.
    pub timers: IrqMutex<Deadlines>,
    /// GDT and TSS.
    pub tables: Tables,
}

// SAFETY: `this` is constant, `tables` is written only before the vCPU runs; the rest is atomics and locks.
unsafe impl Sync for PerCpu {}
// SAFETY: as above.
unsafe impl Send for PerCpu {}

static CPUS: [AtomicPtr<PerCpu>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];
static COUNT: AtomicU32 = AtomicU32::new(0);

impl PerCpu {
    /// Allocates the data of vCPU `id` and lists it.
    pub fn create(id: u32) -> &'static PerCpu {
        let cpu = Box::leak(Box::new(PerCpu {
            this: core::ptr::null(),
            id,
            idle: AtomicBool::new(false),
            online: AtomicBool::new(false),
            ipi_port: AtomicU32::new(0),
            timer_port: AtomicU32::new(0),
            vcpu_info: AtomicUsize::new(0),
            upcalls: AtomicU64::new(0),
            idle_upcalls: AtomicU64::new(0),
            events: AtomicU64::new(0),
            polls: AtomicU64::new(0),
            blocks: AtomicU64::new(0),
            ports: [const { AtomicU64::new(0) }; 64],
            queues: Queues::new(),
            timers: IrqMutex::new(Deadlines::new()),
            tables: Tables::new(),
        }));
        cpu.this = &raw const *cpu;
        cpu.tables.fill();
        let cpu: &'static PerCpu = cpu;
        CPUS[id as usize].store(core::ptr::from_ref(cpu).cast_mut(), Ordering::Release);
        COUNT.fetch_max(id + 1, Ordering::Release);
        cpu
    }

    /// Makes the running vCPU use this data: GDT, TSS, IDT, GS.
    pub fn install(&'static self) {
        self.tables.load();
        super::trap::load_idt();
        const IA32_GS_BASE: u32 = 0xc000_0101;
        // SAFETY: GS is used for nothing but this pointer.
        unsafe { super::instr::wrmsr(IA32_GS_BASE, self.this as u64) };
        // SAFETY: SSE state belongs to the guest; the kernel is soft-float, tests use the registers (OSFXSR, OSXMMEXCPT).
        unsafe { super::instr::cr4_set(0x600) };
    }
}

/// The running vCPU's data.
#[inline(always)]
pub fn this() -> &'static PerCpu {
    let p: *const PerCpu;
    // SAFETY: `install` ran on every vCPU before anything calls this; the data lives for ever.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) p, options(pure, readonly, nostack, preserves_flags));
        &*p
    }
}

/// Is per-CPU data installed (false only in the first steps of boot)?
pub fn ready() -> bool {
    COUNT.load(Ordering::Acquire) != 0
}

/// The data of vCPU `id`, if it was created.
pub fn get(id: u32) -> Option<&'static PerCpu> {
    let p = CPUS.get(id as usize)?.load(Ordering::Acquire);
    // SAFETY: either null or a leaked box.
    unsafe { p.as_ref() }
}

/// How many vCPUs have data.
pub fn count() -> u32 {
    COUNT.load(Ordering::Acquire)
}

/// All vCPUs that have data.
pub fn all() -> impl Iterator<Item = &'static PerCpu> {
    (0..count()).filter_map(get)
}
