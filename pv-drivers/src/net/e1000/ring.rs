//! A ring of descriptors, and the buffers that go round in it.

use alloc::sync::Arc;
use alloc::vec::Vec;

use pv_abi::errno::Errno;

use super::Registers;
use super::registers::{descriptor, ring};
use crate::platform::{PAGE_SIZE, Platform, SharedMemory};

/// Descriptors of a ring: a page of them.
const DEPTH: usize = PAGE_SIZE / descriptor::SIZE;
/// Bytes of a buffer: half a page, so none crosses a page.
const BUFFER: usize = 2048;
/// Buffers of a ring.
const BUFFERS: usize = DEPTH - 1;

/// A descriptor that the controller is done with.
pub struct Done {
    /// Its buffer.
    pub buffer: u16,
    /// Bytes in it, no more than it holds.
    pub len: usize,
    /// Whether the packet ends here.
    pub is_end: bool,
    /// Whether the controller says that something is wrong with the packet.
    pub is_damaged: bool,
}

/// One direction.
pub struct Ring<M> {
    descriptors: M,
    buffers: Arc<M>,
    /// Where the controller reaches the descriptors.
    base: u64,
    /// Where it reaches each buffer.
    addresses: Vec<u64>,
    /// The buffer of each descriptor from `head` to `tail`.
    posted: Vec<u16>,
    /// The next descriptor that the controller will be done with.
    head: usize,
    /// The next descriptor to be filled.
    tail: usize,
    /// Descriptors filled that the controller has not been told of.
    unpublished: usize,
    free: Vec<u16>,
}

fn after(index: usize) -> usize {
    (index + 1) % DEPTH
}

impl<M: SharedMemory> Ring<M> {
    /// An empty ring, all of whose buffers are free.
    pub fn new(platform: &impl Platform<Memory = M>) -> Result<Self, Errno> {
        let descriptors = platform.allocate(1)?;
        let buffers = platform.allocate(DEPTH * BUFFER / PAGE_SIZE)?;
        let base = descriptors.bus_address(0).ok_or(Errno::ENODEV)?.raw();
        let free: Vec<u16> = (0..u16::try_from(BUFFERS).unwrap_or(u16::MAX)).rev().collect();
        let mut addresses = Vec::with_capacity(BUFFERS);
        for offset in (0..BUFFERS).map(|buffer| buffer * BUFFER) {
            let page = buffers.bus_address(offset / PAGE_SIZE).ok_or(Errno::ENODEV)?;
            addresses.push(page.raw() + (offset % PAGE_SIZE) as u64);
        }
        let posted = alloc::vec![0; DEPTH];
        let buffers = Arc::new(buffers);
        Ok(Self { descriptors, buffers, base, addresses, posted, head: 0, tail: 0, unpublished: 0, free })
    }

    /// Tells the controller where the ring is; it is empty.
    pub fn install(&self, registers: &impl Registers, at: u32) {
        let [a, b, c, d, e, f, g, h] = self.base.to_le_bytes();
        for (register, value) in [
            (ring::BASE_LOW, u32::from_le_bytes([a, b, c, d])),
            (ring::BASE_HIGH, u32::from_le_bytes([e, f, g, h])),
            (ring::LENGTH, u32::try_from(PAGE_SIZE).unwrap_or(0)),
            (ring::HEAD, 0),
            (ring::TAIL, 0),
        ] {
            registers.write(at + register, value);
        }
    }

    /// The memory of the buffers.
    pub fn buffers(&self) -> &Arc<M> {
        &self.buffers
    }

    /// Where a buffer starts in it.
    pub fn offset(buffer: u16) -> usize {
        usize::from(buffer) * BUFFER
    }

    /// Whether no buffer is free.
    pub fn is_exhausted(&self) -> bool {
        self.free.is_empty()
    }

    /// Takes a free buffer.
    pub fn take(&mut self) -> Option<u16> {
        self.free.pop()
    }

    /// Makes a buffer free.
    pub fn free(&mut self, buffer: u16) {
        self.free.push(buffer);
    }

    /// Fills the next descriptor; `command` is its word of length and command.
    pub fn post(&mut self, buffer: u16, command: u32) {
        let (Some(address), Some(slot)) =
            (self.addresses.get(usize::from(buffer)), self.posted.get_mut(self.tail))
        else {
            return;
        };
        *slot = buffer;
        let at = self.tail * descriptor::SIZE;
        self.descriptors.write_u64(at, *address);
        self.descriptors.write_u32(at + descriptor::LENGTH, command);
        self.descriptors.write_u32(at + descriptor::STATUS, 0);
        self.tail = after(self.tail);
        self.unpublished += 1;
    }

    /// Descriptors that the controller has not been told of.
    pub fn unpublished(&self) -> usize {
        self.unpublished
    }

    /// Tells the controller of the descriptors filled.
    pub fn publish(&mut self, registers: &impl Registers, at: u32) {
        if core::mem::take(&mut self.unpublished) != 0 {
            registers.write(at + ring::TAIL, u32::try_from(self.tail).unwrap_or(0));
        }
    }

    /// Takes the next descriptor that the controller is done with.
    pub fn complete(&mut self) -> Option<Done> {
        if self.head == self.tail {
            return None;
        }
        let at = self.head * descriptor::SIZE;
        // Read first, and once: what the other fields say counts from then on.
        let status = self.descriptors.read_u32(at + descriptor::STATUS);
        if status & descriptor::DONE == 0 {
            return None;
        }
        let len = usize::from(self.descriptors.read_u16(at + descriptor::LENGTH)).min(BUFFER);
        let buffer = *self.posted.get(self.head)?;
        self.head = after(self.head);
        let is_damaged = status & descriptor::ERRORS != 0;
        Some(Done { buffer, len, is_end: status & descriptor::END != 0, is_damaged })
    }
}
