//! The guest's debug registers but DR7, which the control structure holds. They change hands when the virtual CPU does.

use core::arch::asm;

/// DR6 after reset.
const DR6_RESET: u64 = 0xffff_0ff0;

/// The values of a virtual CPU that is not loaded.
#[derive(Clone, Copy, Debug)]
pub struct DebugRegisters {
    addresses: [u64; 4],
    dr6: u64,
}

impl Default for DebugRegisters {
    fn default() -> Self {
        Self { addresses: [0; 4], dr6: DR6_RESET }
    }
}

fn read_dr6() -> u64 {
    let value;
    // SAFETY: reading a debug register changes nothing.
    unsafe { asm!("mov {}, dr6", out(reg) value, options(nomem, nostack)) };
    value
}

fn write_dr6(value: u64) {
    // SAFETY: the hypervisor sets no breakpoints; bits 63:32 are zero, as they must be.
    unsafe { asm!("mov dr6, {}", in(reg) value & 0xffff_ffff, options(nomem, nostack)) };
}

impl DebugRegisters {
    /// Puts the values into this CPU.
    pub fn load(&self) {
        let [a, b, c, d] = self.addresses;
        // SAFETY: DR7 is off in the hypervisor (VM exit clears it), so the addresses have no effect there.
        unsafe {
            asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}",
                in(reg) a, in(reg) b, in(reg) c, in(reg) d, options(nomem, nostack));
        }
        write_dr6(self.dr6);
    }

    /// Takes the values from this CPU.
    pub fn save(&mut self) {
        let (a, b, c, d);
        // SAFETY: reading debug registers changes nothing.
        unsafe {
            asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3",
                out(reg) a, out(reg) b, out(reg) c, out(reg) d, options(nomem, nostack));
        }
        self.addresses = [a, b, c, d];
        self.dr6 = read_dr6();
    }

    /// DR6.
    pub fn dr6(&self, loaded: bool) -> u64 {
        if loaded { read_dr6() } else { self.dr6 }
    }

    /// Sets DR6.
    pub fn set_dr6(&mut self, value: u64, loaded: bool) {
        self.dr6 = value;
        if loaded {
            write_dr6(value);
        }
    }
}
