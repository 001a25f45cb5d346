//! Which of a guest's queues a packet goes to: Toeplitz hashing as `io/netif.h` describes it ("Hash types", "Hash
//! algorithms"), and what the guest asked for through its control ring.
//!
//! # Invariants
//!
//! * Every entry of the mapping is below the number of queues: it was checked when it was written.

use alloc::vec::Vec;

use pv_abi::io::netif;
use smallvec::SmallVec;

use super::packet::{addresses, flow, layout};

/// Bytes of the longest key.
pub(super) const KEY_MAX: usize = 40;
/// Entries of the longest mapping.
pub(super) const MAPPING_MAX: usize = 128;
/// All types of hashes.
pub(super) const HASH_TYPES: u32 = netif::CTRL_HASH_TYPE_IPV4
    | netif::CTRL_HASH_TYPE_IPV4_TCP
    | netif::CTRL_HASH_TYPE_IPV6
    | netif::CTRL_HASH_TYPE_IPV6_TCP;

/// The Toeplitz hash of `data`: bits of the key that are not there are zero.
#[must_use]
pub fn toeplitz(key: &[u8], data: &[u8]) -> u32 {
    let byte = |at: usize| key.get(at).copied().unwrap_or(0);
    // The 32 bits of the key above, and the byte that comes into them.
    let mut window = u32::from_be_bytes([byte(0), byte(1), byte(2), byte(3)]);
    let mut hash = 0;
    for (number, value) in data.iter().enumerate() {
        let next = byte(number + 4);
        for bit in (0..8).rev() {
            if value >> bit & 1 != 0 {
                hash ^= window;
            }
            window = window << 1 | u32::from(next >> bit & 1);
        }
    }
    hash
}

/// What a packet is hashed by: the most that the types allow.
fn input(header: &[u8], types: u32) -> Option<SmallVec<[u8; 36]>> {
    let (found, is_v6) = addresses(header)?;
    let (plain, tcp) = if is_v6 {
        (netif::CTRL_HASH_TYPE_IPV6, netif::CTRL_HASH_TYPE_IPV6_TCP)
    } else {
        (netif::CTRL_HASH_TYPE_IPV4, netif::CTRL_HASH_TYPE_IPV4_TCP)
    };
    let mut input = SmallVec::from_slice(found);
    match layout(header).filter(|layout| layout.is_tcp && types & tcp != 0) {
        Some(layout) => input.extend_from_slice(header.get(layout.transport..layout.transport + 4)?),
        None if types & plain != 0 => {}
        None => return None,
    }
    Some(input)
}

/// How packets for a guest are spread over its queues.
#[derive(Default)]
pub(super) struct Steering {
    /// Hash as the guest says; otherwise as we like.
    pub is_hashing: bool,
    /// The types of hashes that the guest wants.
    pub types: u32,
    pub key: Vec<u8>,
    /// The queue of each hash, modulo its length; if there is none, the hash counts modulo the queues.
    pub mapping: Vec<u16>,
}

impl Steering {
    /// The queue of a packet, where there are `queues` of them.
    pub fn queue_of(&self, queues: usize, header: &[u8]) -> usize {
        if queues <= 1 {
            return 0;
        }
        let modulo = |hash: u32, count: usize| usize::try_from(hash).unwrap_or(0) % count;
        if !self.is_hashing || self.types == 0 {
            return modulo(flow(header), queues);
        }
        let hash = input(header, self.types).map_or(0, |input| toeplitz(&self.key, &input));
        match self.mapping.len() {
            0 => modulo(hash, queues),
            count => self.mapping.get(modulo(hash, count)).copied().map_or(0, usize::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, SocketAddr};
    use std::vec::Vec;

    /// "Verifying the RSS Hash Calculation" (Microsoft, Windows driver documentation,
    /// <https://learn.microsoft.com/windows-hardware/drivers/network/verifying-the-rss-hash-calculation>), which is also the
    /// "RSS Verification Suite" of Intel's 82599 datasheet, section 7.1.2.8.3: the key, and for each packet its destination,
    /// its source, the hash of its addresses, and of its addresses and ports.
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];
    const PUBLISHED: [(&str, &str, u32, u32); 8] = [
        ("161.142.100.80:1766", "66.9.149.187:2794", 0x323e_8fc2, 0x51cc_c178),
        ("65.69.140.83:4739", "199.92.111.2:14230", 0xd718_262a, 0xc626_b0ea),
        ("12.22.207.184:38024", "24.19.198.95:12898", 0xd2d0_a5de, 0x5c2b_394a),
        ("209.142.163.6:2217", "38.27.205.30:48228", 0x8298_9176, 0xafc7_327f),
        ("202.188.127.2:1303", "153.39.163.191:44251", 0x5d18_09c5, 0x10e8_28a2),
        ("[3ffe:2501:200:3::1]:1766", "[3ffe:2501:200:1fff::7]:2794", 0x2cc1_8cd5, 0x4020_7d3d),
        ("[ff02::1]:4739", "[3ffe:501:8::260:97ff:fe40:efab]:14230", 0x0f0c_461c, 0xdde5_1bbf),
        (
            "[fe80::200:f8ff:fe21:67cf]:38024",
            "[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251",
            0x4b61_e985,
            0x02d1_feef,
        ),
    ];

    fn octets(address: IpAddr) -> Vec<u8> {
        match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        }
    }

    /// An Ethernet packet with the headers of TCP, or of UDP.
    fn packet(to: SocketAddr, from: SocketAddr, protocol: u8) -> Vec<u8> {
        let mut packet = std::vec![0; 12];
        if to.is_ipv6() {
            packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, protocol, 64]);
        } else {
            packet.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0]);
        }
        packet.extend(octets(from.ip()));
        packet.extend(octets(to.ip()));
        packet.extend(from.port().to_be_bytes());
        packet.extend(to.port().to_be_bytes());
        packet.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0]);
        packet
    }

    fn steering(types: u32) -> Steering {
        Steering { is_hashing: true, types, key: KEY.to_vec(), mapping: Vec::new() }
    }

    #[test]
    fn hashes_are_the_published_ones() {
        for (to, from, by_addresses, by_ports) in PUBLISHED {
            let (to, from): (SocketAddr, SocketAddr) = (to.parse().unwrap(), from.parse().unwrap());
            let mut data = octets(from.ip());
            data.extend(octets(to.ip()));
            assert_eq!(toeplitz(&KEY, &data), by_addresses, "{to} {from}");
            data.extend(from.port().to_be_bytes());
            data.extend(to.port().to_be_bytes());
            assert_eq!(toeplitz(&KEY, &data), by_ports, "{to} {from}");
            // The same, found in packets.
            let hash = |protocol, types| {
                input(&packet(to, from, protocol), types).map(|input| toeplitz(&KEY, &input))
            };
            let (plain, tcp) = if to.is_ipv6() { (4, 8) } else { (1, 2) };
            assert_eq!(hash(6, HASH_TYPES), Some(by_ports));
            assert_eq!(hash(6, tcp), Some(by_ports));
            assert_eq!(hash(6, plain), Some(by_addresses));
            assert_eq!(hash(17, HASH_TYPES), Some(by_addresses));
            assert_eq!(hash(17, tcp), None);
            assert_eq!(hash(6, HASH_TYPES & !(plain | tcp)), None);
        }
    }

    #[test]
    fn a_key_that_is_not_there_hashes_to_nothing() {
        assert_eq!(toeplitz(&[], &[0xff; 36]), 0);
        assert_eq!(toeplitz(&[0x80], &[0x80]), 0x8000_0000);
    }

    #[test]
    fn the_hash_chooses_the_queue() {
        let (to, from) = ("161.142.100.80:1766".parse().unwrap(), "66.9.149.187:2794".parse().unwrap());
        let tcp = packet(to, from, 6);
        let mut steering = steering(HASH_TYPES);
        assert_eq!(steering.queue_of(4, &tcp), 0x51cc_c178 % 4);
        assert_eq!(steering.queue_of(3, &tcp), 0x51cc_c178 % 3);
        steering.mapping = (0..128).map(|entry| entry % 4).collect();
        *steering.mapping.get_mut(0x78).unwrap() = 2;
        assert_eq!(steering.queue_of(4, &tcp), 2);
        // What has no hash has hash zero.
        *steering.mapping.get_mut(0).unwrap() = 3;
        assert_eq!(steering.queue_of(4, &[0; 60]), 3);
        assert_eq!(steering.queue_of(1, &tcp), 0);
        steering.is_hashing = false;
        assert_eq!(steering.queue_of(4, &tcp), usize::try_from(flow(&tcp)).unwrap() % 4);
    }
}
