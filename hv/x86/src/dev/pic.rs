//! The pair of 8259A interrupt controllers: moved away from the exceptions and masked for good.

use crate::cpu::io::out8;

/// Vectors that a stray interrupt of the pair comes on: [`traps`](crate::cpu::traps) ignores them.
const VECTORS: u8 = 0x20;

/// Initializes both and masks all their inputs. (QEMU starts a PVH image with the first one unmasked at
/// vector 8.)
pub fn mask() {
    // The initialization words of the 8259A's data sheet: edge-triggered cascade with ICW4; vectors; cascade
    // at input 2; 8086 mode; all masked.
    for (base, vector, cascade) in [(0x20, VECTORS, 4), (0xa0, VECTORS + 8, 2)] {
        // SAFETY: nobody else drives the interrupt controllers; no interrupt is taken while they are set.
        unsafe {
            out8(base, 0x11);
            out8(base + 1, vector);
            out8(base + 1, cascade);
            out8(base + 1, 1);
            out8(base + 1, 0xff);
        }
    }
}
