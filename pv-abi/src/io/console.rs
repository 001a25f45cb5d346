//! The console ring (`io/console.h`): one page with two byte streams.
//!
//! Positions run freely over 32 bits; the byte is the position modulo the size. `in` is from the back end to the
//! guest, `out` from the guest to the back end.

/// Size of the stream to the guest.
pub const IN_SIZE: u32 = 1024;
/// Size of the stream from the guest.
pub const OUT_SIZE: u32 = 2048;
/// Offset of the stream to the guest (`in`).
pub const IN: usize = 0;
/// Offset of the stream from the guest (`out`).
pub const OUT: usize = 1024;
/// Offset of `in_cons`.
pub const IN_CONS: usize = 3072;
/// Offset of `in_prod`.
pub const IN_PROD: usize = 3076;
/// Offset of `out_cons`.
pub const OUT_CONS: usize = 3080;
/// Offset of `out_prod`.
pub const OUT_PROD: usize = 3084;
/// Size of `struct xencons_interface`.
pub const INTERFACE_SIZE: usize = 3088;
