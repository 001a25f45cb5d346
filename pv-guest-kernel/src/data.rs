//! Bytes made to order, the same on every machine, so that what a guest wrote can be checked elsewhere.
//!
//! * `random`: xoshiro256** (`rand_xoshiro::Xoshiro256StarStar::seed_from_u64(seed)`, which fills the state by
//!   SplitMix64), its 64-bit outputs one after another, least significant byte first.
//! * `pattern`: 64-bit words, least significant byte first; word number `i` is `seed + i`.
//! * `zero`: zeros.

use pv_drivers::platform::SharedMemory;
use rand_xoshiro::Xoshiro256StarStar;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use crate::xen::platform::Pages;

/// What bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Zeros.
    Zero,
    /// A pseudo-random stream.
    Random,
    /// Counting words.
    Pattern,
}

/// A stream of bytes.
pub struct Generator {
    kind: Kind,
    random: Xoshiro256StarStar,
    counter: u64,
    /// Bytes of a word that the last call did not use, and how many.
    left: [u8; 8],
    left_count: usize,
}

impl Generator {
    /// The stream of a seed, from its start.
    pub fn new(kind: Kind, seed: u64) -> Generator {
        Generator {
            kind,
            random: Xoshiro256StarStar::seed_from_u64(seed),
            counter: seed,
            left: [0; 8],
            left_count: 0,
        }
    }

    fn word(&mut self) -> u64 {
        match self.kind {
            Kind::Zero => 0,
            Kind::Random => self.random.next_u64(),
            Kind::Pattern => {
                let word = self.counter;
                self.counter = self.counter.wrapping_add(1);
                word
            }
        }
    }

    /// Writes the next `n` bytes at the start of `pages`.
    pub fn fill(&mut self, pages: &Pages, n: usize) {
        if self.kind == Kind::Zero {
            return pages.zero(0, n);
        }
        let mut at = 0;
        if self.left_count != 0 {
            let k = self.left_count.min(n);
            let start = 8 - self.left_count;
            pages.copy_in(0, &self.left[start..start + k]);
            self.left_count -= k;
            at = k;
        }
        while at < n {
            let bytes = self.word().to_le_bytes();
            let k = (n - at).min(8);
            pages.copy_in(at, &bytes[..k]);
            if k < 8 {
                self.left = bytes;
                self.left_count = 8 - k;
            }
            at += k;
        }
    }
}
