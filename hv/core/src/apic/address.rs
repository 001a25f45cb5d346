//! Who an interrupt message is for.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The destination of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// The sender itself.
    Own,
    /// Everyone.
    All,
    /// Everyone but the sender.
    Others,
    /// The one with this identifier.
    Physical(u32),
    /// Those that match this logical destination.
    Logical(u32),
}

/// How a local APIC is addressed. Written by the CPU that runs the virtual CPU, read by all senders.
#[derive(Debug, Default)]
pub struct Address {
    id: u32,
    x2apic: AtomicU32,
    ldr: AtomicU32,
    dfr: AtomicU32,
}

impl Address {
    /// The address after reset of the local APIC with this identifier.
    pub const fn new(id: u32) -> Self {
        Self { id, x2apic: AtomicU32::new(0), ldr: AtomicU32::new(0), dfr: AtomicU32::new(u32::MAX) }
    }

    /// The identifier.
    pub const fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn set_mode(&self, x2apic: bool) {
        self.x2apic.store(u32::from(x2apic), Relaxed);
    }

    pub(super) fn set_ldr(&self, ldr: u32) {
        self.ldr.store(ldr, Relaxed);
    }

    pub(super) fn set_dfr(&self, dfr: u32) {
        self.dfr.store(dfr, Relaxed);
    }

    pub(super) fn dfr(&self) -> u32 {
        self.dfr.load(Relaxed)
    }

    /// The logical destination register: fixed by the identifier in x2APIC mode (SDM 3, section 11.12.10.2).
    pub fn ldr(&self) -> u32 {
        if self.x2apic.load(Relaxed) != 0 {
            (self.id >> 4) << 16 | 1 << (self.id & 15)
        } else {
            self.ldr.load(Relaxed)
        }
    }

    /// Whether a message from the APIC `sender` to `destination` is for this one.
    pub fn matches(&self, destination: Destination, sender: u32) -> bool {
        let x2apic = self.x2apic.load(Relaxed) != 0;
        match destination {
            Destination::Own => self.id == sender,
            Destination::All => true,
            Destination::Others => self.id != sender,
            Destination::Physical(id) => id == u32::MAX || (!x2apic && id == 0xff) || id == self.id,
            Destination::Logical(u32::MAX) => true,
            Destination::Logical(logical) if x2apic => {
                let own = self.ldr();
                own >> 16 == logical >> 16 && own & logical & 0xffff != 0
            }
            Destination::Logical(0xff) => true,
            Destination::Logical(logical) => {
                let own = self.ldr() >> 24;
                if self.dfr() >> 28 == 0xf {
                    own & logical != 0 // flat model
                } else {
                    own >> 4 == logical >> 4 && own & logical & 0xf != 0 // cluster model
                }
            }
        }
    }
}
