//! The I/O APICs: one redirection entry per global system interrupt (82093AA data sheet).

use alloc::vec::Vec;

use hv_core::hw::{ApicId, Gsi, Polarity, Trigger};
use spin::Mutex;

use crate::paging;

/// One I/O APIC.
struct IoApic {
    select: *mut u32,
    window: *mut u32,
    first: u32,
    inputs: u32,
}

// SAFETY: the pointers lead to device registers that are mapped for ever.
unsafe impl Send for IoApic {}

/// All of them. The lock is also taken by the handlers of level-triggered lines: no holder is ever
/// interrupted, since interrupts are off.
static ALL: Mutex<Vec<IoApic>> = Mutex::new(Vec::new());

const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const LOW: u32 = 1 << 13;

impl IoApic {
    fn read(&mut self, register: u32) -> u32 {
        // SAFETY: `add` mapped both registers.
        unsafe {
            self.select.write_volatile(register);
            self.window.read_volatile()
        }
    }

    fn write(&mut self, register: u32, value: u32) {
        // SAFETY: as above.
        unsafe {
            self.select.write_volatile(register);
            self.window.write_volatile(value);
        }
    }

    fn entry(&self, gsi: Gsi) -> Option<u32> {
        let input = gsi.raw().checked_sub(self.first)?;
        (input < self.inputs).then_some(0x10 + 2 * input)
    }
}

/// Adds the I/O APIC at a physical address whose inputs begin with `first`, and masks them all.
pub fn add(address: u64, first: u32) {
    let registers = paging::map_device(address, 0x20);
    // SAFETY: the window register is at offset 10h of the mapping.
    let window = unsafe { registers.add(0x10) };
    let mut new = IoApic { select: registers.cast(), window: window.cast(), first, inputs: 0 };
    new.inputs = (new.read(1) >> 16 & 0xff) + 1;
    for input in 0..new.inputs {
        new.write(0x10 + 2 * input, MASKED);
    }
    ALL.lock().push(new);
}

/// Whether there is such an input.
pub fn has(gsi: Gsi) -> bool {
    ALL.lock().iter().any(|apic| apic.entry(gsi).is_some())
}

/// Routes an input to a vector of a CPU, masked.
pub fn route(gsi: Gsi, vector: u8, target: ApicId, trigger: Trigger, polarity: Polarity) {
    for apic in ALL.lock().iter_mut() {
        if let Some(register) = apic.entry(gsi) {
            let trigger = if trigger == Trigger::Level { LEVEL } else { 0 };
            let polarity = if polarity == Polarity::Low { LOW } else { 0 };
            apic.write(register, MASKED);
            apic.write(register + 1, target.raw() << 24);
            apic.write(register, MASKED | trigger | polarity | u32::from(vector));
        }
    }
}

/// Masks or unmasks an input.
pub fn mask(gsi: Gsi, masked: bool) {
    for apic in ALL.lock().iter_mut() {
        if let Some(register) = apic.entry(gsi) {
            let old = apic.read(register);
            apic.write(register, if masked { old | MASKED } else { old & !MASKED });
        }
    }
}
