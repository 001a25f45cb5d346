//! The width of the messages: front ends of 32-bit kernels leave no gap before the id.

use core::mem::offset_of;

use pv_abi::ia32::blkif as narrow;
use pv_abi::io::blkif::{self, DiscardRequest, IndirectRequest, Request, Response, key};
use zerocopy::{FromZeros, IntoBytes};

use crate::platform::SharedMemory;
use crate::ring::{BackRing, RingFull};

/// How a front end lays out its messages (`protocol` in XenStore).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dialect {
    /// `x86_64-abi`, and those that say nothing.
    Bits64,
    /// `x86_32-abi`.
    Bits32,
}

/// Bytes before the gap.
const HEAD: usize = 4;
/// Bytes of the gap that 64-bit messages have.
const GAP: usize = 4;

// Behind the head, each field is where the gap puts it.
const _: () = {
    assert!(offset_of!(narrow::Request, id) + GAP == offset_of!(Request, id));
    assert!(offset_of!(narrow::Request, sector_number) + GAP == offset_of!(Request, sector_number));
    assert!(offset_of!(narrow::Request, seg) + GAP == offset_of!(Request, seg));
    assert!(offset_of!(narrow::DiscardRequest, id) + GAP == offset_of!(DiscardRequest, id));
    assert!(offset_of!(narrow::DiscardRequest, nr_sectors) + GAP == offset_of!(DiscardRequest, nr_sectors));
    assert!(offset_of!(narrow::IndirectRequest, handle) + GAP == offset_of!(IndirectRequest, handle));
    assert!(
        offset_of!(narrow::IndirectRequest, indirect_grefs) + GAP
            == offset_of!(IndirectRequest, indirect_grefs)
    );
};

impl Dialect {
    /// By the value of `protocol`; `None` for one that is not known.
    pub fn named(protocol: Option<&str>) -> Option<Self> {
        match protocol {
            None | Some(key::PROTOCOL_X86_64) => Some(Self::Bits64),
            Some(key::PROTOCOL_X86_32) => Some(Self::Bits32),
            Some(_) => None,
        }
    }

    /// Bytes in a slot of the ring.
    pub const fn slot_size(self) -> usize {
        match self {
            Self::Bits64 => blkif::SLOT_SIZE,
            Self::Bits32 => size_of::<narrow::Request>(),
        }
    }

    /// Takes the next request. The caller has checked that there is one.
    pub fn take<M: SharedMemory>(self, ring: &mut BackRing<M>) -> Request {
        match self {
            Self::Bits64 => ring.take(),
            Self::Bits32 => {
                let request: narrow::Request = ring.take();
                let mut wide = Request::new_zeroed();
                let (head, rest) = request.as_bytes().split_at(HEAD);
                let (wide_head, wide_rest) = wide.as_mut_bytes().split_at_mut(HEAD + GAP);
                wide_head.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
                wide_rest.copy_from_slice(rest);
                wide
            }
        }
    }

    /// Writes a response.
    pub fn push<M: SharedMemory>(self, ring: &mut BackRing<M>, response: &Response) -> Result<(), RingFull> {
        match self {
            Self::Bits64 => ring.push(response),
            Self::Bits32 => {
                let Response { id, operation, status, .. } = *response;
                ring.push(&narrow::Response { id: id.into(), operation, pad0: 0, status })
            }
        }
    }
}
