//! A set of interrupt vectors in the page of registers.

use crate::hw::RegisterPage;

const REGISTERS: u8 = 8;

/// A set of interrupt vectors: eight registers in a row, the form of IRR, ISR and TMR.
#[derive(Clone, Copy, Debug)]
pub struct Vectors<'a> {
    page: &'a RegisterPage,
    first: u8,
}

impl<'a> Vectors<'a> {
    /// The set that begins at this register, which is not one of the last seven.
    #[inline]
    pub const fn new(page: &'a RegisterPage, first: u8) -> Self {
        Self { page, first }
    }

    #[inline]
    fn change(self, index: u8, change: impl FnOnce(u32) -> u32) {
        let register = self.first + index;
        self.page.set(register, change(self.page.get(register)));
    }

    /// Adds a vector.
    #[inline]
    pub fn insert(self, vector: u8) {
        self.change(vector / 32, |word| word | 1 << (vector % 32));
    }

    /// Removes a vector.
    #[inline]
    pub fn remove(self, vector: u8) {
        self.change(vector / 32, |word| word & !(1 << (vector % 32)));
    }

    /// Adds all vectors of these words.
    pub fn merge(self, words: [u64; 4]) {
        for (index, word) in (0..).step_by(2).zip(words).filter(|(_, word)| *word != 0) {
            #[allow(clippy::cast_possible_truncation)] // the halves
            let (low, high) = (word as u32, (word >> 32) as u32);
            self.change(index, |old| old | low);
            self.change(index + 1, |old| old | high);
        }
    }

    /// The highest vector.
    #[inline]
    pub fn highest(self) -> Option<u8> {
        // Most often there is none.
        let any = (0..REGISTERS).fold(0, |any, index| any | self.register(index));
        if any == 0 {
            return None;
        }
        let (index, word) =
            (0..REGISTERS).rev().map(|index| (index, self.register(index))).find(|(_, word)| *word != 0)?;
        u8::try_from(u32::from(index) * 32 + 31 - word.leading_zeros()).ok()
    }

    /// The register of 32 vectors at `index` (0 to 7).
    #[inline]
    pub fn register(self, index: u8) -> u32 {
        self.page.get(self.first + (index & (REGISTERS - 1)))
    }

    /// Removes all vectors.
    pub fn clear(self) {
        (0..REGISTERS).for_each(|index| self.page.set(self.first + index, 0));
    }
}
