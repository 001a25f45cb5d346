//! Vector state of guests. The hypervisor itself uses no vector registers, so they are switched only when the
//! virtual CPU changes.
//!
//! x87 state that is as FNINIT leaves it is marked so, where the CPU does not track that itself: XRSTOR then needs not
//! load it. QEMU is such a CPU, and when it loads x87 state on one processor it changes the flags of the first one
//! without a lock (`cpu_clear_ignne` in target/i386/tcg/sysemu/fpu_helper.c of QEMU 7.2): a VMRUN or #VMEXIT there at the same
//! moment may lose its switch to or from nested paging.

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::arch::asm;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::features;

/// Bytes of the area for all state that this CPU can save; 512 for FXSAVE.
static AREA_BYTES: AtomicUsize = AtomicUsize::new(512);
/// The answer of [`supported_components`], kept: CPUID is slow, and itself an exit under another hypervisor.
static MASK: AtomicU64 = AtomicU64::new(0);

/// The state after reset: x87 control word 37Fh, MXCSR 1F80h (AMD64 manual volume 2, section 14.1.3).
const FCW: u16 = 0x37f;
const MXCSR: u32 = 0x1f80;

/// The bit of x87 state in XCR0 and in the header of XSAVE's area.
const X87: u64 = 1;
/// Where the header of XSAVE's area begins, with the bits of what is not initial (AMD64 manual volume 2, section 11.5.7).
const HEADER: usize = 512;
/// 64-bit words of the area that x87 and SSE share: up to the last x87 register.
const X87_WORDS: usize = 20;

/// The components that guests may use: x87, SSE, AVX, AVX-512, PKRU.
const COMPONENTS: u64 = 0b10_1110_0111;

/// The components that both this CPU and the hypervisor support: what a guest may set in XCR0, or 0 without
/// XSAVE.
pub fn supported_components() -> u64 {
    if !features::xsave() {
        return 0;
    }
    let leaf = features::xsave_leaf(0);
    (u64::from(leaf.edx) << 32 | u64::from(leaf.eax)) & COMPONENTS
}

/// Enables SSE and XSAVE on this CPU.
pub fn set_up() {
    // SAFETY: CR4.OSFXSR and CR4.OSXMMEXCPT allow the instructions below; CR0.EM and CR0.TS would forbid
    // them.
    unsafe {
        use x86_64::registers::control::{Cr0, Cr4};
        Cr0::write_raw(Cr0::read_raw() & !(1 << 2 | 1 << 3) | 1 << 1 | 1 << 5);
        let mut cr4 = Cr4::read_raw() | 1 << 9 | 1 << 10;
        if features::xsave() {
            cr4 |= 1 << 18;
        }
        Cr4::write_raw(cr4);
    }
    if features::xsave() {
        // SAFETY: CR4.OSXSAVE is set, and these components are supported.
        unsafe { xsetbv(supported_components()) };
        MASK.store(supported_components(), Ordering::Relaxed);
        // EBX is the size for the components enabled now, of the standard format (leaf 0Dh, sub-leaf 0).
        AREA_BYTES.store(features::xsave_leaf(0).ebx as usize, Ordering::Relaxed);
    }
}

/// The components of `wanted` that the CPU accepts together: x87 always, AVX with SSE, AVX-512 whole and with AVX (AMD64
/// manual volume 2, section 11.5.2). Policy checks what a guest asks for; a mistake there must not be a fault here.
const fn sound(wanted: u64) -> u64 {
    const SSE: u64 = 1 << 1;
    const AVX: u64 = 1 << 2;
    const AVX512: u64 = 7 << 5;
    let mut value = wanted | 1;
    if value & SSE == 0 {
        value &= !AVX;
    }
    if value & AVX == 0 || value & AVX512 != AVX512 {
        value &= !AVX512;
    }
    value
}

/// Whether the x87 part of an area is what FNINIT leaves, with empty registers of zeros (section 11.4.4: the control word,
/// the status, the tags and the opcode; two pointers; MXCSR, which is SSE's; eight registers).
fn x87_is_initial(area: &[u64; X87_WORDS]) -> bool {
    let [control, instruction, data, _mxcsr, registers @ ..] = area;
    *control == u64::from(FCW) && registers.iter().fold(instruction | data, |any, word| any | word) == 0
}

/// # Safety
///
/// CR4.OSXSAVE must be set and the components be supported.
unsafe fn xsetbv(value: u64) {
    // SAFETY: by this function's contract.
    unsafe {
        asm!(
            "xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nomem, nostack)
        )
    };
}

/// # Safety
///
/// CR4.OSXSAVE must be set.
unsafe fn xgetbv() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: by this function's contract.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// The vector state of a virtual CPU while another runs, and its XCR0.
pub struct VectorState {
    area: NonNull<u8>,
    layout: Layout,
    xcr0: u64,
}

// SAFETY: the area belongs to this value alone.
unsafe impl Send for VectorState {}

impl VectorState {
    /// The state after reset; nothing if memory ran out.
    pub fn new() -> Option<Self> {
        let layout = Layout::from_size_align(AREA_BYTES.load(Ordering::Relaxed), 64).ok()?;
        // SAFETY: the layout's size is not zero.
        let area = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let mut state = Self { area, layout, xcr0: 1 };
        state.reset();
        Some(state)
    }

    /// Sets the state after reset. Not while it is loaded.
    pub fn reset(&mut self) {
        // SAFETY: the area is at least 512 bytes; the offsets are those of FXSAVE (AMD64 manual volume 2,
        // section 11.4.4), and a zero header says that the components of XSAVE are in their initial state but
        // for MXCSR, which is always taken from the area.
        unsafe {
            self.area.as_ptr().write_bytes(0, self.layout.size());
            self.area.as_ptr().cast::<u16>().write(FCW);
            self.area.as_ptr().add(24).cast::<u32>().write(MXCSR);
        }
        self.xcr0 = 1;
    }

    /// The guest's XCR0; `loaded` as for [`set_xcr0`](Self::set_xcr0). While it is loaded the register itself counts:
    /// QEMU's AMD-V (seen in 7.2) executes XSETBV in a guest though it is intercepted.
    pub fn xcr0(&self, loaded: bool) -> u64 {
        if loaded && MASK.load(Ordering::Relaxed) != 0 {
            // SAFETY: `set_up` set CR4.OSXSAVE.
            unsafe { xgetbv() }
        } else {
            self.xcr0
        }
    }

    /// Sets the guest's XCR0, which must be of [`supported_components`] and valid; `loaded` says whether this
    /// CPU runs the guest now.
    pub fn set_xcr0(&mut self, value: u64, loaded: bool) {
        let mask = MASK.load(Ordering::Relaxed);
        let value = sound(value & mask);
        self.xcr0 = value;
        if loaded && mask != 0 {
            // SAFETY: `set_up` set CR4.OSXSAVE; the value holds supported components only.
            unsafe { xsetbv(value) };
        }
    }

    /// Loads the state into this CPU.
    pub fn load(&mut self) {
        let mask = MASK.load(Ordering::Relaxed);
        // SAFETY: the area is aligned to 64 bytes, of the size that the CPU reported, and holds what `save`
        // or `reset` wrote. All components are loaded, whatever the guest's XCR0 is, which comes last.
        unsafe {
            if mask != 0 {
                xsetbv(mask);
                asm!(
                    "xrstor64 [{}]", in(reg) self.area.as_ptr(), in("eax") u32::MAX, in("edx") u32::MAX,
                    options(nostack)
                );
                xsetbv(self.xcr0);
            } else {
                asm!("fxrstor64 [{}]", in(reg) self.area.as_ptr(), options(nostack));
            }
        }
    }

    /// Saves the state from this CPU.
    pub fn save(&mut self) {
        let mask = MASK.load(Ordering::Relaxed);
        // SAFETY: as for `load`; with XSAVE the area has a header behind the 512 bytes of FXSAVE.
        unsafe {
            if mask != 0 {
                self.xcr0 = xgetbv();
                xsetbv(mask);
                asm!(
                    "xsave64 [{}]", in(reg) self.area.as_ptr(), in("eax") u32::MAX, in("edx") u32::MAX,
                    options(nostack)
                );
                let header = self.area.as_ptr().add(HEADER).cast::<u64>();
                let words = self.area.as_ptr().cast::<[u64; X87_WORDS]>();
                if *header & X87 != 0 && x87_is_initial(&*words) {
                    *header &= !X87;
                }
            } else {
                asm!("fxsave64 [{}]", in(reg) self.area.as_ptr(), options(nostack));
            }
        }
    }
}

impl Drop for VectorState {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout by `new`.
        unsafe { dealloc(self.area.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_untouched_x87_state_is_initial() {
        let mut initial = [0; X87_WORDS];
        initial[0] = u64::from(FCW);
        assert!(x87_is_initial(&initial));
        for word in 0..X87_WORDS {
            let mut area = initial;
            area[word] ^= 1 << 16;
            assert_eq!(x87_is_initial(&area), word == 3, "word {word}");
        }
    }
}
