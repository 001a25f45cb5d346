//! Things that are named by the number of their slot until they are taken out.

use alloc::vec::Vec;

/// Numbered slots, each with or without something. The one that was emptied last is filled next.
pub(super) struct Slots<T> {
    slots: Vec<Option<T>>,
    unused: Vec<usize>,
}

impl<T> Slots<T> {
    pub const fn new() -> Self {
        Self { slots: Vec::new(), unused: Vec::new() }
    }

    /// Fills a slot, and says which.
    #[inline]
    pub fn insert(&mut self, value: T) -> usize {
        if let Some(at) = self.unused.pop()
            && let Some(slot) = self.slots.get_mut(at)
        {
            *slot = Some(value);
            return at;
        }
        self.slots.push(Some(value));
        self.slots.len() - 1
    }

    #[inline]
    pub fn get(&self, at: usize) -> Option<&T> {
        self.slots.get(at)?.as_ref()
    }

    #[inline]
    pub fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        self.slots.get_mut(at)?.as_mut()
    }

    /// Empties a slot.
    #[inline]
    pub fn remove(&mut self, at: usize) -> Option<T> {
        let value = self.slots.get_mut(at)?.take()?;
        self.unused.push(at);
        Some(value)
    }

    /// How many are filled.
    pub const fn len(&self) -> usize {
        self.slots.len() - self.unused.len()
    }

    /// The numbers of all slots, filled or not.
    pub const fn numbers(&self) -> core::ops::Range<usize> {
        0..self.slots.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.slots.iter().enumerate().filter_map(|(at, slot)| Some((at, slot.as_ref()?)))
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().flatten()
    }

    /// Empties all slots.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.unused.clear();
        self.slots.drain(..).flatten()
    }
}
