//! What the lists are made of.

use pv_abi::grant::GrantStatus;
use pv_abi::{DomainId, Errno, GrantRef, Virq};

/// A structure of the crate and the C type that it is.
pub struct Struct {
    /// Path within the crate.
    pub path: String,
    /// C type.
    pub c: &'static str,
    /// Rust's size.
    pub size: usize,
    /// Rust's alignment.
    pub align: usize,
    /// Its fields.
    pub fields: Vec<Field>,
}

/// A field of it.
pub struct Field {
    /// Rust's name.
    pub name: &'static str,
    /// C's member.
    pub c: &'static str,
    /// Rust's offset.
    pub offset: usize,
    /// Rust's size.
    pub size: usize,
}

/// A constant of the crate and the C expression that it is.
pub struct Const {
    /// Path within the crate.
    pub path: String,
    /// C expression.
    pub c: &'static str,
    /// Rust's value.
    pub value: u64,
}

/// Anything that is a number, as C would widen it.
pub trait Number {
    /// The number.
    fn number(self) -> u64;
}

macro_rules! numbers {
    ($($from:ty),*) => {$(
        impl Number for $from {
            fn number(self) -> u64 {
                self as i128 as u64
            }
        }
    )*};
}
numbers!(u8, u16, u32, u64, usize, i16, i32);

macro_rules! wrapped {
    ($($from:ty: $get:ident),* $(,)?) => {$(
        impl Number for $from {
            fn number(self) -> u64 {
                self.$get() as i128 as u64
            }
        }
    )*};
}
wrapped!(
    DomainId: raw,
    Virq: raw,
    GrantRef: raw,
    GrantStatus: raw,
    Errno: code,
    pv_abi::grant::GrantFlags: bits,
    pv_abi::grant::MapFlags: bits,
    pv_abi::grant::CopyFlags: bits,
    pv_abi::vcpu::TimerFlags: bits,
    pv_abi::physdev::IrqStatus: bits,
    pv_abi::physdev::PciDeviceFlags: bits,
    pv_abi::version::Features: bits,
    pv_abi::cpuid::HvmFeatures: bits,
    pv_abi::io::xenbus::XenbusState: raw,
);

/// Size of the field that a projection reaches.
pub fn field_size<T, F>(_: fn(*const T) -> *const F) -> usize {
    size_of::<F>()
}

/// The last of some names: a field's C member if it was given, else its own name.
pub fn last(names: &[&'static str]) -> &'static str {
    names.last().copied().unwrap_or_default()
}

/// A path without the spaces that `stringify!` may put in.
pub fn path(text: &str) -> String {
    text.chars().filter(|character| !character.is_whitespace()).collect()
}

/// Lists structures.
#[macro_export]
macro_rules! structs {
    ($($path:path = $c:literal { $($field:ident $(as $member:literal)?),* $(,)? })*) => {
        vec![$({
            use pv_abi::*;
            $crate::entry::Struct {
                path: $crate::entry::path(stringify!($path)),
                c: $c,
                size: size_of::<$path>(),
                align: align_of::<$path>(),
                fields: vec![$($crate::entry::Field {
                    name: stringify!($field),
                    c: $crate::entry::last(&[stringify!($field), $($member)?]),
                    offset: std::mem::offset_of!($path, $field),
                    // SAFETY: the projection is never called.
                    size: $crate::entry::field_size::<$path, _>(|place| unsafe { &raw const (*place).$field }),
                }),*],
            }
        }),*]
    };
}

/// Lists constants.
#[macro_export]
macro_rules! consts {
    ($($path:path = $c:literal)*) => {
        vec![$({
            #[allow(unused_imports)]
            use pv_abi::{*, ids::*, errno::*};
            $crate::entry::Const {
                path: $crate::entry::path(stringify!($path)),
                c: $c,
                value: $crate::entry::Number::number($path),
            }
        }),*]
    };
}
