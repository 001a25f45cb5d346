//! A GDT and TSS for each vCPU.
//!
//! Flat 64-bit segments only; the TSS gives #DF, NMI and #MC stacks of their own, so that a run past a guard page is
//! reported instead of ending in a triple fault.

use alloc::vec;
use core::arch::asm;

/// Interrupt-stack-table slot of #DF (1-based, as the IDT wants it).
pub const IST_DOUBLE_FAULT: u8 = 1;
/// Slot of NMI and #MC.
pub const IST_NMI: u8 = 2;

const CODE: u64 = 0x00af_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;
/// Selector of the code segment.
pub const CODE_SELECTOR: u16 = 8;
const TSS_SELECTOR: u16 = 24;

/// 64-bit task state segment (AMD64 manual volume 2, section 12.2.5).
#[repr(C, packed(4))]
struct Tss {
    _reserved: u32,
    rsp: [u64; 3],
    _reserved2: u64,
    ist: [u64; 7],
    _reserved3: u64,
    _reserved4: u16,
    io_map: u16,
}

/// The descriptor tables of one vCPU.
#[repr(C, align(16))]
pub struct Tables {
    gdt: [u64; 5],
    tss: Tss,
}

impl Default for Tables {
    fn default() -> Self {
        Self::new()
    }
}

impl Tables {
    /// Empty tables, to be filled where they will stay.
    pub const fn new() -> Self {
        Tables {
            gdt: [0; 5],
            tss: Tss {
                _reserved: 0,
                rsp: [0; 3],
                _reserved2: 0,
                ist: [0; 7],
                _reserved3: 0,
                _reserved4: 0,
                io_map: 104,
            },
        }
    }

    /// Writes the descriptors; `self` must not move afterwards.
    pub fn fill(&mut self) {
        for i in [IST_DOUBLE_FAULT, IST_NMI] {
            let stack = vec![0u64; 2048].leak();
            self.tss.ist[usize::from(i) - 1] = stack.as_ptr_range().end as u64 & !15;
        }
        let base = &raw const self.tss as u64;
        let limit = (size_of::<Tss>() - 1) as u64;
        let low = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
        self.gdt = [0, CODE, DATA, low, base >> 32];
    }

    /// Loads GDT, segments and TR on the running vCPU.
    pub fn load(&'static self) {
        #[repr(C, packed)]
        struct Pointer {
            limit: u16,
            base: u64,
        }
        let gdtr = Pointer { limit: 39, base: self.gdt.as_ptr() as u64 };
        // SAFETY: the tables are filled, live for ever, and describe the flat segments the kernel already runs with.
        unsafe {
            asm!(
                "lgdt [{gdtr}]",
                "push 8",
                "lea {tmp}, [rip + 2f]",
                "push {tmp}",
                "retfq",
                "2:",
                "mov {tmp:e}, 16",
                "mov ds, {tmp:e}",
                "mov es, {tmp:e}",
                "mov ss, {tmp:e}",
                "xor {tmp:e}, {tmp:e}",
                "mov fs, {tmp:e}",
                "mov gs, {tmp:e}",
                "ltr {tr:x}",
                gdtr = in(reg) &raw const gdtr,
                tmp = out(reg) _,
                tr = in(reg) TSS_SELECTOR,
            );
        }
    }
}
