//! Block devices: the split driver's two ends, and what a back end can serve.
//!
//! * [`BlockDevice`] is a disk with asynchronous completion; [`MemoryDisk`] is one in memory, [`SharedDisk`] lets
//!   several users have [`Slice`]s of one disk, and [`partition`] finds the slices that a partition table names.
//! * [`BlkFront`] is a disk for the guest; [`BlkBack`] serves a [`BlockDevice`] to a guest (`io/blkif.h`).

mod back;
mod device;
mod front;
mod memory_disk;
pub mod partition;
mod slice;
mod slots;
#[cfg(test)]
mod tests;

pub use back::{BlkBack, Counters, DataPath, Options, Progress};
pub use device::{
    BlockDevice, BlockError, Discard, Geometry, Location, Operation, Piece, Request, SECTOR_SIZE, Submitted,
    Tag,
};
pub use front::{
    BlkFront, Buffer, Completion, FrontCounters, FrontOptions, FrontState, RequestId, SubmitError,
};
pub use memory_disk::MemoryDisk;
pub use slice::{SharedDisk, Slice};
