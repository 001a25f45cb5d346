//! Sets of CPUs.

use crate::hw::CpuId;
use core::fmt;

/// A set of CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuMask(u64);

impl CpuMask {
    /// How many CPUs a set can name; the machine's further CPUs are not used.
    pub const CPUS: u16 = 64;
    /// No CPU.
    pub const NONE: Self = Self(0);
    /// Every CPU.
    pub const ALL: Self = Self(u64::MAX);

    /// The set with these bits: bit `n` is CPU `n`.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The bits of this set.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The set of one CPU.
    pub const fn only(cpu: CpuId) -> Self {
        if cpu.raw() < Self::CPUS { Self(1 << cpu.raw()) } else { Self(0) }
    }

    /// Whether `cpu` is in the set.
    pub const fn contains(self, cpu: CpuId) -> bool {
        self.0 & Self::only(cpu).0 != 0
    }

    /// Those in both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether no CPU is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The lowest CPU of the set.
    #[allow(clippy::cast_possible_truncation)] // below 64
    pub const fn first(self) -> Option<CpuId> {
        if self.0 == 0 { None } else { Some(CpuId::new(self.0.trailing_zeros() as u16)) }
    }

    /// The CPUs of the set in order.
    pub fn iter(self) -> impl Iterator<Item = CpuId> {
        let mut rest = self;
        core::iter::from_fn(move || {
            let cpu = rest.first()?;
            rest.0 &= rest.0 - 1;
            Some(cpu)
        })
    }
}

impl fmt::Debug for CpuMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpus:{:#x}", self.0)
    }
}
