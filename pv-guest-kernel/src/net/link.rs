//! A network interface, as its driver offers it.

use alloc::string::String;
use alloc::vec::Vec;
use core::num::NonZeroUsize;
use core::ops::Deref;

use pv_drivers::net::NetCounters;
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;

use super::probe::Probe;
use crate::task::signal::Signal;

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
    /// It takes frames without the checksums of TCP and UDP, and has checked those of frames that it received.
    pub offloads_checksums: bool,
    /// Bytes of the largest frame with TCP over IPv4, and over IPv6, that it takes to be cut into segments on its way;
    /// `None` where it takes none. Only with `offloads_checksums`.
    pub large: (Option<usize>, Option<usize>),
    /// More about it, for people.
    pub note: String,
}

/// A received frame.
pub enum Received {
    /// In memory of its own.
    Owned(Vec<u8>),
    /// In a buffer of the link's.
    Lent(super::local::Lent),
}

impl Deref for Received {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Lent(lent) => lent,
        }
    }
}

/// A network interface. A link is owned by the stack's task; nothing in it waits.
pub trait Link: Send {
    /// What it is like.
    fn info(&self) -> LinkInfo;
    /// Raised when [`poll`](Self::poll) may have something to do. The stack raises it, too, for what it has to do.
    fn signal(&self) -> &'static Signal;
    /// Takes frames from the device. True: frames wait to be taken, for which the signal is not raised again.
    fn poll(&mut self) -> bool;
    /// Takes a received frame.
    fn receive(&mut self) -> Option<Received>;
    /// Whether a frame can be sent now, be it the largest.
    fn can_send(&self) -> bool;
    /// Sends a frame of `length` bytes, which `fill` writes; it is called once, whatever becomes of the frame. The frame
    /// is to be cut into segments with so many bytes of payload, if `segment` says that.
    fn send(&mut self, length: usize, segment: Option<u16>, fill: &mut dyn FnMut(&mut [u8]));
    /// Shows what was sent to the device, if it has not seen it. True: frames wait to be taken.
    fn flush(&mut self) -> bool {
        false
    }
    /// What went through it so far; zero where nobody counts.
    fn counters(&self) -> NetCounters {
        NetCounters::default()
    }
}

/// Bytes of an Ethernet header.
pub const HEADER: usize = 14;

/// A link as `smoltcp` wants it.
pub struct Device {
    /// The link.
    pub link: alloc::boxed::Box<dyn Link>,
    /// The counter of frames that measure it.
    pub probe: Probe,
    /// What the stack is told of it: asked for often, and the same all the time.
    capabilities: DeviceCapabilities,
}

impl Device {
    /// A link as it is now.
    pub fn new(link: alloc::boxed::Box<dyn Link>) -> Self {
        let capabilities = capabilities(&link.info());
        Self { link, probe: Probe::default(), capabilities }
    }
}

fn capabilities(info: &LinkInfo) -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ethernet;
    capabilities.max_transmission_unit = info.mtu + HEADER;
    if info.offloads_checksums {
        capabilities.checksum.tcp = Checksum::None;
        capabilities.checksum.udp = Checksum::None;
        capabilities.segmentation.tcpv4 = info.large.0.and_then(NonZeroUsize::new);
        // Not over IPv6: smoltcp 0.14 makes such packets, and then drops them for being longer than the MTU
        // (`InterfaceInner::dispatch_ip`). What comes is taken whole all the same.
    }
    capabilities
}

/// The right to send a frame.
pub struct Sending<'a> {
    link: &'a mut dyn Link,
    segment: Option<u16>,
}

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self)
    }
}

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut f = Some(f);
        let mut result = None;
        self.link.send(length, self.segment, &mut |frame| result = f.take().map(|f| f(frame)));
        // Every link calls it once: that is in the contract of `Link::send`.
        result.unwrap_or_else(|| panic!("a link did not fill a frame"))
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size.map(Into::into);
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
        let frame = loop {
            let frame = self.link.receive()?;
            if !self.probe.take(&frame, &mut *self.link) {
                break frame;
            }
            // An answer may have taken the last room.
            if !self.link.can_send() {
                return None;
            }
        };
        Some((frame, Sending { link: &mut *self.link, segment: None }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_>> {
        if self.link.can_send() { Some(Sending { link: &mut *self.link, segment: None }) } else { None }
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities.clone()
    }
}

/// Frames up to this size are cleared before the stack writes them: it leaves padding as it was.
const CLEARED: usize = 2048;

/// Makes `buffer` ready for a frame of `length` bytes. Nothing of small frames that were sent before is left in it; in
/// large ones the stack leaves no gaps.
pub fn prepare(buffer: &mut Vec<u8>, length: usize) -> &mut [u8] {
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
    let frame = &mut buffer[..length];
    clear_small(frame);
    frame
}

/// Clears a frame if it is so small that the stack might leave gaps in it.
pub fn clear_small(frame: &mut [u8]) {
    if frame.len() <= CLEARED {
        frame.fill(0);
    }
}
