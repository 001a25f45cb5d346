//! Data of one CPU, found by its stack pointer.
//!
//! Each CPU's stacks lie in one region of [`REGION`] bytes on a multiple of that size, and the last word of
//! the region points to the CPU's [`PerCpu`]: three instructions lead there from anywhere, without a segment
//! register. So the guest's FS, GS and TR may stay loaded while the hypervisor handles a short exit.
//!
//! | offset | what |
//! |---|---|
//! | 0 | guard page |
//! | 4 KiB | stack of #DF (IST 1) |
//! | 12 KiB | stack of NMI (IST 2) |
//! | 20 KiB | stack of #MC (IST 3) |
//! | 28 KiB | guard page |
//! | 32 KiB | the CPU's stack |

use alloc::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use alloc::boxed::Box;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use hv_core::hw::{ApicId, CpuId};

use super::gdt::Descriptors;
use crate::paging;

/// Bytes of a CPU's region of stacks.
const REGION: u64 = 64 * 1024;
/// Bytes from the top of a stack's region that are not stack: the pointer, and 8 bytes so that the stack is
/// aligned.
const TOP_RESERVED: u64 = 16;
/// Ends of the stacks of the interrupt stack table, within the region.
pub const IST_ENDS: [u64; 3] = [0x3000, 0x5000, 0x7000];
/// Most CPUs that are used.
pub const MAX_CPUS: usize = 256;

/// Bits of [`PerCpu::pending`].
pub mod pending {
    /// The timer reached its deadline.
    pub const TIMER: u32 = 1 << 0;
    /// Another CPU wants attention.
    pub const KICK: u32 = 1 << 1;
    /// The console has input.
    pub const CONSOLE: u32 = 1 << 2;
    /// A line's bit is set in [`super::PerCpu::lines`].
    pub const LINES: u32 = 1 << 3;
}

/// The data of one CPU. The CPU itself writes it but for [`pending`](Self::pending), which others set too.
pub struct PerCpu {
    /// What happened and was not yet told to policy.
    pub pending: AtomicU32,
    /// The lines that were raised.
    pub lines: [AtomicU64; 3],
    /// SVM: the physical address of the VMCB whose FS, GS, TR and the MSRs of VMLOAD are in the CPU, or 0 if
    /// they are the hypervisor's.
    pub guest: AtomicU64,
    /// SVM: the physical address of the VMCB that holds the hypervisor's own such state.
    pub host_vmcb: AtomicU64,
    /// Identifiers (ASID, VPID) in use on this CPU, and their generation.
    pub tags: super::tags::Tags,
    /// The deadline to which the timer is set, in ticks; 0 when it is stopped.
    pub deadline: AtomicU64,
    /// The CPU is up.
    pub up: AtomicBool,
    /// Top of the CPU's stack.
    pub stack: u64,
    id: CpuId,
    apic: ApicId,
    pub(super) descriptors: Descriptors,
}

static CPUS: [AtomicPtr<PerCpu>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];

impl PerCpu {
    /// Makes the stacks and data of a CPU.
    pub fn create(id: CpuId, apic: ApicId) -> &'static Self {
        let layout = Layout::from_size_align(REGION as usize, 4096).expect("constants");
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        if memory.is_null() {
            handle_alloc_error(layout)
        }
        let phys = paging::direct_map_phys(memory);
        let virt = paging::STACKS + u64::from(id.raw()) * REGION;
        paging::map_stack(virt + 0x1000, phys + 0x1000, 0x6000);
        paging::map_stack(virt + 0x8000, phys + 0x8000, 0x8000);
        let data = Box::leak(Box::new(Self {
            pending: AtomicU32::new(0),
            lines: [const { AtomicU64::new(0) }; 3],
            guest: AtomicU64::new(0),
            host_vmcb: AtomicU64::new(0),
            tags: super::tags::Tags::new(),
            deadline: AtomicU64::new(0),
            up: AtomicBool::new(false),
            stack: virt + REGION - TOP_RESERVED,
            id,
            apic,
            descriptors: Descriptors::new(IST_ENDS.map(|end| virt + end)),
        }));
        data.descriptors.seal();
        let pointer: *mut Self = data;
        // SAFETY: the word is the last of the memory just allocated.
        unsafe { memory.add(REGION as usize - 8).cast::<*mut Self>().write(pointer) };
        CPUS[id.index()].store(pointer, Ordering::Release);
        // SAFETY: the box was leaked, and nobody changes the data but through its atomics.
        unsafe { &*pointer }
    }

    /// The data of the CPU that executes this. Only on a stack that [`create`](Self::create) made.
    #[inline(always)]
    pub fn current() -> &'static Self {
        let pointer: *const Self;
        // SAFETY: every stack but the boot stack lies in a region whose last word is this pointer;
        // `xenolith_main` and all that it calls run on such stacks, and so do the trap handlers after paging
        // is up. The data lives for ever.
        unsafe {
            asm!(
                "mov {0}, rsp",
                "or {0}, {mask}",
                "mov {0}, [{0} - 7]",
                out(reg) pointer,
                mask = const REGION - 1,
                options(pure, readonly, nostack)
            );
            &*pointer
        }
    }

    /// The data of another CPU.
    pub fn of(id: CpuId) -> Option<&'static Self> {
        let pointer = CPUS.get(id.index())?.load(Ordering::Acquire);
        // SAFETY: the table holds null or pointers from `create`, which are valid for ever.
        unsafe { pointer.as_ref() }
    }

    /// The CPU's number.
    #[inline]
    pub fn id(&self) -> CpuId {
        self.id
    }

    /// Where the CPU's task state is.
    pub fn task_state_address(&self) -> u64 {
        self.descriptors.task_state_address()
    }

    /// The identifier of the CPU's local APIC.
    pub fn apic(&self) -> ApicId {
        self.apic
    }

    /// Sets bits of [`pending`](Self::pending) from a handler or from another CPU; returns what was set
    /// before.
    pub fn set_pending(&self, bits: u32) -> u32 {
        self.pending.fetch_or(bits, Ordering::AcqRel)
    }
}
