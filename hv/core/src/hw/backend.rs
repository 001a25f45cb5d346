//! A vendor's virtualization extension.

use super::addr::{HostPhys, Mfn, PageSize};
use super::vcpu::VcpuHw;

/// What a nested-table entry allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights {
    /// Reads are allowed.
    pub read: bool,
    /// Writes are allowed.
    pub write: bool,
    /// Instruction fetches are allowed.
    pub execute: bool,
}

impl Rights {
    /// Everything is allowed.
    pub const ALL: Self = Self { read: true, write: true, execute: true };
    /// Reads only: no writes, no fetches.
    pub const READ: Self = Self { read: true, write: false, execute: false };
    /// Reads and writes, no fetches.
    pub const READ_WRITE: Self = Self { read: true, write: true, execute: false };
}

/// How an access through a nested-table entry is cached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CachePolicy {
    /// Memory: write-back, the guest's own attributes apply.
    Memory,
    /// Device registers: uncached, whatever the guest says.
    Device,
}

/// A decoded nested-table entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Maps nothing.
    Empty,
    /// Points to the next lower table.
    Table(Mfn),
    /// Maps memory.
    Leaf {
        /// The first frame.
        mfn: Mfn,
        /// What is allowed.
        rights: Rights,
        /// How it is cached.
        cache: CachePolicy,
    },
}

/// The format of the entries of a vendor's nested page tables (four levels, 512 entries of 8 bytes each).
pub trait EntryFormat: Send + Sync + 'static {
    /// The entry that maps nothing.
    const EMPTY: u64;
    /// An entry that points to the next lower table.
    fn table(mfn: Mfn) -> u64;
    /// An entry that maps memory at the level of `size`.
    fn leaf(size: PageSize, mfn: Mfn, rights: Rights, cache: CachePolicy) -> u64;
    /// Reads an entry of a table of `level` (4 is the root, 1 maps 4 KiB).
    fn decode(level: u8, raw: u64) -> Entry;
}

/// What a virtual CPU is made from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VcpuConfig {
    /// The root of the nested page tables.
    pub nested_root: HostPhys,
    /// The tag of the domain, for the vendor's address-space identifiers: a domain's number, not an identifier.
    pub domain: u16,
}

/// A virtual CPU could not be made: memory ran out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewVcpuError;

/// A vendor's virtualization extension, enabled on every CPU.
pub trait Backend: Send + Sync + 'static {
    /// The name shown at boot, as users know it.
    const NAME: &'static str;
    /// The instruction by which a guest makes a hypercall.
    const HYPERCALL: [u8; 3];
    /// Its virtual CPU.
    type Vcpu: VcpuHw;
    /// The format of its nested page tables.
    type Format: EntryFormat;

    /// Makes a virtual CPU in its reset state.
    fn new_vcpu(&self, config: VcpuConfig) -> Result<Self::Vcpu, NewVcpuError>;
    /// The largest page that the nested page tables can map.
    fn largest_page(&self) -> PageSize;
    /// Whether a CPU that runs guest code takes a virtual CPU's [`Requests`](super::Requests) without leaving it when it is
    /// told by [`Platform::tell`](super::Platform::tell).
    fn takes_requests(&self) -> bool;
}
