//! A virtio block device (Virtual I/O Device 1.2, section 5.2), through the queue and transport of `virtio_drivers`.
//!
//! Requests are vectors of pieces of memory, of this domain or mapped from others; the device moves the data itself.
//! Up to [`DEPTH`] requests are in flight; the device is told of new ones once for a batch.
//! Invariant: a slot's header, status byte and pieces stay where they are from `enqueue` until its token came back.

use alloc::string::String;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::ptr::NonNull;

use bitflags::bitflags;
use pv_drivers::blk::{
    BlockDevice, BlockError, Discard, Geometry, Location, Operation, Request, SECTOR_SIZE, Submitted, Tag,
};
use pv_drivers::platform::SharedMemory;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;
use virtio_drivers::transport::pci::PciTransport;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::dma::{self, KernelHal};
use super::pci::Function;
use super::virtio;
use crate::xen::platform::Pages;

/// Requests in flight at most: descriptors of the queue, each request using one with an indirect table behind it.
pub const DEPTH: usize = 128;
/// Pieces of one request at most, if the device does not say less.
pub const PIECES: usize = 64;
/// The only queue in use.
const QUEUE: u16 = 0;
/// PCI device numbers of block devices: modern, and transitional (section 4.1.2.1).
const DEVICES: [u16; 2] = [0x1042, 0x1001];

bitflags! {
    /// The features that this driver knows (sections 5.2.3 and 6).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Features: u64 {
        const SEG_MAX = 1 << 2;
        const RO = 1 << 5;
        const FLUSH = 1 << 9;
        const DISCARD = 1 << 13;
        const INDIRECT = virtio::feature::INDIRECT;
        const VERSION_1 = virtio::feature::VERSION_1;
        const ACCESS_PLATFORM = virtio::feature::ACCESS_PLATFORM;
    }
}

/// A piece of memory, as this kernel and as the device see it.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: NonNull<u8>,
    length: usize,
    address: u64,
}

// SAFETY: a place only names memory; the owner of the request keeps it alive until its completion.
unsafe impl Send for Place {}

impl Place {
    /// `length` bytes of `memory` from `offset`, within one page; `None` if a device cannot reach it.
    fn new(memory: &Pages, offset: usize, length: usize) -> Option<Self> {
        if offset.checked_add(length)? > memory.len() {
            return None;
        }
        // SAFETY: the range was just checked to lie inside the run.
        let start = NonNull::new(unsafe { memory.as_ptr().add(offset) })?;
        Some(Self { start, length, address: dma::device_address(memory, offset)? })
    }

    /// Appends `next` if both see it right behind this one.
    fn join(&mut self, next: &Place) -> bool {
        let adjacent = self.address + self.length as u64 == next.address
            && self.start.as_ptr().addr() + self.length == next.start.as_ptr().addr();
        if adjacent {
            self.length += next.length;
        }
        adjacent
    }
}

#[derive(Clone, Copy, IntoBytes, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    kind: u32,
    reserved: u32,
    sector: u64,
    /// Section 5.2.6: `struct virtio_blk_discard_write_zeroes`.
    discard_sector: u64,
    discard_count: u32,
    discard_flags: u32,
    /// Written by the device.
    status: u8,
    pad: [u8; 31],
}

const HEADER_BYTES: usize = 16;
const DISCARD_BYTES: usize = 16;
const STATUS_PENDING: u8 = 0xff;

struct Slot {
    tag: Tag,
    operation: Operation,
    places: Vec<Place>,
}

/// A virtio disk.
pub struct VirtioDisk {
    transport: PciTransport,
    queue: VirtQueue<KernelHal, DEPTH>,
    /// One [`Header`] for each slot.
    headers: Pages,
    slots: Vec<Option<Slot>>,
    free: Vec<u16>,
    /// The slot of each token.
    tokens: [u16; DEPTH],
    unannounced: bool,
    sectors: u64,
    pieces: usize,
    features: Features,
}

/// Whether this function is a virtio disk.
pub fn is_disk(function: &Function) -> bool {
    function.info.vendor_id == virtio::VENDOR && DEVICES.contains(&function.info.device_id)
}

impl VirtioDisk {
    /// Starts the device. Its queue raises entry 0 of the MSI-X table.
    ///
    /// # Errors
    /// What is wrong with the device, in words.
    pub fn new(function: &Function) -> Result<Self, String> {
        let mut transport = virtio::transport(function)?;
        let features = transport.begin_init(
            Features::SEG_MAX
                | Features::RO
                | Features::FLUSH
                | Features::DISCARD
                | Features::INDIRECT
                | Features::VERSION_1
                | Features::ACCESS_PLATFORM,
        );
        // In two halves: the device promises no more than an alignment of 4 bytes.
        let [low, high] = transport
            .read_consistent(|| transport.read_config_space::<[u32; 2]>(0))
            .map_err(|_| "it does not tell its capacity")?;
        let sectors = u64::from(low) | u64::from(high) << 32;
        let pieces = if features.contains(Features::SEG_MAX) {
            transport.read_config_space::<u32>(12).map_err(|_| "it does not tell its limits")? as usize
        } else {
            1
        };
        let queue = VirtQueue::new(&mut transport, QUEUE, features.contains(Features::INDIRECT), false)
            .map_err(|_| "its queue is too small")?;
        virtio::set_vector(function, QUEUE, 0)?;
        transport.finish_init();
        let headers =
            Pages::new((DEPTH * size_of::<Header>()).div_ceil(4096)).map_err(|_| "out of memory")?;
        Ok(Self {
            transport,
            queue,
            headers,
            slots: (0..DEPTH).map(|_| None).collect(),
            free: (0..DEPTH as u16).rev().collect(),
            tokens: [0; DEPTH],
            unannounced: false,
            sectors,
            pieces: pieces.clamp(1, PIECES),
            features,
        })
    }

    fn header(&self, slot: u16) -> usize {
        usize::from(slot) * size_of::<Header>()
    }

    /// Queues a request; `start` tells the device.
    fn enqueue(&mut self, header: Header, held: Slot) -> Result<(), BlockError> {
        let slot = self.free.pop().ok_or(BlockError::Io)?;
        self.headers.copy_in(self.header(slot), header.as_bytes());
        let added = self.with_buffers(slot, &held, |queue, inputs, outputs| {
            // SAFETY: the buffers stay in place until the token comes back: the slot and its header do, and the pieces
            // by the promise of whoever made the request.
            unsafe { queue.add(inputs, outputs) }
        });
        let Ok(token) = added else {
            self.free.push(slot);
            return Err(BlockError::Io);
        };
        if let Some(entry) = self.tokens.get_mut(usize::from(token)) {
            *entry = slot;
        }
        self.slots[usize::from(slot)] = Some(held);
        self.unannounced = true;
        Ok(())
    }

    /// Calls `f` with the buffers of a request as the device reads and writes them, their addresses announced.
    fn with_buffers<R>(
        &mut self,
        slot: u16,
        held: &Slot,
        f: impl for<'a> FnOnce(&mut VirtQueue<KernelHal, DEPTH>, &'a [&'a [u8]], &'a mut [&'a mut [u8]]) -> R,
    ) -> R {
        let at = self.header(slot);
        let own = |offset: usize, length: usize| Place::new(&self.headers, at + offset, length);
        let mut read: Vec<Place> = own(0, HEADER_BYTES).into_iter().collect();
        let mut written: Vec<Place> = Vec::new();
        match held.operation {
            Operation::Read => written.extend_from_slice(&held.places),
            Operation::Write => read.extend_from_slice(&held.places),
            Operation::Discard { .. } => read.extend(own(offset_of!(Header, discard_sector), DISCARD_BYTES)),
            Operation::Flush => {}
        }
        written.extend(own(offset_of!(Header, status), 1));
        let inputs: Vec<&[u8]> = read
            .iter()
            // SAFETY: a place names mapped memory that stays mapped while the request is in flight; nothing reads it
            // through this slice, whose address alone is used.
            .map(|p| unsafe { core::slice::from_raw_parts(p.start.as_ptr(), p.length) })
            .collect();
        let mut outputs: Vec<&mut [u8]> = written
            .iter()
            // SAFETY: as above; nothing writes through this slice.
            .map(|p| unsafe { core::slice::from_raw_parts_mut(p.start.as_ptr(), p.length) })
            .collect();
        let addresses: Vec<u64> = read.iter().chain(&written).map(|p| p.address).collect();
        let queue = &mut self.queue;
        dma::with_addresses(addresses.into_iter(), || f(queue, &inputs, &mut outputs))
    }

    /// Takes one completed request.
    fn completed(&mut self) -> Option<(Tag, Result<(), BlockError>)> {
        let token = self.queue.peek_used()?;
        let slot = *self.tokens.get(usize::from(token))?;
        let held = self.slots.get_mut(usize::from(slot))?.take()?;
        let popped = self.with_buffers(slot, &held, |queue, inputs, outputs| {
            // SAFETY: these are the buffers that `enqueue` added under this token.
            unsafe { queue.pop_used(token, inputs, outputs) }
        });
        let status = self.headers.read_u8(self.header(slot) + offset_of!(Header, status));
        self.free.push(slot);
        let result = match (popped, status) {
            (Ok(_), 0) => Ok(()),
            (Ok(_), 2) => Err(BlockError::NotSupported),
            _ => Err(BlockError::Io),
        };
        Some((held.tag, result))
    }
}

impl BlockDevice<Pages> for VirtioDisk {
    fn geometry(&self) -> Geometry {
        let discard = self.features.contains(Features::DISCARD);
        Geometry {
            sectors: self.sectors,
            block_size: SECTOR_SIZE as u32,
            is_read_only: self.features.contains(Features::RO),
            can_flush: self.features.contains(Features::FLUSH),
            discard: discard.then_some(Discard { granularity: 4096, alignment: 0, is_secure: false }),
            max_pieces: self.pieces,
            max_sectors: (self.pieces * 4096 / SECTOR_SIZE) as u32,
        }
    }

    fn room(&self) -> usize {
        // With indirect tables a request takes one descriptor, else one for each piece.
        self.free
            .len()
            .min(self.queue.available_desc() / (self.pieces + 3))
            .max(if self.features.contains(Features::INDIRECT) { self.free.len() } else { 0 })
    }

    fn submit(&mut self, tag: Tag, request: &Request<'_, Pages>) -> Result<Submitted, BlockError> {
        let mut places: Vec<Place> = Vec::with_capacity(request.pieces.len());
        for piece in request.pieces {
            let place = Place::new(piece.memory, piece.offset, piece.len).ok_or(BlockError::Io)?;
            if !places.last_mut().is_some_and(|last| last.join(&place)) {
                places.push(place);
            }
        }
        let (kind, sector, discard_count) = match request.operation {
            Operation::Read => (0, request.sector, 0),
            Operation::Write => (1, request.sector, 0),
            Operation::Flush if !self.features.contains(Features::FLUSH) => return Ok(Submitted::Done),
            Operation::Flush => (4, 0, 0),
            Operation::Discard { is_secure: true } => return Err(BlockError::NotSupported),
            Operation::Discard { .. } => {
                (11, 0, u32::try_from(request.count).map_err(|_| BlockError::OutOfRange)?)
            }
        };
        let header = Header {
            kind,
            reserved: 0,
            sector,
            discard_sector: request.sector,
            discard_count,
            discard_flags: 0,
            status: STATUS_PENDING,
            pad: [0; 31],
        };
        self.enqueue(header, Slot { tag, operation: request.operation, places })?;
        Ok(Submitted::Running)
    }

    fn start(&mut self) {
        if core::mem::take(&mut self.unannounced) && self.queue.should_notify() {
            self.transport.notify(QUEUE);
        }
    }

    fn poll(&mut self, done: &mut dyn FnMut(Tag, Result<(), BlockError>)) {
        while let Some((tag, result)) = self.completed() {
            done(tag, result);
        }
    }

    fn location(&self, _sector: u64, _count: u64) -> Option<Location> {
        None
    }
}
