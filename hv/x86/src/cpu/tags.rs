//! Address-space tags of a CPU (ASID on AMD-V, VPID on VT-x): handed out in order, and all flushed when they
//! run out.
//!
//! A virtual CPU keeps the [`Tag`] it was last given. It is good as long as the same CPU is in the same
//! generation; otherwise the virtual CPU gets a new one, which holds no translations. So forgetting all
//! translations of a virtual CPU is to take its tag away.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hv_core::hw::CpuId;

/// A tag, and when and where it is good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    cpu: CpuId,
    generation: u64,
    number: u32,
}

impl Tag {
    /// The number for the hardware: 1 and up.
    pub const fn number(self) -> u32 {
        self.number
    }
}

/// A new tag, and what must be done before it is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Fresh {
    /// The tag.
    pub tag: Tag,
    /// All translations of all tags must be flushed first.
    pub flush_all: bool,
}

/// The tags of one CPU.
pub struct Tags {
    next: AtomicU32,
    generation: AtomicU64,
}

impl Default for Tags {
    fn default() -> Self {
        Self::new()
    }
}

impl Tags {
    /// No tag given yet; the first one flushes all.
    pub const fn new() -> Self {
        Self { next: AtomicU32::new(u32::MAX), generation: AtomicU64::new(0) }
    }

    /// Whether `tag` is still good on CPU `cpu`, whose tags these are.
    pub fn is_good(&self, cpu: CpuId, tag: Option<Tag>) -> bool {
        tag.is_some_and(|tag| tag.cpu == cpu && tag.generation == self.generation.load(Ordering::Relaxed))
    }

    /// Gives a new tag out of `count` (the numbers 1 to `count` - 1; 0 is the host's). Only CPU `cpu` itself,
    /// whose tags these are, may ask.
    pub fn take(&self, cpu: CpuId, count: u32) -> Fresh {
        let next = self.next.load(Ordering::Relaxed);
        let flush_all = next >= count.max(2);
        let number = if flush_all { 1 } else { next };
        let generation = self.generation.load(Ordering::Relaxed) + u64::from(flush_all);
        self.generation.store(generation, Ordering::Relaxed);
        self.next.store(number + 1, Ordering::Relaxed);
        Fresh { tag: Tag { cpu, generation, number }, flush_all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: CpuId = CpuId::new(3);

    #[test]
    fn running_out_flushes_and_ends_all_older_tags() {
        let tags = Tags::new();
        let first = tags.take(CPU, 3);
        assert!(first.flush_all);
        assert_eq!(first.tag.number(), 1);
        let second = tags.take(CPU, 3);
        assert_eq!((second.tag.number(), second.flush_all), (2, false));
        assert!(tags.is_good(CPU, Some(first.tag)));
        let third = tags.take(CPU, 3);
        assert_eq!((third.tag.number(), third.flush_all), (1, true));
        assert!(!tags.is_good(CPU, Some(first.tag)));
        assert!(!tags.is_good(CPU, Some(second.tag)));
        assert!(tags.is_good(CPU, Some(third.tag)));
    }

    #[test]
    fn a_tag_is_good_on_its_own_cpu_only() {
        let tags = Tags::new();
        let tag = tags.take(CPU, 16).tag;
        assert!(!tags.is_good(CpuId::new(4), Some(tag)));
        assert!(!tags.is_good(CPU, None));
    }

    #[test]
    fn a_cpu_with_a_single_tag_flushes_each_time() {
        let tags = Tags::new();
        assert!(tags.take(CPU, 1).flush_all);
        assert!(tags.take(CPU, 1).flush_all);
    }
}
