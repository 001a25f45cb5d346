//! What of a local APIC the hardware may use while the guest runs: the page of registers, and requests from elsewhere.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

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

/// Interrupts that any CPU requests of a virtual CPU's local APIC: one bit for each vector, and one that says that the
/// CPU that runs it was told of them (the posted-interrupt descriptor of Intel SDM volume 3, table 30-1).
///
/// A back end with hardware for it takes them while the guest runs: it clears the last bit, then moves the others into
/// the page of registers. So does [`take`](Self::take), in the same order: a request that comes later is told again.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Requests {
    vectors: [AtomicU64; 4],
    told: AtomicU64,
}

impl Requests {
    /// Requests an interrupt.
    #[inline]
    pub fn insert(&self, vector: u8) {
        if let Some(word) = self.vectors.get(usize::from(vector / 64)) {
            word.fetch_or(1 << (vector % 64), SeqCst);
        }
    }

    /// Notes that the CPU is told; whether it was not yet, so that the caller has to.
    pub fn tell(&self) -> bool {
        self.told.fetch_or(1, SeqCst) & 1 == 0
    }

    /// Takes all requests: of each 64 vectors, those that are requested.
    #[inline]
    pub fn take(&self) -> [u64; 4] {
        if self.told.load(SeqCst) != 0 {
            self.told.store(0, SeqCst);
        }
        core::array::from_fn(|index| match self.vectors.get(index) {
            Some(word) if word.load(SeqCst) != 0 => word.swap(0, SeqCst),
            _ => 0,
        })
    }
}

const _: () = {
    use core::mem::{align_of, offset_of, size_of};
    assert!(align_of::<Requests>() == 64 && size_of::<Requests>() == 64);
    assert!(offset_of!(Requests, vectors) == 0 && offset_of!(Requests, told) == 32);
};

/// What a local APIC has for hardware that delivers its interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Levels {
    /// The highest vector that is requested, 0 for none.
    pub requested: u8,
    /// The highest vector that is in service, 0 for none.
    pub in_service: u8,
    /// It takes interrupts: the guest has enabled it.
    pub enabled: bool,
}
