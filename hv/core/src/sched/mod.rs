//! The scheduler: which virtual CPU runs on which CPU, and for how long.
//!
//! Each CPU has a queue of those that wait for it, ordered by *virtual time*: the time that each has run, divided by
//! its weight. Who is furthest behind runs next. A [`Group`] (a domain) shares its weight among those of its virtual
//! CPUs that want to run, and its cap limits all of them together. Who wakes is put a little behind the others, so
//! that it soon preempts who only computes, but not so far that it could starve them. CPUs with nothing to do take
//! from the others, and at the end of each slice loads are levelled by weight.
//!
//! Everything is generic over the handle of a virtual CPU ([`Scheduled`]) and is told the time, so it runs on the
//! host under tests, tick for tick.
//!
//! # Locks and invariants
//!
//! The lock of an [`Entity`] is taken before that of a queue, never after; two queues or two entities are never
//! locked together. A virtual CPU is in at most one of: one queue, on one CPU, on the way between these (its entity
//! then says `Queued`), or nowhere. An entry in a queue may be stale (paused meanwhile): whoever takes it out looks.
//!
//! No wake-up is lost: who blocks marks its entity as blocked and then looks for what it waits for; who wakes makes
//! that visible and then looks at the mark. One of the two sees the other.

mod balance;
mod entity;
mod group;
mod mask;
mod queue;
mod runstate;
mod scheduler;

#[cfg(test)]
mod tests;

pub use entity::{Entity, Scheduled};
pub use group::Group;
pub use mask::CpuMask;
pub use runstate::{RunTimes, State};
pub use scheduler::{Decision, Next, Scheduler};

/// The weight of a domain whose configuration says nothing.
pub const DEFAULT_WEIGHT: u32 = 256;
