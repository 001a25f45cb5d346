//! The bridge's way out.

use alloc::sync::Arc;

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

/// A network card, or anything else that takes and gives Ethernet packets. Nothing waits.
///
/// No guest can reach the memory of its buffers.
pub trait Uplink<M: SharedMemory>: Send {
    /// Whether there is a link.
    fn is_up(&self) -> bool;

    /// A buffer for a packet to be sent; `None` while all are in use.
    fn acquire(&mut self) -> Option<UplinkBuffer<M>>;

    /// Sends a packet of `len` bytes; [`Self::start`] may be needed to get it going.
    fn send(&mut self, buffer: UplinkBuffer<M>, len: usize);

    /// Gives a buffer back unsent.
    fn cancel(&mut self, buffer: UplinkBuffer<M>);

    /// Starts what was sent, with one notification of the device.
    fn start(&mut self);

    /// Takes a received packet and its length.
    fn receive(&mut self) -> Option<(UplinkBuffer<M>, usize)>;

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

    fn send(&mut self, _buffer: UplinkBuffer<M>, _len: usize) {}

    fn cancel(&mut self, _buffer: UplinkBuffer<M>) {}

    fn start(&mut self) {}

    fn receive(&mut self) -> Option<(UplinkBuffer<M>, usize)> {
        None
    }

    fn release(&mut self, _buffer: UplinkBuffer<M>) {}
}

impl<M: SharedMemory> Uplink<M> for alloc::boxed::Box<dyn Uplink<M>> {
    fn is_up(&self) -> bool {
        (**self).is_up()
    }

    fn acquire(&mut self) -> Option<UplinkBuffer<M>> {
        (**self).acquire()
    }

    fn send(&mut self, buffer: UplinkBuffer<M>, len: usize) {
        (**self).send(buffer, len);
    }

    fn cancel(&mut self, buffer: UplinkBuffer<M>) {
        (**self).cancel(buffer);
    }

    fn start(&mut self) {
        (**self).start();
    }

    fn receive(&mut self) -> Option<(UplinkBuffer<M>, usize)> {
        (**self).receive()
    }

    fn release(&mut self, buffer: UplinkBuffer<M>) {
        (**self).release(buffer);
    }
}
