//! Machine addresses, frames and sizes: distinct types, so that they cannot be mixed.

use core::fmt;

/// Bytes in a page.
pub const PAGE_BYTES: u64 = 4096;
/// Binary logarithm of [`PAGE_BYTES`].
pub const PAGE_SHIFT: u32 = 12;

/// An address in the machine's physical memory, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct HostPhys(u64);

impl HostPhys {
    /// Makes an address from its number.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The number of this address.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The frame that holds this address.
    pub const fn mfn(self) -> Mfn {
        Mfn(self.0 >> PAGE_SHIFT)
    }

    /// The distance of this address from the start of its frame, in bytes: below 4,096.
    pub const fn offset(self) -> u64 {
        self.0 & (PAGE_BYTES - 1)
    }

    /// This address moved up by `bytes`, unless that leaves the 64-bit range.
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }
}

impl fmt::Debug for HostPhys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host:{:#x}", self.0)
    }
}

impl fmt::Display for HostPhys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A machine frame number: one page of the machine's physical memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Mfn(u64);

impl Mfn {
    /// Makes a frame number from its number.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The number of this frame.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The address of the first byte of this frame.
    pub const fn base(self) -> HostPhys {
        HostPhys(self.0 << PAGE_SHIFT)
    }

    /// The address `offset` bytes into this frame; only the lower 12 bits of `offset` count.
    pub const fn at(self, offset: u64) -> HostPhys {
        HostPhys((self.0 << PAGE_SHIFT) | (offset & (PAGE_BYTES - 1)))
    }

    /// The frame `count` frames further on, unless that leaves the 52-bit physical address space.
    pub const fn checked_add(self, count: u64) -> Option<Self> {
        match self.0.checked_add(count) {
            Some(raw) if raw < 1 << 40 => Some(Self(raw)),
            _ => None,
        }
    }
}

impl fmt::Debug for Mfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mfn:{:#x}", self.0)
    }
}

impl fmt::Display for Mfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The binary logarithm of a number of pages: order 9 is 2 MiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Order(u8);

impl Order {
    /// One page.
    pub const PAGE: Self = Self(0);
    /// The largest order: 1 GiB.
    pub const MAX: Self = Self(18);

    /// Makes an order, unless it is above [`Order::MAX`].
    pub const fn new(raw: u8) -> Option<Self> {
        if raw <= Self::MAX.0 { Some(Self(raw)) } else { None }
    }

    /// The number of this order.
    pub const fn raw(self) -> u8 {
        self.0
    }

    /// How many pages this order is.
    pub const fn pages(self) -> u64 {
        1 << self.0
    }
}

/// A number of pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Pages(u64);

impl Pages {
    /// Makes a count of pages.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The count.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The same amount in bytes, saturating.
    pub const fn bytes(self) -> u64 {
        self.0.saturating_mul(PAGE_BYTES)
    }
}

/// The sizes that a page-table entry can map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PageSize {
    /// 4 KiB: level 1.
    K4,
    /// 2 MiB: level 2.
    M2,
    /// 1 GiB: level 3.
    G1,
}

impl PageSize {
    /// The order of this size: 0, 9 or 18.
    pub const fn order(self) -> Order {
        match self {
            Self::K4 => Order(0),
            Self::M2 => Order(9),
            Self::G1 => Order(18),
        }
    }

    /// How many 4 KiB pages this size is.
    pub const fn pages(self) -> u64 {
        self.order().pages()
    }

    /// The table level whose entries map this size: 1, 2 or 3.
    pub const fn level(self) -> u8 {
        match self {
            Self::K4 => 1,
            Self::M2 => 2,
            Self::G1 => 3,
        }
    }
}
