//! Virtual CPUs (`xen/vcpu.h`, `xen/hvm/hvm_vcpu.h`).

use crate::ids::{Gfn, GuestVirt};
use bitflags::bitflags;
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Sub-operations of `vcpu_op` (`VCPUOP_*`).
pub mod op {
    /// Gives a vCPU its first registers.
    pub const INITIALISE: u64 = 0;
    /// Starts a vCPU.
    pub const UP: u64 = 1;
    /// Stops a vCPU.
    pub const DOWN: u64 = 2;
    /// Whether a vCPU is up.
    pub const IS_UP: u64 = 3;
    /// Copies the times spent in each state.
    pub const GET_RUNSTATE_INFO: u64 = 4;
    /// Names the memory in which they are kept up to date.
    pub const REGISTER_RUNSTATE_MEMORY_AREA: u64 = 5;
    /// Starts the periodic timer.
    pub const SET_PERIODIC_TIMER: u64 = 6;
    /// Stops the periodic timer.
    pub const STOP_PERIODIC_TIMER: u64 = 7;
    /// Starts the single-shot timer.
    pub const SET_SINGLESHOT_TIMER: u64 = 8;
    /// Stops the single-shot timer.
    pub const STOP_SINGLESHOT_TIMER: u64 = 9;
    /// Moves a vCPU's information structure out of the shared page.
    pub const REGISTER_VCPU_INFO: u64 = 10;
    /// Sends a non-maskable interrupt.
    pub const SEND_NMI: u64 = 11;
    /// Tells the physical identity of a pinned vCPU.
    pub const GET_PHYSID: u64 = 12;
    /// Names the memory in which the clock is kept up to date.
    pub const REGISTER_VCPU_TIME_MEMORY_AREA: u64 = 13;
}

/// States of a vCPU (`RUNSTATE_*`).
pub mod runstate {
    /// On a CPU.
    pub const RUNNING: u32 = 0;
    /// Waiting for a CPU.
    pub const RUNNABLE: u32 = 1;
    /// Waiting for an event.
    pub const BLOCKED: u32 = 2;
    /// Neither running nor waiting.
    pub const OFFLINE: u32 = 3;
    /// Bit of `state_entry_time` set during an update (`XEN_RUNSTATE_UPDATE`).
    pub const UPDATE: u64 = 1 << 63;
}

/// Times spent in each state (`struct vcpu_runstate_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RunstateInfo {
    /// The present state: see [`runstate`].
    pub state: u32,
    /// Unused.
    pub pad: u32,
    /// System time of its beginning.
    pub state_entry_time: u64,
    /// Nanoseconds spent in each state.
    pub time: [u64; 4],
}
const_assert_eq!(size_of::<RunstateInfo>(), 48);

/// Argument of the two calls that register a memory area by its linear address
/// (`struct vcpu_register_runstate_memory_area`, `struct vcpu_register_time_memory_area`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegisterArea {
    /// Address of the structure; null ends the updates.
    pub addr: GuestVirt,
}

/// Argument of `set_periodic_timer` (`struct vcpu_set_periodic_timer`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetPeriodicTimer {
    /// Nanoseconds between two ticks.
    pub period_ns: u64,
}

bitflags! {
    /// Flags of a single-shot timer (`VCPU_SSHOTTMR_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TimerFlags: u32 {
        /// Refuse with `ETIME` when the time is past already.
        const FUTURE = 1 << 0;
    }
}

/// Argument of `set_singleshot_timer` (`struct vcpu_set_singleshot_timer`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetSingleshotTimer {
    /// System time at which it fires.
    pub timeout_abs_ns: u64,
    /// Bits of [`TimerFlags`].
    pub flags: u32,
    /// Unused.
    pub pad: u32,
}
const_assert_eq!(size_of::<SetSingleshotTimer>(), 16);

/// Argument of `register_vcpu_info` (`struct vcpu_register_vcpu_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegisterVcpuInfo {
    /// The frame.
    pub mfn: Gfn,
    /// Place within it.
    pub offset: u32,
    /// Unused.
    pub rsvd: u32,
}
const_assert_eq!(size_of::<RegisterVcpuInfo>(), 16);

/// Value of [`HvmContext::mode`]: registers as `X86_32` (`VCPU_HVM_MODE_32B`).
pub const HVM_MODE_32B: u32 = 0;
/// Value of [`HvmContext::mode`]: registers as `X86_64` (`VCPU_HVM_MODE_64B`).
pub const HVM_MODE_64B: u32 = 1;

/// First registers of a vCPU that starts without long mode (`struct vcpu_hvm_x86_32`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)] // The registers' own names.
pub struct HvmX86_32 {
    pub eax: u32,
    pub ecx: u32,
    pub edx: u32,
    pub ebx: u32,
    pub esp: u32,
    pub ebp: u32,
    pub esi: u32,
    pub edi: u32,
    pub eip: u32,
    pub eflags: u32,
    pub cr0: u32,
    pub cr3: u32,
    pub cr4: u32,
    pub pad1: u32,
    pub efer: u64,
    pub cs_base: u32,
    pub ds_base: u32,
    pub ss_base: u32,
    pub es_base: u32,
    pub tr_base: u32,
    pub cs_limit: u32,
    pub ds_limit: u32,
    pub ss_limit: u32,
    pub es_limit: u32,
    pub tr_limit: u32,
    pub cs_ar: u16,
    pub ds_ar: u16,
    pub ss_ar: u16,
    pub es_ar: u16,
    pub tr_ar: u16,
    pub pad2: [u16; 3],
}
const_assert_eq!(size_of::<HvmX86_32>(), 120);

/// First registers of a vCPU that starts in long mode (`struct vcpu_hvm_x86_64`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)] // The registers' own names.
pub struct HvmX86_64 {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rip: u64,
    pub rflags: u64,
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
}
const_assert_eq!(size_of::<HvmX86_64>(), 112);

/// Argument of `initialise` for translated guests (`struct vcpu_hvm_context`).
///
/// The header's union is kept as the bytes of its larger member; [`Self::registers`] reads the one that `mode` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HvmContext {
    /// Which member of the union holds: [`HVM_MODE_32B`] or [`HVM_MODE_64B`].
    pub mode: u32,
    /// Unused.
    pub pad: u32,
    /// The union.
    pub cpu_regs: [u64; 15],
}
const_assert_eq!(size_of::<HvmContext>(), 128);

/// The registers in an [`HvmContext`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HvmRegisters {
    /// Without long mode.
    X86_32(HvmX86_32),
    /// In long mode.
    X86_64(HvmX86_64),
}

impl HvmContext {
    /// A context with these registers.
    pub fn new(registers: &HvmRegisters) -> Self {
        let mut context = Self { mode: HVM_MODE_32B, pad: 0, cpu_regs: [0; 15] };
        match registers {
            HvmRegisters::X86_32(regs) => context.cpu_regs = zerocopy::transmute!(*regs),
            HvmRegisters::X86_64(regs) => {
                context.mode = HVM_MODE_64B;
                let words: [u64; 14] = zerocopy::transmute!(*regs);
                context.cpu_regs[..14].copy_from_slice(&words);
            }
        }
        context
    }

    /// The registers, or `None` when the mode is not one of the two.
    pub fn registers(&self) -> Option<HvmRegisters> {
        match self.mode {
            HVM_MODE_32B => Some(HvmRegisters::X86_32(zerocopy::transmute!(self.cpu_regs))),
            HVM_MODE_64B => {
                let mut words = [0; 14];
                words.copy_from_slice(&self.cpu_regs[..14]);
                Some(HvmRegisters::X86_64(zerocopy::transmute!(words)))
            }
            _ => None,
        }
    }
}
