//! What is known of the ports in use.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use pv_abi::Port;

use super::{SLOTS, SLOTS_PER_CHUNK, is_masked, slot};

/// A port in use, for reports.
#[derive(Debug, Clone, Copy)]
pub struct InUse {
    /// The port.
    pub port: Port,
    /// What it is for.
    pub name: &'static str,
    /// Events taken.
    pub count: u64,
    /// Masked now?
    pub masked: bool,
}

/// The ports in use.
pub fn list() -> Vec<InUse> {
    let mut out = Vec::new();
    for (i, chunk) in SLOTS.iter().enumerate() {
        if chunk.load(Ordering::Acquire).is_null() {
            continue;
        }
        for k in 0..SLOTS_PER_CHUNK {
            let number = i as u32 * SLOTS_PER_CHUNK + k;
            let Some(slot) = slot(number) else { continue };
            if !slot.bound.load(Ordering::Acquire) {
                continue;
            }
            let masked = is_masked(Port::new(number));
            let name = *slot.name.lock();
            out.push(InUse {
                port: Port::new(number),
                name,
                count: slot.count.load(Ordering::Relaxed),
                masked,
            });
        }
    }
    out
}

/// How often a port's event was taken.
pub fn count(port: Port) -> u64 {
    slot(port.raw()).map_or(0, |s| s.count.load(Ordering::Relaxed))
}
