//! Memory: frames, nested page tables, domains' memory, and the guests' pointers.
//!
//! - [`frame`]: who owns each frame of the machine; [`frame::Ram`] is what allocating functions take
//! - [`npt`]: nested page tables, for every vendor's format
//! - [`flush`]: what is owed after a translation was taken away
//! - [`DomainMemory`]: a domain's physmap and its quota
//! - [`op`]: the memory operations of the ABI
//! - [`Linear`], [`Physical`]: what a guest's pointers lead to, copied

mod access;
mod account;
mod departures;
pub mod flush;
pub mod frame;
pub mod npt;
pub mod op;
pub mod pair;
mod physmap;
mod room;
mod trail;
mod walk;

#[cfg(test)]
pub mod fixture;
#[cfg(test)]
mod tests;

pub use access::{Linear, Physical};
pub use account::{OverQuota, PageAccount};
pub use departures::{BATCH, Departures};
pub use flush::{Flush, Flushed, Generation};
pub use frame::{FrameTable, OutOfMemory, PageRef, Ram, RamRange, SharedPage};
pub use npt::{Lookaside, Mapping};
pub use physmap::{DomainMemory, Occupant, PhysmapConfig};
pub use room::make_room;
pub use trail::Trails;
pub use walk::{Mode, Paging};
