//! The virtual machine control block: AMD64 manual volume 2 (publication 24593, revision 3.41), appendix B.

#![allow(missing_docs)] // the names are the manual's

use static_assertions::const_assert_eq;
use zerocopy::FromZeros;

/// A segment or descriptor-table register in the save area.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, FromZeros)]
#[repr(C)]
pub struct VmcbSegment {
    pub selector: u16,
    /// Descriptor bits 40-47 and 52-55, without a gap.
    pub attributes: u16,
    pub limit: u32,
    pub base: u64,
}

/// The control area: table B-1.
#[derive(Clone, Copy, FromZeros)]
#[repr(C)]
pub struct Control {
    pub cr_reads: u16,
    pub cr_writes: u16,
    pub dr_reads: u16,
    pub dr_writes: u16,
    pub exceptions: u32,
    /// Intercepts of vector 3 (offset 00Ch).
    pub intercepts1: u32,
    /// Intercepts of vector 4 (offset 010h).
    pub intercepts2: u32,
    /// Intercepts of vector 5 (offset 014h).
    pub intercepts3: u32,
    pub reserved1: [u32; 9],
    pub pause_threshold: u16,
    pub pause_count: u16,
    pub iopm: u64,
    pub msrpm: u64,
    pub tsc_offset: u64,
    pub asid: u32,
    pub tlb_control: u32,
    /// Virtual interrupts: V_TPR, V_IRQ, V_INTR_PRIO, V_IGN_TPR, V_INTR_MASKING, V_INTR_VECTOR.
    pub vintr: u64,
    /// Bit 0: the guest is in an interrupt shadow.
    pub shadow: u64,
    pub exit_code: u64,
    pub exit_info1: u64,
    pub exit_info2: u64,
    /// The event whose delivery the exit interrupted, in the format of `event`.
    pub exit_int_info: u64,
    pub nested: u64,
    pub avic_bar: u64,
    pub ghcb: u64,
    /// The event to put into the guest.
    pub event: u64,
    pub nested_root: u64,
    pub lbr: u64,
    /// What the CPU may keep from the last VMRUN: a set bit is a promise that the fields did not change.
    pub clean: u32,
    pub reserved2: u32,
    pub next_rip: u64,
    pub fetched: u8,
    pub instruction: [u8; 15],
    pub reserved3: [u8; 0x400 - 0xe0],
}

/// The state save area: table B-2.
#[derive(Clone, Copy, FromZeros)]
#[repr(C)]
pub struct Save {
    pub es: VmcbSegment,
    pub cs: VmcbSegment,
    pub ss: VmcbSegment,
    pub ds: VmcbSegment,
    pub fs: VmcbSegment,
    pub gs: VmcbSegment,
    pub gdtr: VmcbSegment,
    pub ldtr: VmcbSegment,
    pub idtr: VmcbSegment,
    pub tr: VmcbSegment,
    pub reserved1: [u8; 0xcb - 0xa0],
    pub cpl: u8,
    pub reserved2: u32,
    pub efer: u64,
    pub reserved3: [u8; 0x148 - 0xd8],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    pub reserved4: [u8; 0x1d8 - 0x180],
    pub rsp: u64,
    pub reserved5: [u64; 3],
    pub rax: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    pub reserved6: [u64; 4],
    pub pat: u64,
    pub debugctl: u64,
    pub reserved7: [u8; 0xc00 - 0x278],
}

/// The whole block: one page.
#[derive(Clone, Copy, FromZeros)]
#[repr(C, align(4096))]
pub struct Vmcb {
    pub control: Control,
    pub save: Save,
}

const_assert_eq!(size_of::<Vmcb>(), 4096);
const_assert_eq!(core::mem::offset_of!(Vmcb, control.pause_threshold), 0x3c);
const_assert_eq!(core::mem::offset_of!(Vmcb, control.iopm), 0x40);
const_assert_eq!(core::mem::offset_of!(Vmcb, control.asid), 0x58);
const_assert_eq!(core::mem::offset_of!(Vmcb, control.vintr), 0x60);
const_assert_eq!(core::mem::offset_of!(Vmcb, control.exit_code), 0x70);
const_assert_eq!(core::mem::offset_of!(Vmcb, control.exit_int_info), 0x88);
const_assert_eq!(core::mem::offset_of!(Vmcb, control.event), 0xa8);
const_assert_eq!(core::mem::offset_of!(Vmcb, control.nested_root), 0xb0);
const_assert_eq!(core::mem::offset_of!(Vmcb, control.clean), 0xc0);
const_assert_eq!(core::mem::offset_of!(Vmcb, control.next_rip), 0xc8);
const_assert_eq!(core::mem::offset_of!(Vmcb, control.fetched), 0xd0);
const_assert_eq!(core::mem::offset_of!(Vmcb, save), 0x400);
const_assert_eq!(core::mem::offset_of!(Vmcb, save.tr), 0x490);
const_assert_eq!(core::mem::offset_of!(Vmcb, save.cpl), 0x4cb);
const_assert_eq!(core::mem::offset_of!(Vmcb, save.efer), 0x4d0);
const_assert_eq!(core::mem::offset_of!(Vmcb, save.cr4), 0x548);
const_assert_eq!(core::mem::offset_of!(Vmcb, save.rip), 0x578);
const_assert_eq!(core::mem::offset_of!(Vmcb, save.rsp), 0x5d8);
const_assert_eq!(core::mem::offset_of!(Vmcb, save.rax), 0x5f8);
const_assert_eq!(core::mem::offset_of!(Vmcb, save.cr2), 0x640);
const_assert_eq!(core::mem::offset_of!(Vmcb, save.pat), 0x668);

/// Bits of [`Control::intercepts1`].
pub mod intercept1 {
    pub const INTR: u32 = 1 << 0;
    pub const NMI: u32 = 1 << 1;
    pub const SMI: u32 = 1 << 2;
    pub const INIT: u32 = 1 << 3;
    pub const VINTR: u32 = 1 << 4;
    pub const RDPMC: u32 = 1 << 15;
    pub const CPUID: u32 = 1 << 18;
    pub const IRET: u32 = 1 << 20;
    pub const INVD: u32 = 1 << 22;
    pub const PAUSE: u32 = 1 << 23;
    pub const HLT: u32 = 1 << 24;
    pub const INVLPGA: u32 = 1 << 26;
    pub const IO: u32 = 1 << 27;
    pub const MSR: u32 = 1 << 28;
    pub const TASK_SWITCH: u32 = 1 << 29;
    pub const FERR: u32 = 1 << 30;
    pub const SHUTDOWN: u32 = 1 << 31;
}

/// Bits of [`Control::intercepts2`].
pub mod intercept2 {
    pub const VMRUN: u32 = 1 << 0;
    pub const VMMCALL: u32 = 1 << 1;
    pub const VMLOAD: u32 = 1 << 2;
    pub const VMSAVE: u32 = 1 << 3;
    pub const STGI: u32 = 1 << 4;
    pub const CLGI: u32 = 1 << 5;
    pub const SKINIT: u32 = 1 << 6;
    pub const WBINVD: u32 = 1 << 9;
    pub const MONITOR: u32 = 1 << 10;
    pub const MWAIT: u32 = 1 << 11;
    pub const MWAIT_ARMED: u32 = 1 << 12;
    pub const XSETBV: u32 = 1 << 13;
    pub const RDPRU: u32 = 1 << 14;
}

/// Bits of [`Control::vintr`].
pub mod vintr {
    pub const TPR: u64 = 0xf;
    pub const IRQ: u64 = 1 << 8;
    pub const PRIORITY: u64 = 0xf << 16;
    pub const IGNORE_TPR: u64 = 1 << 20;
    pub const MASKING: u64 = 1 << 24;
    /// A virtual interrupt of the highest priority, whatever the task priority is.
    pub const HIGHEST: u64 = IRQ | PRIORITY | IGNORE_TPR;
    /// Where the vector begins.
    pub const VECTOR_SHIFT: u32 = 32;
    pub const VECTOR: u64 = 0xff << VECTOR_SHIFT;
}

/// Bits of [`Control::clean`]: section 15.15.3.
pub mod clean {
    /// Intercepts, TSC offset, pause filter.
    pub const INTERCEPTS: u32 = 1 << 0;
    /// Bases of the permission maps.
    pub const PERMISSIONS: u32 = 1 << 1;
    pub const ASID: u32 = 1 << 2;
    pub const VINTR: u32 = 1 << 3;
    /// Nested root and PAT.
    pub const NESTED: u32 = 1 << 4;
    /// CR0, CR3, CR4, EFER.
    pub const CONTROL: u32 = 1 << 5;
    pub const DEBUG: u32 = 1 << 6;
    pub const TABLES: u32 = 1 << 7;
    /// CS, DS, SS, ES, CPL.
    pub const SEGMENTS: u32 = 1 << 8;
    pub const CR2: u32 = 1 << 9;
    /// All that are defined up to AVIC.
    pub const ALL: u32 = 0xfff;
}

/// TLB control: section 15.16.2.
pub mod tlb {
    pub const KEEP: u32 = 0;
    pub const FLUSH_ALL: u32 = 1;
}

/// Exit codes: appendix C.
pub mod code {
    pub const CR_READ: u64 = 0x00;
    pub const CR_WRITE: u64 = 0x10;
    pub const DR_READ: u64 = 0x20;
    pub const EXCEPTION: u64 = 0x40;
    pub const INTR: u64 = 0x60;
    pub const NMI: u64 = 0x61;
    pub const SMI: u64 = 0x62;
    pub const INIT: u64 = 0x63;
    pub const VINTR: u64 = 0x64;
    pub const RDTSC: u64 = 0x6e;
    pub const RDPMC: u64 = 0x6f;
    pub const CPUID: u64 = 0x72;
    pub const RSM: u64 = 0x73;
    pub const IRET: u64 = 0x74;
    pub const INVD: u64 = 0x76;
    pub const PAUSE: u64 = 0x77;
    pub const HLT: u64 = 0x78;
    pub const INVLPGA: u64 = 0x7a;
    pub const IO: u64 = 0x7b;
    pub const MSR: u64 = 0x7c;
    pub const TASK_SWITCH: u64 = 0x7d;
    pub const SHUTDOWN: u64 = 0x7f;
    pub const VMRUN: u64 = 0x80;
    pub const VMMCALL: u64 = 0x81;
    pub const VMLOAD: u64 = 0x82;
    pub const SKINIT: u64 = 0x86;
    pub const RDTSCP: u64 = 0x87;
    pub const WBINVD: u64 = 0x89;
    pub const MONITOR: u64 = 0x8a;
    pub const MWAIT_ARMED: u64 = 0x8c;
    pub const XSETBV: u64 = 0x8d;
    pub const RDPRU: u64 = 0x8e;
    pub const NESTED_FAULT: u64 = 0x400;
    pub const INVALID: u64 = u64::MAX;
    pub const BUSY: u64 = u64::MAX - 1;
}
