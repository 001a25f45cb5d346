//! A set of interrupt vectors.

/// A set of interrupt vectors: the form of IRR, ISR and TMR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Vectors([u64; 4]);

impl Vectors {
    /// Adds a vector.
    pub fn insert(&mut self, vector: u8) {
        if let Some(word) = self.0.get_mut(usize::from(vector / 64)) {
            *word |= 1 << (vector % 64);
        }
    }

    /// Removes a vector.
    pub fn remove(&mut self, vector: u8) {
        if let Some(word) = self.0.get_mut(usize::from(vector / 64)) {
            *word &= !(1 << (vector % 64));
        }
    }

    /// Adds all vectors of these words.
    pub fn merge(&mut self, words: [u64; 4]) {
        for (to, from) in self.0.iter_mut().zip(words) {
            *to |= from;
        }
    }

    /// The highest vector.
    pub fn highest(&self) -> Option<u8> {
        let (index, word) = self.0.iter().enumerate().rev().find(|(_, word)| **word != 0)?;
        u8::try_from(index * 64 + 63 - word.leading_zeros() as usize).ok()
    }

    /// The register of 32 vectors at `index` (0 to 7).
    pub fn register(&self, index: u8) -> u32 {
        let word = self.0.get(usize::from(index / 2)).copied().unwrap_or(0);
        #[allow(clippy::cast_possible_truncation)] // the half that is asked for
        let half = (word >> (32 * (index % 2))) as u32;
        half
    }

    /// Removes all vectors.
    pub fn clear(&mut self) {
        self.0 = [0; 4];
    }
}
