//! This kernel's side of the hypervisor's interface.
//!
//! Everything that makes a hypercall lives here. The transport is chosen once, by the processor's vendor, before the
//! first call.

pub mod clock;
pub mod console_io;
pub mod console_ring;
pub mod counters;
pub mod events;
pub mod grants;
pub mod params;
pub mod platform;
pub mod power;
pub mod sched;
pub mod shared;
pub mod smp;
pub mod store;

pub use pv_abi::call::stub;
use pv_abi::transport::Native;
use pv_abi::version::{FeatureInfo, Features};
use pv_abi::{DomainId, cpuid};

use crate::arch::instr;

static TRANSPORT: spin::Once<Native> = spin::Once::new();
static IDENTITY: spin::Once<Identity> = spin::Once::new();

/// What the hypervisor says of itself and of us.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// First CPUID leaf.
    pub leaf: u32,
    /// Major and minor version.
    pub version: (u32, u32),
    /// The first 32 feature bits.
    pub features: Features,
    /// Our own number, when the hypervisor tells it.
    pub domain: Option<DomainId>,
    /// Text behind the version.
    pub extra: [u8; 16],
}

/// The way to make a hypercall.
#[inline(always)]
pub fn hv() -> &'static Native {
    // SAFETY: `init` ran before anything else of the kernel.
    unsafe { TRANSPORT.get_unchecked() }
}

/// Finds the hypervisor; false if there is none.
pub fn init() -> bool {
    let mut leaf = cpuid::FIRST_LEAF;
    loop {
        let r = instr::cpuid(leaf, 0);
        if [r[1], r[2], r[3]] == [cpuid::SIGNATURE_EBX, cpuid::SIGNATURE_ECX, cpuid::SIGNATURE_EDX] {
            break;
        }
        leaf += cpuid::LEAF_STRIDE;
        if leaf >= cpuid::LAST_FIRST_LEAF {
            return false;
        }
    }
    // SAFETY: the signature promises the interface; the kernel's calls name only what is the domain's own.
    TRANSPORT.call_once(|| unsafe { Native::detect() });
    let version = instr::cpuid(leaf + cpuid::LEAF_VERSION, 0)[0];
    let mut features = FeatureInfo::default();
    let _ = stub::version_features(hv(), &mut features);
    let mut extra = [0; 16];
    let _ = stub::version_extra(hv(), &mut extra);
    let hvm = instr::cpuid(leaf + cpuid::LEAF_HVM, 0);
    let known = cpuid::HvmFeatures::from_bits_retain(hvm[0]).contains(cpuid::HvmFeatures::DOMID_PRESENT);
    IDENTITY.call_once(|| Identity {
        leaf,
        version: (version >> 16, version & 0xffff),
        features: Features::from_bits_retain(features.submap),
        domain: known.then(|| DomainId::new(hvm[2] as u16)),
        extra,
    });
    true
}

/// What the hypervisor says of itself and of us.
pub fn identity() -> &'static Identity {
    IDENTITY.get().expect("the hypervisor is found first")
}

impl Identity {
    /// The text behind the version.
    pub fn extra(&self) -> &str {
        let end = self.extra.iter().position(|&b| b == 0).unwrap_or(self.extra.len());
        core::str::from_utf8(&self.extra[..end]).unwrap_or("?")
    }

    /// Is this Xenolith, rather than another hypervisor with the same interface?
    pub fn is_xenolith(&self) -> bool {
        self.extra() == "-xenolith"
    }

    /// Is this domain's memory mapped one to one, so that a device reaches a page at its guest-physical address?
    pub fn direct_mapped(&self) -> bool {
        self.features.contains(Features::DIRECT_MAPPED)
    }
}
