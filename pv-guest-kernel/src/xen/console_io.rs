//! The hypervisor's own console (HYPERVISOR_console_io): the first domain's console, and the last resort of others.

use super::{hv, stub};

/// Writes bytes. Refusals are ignored: there is nowhere else to say so.
pub fn write(bytes: &[u8]) {
    for part in bytes.chunks(512) {
        let _ = stub::console_write(hv(), part);
    }
}

/// Reads what was typed; the number of bytes.
pub fn read(buffer: &mut [u8]) -> usize {
    let most = buffer.len();
    stub::console_read(hv(), buffer).map_or(0, |n| (n as usize).min(most))
}
