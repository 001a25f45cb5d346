//! Numbers of the registers: the offset in the page divided by 16, which is also the offset from MSR 800h.

pub(super) const ID: u8 = 0x02;
pub(super) const VERSION: u8 = 0x03;
pub(super) const TPR: u8 = 0x08;
pub(super) const APR: u8 = 0x09;
pub(super) const PPR: u8 = 0x0a;
pub(super) const EOI: u8 = 0x0b;
pub(super) const RRD: u8 = 0x0c;
pub(super) const LDR: u8 = 0x0d;
pub(super) const DFR: u8 = 0x0e;
pub(super) const SVR: u8 = 0x0f;
pub(super) const ISR: u8 = 0x10;
pub(super) const TMR: u8 = 0x18;
pub(super) const IRR: u8 = 0x20;
pub(super) const ESR: u8 = 0x28;
pub(super) const ICR: u8 = 0x30;
pub(super) const ICR_HIGH: u8 = 0x31;
pub(super) const LVT_TIMER: u8 = 0x32;
pub(super) const LVT_ERROR: u8 = 0x37;
pub(super) const INITIAL_COUNT: u8 = 0x38;
pub(super) const CURRENT_COUNT: u8 = 0x39;
pub(super) const DIVIDE: u8 = 0x3e;
pub(super) const SELF_IPI: u8 = 0x3f;

/// Bit of an LVT entry: masked.
pub(super) const LVT_MASKED: u32 = 1 << 16;
/// Bit of SVR: the APIC is enabled by software.
pub(super) const SVR_ENABLED: u32 = 1 << 8;
/// Bit of ESR: a message with a vector below 16 was to be sent.
pub(super) const ESR_SEND_ILLEGAL: u32 = 1 << 5;
/// Bit of ESR: an interrupt with a vector below 16 was received.
pub(super) const ESR_RECEIVED_ILLEGAL: u32 = 1 << 6;
/// Bit of ESR: a register that does not exist was touched.
pub(super) const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

/// How many LVT entries there are: timer, thermal, performance, LINT0, LINT1, error.
pub(super) const LVT_COUNT: usize = 6;
/// What can be written in each of them.
pub(super) const LVT_WRITABLE: [u32; LVT_COUNT] =
    [0x0007_00ff, 0x0001_07ff, 0x0001_07ff, 0x0001_a7ff, 0x0001_a7ff, 0x0001_00ff];

/// Those of which the page has a copy for the guest to read.
pub(super) const COPIED: [u8; 16] = [
    ID,
    VERSION,
    LDR,
    DFR,
    SVR,
    ESR,
    ICR,
    ICR_HIGH,
    0x32,
    0x33,
    0x34,
    0x35,
    0x36,
    0x37,
    INITIAL_COUNT,
    DIVIDE,
];
