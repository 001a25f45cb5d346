//! What a virtual CPU has to look at before it enters the guest again.

use bitflags::bitflags;
use core::sync::atomic::{AtomicU32, Ordering};

bitflags! {
    /// Reasons for a virtual CPU to leave the fast path.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Reason: u32 {
        /// Its `vcpu_info` may say that there are events.
        const UPCALL = 1 << 0;
        /// Interrupts were posted to its local APIC, or its timer fired.
        const APIC = 1 << 1;
        /// A non-maskable interrupt is to be put in.
        const NMI = 1 << 2;
        /// The scheduler is to be asked.
        const RESCHEDULE = 1 << 3;
        /// Its domain is paused, or the virtual CPU is stopped: it must leave its CPU.
        const STOP = 1 << 4;
        /// Nested translations are to be forgotten.
        const FLUSH = 1 << 5;
        /// INIT or a start-up message arrived.
        const INIT = 1 << 6;

        /// Those that end a wait for an interrupt.
        const WAKING = Self::UPCALL.bits() | Self::APIC.bits() | Self::NMI.bits() | Self::INIT.bits();
        /// Those for which something may have to be put into the guest.
        const DELIVER = Self::UPCALL.bits() | Self::APIC.bits() | Self::NMI.bits();
    }
}

/// The attention word of a virtual CPU. Anyone sets bits; the CPU that runs it takes them.
///
/// Who sets a bit does so before it looks whether the virtual CPU sleeps, and that looks at the word after it said that
/// it would: all of this is sequentially consistent, so one of the two sees the other.
#[derive(Debug, Default)]
pub struct Attention(AtomicU32);

impl Attention {
    /// Sets bits.
    #[inline]
    pub fn raise(&self, reason: Reason) {
        self.0.fetch_or(reason.bits(), Ordering::SeqCst);
    }

    /// Whether there is anything to look at: the one question of the fast path.
    #[inline]
    pub fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// What there is to look at.
    #[inline]
    pub fn peek(&self) -> Reason {
        Reason::from_bits_truncate(self.0.load(Ordering::SeqCst))
    }

    /// Takes those of these bits that are set now.
    #[inline]
    pub fn take(&self, reason: Reason) -> Reason {
        let set = self.peek() & reason;
        self.0.fetch_and(!set.bits(), Ordering::SeqCst);
        set
    }
}
