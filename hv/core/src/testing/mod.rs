//! Stand-ins for the machine, for the host tests of this crate.

mod format;
mod memory;

pub use format::PlainFormat;
pub use memory::VecMemory;
