//! Bytes made to order, the same on every machine, so that what a guest wrote can be checked elsewhere.
//!
//! * `random`: xoshiro256** (`rand_xoshiro::Xoshiro256StarStar::seed_from_u64(seed)`, which fills the state by
//!   SplitMix64), its 64-bit outputs one after another, least significant byte first.
//! * `pattern`: 64-bit words, least significant byte first; word number `i` is `seed + i`.
//! * `zero`: zeros.

use rand_xoshiro::Xoshiro256StarStar;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

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

    /// Writes the next bytes.
    pub fn fill(&mut self, to: &mut [u8]) {
        if self.kind == Kind::Zero {
            return to.fill(0);
        }
        let (start, rest) = to.split_at_mut(self.left_count.min(to.len()));
        let from = 8 - self.left_count;
        start.copy_from_slice(&self.left[from..from + start.len()]);
        self.left_count -= start.len();
        let mut words = rest.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.word().to_le_bytes());
        }
        let end = words.into_remainder();
        if !end.is_empty() {
            self.left = self.word().to_le_bytes();
            self.left_count = 8 - end.len();
            end.copy_from_slice(&self.left[..end.len()]);
        }
    }
}
