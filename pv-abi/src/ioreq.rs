//! Accesses of a guest that another domain emulates (`xen/hvm/ioreq.h`).
//!
//! A page holds one record for each vCPU of the guest, by number. The hypervisor fills the record of a vCPU that
//! stopped and makes it [`state::READY`]; the emulator does what it says, puts what was read into [`Ioreq::data`] and
//! makes it [`state::ANSWERED`]. How the page is handed over and how the two call each other is in
//! [`crate::control::Emulate`].

use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Who has a record (`STATE_*`).
pub mod state {
    /// Nobody: there is no access.
    pub const NONE: u32 = 0;
    /// The emulator: an access waits (`STATE_IOREQ_READY`).
    pub const READY: u32 = 1;
    /// The emulator, which has begun (`STATE_IOREQ_INPROCESS`).
    pub const BEGUN: u32 = 2;
    /// The hypervisor: the access is done (`STATE_IORESP_READY`).
    pub const ANSWERED: u32 = 3;
}

/// Place of the state in the control word.
pub const STATE_SHIFT: u32 = 16;
/// The state's bits in the control word.
pub const STATE_MASK: u32 = 0xf << STATE_SHIFT;
/// The guest reads: a bit of the control word.
pub const READ: u32 = 1 << 21;
/// Place of the kind of access in the control word.
pub const TYPE_SHIFT: u32 = 24;
/// The kind: an I/O port. No other is used here.
pub const TYPE_PIO: u32 = 0;

/// One access (`struct ioreq`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ioreq {
    /// The port.
    pub addr: u64,
    /// What is written, or was read.
    pub data: u64,
    /// Repetitions: always 1 here.
    pub count: u32,
    /// Width in bytes: 1, 2 or 4.
    pub size: u32,
    /// Unused here: the emulator has one event channel for all vCPUs.
    pub vp_eport: u32,
    /// The header's bit fields: state, direction and kind.
    control: u32,
}
const_assert_eq!(size_of::<Ioreq>(), 32);

impl Ioreq {
    /// Offset of the control word, which hands a record over.
    pub const CONTROL: u64 = 28;

    /// An access to an I/O port of so many bytes, a write if there is a value, in the state [`state::NONE`].
    pub fn port(port: u16, bytes: u8, value: Option<u32>) -> Self {
        let direction = if value.is_none() { READ } else { 0 };
        Self {
            addr: port.into(),
            data: value.unwrap_or(0).into(),
            count: 1,
            size: bytes.into(),
            vp_eport: 0,
            control: TYPE_PIO << TYPE_SHIFT | direction,
        }
    }

    /// The control word: state, direction and kind.
    pub const fn control(&self) -> u32 {
        self.control
    }

    /// The same record in another state.
    #[must_use]
    pub const fn in_state(self, state: u32) -> Self {
        Self { control: Self::with_state(self.control, state), ..self }
    }

    /// The state in a control word: see [`state`].
    pub const fn state(control: u32) -> u32 {
        (control & STATE_MASK) >> STATE_SHIFT
    }

    /// A control word with another state.
    pub const fn with_state(control: u32, state: u32) -> u32 {
        control & !STATE_MASK | state << STATE_SHIFT & STATE_MASK
    }
}
