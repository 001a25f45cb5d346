//! As much of Ethernet, IP, TCP and UDP as offloads and filters need.
//!
//! Everything here looks at bytes that a guest wrote: nothing is believed that was not checked against the length.

use alloc::vec::Vec;
use core::net::IpAddr;

use super::{ETHERNET_HEADER, Gso};
use crate::platform::SharedMemory;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(to) = bytes.get_mut(at..at + 2) {
        to.copy_from_slice(&value.to_be_bytes());
    }
}

/// Where the parts of a TCP or UDP packet start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The IP header.
    pub ip: usize,
    /// The TCP or UDP header.
    pub transport: usize,
    /// Behind it.
    pub payload: usize,
    /// IPv6, not IPv4.
    pub is_v6: bool,
    /// TCP, not UDP.
    pub is_tcp: bool,
}

/// Finds the parts of a TCP or UDP packet whose headers are all in `header`; `None` for anything else, for fragments,
/// and for IPv6 with extension headers.
#[must_use]
pub fn layout(header: &[u8]) -> Option<Layout> {
    let ip = ETHERNET_HEADER;
    let (transport, protocol, is_v6) = match be16(header, 12)? {
        ETHERTYPE_IPV4 => {
            let first = *header.get(ip)?;
            let len = usize::from(first & 0xf) * 4;
            if first >> 4 != 4 || len < 20 || be16(header, ip + 6)? & 0x3fff != 0 {
                return None;
            }
            (ip + len, *header.get(ip + 9)?, false)
        }
        ETHERTYPE_IPV6 if header.get(ip)? >> 4 == 6 => (ip + 40, *header.get(ip + 6)?, true),
        _ => return None,
    };
    let payload = match protocol {
        TCP => {
            let len = usize::from(header.get(transport + 12)? >> 4) * 4;
            if len < 20 {
                return None;
            }
            transport + len
        }
        UDP => transport + 8,
        _ => return None,
    };
    if payload > header.len() {
        return None;
    }
    Some(Layout { ip, transport, payload, is_v6, is_tcp: protocol == TCP })
}

impl Layout {
    /// Where the transport checksum is.
    #[must_use]
    pub fn checksum(&self) -> usize {
        self.transport + if self.is_tcp { 16 } else { 6 }
    }
}

/// The address that a packet says it comes from: IPv4, IPv6, or the sender in ARP.
#[must_use]
pub fn source(header: &[u8]) -> Option<IpAddr> {
    let v4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(header.get(at..at + 4)?).ok()?));
    match be16(header, 12)? {
        ETHERTYPE_IPV4 => v4(ETHERNET_HEADER + 12),
        ETHERTYPE_ARP => v4(ETHERNET_HEADER + 14),
        ETHERTYPE_IPV6 => {
            let at = ETHERNET_HEADER + 8;
            Some(IpAddr::from(<[u8; 16]>::try_from(header.get(at..at + 16)?).ok()?))
        }
        _ => None,
    }
}

/// The two addresses of an IP packet, source first, and whether they are of IPv6.
#[must_use]
pub fn addresses(header: &[u8]) -> Option<(&[u8], bool)> {
    let version = header.get(ETHERNET_HEADER)? >> 4;
    let (from, len, is_v6) = match (be16(header, 12)?, version) {
        (ETHERTYPE_IPV4, 4) => (ETHERNET_HEADER + 12, 8, false),
        (ETHERTYPE_IPV6, 6) => (ETHERNET_HEADER + 8, 32, true),
        _ => return None,
    };
    Some((header.get(from..from + len)?, is_v6))
}

/// A number that is the same for all packets of a connection.
#[must_use]
pub fn flow(header: &[u8]) -> u32 {
    let Some(layout) = layout(header) else { return 0 };
    let from = if layout.is_v6 { layout.ip + 8 } else { layout.ip + 12 };
    let addresses = header.get(from..if layout.is_v6 { from + 32 } else { from + 8 });
    let ports = header.get(layout.transport..layout.transport + 4);
    let bytes = addresses.into_iter().chain(ports).flatten();
    // FNV-1a.
    bytes.fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A running sum of the Internet checksum (RFC 1071).
#[derive(Clone, Copy, Default)]
struct Sum(u64);

impl Sum {
    /// Adds bytes that start at an even place.
    fn add(&mut self, bytes: &[u8]) {
        let mut pairs = bytes.chunks_exact(2);
        for pair in &mut pairs {
            if let [high, low] = pair {
                self.0 += u64::from(u16::from_be_bytes([*high, *low]));
            }
        }
        if let [last] = pairs.remainder() {
            self.0 += u64::from(*last) << 8;
        }
    }

    fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        // At most 16 bits are left.
        #[allow(clippy::cast_possible_truncation)]
        let folded = sum as u16;
        folded
    }
}

/// The sum of the pseudo header: addresses, protocol, and length of the transport's part.
fn pseudo_header(header: &[u8], layout: &Layout, len: usize) -> Sum {
    let mut sum = Sum::default();
    let from = if layout.is_v6 { layout.ip + 8 } else { layout.ip + 12 };
    let count = if layout.is_v6 { 32 } else { 8 };
    sum.add(header.get(from..from + count).unwrap_or_default());
    sum.0 += u64::from(if layout.is_tcp { TCP } else { UDP }) + len as u64;
    sum
}

/// The checksum as it goes into the packet; zero has a meaning of its own in UDP.
fn finish(sum: Sum, layout: &Layout) -> u16 {
    match !sum.fold() {
        0 if !layout.is_tcp => 0xffff,
        checksum => checksum,
    }
}

/// Fills the transport checksum of a packet in private memory. `false` when it is neither TCP nor UDP.
pub fn fill_checksum(packet: &mut [u8]) -> bool {
    let Some(layout) = layout(packet) else { return false };
    put16(packet, layout.checksum(), 0);
    let part = packet.get(layout.transport..).unwrap_or_default();
    let mut sum = pseudo_header(packet, &layout, part.len());
    sum.add(part);
    put16(packet, layout.checksum(), finish(sum, &layout));
    true
}

/// Puts the sum of the pseudo header where the transport checksum of a packet belongs: what a blank checksum is on a
/// ring, so that a device or a stack that sums up the rest gets it right. `false` when it is neither TCP nor UDP.
pub fn fill_blank(packet: &mut [u8]) -> bool {
    let Some(layout) = layout(packet) else { return false };
    let sum = pseudo_header(packet, &layout, packet.len().saturating_sub(layout.transport));
    put16(packet, layout.checksum(), sum.fold());
    true
}

/// Whether the transport checksum of a packet is right, or there is none that could be wrong: not TCP or UDP, a
/// fragment, or UDP over IPv4 without one (RFC 768).
#[must_use]
pub fn is_checksum_good(packet: &[u8]) -> bool {
    let Some(layout) = layout(packet) else { return true };
    // What Ethernet padded is no part of it.
    let end = match be16(packet, layout.ip + if layout.is_v6 { 4 } else { 2 }) {
        Some(len) => layout.ip + usize::from(len) + if layout.is_v6 { 40 } else { 0 },
        None => return false,
    };
    let Some(part) = packet.get(layout.transport..end) else { return false };
    if !layout.is_tcp && !layout.is_v6 && be16(packet, layout.checksum()) == Some(0) {
        return true;
    }
    let mut sum = pseudo_header(packet, &layout, part.len());
    sum.add(part);
    sum.fold() == 0xffff
}

/// Fills the transport checksum of a packet in memory of this domain that nobody else can reach. `header` is the start
/// of the same packet.
pub fn fill_checksum_in(memory: &impl SharedMemory, offset: usize, len: usize, header: &[u8]) -> bool {
    let Some(layout) = layout(header).filter(|layout| layout.payload <= len) else { return false };
    let mut sum = pseudo_header(header, &layout, len - layout.transport);
    let mut at = layout.transport;
    let mut chunk = [0; 256];
    while at < len {
        let count = chunk.len().min(len - at);
        let part = chunk.get_mut(..count).unwrap_or_default();
        memory.copy_out(offset + at, part);
        if let Some(field) = (layout.checksum()).checked_sub(at).filter(|field| field + 2 <= count) {
            put16(part, field, 0);
        }
        sum.add(part);
        at += count;
    }
    memory.copy_in(offset + layout.checksum(), &finish(sum, &layout).to_be_bytes());
    true
}

/// One segment of a large TCP packet.
pub struct SegmentPlan {
    /// Its headers, without a transport checksum.
    pub header: Vec<u8>,
    /// Where its payload starts in the large packet.
    pub start: usize,
    /// How long its payload is.
    pub len: usize,
}

/// The smallest payload into which a packet is cut: smaller ones are only asked for to make work.
const SEGMENT_MIN: u16 = 128;

/// Cuts a large TCP packet of `len` bytes into segments. `None` when its headers are not what `gso` says.
#[must_use]
pub fn segment(header: &[u8], len: usize, gso: Gso) -> Option<Vec<SegmentPlan>> {
    let layout = checked_gso(header, len, gso)?;
    if gso.size < SEGMENT_MIN {
        return None;
    }
    let size = usize::from(gso.size);
    let sequence =
        u32::from_be_bytes(header.get(layout.transport + 4..layout.transport + 8)?.try_into().ok()?);
    let mut plans = Vec::new();
    let mut start = layout.payload;
    while start < len {
        let count = size.min(len - start);
        let mut own = header.get(..layout.payload)?.to_vec();
        let done = u32::try_from(start - layout.payload).ok()?;
        fix_ip(&mut own, &layout, count, plans.len())?;
        own.get_mut(layout.transport + 4..layout.transport + 8)?
            .copy_from_slice(&sequence.wrapping_add(done).to_be_bytes());
        let flags = own.get_mut(layout.transport + 13)?;
        if start + count < len {
            // FIN and PSH belong to the last segment.
            *flags &= !0x09;
        }
        if !plans.is_empty() {
            // CWR belongs to the first.
            *flags &= !0x80;
        }
        put16(&mut own, layout.checksum(), 0);
        plans.push(SegmentPlan { header: own, start, len: count });
        start += count;
    }
    Some(plans)
}

/// The layout of a packet if it is what a segmentation request says.
#[must_use]
pub fn checked_gso(header: &[u8], len: usize, gso: Gso) -> Option<Layout> {
    layout(header).filter(|layout| layout.is_tcp && layout.is_v6 == gso.is_v6 && layout.payload < len)
}

/// Sets length, identification and checksum of a segment's IP header.
fn fix_ip(header: &mut [u8], layout: &Layout, payload: usize, number: usize) -> Option<()> {
    let ip = layout.ip;
    if layout.is_v6 {
        put16(header, ip + 4, u16::try_from(layout.payload - layout.transport + payload).ok()?);
        return Some(());
    }
    put16(header, ip + 2, u16::try_from(layout.payload - ip + payload).ok()?);
    let id = be16(header, ip + 4)?.wrapping_add(u16::try_from(number).ok()?);
    put16(header, ip + 4, id);
    put16(header, ip + 10, 0);
    let mut sum = Sum::default();
    sum.add(header.get(ip..layout.transport)?);
    put16(header, ip + 10, !sum.fold());
    Some(())
}

/// The sender's Ethernet address inside an ARP packet.
#[must_use]
pub fn arp_sender(header: &[u8]) -> Option<super::Mac> {
    if be16(header, 12)? == ETHERTYPE_ARP { super::Mac::at(header, ETHERNET_HEADER + 8) } else { None }
}
