//! The driver domain's own place on its bridge: a link for the stack on one side, a card for the bridge on the other.
//!
//! Frames lie in buffers of this kernel's own. The bridge copies a guest's packet into one and the stack reads it there;
//! the stack writes a frame into one and the bridge copies it from there into a guest: one copy for each. Large packets
//! and blank checksums pass as they are.
//!
//! # Invariants
//!
//! * A buffer is in one place: free, with the bridge, on its way, or lent to the stack. Whoever holds it holds its
//!   number; only that holder touches its memory.
//!
//! When the bridge has brought frames, the stack takes and answers them at once, in the bridge's task: neither has to wake
//! the other, and the bridge finds the answers when it looks for more.
//!
//! Lock rule: the lock of a direction is held for moves of numbers, never together with another lock. The stack's lock is
//! taken under the bridge's, if it is free, and never the other way round.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Deref;
use core::sync::atomic::{AtomicBool, Ordering};

use pv_abi::Errno;
use pv_drivers::net::{Gso, Offload, PACKET_MAX, Uplink, UplinkBuffer, packet};
use spin::Mutex;

use super::link::{self, HEADER, Link, LinkInfo, Received};
use crate::task::signal::Signal;
use crate::xen::platform::Pages;

/// Buffers in each direction.
const BUFFERS: usize = 32;
/// Pages of a buffer: the largest packet.
const PAGES: usize = 17;
/// Bytes of a payload behind an Ethernet header, where nothing is cut.
const MTU: usize = 1500;

/// A frame on its way.
struct Frame {
    number: usize,
    length: usize,
    offload: Offload,
}

/// One direction.
struct Half {
    buffers: Vec<Arc<Pages>>,
    moving: Mutex<(Vec<usize>, VecDeque<Frame>)>,
    /// Somebody wanted a buffer and got none.
    is_starved: AtomicBool,
}

impl Half {
    fn new() -> Result<Self, Errno> {
        let buffers = (0..BUFFERS).map(|_| Pages::new(PAGES).map(Arc::new)).collect::<Result<_, _>>()?;
        let moving = Mutex::new(((0..BUFFERS).collect(), VecDeque::new()));
        Ok(Self { buffers, moving, is_starved: AtomicBool::new(false) })
    }

    fn acquire(&self) -> Option<usize> {
        let number = self.moving.lock().0.pop();
        if number.is_none() {
            self.is_starved.store(true, Ordering::Relaxed);
        }
        number
    }

    /// Gives a buffer back; true if somebody waits for it.
    fn release(&self, number: usize) -> bool {
        self.moving.lock().0.push(number);
        self.is_starved.swap(false, Ordering::Relaxed)
    }

    fn push(&self, frame: Frame) {
        self.moving.lock().1.push_back(frame);
    }

    fn pop(&self) -> Option<Frame> {
        self.moving.lock().1.pop_front()
    }

    fn lend(&self, number: usize) -> UplinkBuffer<Pages> {
        let memory = self.buffers[number].clone();
        UplinkBuffer { memory, offset: 0, capacity: PACKET_MAX, token: number as u64 }
    }
}

struct Shared {
    mac: [u8; 6],
    /// From the bridge to the stack.
    inward: Half,
    /// From the stack to the bridge.
    outward: Half,
    /// The stack has something to do.
    for_stack: &'static Signal,
    /// The bridge has something to do.
    for_bridge: &'static Signal,
    /// The stack works in the bridge's task, which will look for what it sends.
    is_in_turn: AtomicBool,
}

/// A received frame, in a buffer that goes back when this is dropped.
pub struct Lent {
    shared: Arc<Shared>,
    frame: Frame,
}

impl Deref for Lent {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let pages = &self.shared.inward.buffers[self.frame.number];
        let length = self.frame.length.min(pages.len());
        // SAFETY: the pages are this kernel's own and granted to nobody; the bridge wrote the frame and let the buffer
        // go, and nobody gets it before this value is dropped.
        unsafe { core::slice::from_raw_parts(pages.as_ptr(), length) }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.shared.inward.release(self.frame.number) {
            self.shared.for_bridge.raise();
        }
    }
}

/// The stack's side.
pub struct LocalLink {
    shared: Arc<Shared>,
    /// Frames were sent of which the bridge was not told.
    has_sent: bool,
    /// For frames that nobody takes.
    scratch: Vec<u8>,
}

/// The bridge's side.
pub struct LocalCard {
    shared: Arc<Shared>,
    has_sent: bool,
}

/// Makes a place with this address; `for_bridge` is raised when the bridge has to look.
///
/// # Errors
/// Out of memory.
pub fn pair(mac: [u8; 6], for_bridge: &'static Signal) -> Result<(LocalLink, LocalCard), Errno> {
    let (inward, outward) = (Half::new()?, Half::new()?);
    let for_stack = Box::leak(Box::default());
    let is_in_turn = AtomicBool::new(false);
    let shared = Arc::new(Shared { mac, inward, outward, for_stack, for_bridge, is_in_turn });
    let link = LocalLink { shared: shared.clone(), has_sent: false, scratch: Vec::new() };
    Ok((link, LocalCard { shared, has_sent: false }))
}

impl Link for LocalLink {
    fn info(&self) -> LinkInfo {
        LinkInfo {
            name: "eth0".into(),
            mac: self.shared.mac,
            mtu: MTU,
            is_up: true,
            offloads_checksums: true,
            large: (Some(PACKET_MAX), Some(PACKET_MAX)),
            note: "on this domain's bridge".into(),
        }
    }

    fn signal(&self) -> &'static Signal {
        self.shared.for_stack
    }

    fn poll(&mut self) -> bool {
        self.flush()
    }

    fn receive(&mut self) -> Option<Received> {
        loop {
            let frame = self.shared.inward.pop()?;
            let is_validated = frame.offload.validated;
            let lent = Lent { shared: self.shared.clone(), frame };
            if is_validated || packet::is_checksum_good(&lent) {
                return Some(Received::Lent(lent));
            }
            log::debug!("eth0: a checksum is wrong");
        }
    }

    fn can_send(&self) -> bool {
        let is_possible = !self.shared.outward.moving.lock().0.is_empty();
        if !is_possible {
            self.shared.outward.is_starved.store(true, Ordering::Relaxed);
        }
        is_possible
    }

    fn send(&mut self, length: usize, segment: Option<u16>, fill: &mut dyn FnMut(&mut [u8])) {
        let number =
            if (HEADER..=PACKET_MAX).contains(&length) { self.shared.outward.acquire() } else { None };
        let Some(number) = number else {
            return fill(link::prepare(&mut self.scratch, length));
        };
        let pages = &self.shared.outward.buffers[number];
        // SAFETY: the pages are this kernel's own and granted to nobody, long enough, and this is the only holder of
        // the buffer's number.
        let frame = unsafe { core::slice::from_raw_parts_mut(pages.as_ptr(), length) };
        link::clear_small(frame);
        fill(frame);
        let gso = segment.map(|size| Gso { is_v6: frame[12] == 0x86, size });
        let csum_blank = packet::fill_blank(frame);
        let offload = Offload { csum_blank, validated: csum_blank, gso };
        self.shared.outward.push(Frame { number, length, offload });
        self.has_sent = true;
    }

    fn flush(&mut self) -> bool {
        // The bridge looks after it has taken the mark away: who still sees it has sent before.
        if core::mem::take(&mut self.has_sent) && !self.shared.is_in_turn.load(Ordering::SeqCst) {
            self.shared.for_bridge.raise();
        }
        false
    }
}

impl Uplink<Pages> for LocalCard {
    fn is_up(&self) -> bool {
        true
    }

    fn takes_offloads(&self) -> bool {
        true
    }

    fn acquire(&mut self) -> Option<UplinkBuffer<Pages>> {
        let number = self.shared.inward.acquire()?;
        Some(self.shared.inward.lend(number))
    }

    fn send(&mut self, buffer: UplinkBuffer<Pages>, length: usize, offload: Offload) {
        self.shared.inward.push(Frame { number: buffer.token as usize, length, offload });
        self.has_sent = true;
    }

    fn cancel(&mut self, buffer: UplinkBuffer<Pages>) {
        self.shared.inward.release(buffer.token as usize);
    }

    fn start(&mut self) {
        if core::mem::take(&mut self.has_sent) {
            self.shared.is_in_turn.store(true, Ordering::SeqCst);
            super::turn();
            self.shared.is_in_turn.store(false, Ordering::SeqCst);
        }
    }

    fn receive(&mut self) -> Option<(UplinkBuffer<Pages>, usize, Offload)> {
        let frame = self.shared.outward.pop()?;
        Some((self.shared.outward.lend(frame.number), frame.length, frame.offload))
    }

    fn release(&mut self, buffer: UplinkBuffer<Pages>) {
        if self.shared.outward.release(buffer.token as usize) {
            self.shared.for_stack.raise();
        }
    }
}
