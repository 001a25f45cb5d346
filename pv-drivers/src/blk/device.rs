//! What a disk is to those who use it.

use core::fmt;

use pv_abi::ids::Gfn;

use crate::platform::SharedMemory;

/// The unit in which disks are addressed here, whatever their own blocks are.
pub const SECTOR_SIZE: usize = 512;

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockError {
    /// The device could not do it.
    Io,
    /// The device does not do such things.
    NotSupported,
    /// It reaches beyond the end of the device, or is not aligned to its blocks.
    OutOfRange,
    /// The device cannot be written.
    ReadOnly,
    /// The device has gone.
    Disconnected,
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Io => "input/output error",
            Self::NotSupported => "not supported by the device",
            Self::OutOfRange => "beyond the end of the device",
            Self::ReadOnly => "the device is read-only",
            Self::Disconnected => "the device has gone",
        })
    }
}

impl core::error::Error for BlockError {}

/// How a device discards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Discard {
    /// The unit of discarding in bytes.
    pub granularity: u32,
    /// Where the first unit starts, in bytes.
    pub alignment: u32,
    /// It can make what is discarded unrecoverable.
    pub is_secure: bool,
}

/// What a device is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Its size in units of [`SECTOR_SIZE`].
    pub sectors: u64,
    /// The size of its own blocks in bytes, to which requests must be aligned.
    pub block_size: u32,
    /// It refuses writes.
    pub is_read_only: bool,
    /// It has a cache that must be flushed; without one a flush succeeds at once.
    pub can_flush: bool,
    /// How it discards, if it can.
    pub discard: Option<Discard>,
    /// The most pieces of a request.
    pub max_pieces: usize,
    /// The most sectors of a request.
    pub max_sectors: u32,
}

impl Geometry {
    /// Whether a run of sectors lies on the device, and on whole blocks.
    #[must_use]
    pub fn contains(&self, sector: u64, count: u64) -> bool {
        let blocks = u64::from(self.block_size) / SECTOR_SIZE as u64;
        let is_aligned = blocks <= 1 || (sector.is_multiple_of(blocks) && count.is_multiple_of(blocks));
        is_aligned && sector.checked_add(count).is_some_and(|end| end <= self.sectors)
    }
}

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Fills the pieces from the device.
    Read,
    /// Writes the pieces to the device.
    Write,
    /// Makes completed writes durable; has no pieces.
    Flush,
    /// Forgets sectors; has no pieces.
    Discard {
        /// So that they cannot be recovered.
        is_secure: bool,
    },
}

/// A piece of memory, inside one page of a run.
pub struct Piece<'a, M> {
    /// The run.
    pub memory: &'a M,
    /// Bytes from the start of the run.
    pub offset: usize,
    /// Bytes; a whole number of sectors.
    pub len: usize,
}

impl<M> Clone for Piece<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Piece<'_, M> {}

/// A request to a device.
pub struct Request<'a, M> {
    /// What to do.
    pub operation: Operation,
    /// The first sector.
    pub sector: u64,
    /// How many sectors; the pieces have as many together.
    pub count: u64,
    /// Where the data is.
    pub pieces: &'a [Piece<'a, M>],
}

/// Chosen by the submitter, given back with the completion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Tag(pub u64);

/// What became of a submitted request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Submitted {
    /// It is done already; [`BlockDevice::poll`] will not tell of it.
    Done,
    /// [`BlockDevice::poll`] will tell.
    Running,
}

/// A place in this domain's own memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    /// The frame.
    pub gfn: Gfn,
    /// Bytes from its start.
    pub offset: u16,
}

/// A disk, used by one owner, without waiting.
///
/// The memory of a request must stay as it is until the request is done: a device may be moving data by itself.
pub trait BlockDevice<M: SharedMemory>: Send {
    /// What the device is like. It does not change.
    fn geometry(&self) -> Geometry;

    /// How many more requests can be submitted now.
    fn room(&self) -> usize;

    /// Takes a request. The device may wait for [`Self::start`] before it does anything.
    ///
    /// # Errors
    /// The request failed already.
    fn submit(&mut self, tag: Tag, request: &Request<'_, M>) -> Result<Submitted, BlockError>;

    /// Starts everything submitted so far, with one notification of the device.
    fn start(&mut self);

    /// Tells of what is done.
    fn poll(&mut self, done: &mut dyn FnMut(Tag, Result<(), BlockError>));

    /// Where sectors lie, if the device is nothing but this domain's own memory: data can then be copied to and from
    /// it without a request. `count` sectors from there on must be in the same frame.
    fn location(&self, sector: u64, count: u64) -> Option<Location>;
}

impl<M: SharedMemory> BlockDevice<M> for alloc::boxed::Box<dyn BlockDevice<M>> {
    fn geometry(&self) -> Geometry {
        (**self).geometry()
    }

    fn room(&self) -> usize {
        (**self).room()
    }

    fn submit(&mut self, tag: Tag, request: &Request<'_, M>) -> Result<Submitted, BlockError> {
        (**self).submit(tag, request)
    }

    fn start(&mut self) {
        (**self).start();
    }

    fn poll(&mut self, done: &mut dyn FnMut(Tag, Result<(), BlockError>)) {
        (**self).poll(done);
    }

    fn location(&self, sector: u64, count: u64) -> Option<Location> {
        (**self).location(sector, count)
    }
}
