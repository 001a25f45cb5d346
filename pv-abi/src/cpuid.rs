//! CPUID leaves of the hypervisor (`xen/arch-x86/cpuid.h`).

use bitflags::bitflags;

/// First leaf; its EAX is the highest one, EBX ECX EDX hold the signature (`XEN_CPUID_FIRST_LEAF`).
pub const FIRST_LEAF: u32 = 0x4000_0000;
/// Distance between the places at which the leaves may start.
pub const LEAF_STRIDE: u32 = 0x100;
/// Last place at which the leaves may start.
pub const LAST_FIRST_LEAF: u32 = 0x4001_0000;
/// EBX of the signature (`XEN_CPUID_SIGNATURE_EBX`).
pub const SIGNATURE_EBX: u32 = 0x566e_6558;
/// ECX of the signature (`XEN_CPUID_SIGNATURE_ECX`).
pub const SIGNATURE_ECX: u32 = 0x6558_4d4d;
/// EDX of the signature (`XEN_CPUID_SIGNATURE_EDX`).
pub const SIGNATURE_EDX: u32 = 0x4d4d_566e;

/// Leaf, counted from the first: EAX is the version, as [`crate::version::VERSION`].
pub const LEAF_VERSION: u32 = 1;
/// Leaf: EAX hypercall pages, EBX the MSR that asks for one, ECX EDX features.
pub const LEAF_HYPERCALL: u32 = 2;
/// Leaf: time.
pub const LEAF_TIME: u32 = 3;
/// Leaf: features of translated guests in EAX ([`HvmFeatures`]), vCPU id in EBX, domain id in ECX.
pub const LEAF_HVM: u32 = 4;
/// Leaf: features of PV guests.
pub const LEAF_PV: u32 = 5;
/// Number of the last leaf, counted from the first (`XEN_CPUID_MAX_NUM_LEAVES`).
pub const MAX_LEAF: u32 = 5;

/// MSR that asks for a hypercall page, as Xen numbers it; a guest must read the number from [`LEAF_HYPERCALL`].
pub const HYPERCALL_MSR: u32 = 0x4000_0000;

/// ECX of [`LEAF_HYPERCALL`]: page table updates can keep accessed and dirty bits.
pub const FEAT1_MMU_PT_UPDATE_PRESERVE_AD: u32 = 1 << 0;

bitflags! {
    /// EAX of [`LEAF_HVM`] (`XEN_HVM_CPUID_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct HvmFeatures: u32 {
        /// Accesses to the APIC are virtualized.
        const APIC_ACCESS_VIRT = 1 << 0;
        /// The x2APIC is virtualized.
        const X2APIC_VIRT = 1 << 1;
        /// Grant mappings appear in the IOMMU.
        const IOMMU_MAPPINGS = 1 << 2;
        /// EBX holds the vCPU id.
        const VCPU_ID_PRESENT = 1 << 3;
        /// ECX holds the domain id.
        const DOMID_PRESENT = 1 << 4;
        /// Interrupt messages may carry 15-bit destinations.
        const EXT_DEST_ID = 1 << 5;
        /// Per-vCPU upcall vectors work.
        const UPCALL_VECTOR = 1 << 6;
    }
}
