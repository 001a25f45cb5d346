//! Ways for a guest to reach the hypervisor.
//!
//! UNSAFETY: the two instructions and the call into the hypercall page are assembler. Constructing a transport is the
//! unsafe step: whoever does it promises that the program runs on a hypervisor with this ABI, and that calls made
//! through the transport name only memory, frames and ports that the caller owns. The stubs are safe for that reason.

use core::arch::asm;
use core::arch::x86_64::__cpuid;

/// A hypercall's arguments: RDI, RSI, RDX, R10, R8.
pub type Words = [u64; 5];

/// A way to make a call.
///
/// The lending functions exist for transports whose other end does not see the caller's memory, such as a test's; for
/// the real ones a buffer's address is what the hypervisor wants.
pub trait Transport {
    /// Makes call `number` and returns its raw result.
    fn call(&self, number: u64, args: &Words) -> i64;

    /// The address at which the other end finds these bytes.
    #[inline(always)]
    fn lend(&self, bytes: &[u8]) -> u64 {
        bytes.as_ptr().expose_provenance() as u64
    }

    /// The address at which the other end finds these bytes and may change them.
    #[inline(always)]
    fn lend_mut(&self, bytes: &mut [u8]) -> u64 {
        bytes.as_mut_ptr().expose_provenance() as u64
    }

    /// Takes back, after the call, the bytes lent as `address`, whatever the other end made of them.
    #[inline(always)]
    fn take_back(&self, address: u64, bytes: &mut [u8]) {
        let _ = (address, bytes);
    }
}

impl<T: Transport + ?Sized> Transport for &T {
    #[inline(always)]
    fn call(&self, number: u64, args: &Words) -> i64 {
        (**self).call(number, args)
    }

    #[inline(always)]
    fn lend(&self, bytes: &[u8]) -> u64 {
        (**self).lend(bytes)
    }

    #[inline(always)]
    fn lend_mut(&self, bytes: &mut [u8]) -> u64 {
        (**self).lend_mut(bytes)
    }

    #[inline(always)]
    fn take_back(&self, address: u64, bytes: &mut [u8]) {
        (**self).take_back(address, bytes);
    }
}

/// Issues the instruction directly. The ABI preserves the argument registers, but debug builds of Xen scramble them.
macro_rules! direct {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name(());

        impl $name {
            /// Promises that the program runs on a hypervisor with this ABI, on a processor with this instruction.
            ///
            /// # Safety
            /// The calls made through the transport must name only memory, frames and ports that the caller owns.
            #[inline]
            pub const unsafe fn new() -> Self {
                Self(())
            }
        }

        impl Transport for $name {
            #[inline(always)]
            fn call(&self, number: u64, args: &Words) -> i64 {
                let result: u64;
                // SAFETY: the constructor's caller vouches for the hypervisor and for what the arguments name.
                unsafe {
                    asm!(
                        $instruction,
                        inlateout("rax") number => result,
                        inlateout("rdi") args[0] => _,
                        inlateout("rsi") args[1] => _,
                        inlateout("rdx") args[2] => _,
                        inlateout("r10") args[3] => _,
                        inlateout("r8") args[4] => _,
                        options(nostack),
                    );
                }
                result.cast_signed()
            }
        }
    };
}

direct! {
    /// The `VMCALL` instruction, for Intel's processors.
    Vmcall, "vmcall"
}
direct! {
    /// The `VMMCALL` instruction, for AMD's processors.
    Vmmcall, "vmmcall"
}

/// Bytes of code for one call in a hypercall page.
pub const HYPERCALL_PAGE_STRIDE: u64 = 32;

/// The page of code that the hypervisor fills when asked through the MSR of CPUID leaf 0x4000_0002.
#[derive(Clone, Copy, Debug)]
pub struct HypercallPage {
    base: u64,
}

impl HypercallPage {
    /// Uses the page at this address.
    ///
    /// # Safety
    /// The hypervisor must have filled the page, it must stay mapped executable at that address, and the calls made
    /// through it must name only memory, frames and ports that the caller owns.
    #[inline]
    pub const unsafe fn new(base: crate::GuestVirt) -> Self {
        Self { base: base.raw() }
    }
}

impl Transport for HypercallPage {
    #[inline(always)]
    fn call(&self, number: u64, args: &Words) -> i64 {
        let result: u64;
        let target = self.base.wrapping_add(number.wrapping_mul(HYPERCALL_PAGE_STRIDE));
        // SAFETY: the constructor's caller vouches for the page and for what the arguments name.
        unsafe {
            asm!(
                "call rax",
                inlateout("rax") target => result,
                inlateout("rdi") args[0] => _,
                inlateout("rsi") args[1] => _,
                inlateout("rdx") args[2] => _,
                inlateout("r10") args[3] => _,
                inlateout("r8") args[4] => _,
            );
        }
        result.cast_signed()
    }
}

/// The instruction that this processor has.
#[derive(Clone, Copy, Debug)]
pub enum Native {
    /// Intel's.
    Vmcall(Vmcall),
    /// AMD's.
    Vmmcall(Vmmcall),
}

impl Native {
    /// Chooses by the processor's vendor.
    ///
    /// # Safety
    /// As for [`Vmcall::new`].
    pub unsafe fn detect() -> Self {
        let leaf = __cpuid(0);
        let amd = [*b"Auth", *b"enti", *b"cAMD"];
        let hygon = [*b"Hygo", *b"nGen", *b"uine"];
        let vendor = [leaf.ebx.to_le_bytes(), leaf.edx.to_le_bytes(), leaf.ecx.to_le_bytes()];
        if vendor == amd || vendor == hygon {
            // SAFETY: the caller's promise, and the vendor has this instruction.
            Self::Vmmcall(unsafe { Vmmcall::new() })
        } else {
            // SAFETY: the caller's promise, and every other vendor has this instruction.
            Self::Vmcall(unsafe { Vmcall::new() })
        }
    }
}

impl Transport for Native {
    #[inline(always)]
    fn call(&self, number: u64, args: &Words) -> i64 {
        match self {
            Self::Vmcall(vmcall) => vmcall.call(number, args),
            Self::Vmmcall(vmmcall) => vmmcall.call(number, args),
        }
    }
}
