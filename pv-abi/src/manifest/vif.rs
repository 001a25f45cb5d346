//! The value of `vif`: `bridge[,mac=02:…][,rate=10M][,mtu=9000][,antispoof[,ip=10.0.0.2]…]`.

use core::net::IpAddr;

use super::parse_size;

/// What every IPv4 host takes (RFC 791, section 3.1).
const MTU_MIN: u16 = 576;
/// The largest packet on a ring, whose slots count 16 bits of bytes, less its Ethernet header.
const MTU_MAX: u16 = 65521;
/// The most addresses of an interface.
const ADDRESSES_MAX: usize = 4;

/// A network interface of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vif {
    /// Its address; the driver domain makes one when there is none.
    pub mac: Option<[u8; 6]>,
    /// Most bytes that the guest may send in a second.
    pub rate: Option<u64>,
    /// Bytes of the largest packet behind its Ethernet header, 576 to 65521; 1500 is meant if there is none.
    pub mtu: Option<u16>,
    /// Whether frames with another sender than `mac` are dropped.
    pub antispoof: bool,
    addresses: [Option<IpAddr>; ADDRESSES_MAX],
}

impl Vif {
    /// Reads a value.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(',').map(str::trim);
        if words.next()? != "bridge" {
            return None;
        }
        let mut vif =
            Self { mac: None, rate: None, mtu: None, antispoof: false, addresses: [None; ADDRESSES_MAX] };
        for word in words {
            match word.split_once('=') {
                Some(("mac", value)) if vif.mac.is_none() => vif.mac = Some(mac(value)?),
                Some(("rate", value)) if vif.rate.is_none() => {
                    vif.rate = Some(parse_size(value).filter(|rate| *rate > 0)?);
                }
                Some(("mtu", value)) if vif.mtu.is_none() => {
                    vif.mtu = Some(value.parse().ok().filter(|mtu| (MTU_MIN..=MTU_MAX).contains(mtu))?);
                }
                Some(("ip", value)) => {
                    *vif.addresses.iter_mut().find(|place| place.is_none())? = Some(value.parse().ok()?);
                }
                None if word == "antispoof" && !vif.antispoof => vif.antispoof = true,
                _ => return None,
            }
        }
        // Addresses that nobody looks at would only seem to keep a guest in.
        (vif.antispoof || vif.addresses().count() == 0).then_some(vif)
    }

    /// The IP addresses that packets may come from, with `antispoof`; any, if there are none.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.into_iter().flatten()
    }
}

/// Six bytes in hexadecimal; not a group's address.
fn mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut words = text.split(':');
    for byte in &mut mac {
        let word = words.next()?;
        if word.len() != 2 || !word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(word, 16).ok()?;
    }
    (words.next().is_none() && mac[0] & 1 == 0).then_some(mac)
}
