//! The records of the frame table: two words a frame, kept in the machine's memory.
//!
//! Word 0 is the state: tag in bits 0..4, order in bits 4..12, owner in bits 16..32, count of references in bits
//! 32..64. Word 1 depends on the state: links of the free list, or the guest frame number.

use crate::hw::{HostPhys, Mfn, PhysMemory};
use core::sync::atomic::AtomicU64;
use pv_abi::ids::DomainId;

/// Bytes of a record.
pub(super) const RECORD_BYTES: u64 = 16;
/// One reference in word 0.
pub(super) const ONE_REFERENCE: u64 = 1 << 32;
/// Most references that a frame can have.
const MOST_REFERENCES: u32 = 1 << 31;

/// What a frame is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameState {
    /// No memory that the frame table may hand out: a hole, the hypervisor's image, firmware.
    Absent,
    /// The first frame of a free block of this order.
    Free(u8),
    /// A further frame of a free block.
    Inner,
    /// Held by the hypervisor: a token exists for it, or it is the hypervisor's own.
    Held,
    /// A nested page table of this domain.
    Table(DomainId),
    /// Memory of this domain.
    Guest(DomainId),
    /// Memory of the hypervisor that this domain sees: its shared information or grant table.
    Shared(DomainId),
    /// Was memory of this domain, which gave it back while others still map it.
    Quarantined(DomainId),
}

const TAG_MASK: u64 = 0xf;
const ORDER_SHIFT: u32 = 4;
const OWNER_SHIFT: u32 = 16;

const fn owned(tag: u64, owner: DomainId) -> u64 {
    tag | ((owner.raw() as u64) << OWNER_SHIFT)
}

impl FrameState {
    /// The word that says this state, without references.
    pub(super) const fn encode(self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Free(order) => 1 | ((order as u64) << ORDER_SHIFT),
            Self::Inner => 2,
            Self::Held => 3,
            Self::Table(owner) => owned(4, owner),
            Self::Guest(owner) => owned(5, owner),
            Self::Shared(owner) => owned(6, owner),
            Self::Quarantined(owner) => owned(7, owner),
        }
    }

    /// Reads a word.
    #[allow(clippy::cast_possible_truncation)] // masks: bits 4..12 and 16..32
    pub(super) const fn decode(word: u64) -> Self {
        let owner = DomainId::new((word >> OWNER_SHIFT) as u16);
        match word & TAG_MASK {
            1 => Self::Free((word >> ORDER_SHIFT) as u8),
            2 => Self::Inner,
            3 => Self::Held,
            4 => Self::Table(owner),
            5 => Self::Guest(owner),
            6 => Self::Shared(owner),
            7 => Self::Quarantined(owner),
            _ => Self::Absent,
        }
    }
}

/// The count of references in a word.
#[allow(clippy::cast_possible_truncation)] // the upper half
pub(super) const fn references(word: u64) -> u32 {
    (word >> 32) as u32
}

/// Whether a word says this state, whatever the references.
#[inline]
pub(super) const fn says(word: u64, state: FrameState) -> bool {
    (word ^ state.encode()) & (ONE_REFERENCE - 1) == 0
}

/// Whether a word has room for one more reference.
pub(super) const fn can_refer(word: u64) -> bool {
    references(word) < MOST_REFERENCES
}

/// Where the records are, and how many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Records {
    pub(super) base: HostPhys,
    pub(super) count: u64,
}

impl Records {
    /// The state word of a frame, or `None` for a frame beyond the table.
    #[inline]
    pub(super) fn state<M: PhysMemory>(self, memory: &M, mfn: Mfn) -> Option<&AtomicU64> {
        (mfn.raw() < self.count).then(|| memory.u64_at(self.address(mfn, 0)))
    }

    /// The second word of a frame, or `None` for a frame beyond the table.
    #[inline]
    pub(super) fn extra<M: PhysMemory>(self, memory: &M, mfn: Mfn) -> Option<&AtomicU64> {
        (mfn.raw() < self.count).then(|| memory.u64_at(self.address(mfn, 8)))
    }

    #[inline]
    const fn address(self, mfn: Mfn, word: u64) -> HostPhys {
        HostPhys::new(self.base.raw() + mfn.raw() * RECORD_BYTES + word)
    }
}
