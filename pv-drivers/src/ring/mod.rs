//! The two halves of a request/response ring over shared pages.
//!
//! # Invariants
//!
//! * Each half keeps the indices that it owns in private memory and only ever writes them to the ring. What the peer
//!   owns is read once for each decision and compared with what is possible; anything else is a [`RingFault`], after
//!   which the ring must not be used again.
//! * A slot is copied out once into a value; nobody looks at the ring a second time.
//!
//! There are no locks: a half has one owner.

mod back;
mod front;
mod stream;
#[cfg(test)]
mod tests;

use core::fmt;

pub use back::BackRing;
pub use front::FrontRing;
pub use stream::{StreamLayout, StreamReader, StreamWriter};

/// How a peer broke the rules of a ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RingFault {
    /// Its producer index is further ahead than the ring has room for.
    ProducerRunaway {
        /// The distance that the index claims.
        claimed: u32,
        /// The largest that is possible.
        possible: u32,
    },
    /// Its consumer index is ahead of our producer, or too far behind.
    ConsumerRunaway {
        /// The distance that the index claims.
        claimed: u32,
        /// The largest that is possible.
        possible: u32,
    },
}

impl fmt::Display for RingFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProducerRunaway { claimed, possible } => {
                write!(f, "its producer index claims {claimed} new entries where {possible} are possible")
            }
            Self::ConsumerRunaway { claimed, possible } => {
                write!(f, "its consumer index leaves {claimed} bytes where {possible} are possible")
            }
        }
    }
}

impl core::error::Error for RingFault {}

/// Orders everything before it against everything after it, as the other processor sees both.
fn fence() {
    #[cfg(not(loom))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    #[cfg(loom)]
    loom::sync::atomic::fence(loom::sync::atomic::Ordering::SeqCst);
}

/// The ring has no free slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingFull;
