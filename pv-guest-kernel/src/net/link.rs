//! A network interface, as its driver offers it.

use alloc::string::String;
use alloc::vec::Vec;
use core::task::{Context, Poll};

use smoltcp::phy::{self, Checksum, ChecksumCapabilities, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

/// What a link is like, now.
#[derive(Debug, Clone)]
pub struct LinkInfo {
    /// Its name, such as `eth0`.
    pub name: String,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Bytes of the largest packet, without the Ethernet header.
    pub mtu: usize,
    /// Frames go through it.
    pub is_up: bool,
    /// It computes the checksums of TCP and UDP in frames that it sends, and has checked those that it received.
    pub offloads_checksums: bool,
    /// More about it, for people.
    pub note: String,
}

/// A network interface. A link is owned by the stack's task; nothing in it waits.
pub trait Link: Send {
    /// What it is like.
    fn info(&self) -> LinkInfo;
    /// Moves frames between driver and device.
    fn poll(&mut self);
    /// Takes a received frame.
    fn receive(&mut self) -> Option<Vec<u8>>;
    /// Whether a frame can be sent now.
    fn can_send(&self) -> bool;
    /// Sends a frame.
    fn send(&mut self, frame: Vec<u8>);
    /// Ready when [`poll`](Self::poll) may have something to do.
    fn poll_wait(&self, cx: &mut Context<'_>) -> Poll<()>;
}

/// Bytes of an Ethernet header.
pub const HEADER: usize = 14;

/// A link as `smoltcp` wants it.
pub struct Device {
    /// The link.
    pub link: alloc::boxed::Box<dyn Link>,
}

/// A received frame.
pub struct Received(Vec<u8>);
/// The right to send a frame.
pub struct Sending<'a>(&'a mut dyn Link);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = alloc::vec![0; length];
        let result = f(&mut frame);
        self.0.send(frame);
        result
    }
}

impl phy::Device for Device {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Sending<'_>)> {
        // Back-pressure: nothing is taken in while no answer could go out.
        if !self.link.can_send() {
            return None;
        }
        let frame = self.link.receive()?;
        Some((Received(frame), Sending(&mut *self.link)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_>> {
        if self.link.can_send() { Some(Sending(&mut *self.link)) } else { None }
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let info = self.link.info();
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = info.mtu + HEADER;
        if info.offloads_checksums {
            capabilities.checksum = ChecksumCapabilities::default();
            capabilities.checksum.tcp = Checksum::None;
            capabilities.checksum.udp = Checksum::None;
        }
        capabilities
    }
}
