//! What a kernel gives to the drivers: shared memory, grants, event channels, a clock.
//!
//! # Contract
//!
//! * Methods take `&self`: an implementation locks inside where it must, and never calls back into a driver.
//! * [`Platform`] is a cheap handle (a reference, an `Arc`, or nothing at all), cloned into every driver.
//! * Memory from [`Platform::allocate`] is whole pages, zeroed, contiguous in the address space of the domain (not
//!   necessarily in guest-physical space), and returns to the allocator when the object is dropped. The drivers never
//!   drop memory whose grants are alive: they pass it to [`Platform::retire`] instead.
//! * Memory from [`Platform::map`] is unmapped when the object is dropped; [`Platform::unmap`] does many in one call.
//! * An event channel may fire spuriously, and may fire before the driver has learnt its port.

use alloc::vec::Vec;
use core::fmt;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, Gfn, GrantRef, Port};

/// The size of a page, of a grant, and of the unit of every shared ring.
pub const PAGE_SIZE: usize = 4096;

/// Nanoseconds on a monotonic clock whose origin does not matter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Nanos(u64);

impl Nanos {
    /// Makes a time from nanoseconds.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The number of nanoseconds.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`, zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The address at which a device reaches a page: what an IOMMU, or one-to-one memory, makes of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BusAddress(u64);

impl BusAddress {
    /// Makes an address from its number.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The address as a device's descriptor wants it.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }
}

impl fmt::Display for BusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bus:{:#x}", self.0)
    }
}

/// What a peer may do with a granted page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It may read.
    ReadOnly,
    /// It may read and write.
    ReadWrite,
}

/// A run of pages that somebody else may change at any time: own pages shared with a peer, or a peer's pages mapped.
///
/// Offsets are bytes from the start of the run. An access beyond the end, or a misaligned one, is a bug of the driver
/// and panics; offsets that a peer chose are checked before they come here. Every access of the fixed-width methods
/// is one volatile access that the compiler neither splits nor repeats.
pub trait SharedMemory: Send + Sync + 'static {
    /// The number of pages.
    fn pages(&self) -> usize;

    /// Reads a byte.
    fn read_u8(&self, offset: usize) -> u8;
    /// Reads 16 bits.
    fn read_u16(&self, offset: usize) -> u16;
    /// Reads 32 bits, with acquire ordering: later accesses are not done before it.
    fn read_u32(&self, offset: usize) -> u32;
    /// Reads 64 bits.
    fn read_u64(&self, offset: usize) -> u64;

    /// Writes a byte.
    fn write_u8(&self, offset: usize, value: u8);
    /// Writes 16 bits.
    fn write_u16(&self, offset: usize, value: u16);
    /// Writes 32 bits, with release ordering: earlier accesses are done before it.
    fn write_u32(&self, offset: usize, value: u32);
    /// Writes 64 bits.
    fn write_u64(&self, offset: usize, value: u64);

    /// Copies bytes out into private memory, each byte read once.
    fn copy_out(&self, offset: usize, to: &mut [u8]);
    /// Copies `len` bytes out behind what `to` holds already, each byte read once.
    fn append_out(&self, offset: usize, len: usize, to: &mut Vec<u8>) {
        let from = to.len();
        to.resize(from.saturating_add(len), 0);
        self.copy_out(offset, to.get_mut(from..).unwrap_or_default());
    }
    /// Copies bytes in from private memory.
    fn copy_in(&self, offset: usize, from: &[u8]);
    /// Lets `fill` write `len` bytes in place, in one piece, if these are own pages that nobody else may write; else in
    /// private memory, which is copied in afterwards. What `fill` finds there is what lay there, and what it leaves
    /// untouched stays. It is called once.
    fn fill_in(&mut self, offset: usize, len: usize, fill: &mut dyn FnMut(&mut [u8])) {
        let mut bytes = alloc::vec![0; len];
        self.copy_out(offset, &mut bytes);
        fill(&mut bytes);
        self.copy_in(offset, &bytes);
    }
    /// Copies `len` bytes into another run. The two must not overlap.
    fn copy_to(&self, offset: usize, to: &Self, to_offset: usize, len: usize)
    where
        Self: Sized;
    /// Writes zeroes.
    fn zero(&self, offset: usize, len: usize);

    /// The guest frame behind a page, as grants and grant copies name it.
    fn gfn(&self, page: usize) -> Gfn;

    /// Where a device reaches a page, or `None` if no device of this domain can.
    ///
    /// For a mapped page this is what the hypervisor returned as `dev_bus_addr` (`grant_table.h`,
    /// `struct gnttab_map_grant_ref`).
    fn bus_address(&self, page: usize) -> Option<BusAddress>;
}

/// One end of a grant copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyEnd {
    /// A page of this domain.
    Local {
        /// The frame.
        gfn: Gfn,
        /// Bytes from the start of the frame.
        offset: u16,
    },
    /// A page that another domain granted.
    Foreign {
        /// Who granted it.
        domain: DomainId,
        /// The reference.
        grant: GrantRef,
        /// Bytes from the start of the frame.
        offset: u16,
    },
}

/// One copy of at most a page, between any two ends (`grant_table.h`, `struct gnttab_copy`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GrantCopy {
    /// Where the bytes come from.
    pub from: CopyEnd,
    /// Where they go.
    pub to: CopyEnd,
    /// How many; neither end may leave its page.
    pub len: u16,
    /// What became of it; set by [`Platform::grant_copy`].
    pub result: Result<(), Errno>,
}

/// The services of a kernel that the drivers are written against.
pub trait Platform: Clone + Send + Sync + 'static {
    /// Memory that may be shared: own pages and mapped ones.
    type Memory: SharedMemory;

    /// Allocates zeroed pages.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn allocate(&self, pages: usize) -> Result<Self::Memory, Errno>;

    /// Keeps pages out of the allocator until every one of `grants` could be ended, however long the peer takes.
    fn retire(&self, memory: Self::Memory, grants: Vec<GrantRef>);

    /// Grants one page of own memory to `peer`.
    ///
    /// # Errors
    /// `ENOSPC` when the grant table is full.
    fn grant(
        &self,
        peer: DomainId,
        memory: &Self::Memory,
        page: usize,
        access: Access,
    ) -> Result<GrantRef, Errno>;

    /// Ends a grant.
    ///
    /// # Errors
    /// `EBUSY` when the peer still maps or copies it: the grant is still alive.
    fn ungrant(&self, grant: GrantRef) -> Result<(), Errno>;

    /// Maps pages of `peer` side by side as one run: all of them or none.
    ///
    /// # Errors
    /// What the hypervisor said of the first that failed.
    fn map(&self, peer: DomainId, grants: &[GrantRef], access: Access) -> Result<Self::Memory, Errno>;

    /// Maps pages of `peer`, each as a run of its own, in as few hypercalls as possible. The results are in the order
    /// of `grants` and as many.
    fn map_each(
        &self,
        peer: DomainId,
        grants: &[GrantRef],
        access: Access,
    ) -> Vec<Result<Self::Memory, Errno>>;

    /// Unmaps many runs in as few hypercalls as possible. Own memory in the list is freed.
    fn unmap(&self, mappings: Vec<Self::Memory>);

    /// Does many copies in as few hypercalls as possible, and sets each one's result.
    fn grant_copy(&self, copies: &mut [GrantCopy]);

    /// Allocates an event channel that `peer` may bind.
    ///
    /// # Errors
    /// `ENOSPC` and what else the hypervisor says.
    fn alloc_unbound(&self, peer: DomainId) -> Result<Port, Errno>;

    /// Binds an event channel to `peer`'s unbound port.
    ///
    /// # Errors
    /// What the hypervisor says, `EINVAL` when the remote port is not for us.
    fn bind_interdomain(&self, peer: DomainId, remote: Port) -> Result<Port, Errno>;

    /// Sends an event. A dead port is not an error of the sender.
    fn notify(&self, port: Port);

    /// Unmasks a port, and lets it fire again if it became pending meanwhile.
    fn unmask(&self, port: Port);

    /// Closes a port.
    fn close(&self, port: Port);

    /// The time.
    fn now(&self) -> Nanos;
}
