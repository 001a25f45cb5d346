//! Geometry and index arithmetic of the request/response rings (`io/ring.h`).
//!
//! A ring is one or more pages, side by side: a header of 64 bytes with four indices, then a power of two of slots.
//! A slot holds a request until the back end has consumed it, then a response. Indices run freely over 32 bits; the
//! slot is the index modulo the number of slots.

/// A free-running position in a ring (`RING_IDX`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RingIndex(u32);

impl RingIndex {
    /// The first position.
    pub const ZERO: Self = Self(0);

    /// Makes an index from its number.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The number as it stands in the ring.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The position `count` further on.
    #[must_use]
    pub const fn advance(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// The position `count` back.
    #[must_use]
    pub const fn back(self, count: u32) -> Self {
        Self(self.0.wrapping_sub(count))
    }

    /// How far `self` is ahead of `older`.
    #[must_use]
    pub const fn ahead_of(self, older: Self) -> u32 {
        self.0.wrapping_sub(older.0)
    }
}

/// Whether the peer wants an event after its producer index went from `old` to `new`, having asked for one at `event`
/// (`RING_PUSH_REQUESTS_AND_CHECK_NOTIFY`).
#[must_use]
pub const fn is_notification_due(old: RingIndex, new: RingIndex, event: RingIndex) -> bool {
    new.ahead_of(event) < new.ahead_of(old)
}

/// Offset of `req_prod`: the requests that the front end has published.
pub const REQ_PROD: usize = 0;
/// Offset of `req_event`: the back end wants an event when `req_prod` passes this.
pub const REQ_EVENT: usize = 4;
/// Offset of `rsp_prod`: the responses that the back end has published.
pub const RSP_PROD: usize = 8;
/// Offset of `rsp_event`: the front end wants an event when `rsp_prod` passes this.
pub const RSP_EVENT: usize = 12;
/// Offset of the first slot.
pub const FIRST_SLOT: usize = 64;
/// The size of a ring's page.
pub const PAGE_SIZE: usize = 4096;

/// The shape of one ring: how many slots of which size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingShape {
    slots: u32,
    slot_size: usize,
}

impl RingShape {
    /// The shape of a ring of `pages` pages whose larger message takes `slot_size` bytes (`__CONST_RING_SIZE`): as
    /// many slots as fit, rounded down to a power of two. `None` when not one slot fits.
    #[must_use]
    pub const fn new(pages: usize, slot_size: usize) -> Option<Self> {
        let Some(bytes) = pages.checked_mul(PAGE_SIZE) else { return None };
        if bytes <= FIRST_SLOT || slot_size == 0 {
            return None;
        }
        let fit = (bytes - FIRST_SLOT) / slot_size;
        if fit == 0 || fit > u32::MAX as usize {
            return None;
        }
        // `fit` was compared with `u32::MAX` above.
        #[allow(clippy::cast_possible_truncation)]
        let slots = 1u32 << (fit as u32).ilog2();
        Some(Self { slots, slot_size })
    }

    /// The number of slots, a power of two.
    #[must_use]
    pub const fn slots(self) -> u32 {
        self.slots
    }

    /// The size of one slot in bytes.
    #[must_use]
    pub const fn slot_size(self) -> usize {
        self.slot_size
    }

    /// The byte offset of the slot at `index` (`RING_GET_REQUEST`, `RING_GET_RESPONSE`).
    #[must_use]
    pub const fn offset(self, index: RingIndex) -> usize {
        FIRST_SLOT + (index.raw() & (self.slots - 1)) as usize * self.slot_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_of_the_public_rings() {
        // blkif: 112-byte requests give 32 slots a page, and 36 that fit are rounded down.
        let blk = RingShape::new(1, 112).unwrap();
        assert_eq!((blk.slots(), blk.slot_size()), (32, 112));
        assert_eq!(RingShape::new(16, 112).unwrap().slots(), 512);
        assert_eq!(RingShape::new(1, 12).unwrap().slots(), 256);
        assert_eq!(RingShape::new(1, 8).unwrap().slots(), 256);
        assert_eq!(RingShape::new(0, 8), None);
        assert_eq!(RingShape::new(1, 5000), None);
    }

    #[test]
    fn slots_wrap_and_stay_inside() {
        let shape = RingShape::new(1, 112).unwrap();
        assert_eq!(shape.offset(RingIndex::new(0)), 64);
        assert_eq!(shape.offset(RingIndex::new(33)), 64 + 112);
        assert_eq!(shape.offset(RingIndex::new(u32::MAX)), 64 + 31 * 112);
        assert!(shape.offset(RingIndex::new(31)) + 112 <= PAGE_SIZE);
    }

    #[test]
    fn notification_is_due_when_the_event_index_is_passed() {
        let i = RingIndex::new;
        assert!(is_notification_due(i(0), i(1), i(1)));
        assert!(!is_notification_due(i(0), i(1), i(2)));
        assert!(is_notification_due(i(0), i(5), i(3)));
        assert!(!is_notification_due(i(4), i(5), i(3)));
        // Over the wrap.
        assert!(is_notification_due(i(u32::MAX), i(2), i(0)));
        assert!(!is_notification_due(i(u32::MAX), i(2), i(3)));
        // Nothing was published.
        assert!(!is_notification_due(i(7), i(7), i(7)));
    }
}
