//! The hypervisor's side of the kinds of argument: copied in and checked before the handler, copied out after it.

use super::cx::Cx;
use crate::hw::Platform;
use core::marker::PhantomData;
use pv_abi::call::args::{Arg, Array, Buffer, In, InOut, Out, Ptr, Scalar, Text, Word};
use pv_abi::errno::{Errno, Result};
use pv_abi::ids::GuestVirt;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// How a kind of argument reaches a handler.
pub(super) trait Decode: Arg {
    /// What is kept of it during the call.
    type Value;
    /// What the handler gets.
    type Handed<'a>
    where
        Self: 'a;

    /// Copies it in, from the registers at `at` on.
    fn decode<P: Platform>(cx: &mut Cx<'_, P>, at: usize) -> Result<Self::Value>;

    /// Hands it to the handler.
    fn hand(value: &mut Self::Value) -> Self::Handed<'_>;

    /// Copies it out.
    #[inline(always)]
    fn commit<P: Platform>(value: &Self::Value, cx: &mut Cx<'_, P>) -> Result<()> {
        let _ = (value, cx);
        Ok(())
    }
}

#[inline(always)]
fn pointer<P: Platform>(cx: &Cx<'_, P>, at: usize) -> GuestVirt {
    GuestVirt::new(cx.word(at))
}

impl<V: Scalar + Copy + 'static> Decode for Word<V> {
    type Value = V;
    type Handed<'a> = V;

    #[inline(always)]
    fn decode<P: Platform>(cx: &mut Cx<'_, P>, at: usize) -> Result<V> {
        V::from_word(cx.word(at)).ok_or(Errno::EINVAL)
    }

    #[inline(always)]
    fn hand(value: &mut V) -> V {
        *value
    }
}

impl Decode for Ptr {
    type Value = GuestVirt;
    type Handed<'a> = GuestVirt;

    #[inline(always)]
    fn decode<P: Platform>(cx: &mut Cx<'_, P>, at: usize) -> Result<GuestVirt> {
        Ok(pointer(cx, at))
    }

    #[inline(always)]
    fn hand(value: &mut GuestVirt) -> GuestVirt {
        *value
    }
}

impl<V: FromBytes + IntoBytes + Immutable + 'static> Decode for In<V> {
    type Value = V;
    type Handed<'a> = &'a V;

    #[inline(always)]
    fn decode<P: Platform>(cx: &mut Cx<'_, P>, at: usize) -> Result<V> {
        let place = pointer(cx, at);
        cx.guest(|memory| memory.read(place))
    }

    #[inline(always)]
    fn hand(value: &mut V) -> &V {
        value
    }
}

impl<V: FromBytes + IntoBytes + Immutable + 'static> Decode for InOut<V> {
    type Value = (V, GuestVirt);
    type Handed<'a> = &'a mut V;

    #[inline(always)]
    fn decode<P: Platform>(cx: &mut Cx<'_, P>, at: usize) -> Result<(V, GuestVirt)> {
        let place = pointer(cx, at);
        // Probed for writing first: the read then finds the translation.
        let value = cx.guest(|memory| {
            memory.check_write(place, size_of::<V>() as u64)?;
            memory.read(place)
        })?;
        Ok((value, place))
    }

    #[inline(always)]
    fn hand(value: &mut (V, GuestVirt)) -> &mut V {
        &mut value.0
    }

    #[inline(always)]
    fn commit<P: Platform>(value: &(V, GuestVirt), cx: &mut Cx<'_, P>) -> Result<()> {
        cx.guest(|memory| memory.write(value.1, &value.0))
    }
}

impl<V: FromBytes + IntoBytes + Immutable + 'static> Decode for Out<V> {
    type Value = (V, GuestVirt);
    type Handed<'a> = &'a mut V;

    #[inline(always)]
    fn decode<P: Platform>(cx: &mut Cx<'_, P>, at: usize) -> Result<(V, GuestVirt)> {
        let place = pointer(cx, at);
        cx.guest(|memory| memory.check_write(place, size_of::<V>() as u64))?;
        Ok((V::new_zeroed(), place))
    }

    #[inline(always)]
    fn hand(value: &mut (V, GuestVirt)) -> &mut V {
        &mut value.0
    }

    #[inline(always)]
    fn commit<P: Platform>(value: &(V, GuestVirt), cx: &mut Cx<'_, P>) -> Result<()> {
        cx.guest(|memory| memory.write(value.1, &value.0))
    }
}

/// An array in guest memory, of which the handler copies a part at a time.
#[derive(Debug)]
pub(super) struct GuestArray<V> {
    /// Where it is.
    pub at: GuestVirt,
    /// How many elements it has.
    pub count: u32,
    kind: PhantomData<V>,
}

impl<V> Clone for GuestArray<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for GuestArray<V> {}

impl<V: FromBytes + IntoBytes + Immutable + 'static> Decode for Array<V> {
    type Value = GuestArray<V>;
    type Handed<'a> = GuestArray<V>;

    #[inline(always)]
    fn decode<P: Platform>(cx: &mut Cx<'_, P>, at: usize) -> Result<GuestArray<V>> {
        let count = u32::try_from(cx.word(at + 1)).map_err(|_| Errno::EINVAL)?;
        Ok(GuestArray { at: pointer(cx, at), count, kind: PhantomData })
    }

    #[inline(always)]
    fn hand(value: &mut GuestArray<V>) -> GuestArray<V> {
        *value
    }
}

/// Bytes in guest memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct GuestBytes {
    /// Where they are.
    pub at: GuestVirt,
    /// How many.
    pub len: u32,
}

/// Both kinds of bytes: their number comes first.
fn bytes<P: Platform>(cx: &Cx<'_, P>, at: usize) -> Result<GuestBytes> {
    let len = u32::try_from(cx.word(at)).map_err(|_| Errno::EINVAL)?;
    Ok(GuestBytes { at: pointer(cx, at + 1), len })
}

macro_rules! bytes {
    ($($kind:ident)*) => {$(
        impl Decode for $kind {
            type Value = GuestBytes;
            type Handed<'a> = GuestBytes;

            fn decode<P: Platform>(cx: &mut Cx<'_, P>, at: usize) -> Result<GuestBytes> {
                bytes(cx, at)
            }

            fn hand(value: &mut GuestBytes) -> GuestBytes {
                *value
            }
        }
    )*};
}

bytes!(Text Buffer);
