//! The frequency of the time-stamp counter, measured against a clock of known frequency: HPET, the ACPI
//! timer, or the PIT.
//!
//! What CPUID says of it is not used: emulators get it wrong.

use super::acpi::Tables;
use crate::cpu::io::{in8, in32, out8, rdtsc};
use crate::paging;

/// A clock of known frequency.
enum Reference {
    /// The HPET's main counter and its period in femtoseconds (HPET specification 1.0a, section 2.3.4).
    Hpet { registers: *mut u64, period: u64 },
    /// The ACPI power-management timer: 3.579545 MHz, 24 bits that all have.
    PmTimer(u16),
    /// Channel 2 of the PIT: 1.193182 MHz, 16 bits, counting down.
    Pit,
}

impl Reference {
    fn find(tables: &Tables) -> Self {
        if let Some(base) = tables.hpet {
            let registers = paging::map_device(base, 0x400).cast::<u64>();
            // SAFETY: the mapping covers the registers: capabilities at 0, configuration at 10h, whose bit 0
            // starts the counter.
            let period = unsafe {
                let configuration = registers.add(2);
                configuration.write_volatile(configuration.read_volatile() | 1);
                registers.read_volatile() >> 32
            };
            // The specification's upper bound is 100 ns.
            if (1..=100_000_000).contains(&period) {
                return Self::Hpet { registers, period };
            }
        }
        if let Some(port) = tables.pm_timer {
            return Self::PmTimer(port);
        }
        // SAFETY: nobody else drives the PIT: its gate is on and the speaker off; channel 2 counts down from
        // 65536 in mode 0.
        unsafe {
            out8(0x61, in8(0x61) & !2 | 1);
            out8(0x43, 0xb0);
            out8(0x42, 0xff);
            out8(0x42, 0xff);
        }
        Self::Pit
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Hpet { .. } => "HPET",
            Self::PmTimer(_) => "ACPI timer",
            Self::Pit => "PIT",
        }
    }

    fn read(&self) -> u64 {
        // SAFETY: the clocks are the hypervisor's own; F0h is the HPET's main counter.
        unsafe {
            match self {
                Self::Hpet { registers, .. } => registers.add(0xf0 / 8).read_volatile(),
                Self::PmTimer(port) => u64::from(in32(*port)),
                Self::Pit => {
                    out8(0x43, 0x80);
                    let low = in8(0x42);
                    u64::from(u16::MAX - u16::from_le_bytes([low, in8(0x42)]))
                }
            }
        }
    }

    /// The nanoseconds times 1000 between two readings.
    fn picoseconds(&self, from: u64, to: u64) -> u64 {
        match self {
            Self::Hpet { period, .. } => {
                // Only 32 bits are certain to be there.
                let counts = to.wrapping_sub(from) & 0xffff_ffff;
                counts * period / 1000
            }
            Self::PmTimer(_) => (to.wrapping_sub(from) & 0xff_ffff) * 279_365,
            Self::Pit => (to.wrapping_sub(from) & 0xffff) * 838_095,
        }
    }

    /// Reads the clock between two readings of the counter: the counter, its uncertainty in ticks, and the
    /// clock. The best of a few.
    fn sample(&self) -> (u64, u64, u64) {
        let once = || {
            let before = rdtsc();
            let clock = self.read();
            let ticks = rdtsc() - before;
            (before + ticks / 2, ticks, clock)
        };
        (0..4).map(|_| once()).fold(once(), |best, next| if next.1 < best.1 { next } else { best })
    }
}

/// The frequency and the name of the clock that it was measured against.
pub struct Measured {
    /// Ticks per second.
    pub hz: u64,
    /// The name of the clock.
    pub against: &'static str,
}

/// Measures until the uncertainty is below 20 ppm, or 40 ms. A result that a whole number of MHz explains is
/// taken to be it.
pub fn measure(tables: &Tables) -> Measured {
    let clock = Reference::find(tables);
    let start = clock.sample();
    loop {
        let now = clock.sample();
        let picoseconds = clock.picoseconds(start.2, now.2);
        let ticks = now.0 - start.0;
        let uncertain = start.1 + now.1;
        if picoseconds >= 40_000_000_000 || (picoseconds >= 1_000_000_000 && ticks / 50_000 > uncertain) {
            let hz = (u128::from(ticks) * 1_000_000_000_000 / u128::from(picoseconds)) as u64;
            return Measured { hz: round(hz, uncertain, ticks), against: clock.name() };
        }
    }
}

/// The nearest whole number of MHz if it lies within the uncertainty (at least 50 ppm).
fn round(hz: u64, uncertain: u64, ticks: u64) -> u64 {
    let nearest = (hz + 500_000) / 1_000_000 * 1_000_000;
    let allowed =
        (hz / 20_000).max((u128::from(hz) * u128::from(uncertain) / u128::from(ticks.max(1))) as u64);
    if nearest.abs_diff(hz) <= allowed.min(hz / 5_000) { nearest } else { hz }
}
