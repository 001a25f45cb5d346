//! Our end of the paravirtual console ring (`xen/io/console.h`).
//!
//! Written by hand and without locks or allocation inside, because the last words of a dying kernel go through it too.
//! The back end is not trusted: its indices only say how many bytes may be touched, modulo the rings' sizes.

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use pv_abi::Port;

use super::events;
use crate::mm::{self, PAGE};

const IN_SIZE: u32 = 1024;
const OUT_SIZE: u32 = 2048;

/// The shared page (`struct xencons_interface`).
#[repr(C)]
struct Interface {
    input: [AtomicU8; IN_SIZE as usize],
    output: [AtomicU8; OUT_SIZE as usize],
    in_cons: AtomicU32,
    in_prod: AtomicU32,
    out_cons: AtomicU32,
    out_prod: AtomicU32,
}

/// The ring.
pub struct Ring {
    page: &'static Interface,
    /// The port by which the back end is told, once known.
    pub port: Option<Port>,
}

impl Ring {
    /// The ring in frame `gfn`.
    pub fn new(gfn: u64) -> Ring {
        // SAFETY: the toolstack reserved this frame for the ring; it lies below 4 GiB, in the direct map; all atomics.
        let page = unsafe { &*mm::ptr::<Interface>(gfn * PAGE) };
        let port = super::params::get(pv_abi::hvm::param::CONSOLE_EVTCHN).ok().map(|p| Port::new(p as u32));
        Ring { page, port }
    }

    /// Puts as many bytes as fit, and tells the back end.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let cons = self.page.out_cons.load(Ordering::Acquire);
        let mut prod = self.page.out_prod.load(Ordering::Relaxed);
        let used = prod.wrapping_sub(cons);
        let room = OUT_SIZE.saturating_sub(used) as usize;
        let n = bytes.len().min(room);
        for &byte in &bytes[..n] {
            self.page.output[(prod % OUT_SIZE) as usize].store(byte, Ordering::Relaxed);
            prod = prod.wrapping_add(1);
        }
        if n != 0 {
            self.page.out_prod.store(prod, Ordering::Release);
            self.tell();
        }
        n
    }

    /// Takes bytes that were typed.
    pub fn read(&mut self, buffer: &mut [u8]) -> usize {
        let prod = self.page.in_prod.load(Ordering::Acquire);
        let mut cons = self.page.in_cons.load(Ordering::Relaxed);
        let there = prod.wrapping_sub(cons).min(IN_SIZE) as usize;
        let n = there.min(buffer.len());
        for byte in &mut buffer[..n] {
            *byte = self.page.input[(cons % IN_SIZE) as usize].load(Ordering::Relaxed);
            cons = cons.wrapping_add(1);
        }
        if n != 0 {
            self.page.in_cons.store(cons, Ordering::Release);
            self.tell();
        }
        n
    }

    /// Has the back end taken everything?
    pub fn is_empty(&self) -> bool {
        self.page.out_cons.load(Ordering::Acquire) == self.page.out_prod.load(Ordering::Relaxed)
    }

    fn tell(&self) {
        if let Some(port) = self.port {
            events::notify(port);
        }
    }
}
