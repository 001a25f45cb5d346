//! A virtio network device (Virtual I/O Device 1.2, section 5.1), through the queue and transport of `virtio_drivers`.
//!
//! Packets lie in the queues' own buffers, into and out of which their users copy; no offloads are used, since what is
//! behind the device (a user-mode network, for one) does not always have them. One pair of queues, one MSI-X entry for both.
//!
//! What was sent is taken back when its buffers are needed, so the device interrupts for it only while somebody waits for
//! one. Invariant: [`Uplink::acquire`] gives nothing only while such interrupts are on, and they go off only in
//! [`Uplink::acknowledge`], after which all who wait try again.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

use bitflags::bitflags;
use pv_drivers::net::{Offload, Uplink, UplinkBuffer, UplinkCounters};
use pv_drivers::platform::SharedMemory;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;
use virtio_drivers::transport::pci::PciTransport;

use super::dma::{self, KernelHal};
use super::pci::Function;
use super::virtio;
use crate::xen::platform::Pages;

/// Frames under way in each direction at most.
const DEPTH: usize = 256;
/// Bytes of a buffer: half a page, for a header and a frame.
const BUFFER: usize = 2048;
/// `struct virtio_net_hdr` with its `num_buffers` (section 5.1.6).
const HEADER: usize = 12;
const RECEIVE: u16 = 0;
const SEND: u16 = 1;
/// PCI device numbers of network devices: modern, and transitional (section 4.1.2.1).
const DEVICES: [u16; 2] = [0x1041, 0x1000];

bitflags! {
    /// The features that this driver knows (section 5.1.3).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Features: u64 {
        const MAC = 1 << 5;
        const VERSION_1 = virtio::feature::VERSION_1;
        const ACCESS_PLATFORM = virtio::feature::ACCESS_PLATFORM;
    }
}

/// One direction: a queue, and a buffer for each of its frames.
struct Half {
    queue: VirtQueue<KernelHal, DEPTH>,
    number: u16,
    buffers: Arc<Pages>,
    /// The buffer of each token.
    tokens: [u16; DEPTH],
    free: Vec<u16>,
    unannounced: bool,
}

impl Half {
    fn new(transport: &mut PciTransport, number: u16) -> Result<Self, String> {
        let queue = VirtQueue::new(transport, number, false, false).map_err(|_| "its queue is too small")?;
        let buffers = Pages::new(DEPTH * BUFFER / 4096).map(Arc::new).map_err(|_| "out of memory")?;
        let free = (0..DEPTH as u16).rev().collect();
        Ok(Self { queue, number, buffers, tokens: [0; DEPTH], free, unannounced: false })
    }

    /// Calls `f` with the queue and a buffer's first `length` bytes, their address announced.
    fn with_buffer<R>(
        &mut self,
        buffer: u16,
        length: usize,
        f: impl FnOnce(&mut VirtQueue<KernelHal, DEPTH>, &mut [u8]) -> R,
    ) -> R {
        let offset = usize::from(buffer) * BUFFER;
        assert!(length <= BUFFER && offset + BUFFER <= self.buffers.len());
        let address = dma::device_address(&self.buffers, offset).unwrap_or(0);
        // SAFETY: the buffer lies in memory of this value's own, which the device alone uses while it has it.
        let slice = unsafe { core::slice::from_raw_parts_mut(self.buffers.as_ptr().add(offset), length) };
        let queue = &mut self.queue;
        dma::with_addresses(core::iter::once(address), || f(queue, slice))
    }

    fn kick(&mut self, transport: &mut PciTransport) {
        if core::mem::take(&mut self.unannounced) && self.queue.should_notify() {
            transport.notify(self.number);
        }
    }
}

/// A virtio network device.
pub struct VirtioNet {
    transport: PciTransport,
    receive: Half,
    send: Half,
    /// The length of the frame in each buffer that is being sent.
    lengths: [u16; DEPTH],
    mac: [u8; 6],
    counters: UplinkCounters,
}

/// Whether this function is a virtio network device.
pub fn is_nic(function: &Function) -> bool {
    function.info.vendor_id == virtio::VENDOR && DEVICES.contains(&function.info.device_id)
}

impl VirtioNet {
    /// Starts the device. Its queues raise entry 0 of the MSI-X table.
    ///
    /// # Errors
    /// What is wrong with the device, in words.
    pub fn new(function: &Function) -> Result<Self, String> {
        let mut transport = virtio::transport(function)?;
        let features = transport.begin_init(Features::all());
        if !features.contains(Features::MAC) {
            return Err("it has no hardware address".to_string());
        }
        let mac =
            transport.read_config_space::<[u8; 6]>(0).map_err(|_| "it does not tell its hardware address")?;
        let receive = Half::new(&mut transport, RECEIVE)?;
        let mut send = Half::new(&mut transport, SEND)?;
        send.queue.set_dev_notify(false);
        virtio::set_vector(function, RECEIVE, 0)?;
        virtio::set_vector(function, SEND, 0)?;
        transport.finish_init();
        let counters = UplinkCounters::default();
        let mut nic = Self { transport, receive, send, lengths: [0; DEPTH], mac, counters };
        nic.refill();
        Ok(nic)
    }

    /// Its hardware address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Gives the device every free buffer to receive into.
    fn refill(&mut self) {
        while let Some(buffer) = self.receive.free.pop() {
            // SAFETY: the buffer stays in place until its token comes back.
            let added = self
                .receive
                .with_buffer(buffer, BUFFER, |queue, slice| unsafe { queue.add(&[], &mut [slice]) });
            match added {
                Ok(token) => {
                    self.receive.tokens[usize::from(token) % DEPTH] = buffer;
                    self.receive.unannounced = true;
                }
                Err(_) => {
                    self.receive.free.push(buffer);
                    break;
                }
            }
        }
        self.receive.kick(&mut self.transport);
    }

    /// Takes back the buffers of packets that are sent.
    fn reap(&mut self) {
        while let Some(token) = self.send.queue.peek_used() {
            let buffer = self.send.tokens[usize::from(token) % DEPTH];
            let length = HEADER + usize::from(self.lengths[usize::from(buffer) % DEPTH]);
            let popped = self.send.with_buffer(buffer, length, |queue, slice| {
                // SAFETY: this is the buffer that `send` added under this token.
                unsafe { queue.pop_used(token, &[slice], &mut []) }
            });
            if popped.is_err() {
                return;
            }
            self.send.free.push(buffer);
        }
    }
}

impl Half {
    fn lend(&self, buffer: u16) -> UplinkBuffer<Pages> {
        UplinkBuffer {
            memory: self.buffers.clone(),
            offset: usize::from(buffer) * BUFFER + HEADER,
            capacity: BUFFER - HEADER,
            token: u64::from(buffer),
        }
    }
}

impl Uplink<Pages> for VirtioNet {
    fn is_up(&self) -> bool {
        true
    }

    fn counters(&mut self) -> UplinkCounters {
        self.counters
    }

    fn acknowledge(&mut self) {
        self.counters.interrupts += 1;
        self.send.queue.set_dev_notify(false);
    }

    fn acquire(&mut self) -> Option<UplinkBuffer<Pages>> {
        if self.send.free.is_empty() {
            self.reap();
        }
        if self.send.free.is_empty() {
            self.send.queue.set_dev_notify(true);
            // The device reads the wish after it has written what it took (section 2.7.10); so the other way round here.
            fence(Ordering::SeqCst);
            self.reap();
        }
        let buffer = self.send.free.pop()?;
        Some(self.send.lend(buffer))
    }

    fn send(&mut self, buffer: UplinkBuffer<Pages>, length: usize, _offload: Offload) {
        let number = buffer.token as u16;
        let length = length.min(buffer.capacity);
        self.send.buffers.zero(usize::from(number) * BUFFER, HEADER);
        self.lengths[usize::from(number) % DEPTH] = length as u16;
        let added = self.send.with_buffer(number, HEADER + length, |queue, slice| {
            // SAFETY: the buffer stays in place until its token comes back.
            unsafe { queue.add(&[slice], &mut []) }
        });
        match added {
            Ok(token) => {
                self.counters.sent += 1;
                self.counters.sent_bytes += length as u64;
                self.send.tokens[usize::from(token) % DEPTH] = number;
                self.send.unannounced = true;
            }
            Err(_) => self.send.free.push(number),
        }
    }

    fn cancel(&mut self, buffer: UplinkBuffer<Pages>) {
        self.send.free.push(buffer.token as u16);
    }

    fn start(&mut self) {
        self.send.kick(&mut self.transport);
    }

    fn receive(&mut self) -> Option<(UplinkBuffer<Pages>, usize, Offload)> {
        let token = self.receive.queue.peek_used()?;
        let number = self.receive.tokens[usize::from(token) % DEPTH];
        let popped = self.receive.with_buffer(number, BUFFER, |queue, slice| {
            // SAFETY: this is the buffer that `refill` added under this token.
            unsafe { queue.pop_used(token, &[], &mut [slice]) }
        });
        let length = (popped.ok()? as usize).min(BUFFER).saturating_sub(HEADER);
        self.counters.received += 1;
        self.counters.received_bytes += length as u64;
        Some((self.receive.lend(number), length, Offload::default()))
    }

    fn release(&mut self, buffer: UplinkBuffer<Pages>) {
        self.receive.free.push(buffer.token as u16);
        self.refill();
    }
}
