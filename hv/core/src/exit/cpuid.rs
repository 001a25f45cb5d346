//! CPUID: what a domain's virtual CPUs say of themselves.
//!
//! Made once for a domain: the host's leaves, of which only known features pass, and the leaves of the ABI. What
//! depends on the virtual CPU or on its state is filled in when it asks.
//!
//! Sources: Intel SDM volume 2, CPUID; AMD64 manual volume 3, appendix E; `xen/arch-x86/cpuid.h`.

use crate::apic::apic_id;
use crate::hw::{Reg, VcpuHw};
use crate::time::Clock;
use crate::vcpu::Context;
use alloc::vec::Vec;
use pv_abi::cpuid::{
    FIRST_LEAF, HYPERCALL_MSR, HvmFeatures, LEAF_HVM, LEAF_HYPERCALL, LEAF_PV, LEAF_TIME, LEAF_VERSION,
    MAX_LEAF, SIGNATURE_EBX, SIGNATURE_ECX, SIGNATURE_EDX,
};
use pv_abi::ids::{DomainId, VcpuId};

/// EAX, EBX, ECX, EDX.
type Leaf = [u32; 4];

/// The number of the ABI's version: major and minor (4.17).
const VERSION: u32 = 4 << 16 | 17;

const LAST_BASIC: u32 = 0xd;
const EXTENDED: u32 = 0x8000_0000;
const LAST_EXTENDED: u32 = 0x8000_0008;

/// Leaf 1 ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, PCID, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C,
/// RDRAND.
const ECX_1: u32 = 0x76da_3203;
/// Leaf 1 ECX, always there: x2APIC and the deadline timer are emulated, and there is a hypervisor.
const ECX_1_SET: u32 = 1 << 21 | 1 << 24 | 1 << 31;
const ECX_1_XSAVE: u32 = 1 << 26;
const ECX_1_OSXSAVE: u32 = 1 << 27;
const ECX_1_AVX: u32 = 1 << 28 | 1 << 29 | 1 << 12;
/// Leaf 1 EDX: FPU, VME, DE, PSE, TSC, MSR, PAE, MCE, CX8, SEP, PGE, MCA, CMOV, PAT, PSE36, CLFSH, MMX, FXSR, SSE, SSE2.
const EDX_1: u32 = 0x078b_e9ff;
/// Leaf 1 EDX, always there: APIC and MTRR are emulated.
const EDX_1_SET: u32 = 1 << 9 | 1 << 12;
const EDX_1_HTT: u32 = 1 << 28;
/// Leaf 7 EBX: FSGSBASE, BMI1, AVX2, SMEP, BMI2, ERMS, INVPCID, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB, SHA.
const EBX_7: u32 = 0x219c_07a9;
const EBX_7_AVX: u32 = 1 << 5;
/// Leaf 7 ECX: UMIP, PKU, RDPID.
const ECX_7: u32 = 1 << 2 | 1 << 3 | 1 << 22;
const ECX_7_PKU: u32 = 1 << 3;
const ECX_7_OSPKE: u32 = 1 << 4;
/// Leaf 7 EDX: FSRM.
const EDX_7: u32 = 1 << 4;
/// Leaf 8000_0001 ECX: LAHF, CR8 in 32-bit mode, ABM, SSE4A, misaligned SSE, PREFETCHW.
const ECX_E1: u32 = 0x0000_01f1;
/// Leaf 8000_0001 EDX: SYSCALL, NX, MMXEXT, FFXSR, 1 GiB pages, RDTSCP, LM, and AMD's copies of leaf 1's features.
const EDX_E1: u32 = 0x2e50_0800 | 0x0183_e9ff;
/// Of these, the copies of leaf 1's features.
const EDX_E1_APIC: u32 = 1 << 9 | 1 << 12;
/// State components that guests may have: x87, SSE, AVX, PKRU.
const XCR0: u64 = 0x207;
const XCR0_AVX: u64 = 4;
const XCR0_PKRU: u64 = 0x200;

const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_PKE: u64 = 1 << 22;

/// What a domain looks like to CPUID.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// Its number.
    pub domain: DomainId,
    /// How many virtual CPUs it has.
    pub vcpus: u32,
}

/// What CPUID says in a domain.
#[derive(Clone, Debug)]
pub struct CpuidPolicy {
    basic: [Leaf; LAST_BASIC as usize + 1],
    extended: [Leaf; (LAST_EXTENDED - EXTENDED) as usize + 1],
    /// The further sub-leaves, in order.
    subs: Vec<(u32, u32, Leaf)>,
    topology: Topology,
    xcr0: u64,
    khz: u32,
    scale: (u32, i8),
}

impl CpuidPolicy {
    /// The policy of a domain on a machine whose CPUID is `host`.
    pub fn new(host: impl Fn(u32, u32) -> Leaf, topology: Topology, clock: &Clock) -> Self {
        let mut policy = Self {
            basic: [[0; 4]; LAST_BASIC as usize + 1],
            extended: [[0; 4]; (LAST_EXTENDED - EXTENDED) as usize + 1],
            subs: Vec::new(),
            topology,
            xcr0: 0,
            khz: u32::try_from(clock.hz() / 1000).unwrap_or(u32::MAX),
            scale: clock.scale(),
        };
        let [highest, ..] = host(0, 0);
        let has_xsave = {
            let [_, _, ecx, _] = host(1, 0);
            highest >= 0xd && ecx & ECX_1_XSAVE != 0
        };
        if has_xsave {
            let [low, _, _, high] = host(0xd, 0);
            policy.xcr0 = (u64::from(high) << 32 | u64::from(low)) & XCR0;
        }
        policy.fill_basic(&host, highest);
        policy.fill_xsave(&host);
        policy.fill_extended(&host);
        policy
    }

    fn fill_basic(&mut self, host: &impl Fn(u32, u32) -> Leaf, highest: u32) {
        let vcpus = self.topology.vcpus.max(1);
        let last = if self.xcr0 != 0 { LAST_BASIC } else { 0xb };
        let [_, vendor_b, vendor_c, vendor_d] = host(0, 0);
        let intel = vendor_b == 0x756e_6547;
        for (number, leaf) in (0u32..).zip(&mut self.basic) {
            *leaf = match number {
                0 => [last, vendor_b, vendor_c, vendor_d],
                1 => {
                    let [eax, ebx, mut ecx, mut edx] = host(1, 0);
                    ecx = ecx & ECX_1 | ECX_1_SET;
                    if self.xcr0 == 0 {
                        ecx &= !ECX_1_XSAVE;
                    }
                    if self.xcr0 & XCR0_AVX == 0 {
                        ecx &= !ECX_1_AVX;
                    }
                    edx = edx & EDX_1 | EDX_1_SET;
                    if vcpus > 1 {
                        edx |= EDX_1_HTT;
                    }
                    let count = vcpus.next_power_of_two().min(0xff);
                    [eax, ebx & 0xff00 | count << 16, ecx, edx]
                }
                2 if intel && highest >= 2 => host(2, 0),
                // The caches, each of one virtual CPU's own.
                4 if intel && highest >= 4 => {
                    let cache = |sub| {
                        let [eax, ebx, ecx, edx] = host(4, sub);
                        [eax & 0x3ff, ebx, ecx, edx]
                    };
                    for sub in 1..4 {
                        self.subs.push((4, sub, cache(sub)));
                    }
                    cache(0)
                }
                // The APIC's timer never stops.
                6 => [1 << 2, 0, 0, 0],
                7 if highest >= 7 => {
                    let [_, mut ebx, mut ecx, edx] = host(7, 0);
                    ebx &= EBX_7;
                    ecx &= ECX_7;
                    if self.xcr0 & XCR0_AVX == 0 {
                        ebx &= !EBX_7_AVX;
                    }
                    if self.xcr0 & XCR0_PKRU == 0 {
                        ecx &= !ECX_7_PKU;
                    }
                    [0, ebx, ecx, edx & EDX_7]
                }
                // One thread in a core, all cores in one package.
                0xb => {
                    let shift = vcpus.next_power_of_two().trailing_zeros();
                    self.subs.push((0xb, 1, [shift, vcpus, 0x201, 0]));
                    self.subs.push((0xb, 2, [0, 0, 2, 0]));
                    [0, 1, 0x100, 0]
                }
                _ => [0; 4],
            };
        }
    }

    fn fill_xsave(&mut self, host: &impl Fn(u32, u32) -> Leaf) {
        if self.xcr0 == 0 {
            return;
        }
        // XSAVEOPT; the compacted and supervisor forms are not offered.
        let [eax, ..] = host(0xd, 1);
        self.subs.push((0xd, 1, [eax & 1, 0, 0, 0]));
        for component in (2..63).filter(|bit| self.xcr0 & (1 << bit) != 0) {
            let [size, offset, ..] = host(0xd, component);
            self.subs.push((0xd, component, [size, offset, 0, 0]));
        }
        let whole = self.xsave_size(self.xcr0);
        if let Some(leaf) = self.basic.last_mut() {
            #[allow(clippy::cast_possible_truncation)] // the halves
            let (low, high) = (self.xcr0 as u32, (self.xcr0 >> 32) as u32);
            *leaf = [low, whole, whole, high];
        }
    }

    /// The bytes that XSAVE writes for these components.
    fn xsave_size(&self, xcr0: u64) -> u32 {
        let ends = self.subs.iter().filter_map(|(leaf, sub, [size, offset, ..])| {
            (*leaf == 0xd && *sub >= 2 && xcr0 & (1u64 << (sub & 63)) != 0)
                .then_some(size.saturating_add(*offset))
        });
        ends.max().unwrap_or(0).max(576)
    }

    fn fill_extended(&mut self, host: &impl Fn(u32, u32) -> Leaf) {
        let [highest, ..] = host(EXTENDED, 0);
        let amd = {
            let [_, vendor, ..] = host(0, 0);
            vendor == 0x6874_7541
        };
        let vcpus = self.topology.vcpus.max(1);
        for (number, leaf) in (EXTENDED..).zip(&mut self.extended) {
            if number != EXTENDED && number > highest {
                continue;
            }
            let [eax, ebx, ecx, edx] = host(number, 0);
            *leaf = match number {
                EXTENDED => [highest.clamp(EXTENDED, LAST_EXTENDED), ebx, ecx, edx],
                0x8000_0001 => {
                    let mut ecx = ecx & ECX_E1;
                    let mut edx = edx & EDX_E1;
                    if amd {
                        edx |= EDX_E1_APIC;
                        ecx |= u32::from(vcpus > 1) << 1; // cores, not threads
                    }
                    [eax, 0, ecx, edx]
                }
                0x8000_0007 => [0, 0, 0, edx & 1 << 8],
                0x8000_0008 => [eax & 0xffff, 0, if amd { vcpus - 1 } else { 0 }, 0],
                _ => [eax, ebx, ecx, edx],
            };
        }
    }

    /// The state components that guests may enable.
    pub const fn xcr0(&self) -> u64 {
        self.xcr0
    }

    /// Leaf 1 EAX: family, model, stepping.
    pub fn signature(&self) -> u32 {
        let [_, [eax, ..], ..] = self.basic;
        eax
    }

    /// Whether leaf 1 says that the vendor is AMD.
    pub fn is_amd(&self) -> bool {
        let [[_, vendor, ..], ..] = self.basic;
        vendor == 0x6874_7541
    }

    /// What CPUID says to a virtual CPU whose control registers have these values.
    #[inline]
    pub fn leaf(
        &self,
        vcpu: VcpuId,
        leaf: u32,
        sub: u32,
        cr4: impl Fn() -> u64,
        xcr0: impl Fn() -> u64,
    ) -> Leaf {
        match leaf {
            0..=LAST_BASIC => self.basic_leaf(vcpu, leaf, sub, cr4, xcr0),
            EXTENDED..=LAST_EXTENDED => {
                self.extended.get((leaf - EXTENDED) as usize).copied().unwrap_or_default()
            }
            FIRST_LEAF..=0x4000_00ff => self.xen_leaf(vcpu, leaf - FIRST_LEAF, sub),
            _ => [0; 4],
        }
    }

    fn basic_leaf(
        &self,
        vcpu: VcpuId,
        leaf: u32,
        sub: u32,
        cr4: impl Fn() -> u64,
        xcr0: impl Fn() -> u64,
    ) -> Leaf {
        let has_subs = matches!(leaf, 4 | 7 | 0xb | 0xd);
        let [mut eax, mut ebx, mut ecx, mut edx] = if has_subs && sub != 0 {
            let found = self.subs.iter().find(|(l, s, _)| *l == leaf && *s == sub);
            match found {
                Some((_, _, values)) => *values,
                // Beyond the last level the number of the sub-leaf is still echoed.
                None if leaf == 0xb => [0, 0, sub & 0xff, 0],
                None => [0; 4],
            }
        } else {
            self.basic.get(leaf as usize).copied().unwrap_or_default()
        };
        match (leaf, sub) {
            (1, _) => {
                ebx |= apic_id(vcpu) << 24;
                if ecx & ECX_1_XSAVE != 0 && cr4() & CR4_OSXSAVE != 0 {
                    ecx |= ECX_1_OSXSAVE;
                }
            }
            (7, 0) if ecx & ECX_7_PKU != 0 && cr4() & CR4_PKE != 0 => ecx |= ECX_7_OSPKE,
            (0xb, _) => edx = apic_id(vcpu),
            (0xd, 0) if self.xcr0 != 0 => ebx = self.xsave_size(xcr0()),
            _ => {}
        }
        if leaf == 0xd && self.xcr0 == 0 {
            eax = 0;
        }
        [eax, ebx, ecx, edx]
    }

    fn xen_leaf(&self, vcpu: VcpuId, leaf: u32, sub: u32) -> Leaf {
        let (mul, shift) = self.scale;
        match (leaf, sub) {
            (0, _) => [FIRST_LEAF + MAX_LEAF, SIGNATURE_EBX, SIGNATURE_ECX, SIGNATURE_EDX],
            (LEAF_VERSION, _) => [VERSION, 0, 0, 0],
            (LEAF_HYPERCALL, _) => [1, HYPERCALL_MSR, 0, 0],
            // The counter is the host's, reliable, and guests may use RDTSCP where there is one.
            (LEAF_TIME, 0) => {
                let [_, [_, _, _, edx], ..] = self.extended;
                [1 << 1 | (edx >> 27 & 1) << 2, 0, self.khz, 0]
            }
            (LEAF_TIME, 1) => [0, 0, mul, i32::from(shift).cast_unsigned()],
            (LEAF_TIME, 2) => [self.khz, 0, 0, 0],
            (LEAF_HVM, 0) => {
                let features = HvmFeatures::X2APIC_VIRT
                    | HvmFeatures::VCPU_ID_PRESENT
                    | HvmFeatures::DOMID_PRESENT
                    | HvmFeatures::UPCALL_VECTOR;
                [features.bits(), vcpu.raw(), u32::from(self.topology.domain.raw()), 0]
            }
            (LEAF_PV, 0) => {
                let [.., [eax, ..]] = self.extended;
                [0, eax & 0xff, 0, 0]
            }
            _ => [0; 4],
        }
    }
}

/// Executes CPUID.
#[inline]
pub fn on_cpuid<H: VcpuHw>(context: &mut Context<H>, vcpu: VcpuId, policy: &CpuidPolicy) {
    let hw = &mut context.hw;
    #[allow(clippy::cast_possible_truncation)] // the instruction reads 32 bits
    let (leaf, sub) = (hw.gprs().rax as u32, hw.gprs().rcx as u32);
    let [eax, ebx, ecx, edx] = policy.leaf(vcpu, leaf, sub, || hw.get(Reg::Cr4), || hw.get(Reg::Xcr0));
    let gprs = hw.gprs_mut();
    gprs.rax = eax.into();
    gprs.rbx = ebx.into();
    gprs.rcx = ecx.into();
    gprs.rdx = edx.into();
    hw.skip();
}
