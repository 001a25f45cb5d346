//! Time in the machine's two units.

/// A reading, or a distance, of the time-stamp counter, in its ticks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct TscTicks(u64);

impl TscTicks {
    /// Makes a reading.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The number of ticks.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The ticks from `earlier` to this reading; zero if it is not earlier.
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// This reading `ticks` later, saturating.
    pub const fn after(self, ticks: Self) -> Self {
        Self(self.0.saturating_add(ticks.0))
    }
}

/// A time, or a span of time, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Nanos(u64);

impl Nanos {
    /// Makes a span.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The number of nanoseconds.
    pub const fn raw(self) -> u64 {
        self.0
    }
}
