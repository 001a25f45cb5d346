//! Hypercalls: numbers, the table of all calls, and what is made from it.
//!
//! [`for_each_hypercall!`](crate::for_each_hypercall) is the only place in which a call is declared. From it come
//! [`Call`] and [`ROWS`] here, the guest's functions in [`stub`], the hypervisor's dispatcher, the names in traces and
//! counters, and the reference page of the documentation. A number used twice does not compile (`unique` below), nor
//! does a row for which the dispatcher finds no handler.

pub mod args;
pub mod elsewhere;
pub mod number;
mod table;

use crate::errno::Errno;
use args::{Arg, Array, Buffer, In, InOut, Out, Ptr, Text, Word};
use core::fmt;
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Who may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// Every domain.
    Guest,
    /// Domains with the role `driver`.
    Driver,
    /// Domains with the role `control`.
    Control,
    /// Domains with the role `store`.
    Store,
}

/// One argument of a call, for documentation.
#[derive(Clone, Copy, Debug)]
pub struct ArgInfo {
    /// Its name.
    pub name: &'static str,
    /// How it is passed, as Rust writes it: `In<event::Send>`.
    pub kind: &'static str,
    /// How many registers it takes.
    pub words: usize,
}

/// What the table says of one call.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Which call.
    pub call: Call,
    /// Name in traces, counters and stubs.
    pub name: &'static str,
    /// Number, in RAX.
    pub number: u64,
    /// Sub-operation, in RDI; `None` when the call has none and RDI holds the first argument.
    pub sub: Option<u64>,
    /// Who may make it.
    pub privilege: Privilege,
    /// Arguments, from RDI or RSI on.
    pub args: &'static [ArgInfo],
    /// Errors it is known to return, besides `ENOSYS`, `EFAULT` and `EPERM`.
    pub errors: &'static [Errno],
    /// What it does.
    pub doc: &'static [&'static str],
}

/// One call of a `multicall` (`struct multicall_entry`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MulticallEntry {
    /// Its number, as in RAX.
    pub op: u64,
    /// Out: what it returned.
    pub result: u64,
    /// Its arguments; the last one is unused.
    pub args: [u64; 6],
}
const_assert_eq!(size_of::<MulticallEntry>(), 64);

/// Marks a call without sub-operations.
pub const ANY: u64 = u64::MAX;

/// Numbers and sub-operations are below this.
const LIMIT: usize = 64;

#[allow(clippy::cast_possible_truncation)] // below 2^12
const fn key(number: u64, sub: u64) -> u16 {
    assert!(number < LIMIT as u64, "number out of range");
    assert!(sub == ANY || sub < LIMIT as u64, "sub-operation out of range");
    (number * LIMIT as u64 + if sub == ANY { 0 } else { sub }) as u16
}

macro_rules! declare {
    ($(
        $(#[doc = $doc:literal])+
        $variant:ident, $name:ident, $number:expr, $sub:expr, $privilege:ident,
        ($($arg:ident: $kind:ty),*), [$($errno:ident),*];
    )*) => {
        /// A call of the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Call {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl Call {
            /// Number of calls.
            pub const COUNT: usize = ROWS.len();
        }

        /// The table, in the order of [`Call`].
        pub static ROWS: &[Row] = &[$(Row {
            call: Call::$variant,
            name: stringify!($name),
            number: $number,
            sub: if $sub == ANY { None } else { Some($sub) },
            privilege: Privilege::$privilege,
            args: &[$(ArgInfo {
                name: stringify!($arg),
                kind: stringify!($kind),
                words: <$kind as Arg>::WORDS,
            }),*],
            errors: &[$(Errno::$errno),*],
            doc: &[$($doc),+],
        }),*];

        /// Number and sub-operation of every call, for the index.
        const KEYS: &[(u64, u64, Call)] = &[$(($number, $sub, Call::$variant)),*];

        /// Does not compile when two rows share a number: the discriminants would be equal.
        #[allow(dead_code, clippy::enum_variant_names)]
        #[repr(u16)]
        enum Unique {
            $($variant = key($number, $sub),)*
        }

        const _: () = {
            $(assert!(
                0 $(+ <$kind as Arg>::WORDS)* + if $sub == ANY { 0 } else { 1 } <= 5,
                "a call has five argument registers"
            );)*
        };

        /// The guest's functions, one a call.
        pub mod stub {
            use super::args::{Arg, Array, Buffer, In, InOut, Out, Packer, Ptr, Text, Word};
            use crate::errno::{Errno, Result};
            use crate::transport::Transport;
            #[allow(unused_imports)]
            use super::ANY;

            $(
                $(#[doc = $doc])+
                #[inline]
                pub fn $name<T: Transport + ?Sized>(
                    transport: &T,
                    $(mut $arg: <$kind as Arg>::Param<'_>),*
                ) -> Result<u64> {
                    #[allow(unused_mut)]
                    let mut packer = Packer::new(if $sub == ANY { None } else { Some($sub) });
                    $(let lent = packer.next(); <$kind as Arg>::pack(&mut $arg, transport, &mut packer); let $arg = ($arg, lent);)*
                    let result = transport.call($number, packer.words());
                    $(<$kind as Arg>::collect($arg.0, transport, packer.words(), $arg.1);)*
                    Errno::from_return(result)
                }
            )*
        }
    };
}

crate::for_each_hypercall!(declare);

/// Index of the table by number and sub-operation.
#[allow(clippy::cast_possible_truncation)] // below 64
static INDEX: [[Option<Call>; LIMIT]; LIMIT] = {
    let mut index = [[None; LIMIT]; LIMIT];
    let mut row = 0;
    while row < KEYS.len() {
        let (number, sub, call) = KEYS[row];
        if sub == ANY {
            let mut any = 0;
            while any < LIMIT {
                index[number as usize][any] = Some(call);
                any += 1;
            }
        } else {
            index[number as usize][sub as usize] = Some(call);
        }
        row += 1;
    }
    index
};

/// Bit per number whose calls have no sub-operation.
const PLAIN: u64 = {
    let mut plain = 0;
    let mut row = 0;
    while row < KEYS.len() {
        if KEYS[row].1 == ANY {
            plain |= 1 << KEYS[row].0;
        }
        row += 1;
    }
    plain
};

impl Call {
    /// Finds the call that RAX and RDI name.
    #[inline]
    pub fn decode(number: u64, first: u64) -> Option<Self> {
        let row = INDEX.get(usize::try_from(number).ok()?)?;
        match row.get(usize::try_from(first).ok()?) {
            Some(call) => *call,
            None => Self::without_sub(number),
        }
    }

    /// The call of this number if it has no sub-operations: it stands in all of its row, which is looked at first.
    #[cold]
    #[inline(never)]
    fn without_sub(number: u64) -> Option<Self> {
        if PLAIN >> (number & 63) & 1 == 0 {
            return None;
        }
        *INDEX.get(usize::try_from(number).ok()?)?.first()?
    }

    /// What the table says of it.
    #[inline]
    pub fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// Its name in traces, counters and stubs.
    #[inline]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The call with this place in the table.
    #[inline]
    pub fn from_index(index: usize) -> Option<Self> {
        ROWS.get(index).map(|row| row.call)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
