//! Kinds of argument: how many registers each takes, and how the guest's side fills them.
//!
//! The hypervisor's side of the same kinds is in its dispatcher. Structures travel by address; the guest lends them for
//! the time of the call.

use crate::ids::{DomainId, Gfn, GuestVirt, Pirq, Port, VcpuId};
use crate::transport::{Transport, Words};
use core::marker::PhantomData;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Fills the argument registers in order.
#[derive(Debug)]
pub struct Packer {
    words: Words,
    next: usize,
}

impl Packer {
    /// Starts with the sub-operation, if the call has one.
    #[inline(always)]
    pub const fn new(sub: Option<u64>) -> Self {
        match sub {
            Some(sub) => Self { words: [sub, 0, 0, 0, 0], next: 1 },
            None => Self { words: [0; 5], next: 0 },
        }
    }

    /// Index of the next free register.
    #[inline(always)]
    pub const fn next(&self) -> usize {
        self.next
    }

    /// Fills the next register. The table's own check keeps a call within five.
    #[inline(always)]
    pub const fn push(&mut self, word: u64) {
        self.words[self.next] = word;
        self.next += 1;
    }

    /// The registers.
    #[inline(always)]
    pub const fn words(&self) -> &Words {
        &self.words
    }
}

/// A kind of argument.
pub trait Arg {
    /// Registers that it takes.
    const WORDS: usize;
    /// What the guest's function takes for it.
    type Param<'a>;

    /// Fills the registers.
    fn pack<T: Transport + ?Sized>(param: &mut Self::Param<'_>, transport: &T, packer: &mut Packer);

    /// Takes back what was lent at register `first`.
    #[inline(always)]
    fn collect<T: Transport + ?Sized>(param: Self::Param<'_>, transport: &T, words: &Words, first: usize) {
        let _ = (param, transport, words, first);
    }
}

/// A value that fits a register.
pub trait Scalar: Sized {
    /// As the register holds it.
    fn into_word(self) -> u64;
    /// From a register; `None` when the value does not fit.
    fn from_word(word: u64) -> Option<Self>;
}

impl Scalar for u64 {
    #[inline(always)]
    fn into_word(self) -> u64 {
        self
    }
    #[inline(always)]
    fn from_word(word: u64) -> Option<Self> {
        Some(word)
    }
}

impl Scalar for u32 {
    #[inline(always)]
    fn into_word(self) -> u64 {
        u64::from(self)
    }
    #[inline(always)]
    fn from_word(word: u64) -> Option<Self> {
        u32::try_from(word).ok()
    }
}

macro_rules! scalars {
    ($($id:ident: $raw:ty),*) => {$(
        impl Scalar for $id {
            #[inline(always)]
            fn into_word(self) -> u64 {
                u64::from(self.raw())
            }
            #[inline(always)]
            fn from_word(word: u64) -> Option<Self> {
                <$raw>::try_from(word).ok().map(Self::new)
            }
        }
    )*};
}
scalars!(DomainId: u16, VcpuId: u32, Port: u32, Pirq: u32, GuestVirt: u64, Gfn: u64);

/// A value in a register.
#[derive(Debug)]
pub struct Word<V>(PhantomData<V>);

impl<V: Scalar + Copy> Arg for Word<V> {
    const WORDS: usize = 1;
    type Param<'a> = V;

    #[inline(always)]
    fn pack<T: Transport + ?Sized>(param: &mut V, _transport: &T, packer: &mut Packer) {
        packer.push((*param).into_word());
    }
}

/// The address of something that the call itself reads or writes, in ways the table cannot say.
#[derive(Debug)]
pub struct Ptr(());

impl Arg for Ptr {
    const WORDS: usize = 1;
    type Param<'a> = GuestVirt;

    #[inline(always)]
    fn pack<T: Transport + ?Sized>(param: &mut GuestVirt, _transport: &T, packer: &mut Packer) {
        packer.push(param.raw());
    }
}

/// A structure that the hypervisor reads.
#[derive(Debug)]
pub struct In<V>(PhantomData<V>);

impl<V: IntoBytes + Immutable + 'static> Arg for In<V> {
    const WORDS: usize = 1;
    type Param<'a> = &'a V;

    #[inline(always)]
    fn pack<T: Transport + ?Sized>(param: &mut &V, transport: &T, packer: &mut Packer) {
        packer.push(transport.lend(param.as_bytes()));
    }
}

/// A structure that the hypervisor reads and, on success, writes.
#[derive(Debug)]
pub struct InOut<V>(PhantomData<V>);

impl<V: IntoBytes + FromBytes + 'static> Arg for InOut<V> {
    const WORDS: usize = 1;
    type Param<'a> = &'a mut V;

    #[inline(always)]
    fn pack<T: Transport + ?Sized>(param: &mut &mut V, transport: &T, packer: &mut Packer) {
        packer.push(transport.lend_mut(param.as_mut_bytes()));
    }

    #[inline(always)]
    fn collect<T: Transport + ?Sized>(param: &mut V, transport: &T, words: &Words, first: usize) {
        transport.take_back(words[first], param.as_mut_bytes());
    }
}

/// A structure that the hypervisor writes on success.
#[derive(Debug)]
pub struct Out<V>(PhantomData<V>);

impl<V: IntoBytes + FromBytes + 'static> Arg for Out<V> {
    const WORDS: usize = 1;
    type Param<'a> = &'a mut V;

    #[inline(always)]
    fn pack<T: Transport + ?Sized>(param: &mut &mut V, transport: &T, packer: &mut Packer) {
        packer.push(transport.lend_mut(param.as_mut_bytes()));
    }

    #[inline(always)]
    fn collect<T: Transport + ?Sized>(param: &mut V, transport: &T, words: &Words, first: usize) {
        transport.take_back(words[first], param.as_mut_bytes());
    }
}

/// An array of structures, each read and written: its address, then its length.
#[derive(Debug)]
pub struct Array<V>(PhantomData<V>);

impl<V: IntoBytes + FromBytes + 'static> Arg for Array<V> {
    const WORDS: usize = 2;
    type Param<'a> = &'a mut [V];

    #[inline(always)]
    fn pack<T: Transport + ?Sized>(param: &mut &mut [V], transport: &T, packer: &mut Packer) {
        let count = param.len() as u64;
        packer.push(transport.lend_mut(param.as_mut_bytes()));
        packer.push(count);
    }

    #[inline(always)]
    fn collect<T: Transport + ?Sized>(param: &mut [V], transport: &T, words: &Words, first: usize) {
        transport.take_back(words[first], param.as_mut_bytes());
    }
}

/// Bytes that the hypervisor reads: their number, then their address.
#[derive(Debug)]
pub struct Text(());

impl Arg for Text {
    const WORDS: usize = 2;
    type Param<'a> = &'a [u8];

    #[inline(always)]
    fn pack<T: Transport + ?Sized>(param: &mut &[u8], transport: &T, packer: &mut Packer) {
        packer.push(param.len() as u64);
        packer.push(transport.lend(param));
    }
}

/// Bytes that the hypervisor writes: their number, then their address.
#[derive(Debug)]
pub struct Buffer(());

impl Arg for Buffer {
    const WORDS: usize = 2;
    type Param<'a> = &'a mut [u8];

    #[inline(always)]
    fn pack<T: Transport + ?Sized>(param: &mut &mut [u8], transport: &T, packer: &mut Packer) {
        packer.push(param.len() as u64);
        packer.push(transport.lend_mut(param));
    }

    #[inline(always)]
    fn collect<T: Transport + ?Sized>(param: &mut [u8], transport: &T, words: &Words, first: usize) {
        transport.take_back(words[first + 1], param);
    }
}
