//! Registers and descriptors of the controller, as the manual names them.

/// Offsets of registers, in bytes from the start of the controller's memory range (section 13.4).
pub mod register {
    /// Device control.
    pub const CTRL: u32 = 0x0000;
    /// Device status.
    pub const STATUS: u32 = 0x0008;
    /// Reads a word of the EEPROM.
    pub const EERD: u32 = 0x0014;
    /// Causes of interrupts; reading clears them.
    pub const ICR: u32 = 0x00c0;
    /// Causes that interrupt: sets bits.
    pub const IMS: u32 = 0x00d0;
    /// Causes that interrupt: clears bits.
    pub const IMC: u32 = 0x00d8;
    /// Receive control.
    pub const RCTL: u32 = 0x0100;
    /// Transmit control.
    pub const TCTL: u32 = 0x0400;
    /// Gaps between packets on the wire.
    pub const TIPG: u32 = 0x0410;
    /// The receive ring; the offsets from here on are [`ring`]'s.
    pub const RECEIVE_RING: u32 = 0x2800;
    /// The transmit ring.
    pub const TRANSMIT_RING: u32 = 0x3800;
    /// Packets for which no buffer was ready; reading clears it.
    pub const MPC: u32 = 0x4010;
}

/// Registers of a ring, in bytes from its first.
pub mod ring {
    /// Address of the descriptors, low half.
    pub const BASE_LOW: u32 = 0x00;
    /// Address of the descriptors, high half.
    pub const BASE_HIGH: u32 = 0x04;
    /// Bytes of all descriptors.
    pub const LENGTH: u32 = 0x08;
    /// The controller's next descriptor.
    pub const HEAD: u32 = 0x10;
    /// The first descriptor that is not the controller's.
    pub const TAIL: u32 = 0x18;
}

/// Bits of `CTRL`.
pub mod ctrl {
    /// Detect the speed.
    pub const ASDE: u32 = 1 << 5;
    /// Bring the link up.
    pub const SLU: u32 = 1 << 6;
    /// Reset everything.
    pub const RST: u32 = 1 << 26;
}

/// The bit of `STATUS` that says that there is a link.
pub const LINK_UP: u32 = 1 << 1;

/// Causes of interrupts.
pub mod cause {
    /// A descriptor that asked for it was sent.
    pub const SENT: u32 = 1 << 0;
    /// The link came or went.
    pub const LINK: u32 = 1 << 2;
    /// Few receive descriptors are left.
    pub const FEW: u32 = 1 << 4;
    /// No receive descriptor was left.
    pub const OVERRUN: u32 = 1 << 6;
    /// A packet was received.
    pub const RECEIVED: u32 = 1 << 7;
}

/// Bits of `RCTL`. Buffers are of 2,048 bytes by default.
pub mod rctl {
    /// Receive.
    pub const EN: u32 = 1 << 1;
    /// Whatever hardware address it is for.
    pub const UPE: u32 = 1 << 3;
    /// Whatever group it is for.
    pub const MPE: u32 = 1 << 4;
    /// What is for everybody.
    pub const BAM: u32 = 1 << 15;
    /// Without its frame check sequence.
    pub const SECRC: u32 = 1 << 26;
}

/// Bits of `TCTL`.
pub mod tctl {
    /// Send.
    pub const EN: u32 = 1 << 1;
    /// Pad short packets.
    pub const PSP: u32 = 1 << 3;
    /// Tries after collisions, and the distance of one, as the manual advises for full duplex.
    pub const COLLISIONS: u32 = 0x0f << 4 | 0x40 << 12;
}

/// `TIPG` for IEEE 802.3, as the manual advises.
pub const GAPS: u32 = 10 | 8 << 10 | 6 << 20;

/// Bits of `EERD`; the word is in the upper half.
pub mod eerd {
    /// Begins.
    pub const START: u32 = 1 << 0;
    /// The word is there.
    pub const DONE: u32 = 1 << 4;
    /// Where the number of the word starts.
    pub const ADDRESS_SHIFT: u32 = 8;
}

/// A descriptor: an address of 64 bits, and what these constants say (sections 3.2.3 and 3.3.3).
pub mod descriptor {
    /// Bytes of one.
    pub const SIZE: usize = 16;
    /// Place of the length of 16 bits.
    pub const LENGTH: usize = 8;
    /// Place of the word with the status in its lowest byte, and a received packet's errors in the next.
    pub const STATUS: usize = 12;
    /// Status: the controller is done with it.
    pub const DONE: u32 = 1 << 0;
    /// Status: the packet ends in it.
    pub const END: u32 = 1 << 1;
    /// The errors of a received packet in the status word; those of offloaded checksums are not among them.
    pub const ERRORS: u32 = 0b1001_0111 << 8;
    /// The word of length and command of a packet to be sent that is in one piece: it ends here, the controller adds
    /// its check sequence and reports when it is done.
    pub const SEND: u32 = (1 << 0 | 1 << 1 | 1 << 3) << 24;
}
