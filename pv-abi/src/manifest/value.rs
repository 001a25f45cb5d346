//! Values that several keys use: sizes, CPU sets, PCI addresses.

use core::fmt;

/// Reads a size: a number of bytes, or with `K`, `M`, `G` of 2^10, 2^20, 2^30 bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (text.get(..text.len() - 1)?, 10),
        b'M' | b'm' => (text.get(..text.len() - 1)?, 20),
        b'G' | b'g' => (text.get(..text.len() - 1)?, 30),
        _ => (text, 0),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A set of CPUs, the first 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuSet(u64);

impl CpuSet {
    /// All CPUs.
    pub const ALL: Self = Self(u64::MAX);

    /// A bit each.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Reads numbers and ranges: `0,2-3`, or `all`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == "all" {
            return Some(Self::ALL);
        }
        let bits = text.split(',').try_fold(0u64, |bits, item| {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let (first, last) = (first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?);
            if first > last || last >= 64 {
                return None;
            }
            Some((first..=last).fold(bits, |bits, cpu| bits | (1 << cpu)))
        })?;
        Some(Self(bits))
    }
}

/// The place of a PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// Segment.
    pub segment: u16,
    /// Bus.
    pub bus: u8,
    /// Device, below 32.
    pub device: u8,
    /// Function, below 8.
    pub function: u8,
}

impl PciAddress {
    /// Reads `[segment:]bus:device.function`, in hexadecimal.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |digits: &str, most: u32| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            u32::from_str_radix(digits, 16).ok().filter(|value| plain && *value <= most)
        };
        let (place, function) = text.split_once('.')?;
        let (place, device) = place.rsplit_once(':')?;
        let (segment, bus) = place.split_once(':').unwrap_or(("0", place));
        Some(Self {
            segment: u16::try_from(hex(segment, 0xffff)?).ok()?,
            bus: u8::try_from(hex(bus, 0xff)?).ok()?,
            device: u8::try_from(hex(device, 31)?).ok()?,
            function: u8::try_from(hex(function, 7)?).ok()?,
        })
    }

    /// Device and function in one byte, as the ABI has them.
    pub const fn devfn(self) -> u8 {
        (self.device << 3) | (self.function & 7)
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.segment, self.bus, self.device, self.function)
    }
}

/// The PCI functions that a domain gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciList<'a>(&'a str);

impl<'a> PciList<'a> {
    /// None.
    pub const NONE: Self = PciList("");

    /// Whether the domain gets all functions that no other domain names.
    pub fn is_all(self) -> bool {
        self.0 == "all"
    }

    /// The functions named.
    pub fn iter(self) -> impl Iterator<Item = PciAddress> + Clone + use<'a> {
        self.0.split_whitespace().filter_map(PciAddress::parse)
    }

    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let right = text == "all" || text.split_whitespace().all(|word| PciAddress::parse(word).is_some());
        right.then_some(Self(text))
    }
}
