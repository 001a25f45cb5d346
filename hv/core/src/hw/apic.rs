//! The page of registers of a local APIC, which the hardware may use while the guest runs.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

const REGISTERS: usize = 256;
/// A register has the first 32 bits of each 16 bytes.
const WORDS: usize = 4;

/// The registers of a local APIC as they lie in memory (Intel SDM volume 3, table 11-1), each named by its offset
/// divided by 16.
///
/// `crate::apic::LocalApic` owns it. While guest code runs, a back end with hardware for it may let the guest read the
/// page, and may let the hardware change the task and processor priority, the requests and what is in service: nothing
/// else. At all other times only the CPU that has the virtual CPU touches it, so that no access needs to be more than a
/// load or a store.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct RegisterPage([AtomicU32; REGISTERS * WORDS]);

impl Default for RegisterPage {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; REGISTERS * WORDS])
    }
}

impl RegisterPage {
    /// The task priority's register.
    pub const TASK_PRIORITY: u8 = 0x08;

    /// Reads a register.
    #[inline]
    pub fn get(&self, register: u8) -> u32 {
        self.0.get(usize::from(register) * WORDS).map_or(0, |word| word.load(Relaxed))
    }

    /// Writes a register.
    #[inline]
    pub fn set(&self, register: u8, value: u32) {
        if let Some(word) = self.0.get(usize::from(register) * WORDS) {
            word.store(value, Relaxed);
        }
    }

    /// The task priority as CR8 shows it, 0 to 15.
    #[inline]
    pub fn cr8(&self) -> u8 {
        let [low, ..] = self.get(Self::TASK_PRIORITY).to_le_bytes();
        low >> 4
    }

    /// Sets the task priority as a write of CR8 does; the lower half of the register stays while CR8 is the same.
    #[inline]
    pub fn set_cr8(&self, cr8: u8) {
        if self.cr8() != cr8 & 15 {
            self.set(Self::TASK_PRIORITY, u32::from(cr8 & 15) << 4);
        }
    }
}

/// How the guest reaches its local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ApicMode {
    /// Not at all.
    Disabled,
    /// Through a page of memory.
    #[default]
    Memory,
    /// Through model-specific registers: x2APIC mode.
    Registers,
}
