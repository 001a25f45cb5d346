//! The bridge's way out, and other places of it that are no guests.

use alloc::sync::Arc;

use super::Offload;
use crate::platform::SharedMemory;

/// Memory of this domain that a network card reads or writes.
pub struct UplinkBuffer<M> {
    /// The pages.
    pub memory: Arc<M>,
    /// Where the packet starts in them.
    pub offset: usize,
    /// The longest packet that fits.
    pub capacity: usize,
    /// For the card's driver.
    pub token: u64,
}

/// What a network card counted since it was started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct UplinkCounters {
    /// Packets sent.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Packets received.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// What came and was no packet: damaged, too long or too short.
    pub bad: u64,
    /// Packets for which the card had no buffer.
    pub missed: u64,
    /// Interrupts.
    pub interrupts: u64,
}

/// A network card, or anything else that takes and gives Ethernet packets. Nothing waits.
///
/// No guest can reach the memory of its buffers.
pub trait Uplink<M: SharedMemory>: Send {
    /// Whether there is a link.
    fn is_up(&self) -> bool;

    /// Whether it takes large TCP packets, and packets without a transport checksum, as they are.
    fn takes_offloads(&self) -> bool {
        false
    }

    /// The card has interrupted: it may do so again, for whatever happens from now on.
    fn acknowledge(&mut self) {}

    /// What was counted; all zeros if nobody counts.
    fn counters(&mut self) -> UplinkCounters {
        UplinkCounters::default()
    }

    /// A buffer for a packet to be sent; `None` while all are in use.
    fn acquire(&mut self) -> Option<UplinkBuffer<M>>;

    /// Sends a packet of `len` bytes; [`Self::start`] may be needed to get it going. `offload` says nothing special
    /// unless [`Self::takes_offloads`].
    fn send(&mut self, buffer: UplinkBuffer<M>, len: usize, offload: Offload);

    /// Gives a buffer back unsent.
    fn cancel(&mut self, buffer: UplinkBuffer<M>);

    /// Starts what was sent, with one notification of the device.
    fn start(&mut self);

    /// Takes a received packet, its length, and what is still to be done to it.
    fn receive(&mut self) -> Option<(UplinkBuffer<M>, usize, Offload)>;

    /// Gives the buffer of a received packet back.
    fn release(&mut self, buffer: UplinkBuffer<M>);
}

/// No way out.
pub struct NoUplink;

impl<M: SharedMemory> Uplink<M> for NoUplink {
    fn is_up(&self) -> bool {
        false
    }

    fn acquire(&mut self) -> Option<UplinkBuffer<M>> {
        None
    }

    fn send(&mut self, _buffer: UplinkBuffer<M>, _len: usize, _offload: Offload) {}

    fn cancel(&mut self, _buffer: UplinkBuffer<M>) {}

    fn start(&mut self) {}

    fn receive(&mut self) -> Option<(UplinkBuffer<M>, usize, Offload)> {
        None
    }

    fn release(&mut self, _buffer: UplinkBuffer<M>) {}
}

impl<M: SharedMemory> Uplink<M> for alloc::boxed::Box<dyn Uplink<M>> {
    fn is_up(&self) -> bool {
        (**self).is_up()
    }

    fn takes_offloads(&self) -> bool {
        (**self).takes_offloads()
    }

    fn acknowledge(&mut self) {
        (**self).acknowledge();
    }

    fn counters(&mut self) -> UplinkCounters {
        (**self).counters()
    }

    fn acquire(&mut self) -> Option<UplinkBuffer<M>> {
        (**self).acquire()
    }

    fn send(&mut self, buffer: UplinkBuffer<M>, len: usize, offload: Offload) {
        (**self).send(buffer, len, offload);
    }

    fn cancel(&mut self, buffer: UplinkBuffer<M>) {
        (**self).cancel(buffer);
    }

    fn start(&mut self) {
        (**self).start();
    }

    fn receive(&mut self) -> Option<(UplinkBuffer<M>, usize, Offload)> {
        (**self).receive()
    }

    fn release(&mut self, buffer: UplinkBuffer<M>) {
        (**self).release(buffer);
    }
}
