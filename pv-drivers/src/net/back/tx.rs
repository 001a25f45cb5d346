//! From slots of the transmit ring to a checked packet.

use alloc::string::String;
use core::fmt;

use pv_abi::ids::{DomainId, GrantRef};
use pv_abi::io::netif::{self, ExtraInfo, TxRequest};
use smallvec::{SmallVec, smallvec};
use zerocopy::FromBytes;

use super::super::{ETHERNET_HEADER, Gso, Offload};
use super::PEEK;
use crate::platform::{CopyEnd, PAGE_SIZE, SharedMemory};
use crate::ring::{BackRing, RingFault};

/// A slot of the transmit ring, copied once.
type Slot = [u8; netif::TX_SLOT_SIZE];

/// Extras in one packet: one of each kind.
const EXTRAS_MAX: usize = netif::EXTRA_TYPE_MAX as usize - 1;

/// How a guest broke the rules of the transmit ring. After any of them the slots cannot be told apart any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum TxFault {
    Ring(RingFault),
    /// A piece crosses the end of its page.
    CrossesPage {
        offset: u16,
        size: u16,
    },
    /// A packet goes on in slots that are not there.
    Unfinished,
    TooManyPieces,
    /// Pieces are longer than the packet.
    Lengths,
    Extra(u8),
    Gso {
        kind: u8,
        size: u16,
    },
}

impl fmt::Display for TxFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(fault) => fault.fmt(f),
            Self::CrossesPage { offset, size } => {
                write!(f, "a piece of {size} bytes at {offset} crosses the end of its page")
            }
            Self::Unfinished => f.write_str("a packet goes on in slots that are not there"),
            Self::TooManyPieces => f.write_str("a packet in too many pieces"),
            Self::Lengths => f.write_str("the pieces of a packet are longer than the packet"),
            Self::Extra(kind) => write!(f, "an extra of kind {kind}"),
            Self::Gso { kind, size } => write!(f, "segments of kind {kind} and {size} bytes"),
        }
    }
}

/// A run of bytes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct Piece {
    pub end: CopyEnd,
    pub len: usize,
}

/// Pieces of a packet; most have one or two, which need no memory of their own.
pub(in super::super) type Pieces = SmallVec<[Piece; 2]>;
/// What is to be answered: ids, and extras without one.
pub(in super::super) type Ids = SmallVec<[Option<u16>; 4]>;

/// A packet on its way. The first bytes are private, so that nothing that was decided by them can change.
pub(in super::super) struct Packet {
    /// A private copy of the first bytes.
    pub header: SmallVec<[u8; PEEK]>,
    /// The same bytes in memory that can be copied from, and that only we can reach.
    pub header_source: CopyEnd,
    /// What follows.
    pub body: Pieces,
    pub len: usize,
    pub offload: Offload,
}

/// A packet as the ring describes it.
pub(super) struct Parsed {
    pub ids: Ids,
    pub pieces: Pieces,
    pub len: usize,
    pub offload: Offload,
    /// Malformed, but the slots are well-formed.
    pub is_bad: Option<&'static str>,
}

fn request<M: SharedMemory>(ring: &mut BackRing<M>, left: &mut u32) -> Result<Slot, TxFault> {
    *left = left.checked_sub(1).ok_or(TxFault::Unfinished)?;
    Ok(ring.take())
}

/// Takes one packet off the ring; `pending` slots are known to be there.
pub(super) fn parse<M: SharedMemory>(
    ring: &mut BackRing<M>,
    pending: &mut u32,
    peer: DomainId,
) -> Result<Parsed, TxFault> {
    let read = |slot: Slot| TxRequest::read_from_bytes(&slot[..]).map_err(|_| TxFault::Unfinished);
    let first = read(request(ring, pending)?)?;
    let mut parsed = Parsed {
        ids: smallvec![Some(first.id)],
        pieces: Pieces::new(),
        len: first.size.into(),
        offload: Offload {
            csum_blank: first.flags & netif::TX_CSUM_BLANK != 0,
            validated: first.flags & (netif::TX_DATA_VALIDATED | netif::TX_CSUM_BLANK) != 0,
            gso: None,
        },
        is_bad: None,
    };
    let mut more_extras = first.flags & netif::TX_EXTRA_INFO != 0;
    while more_extras {
        let slot = request(ring, pending)?;
        if parsed.ids.len() > EXTRAS_MAX {
            return Err(TxFault::TooManyPieces);
        }
        parsed.ids.push(None);
        let extra = ExtraInfo::read_from_prefix(&slot).map_err(|_| TxFault::Unfinished)?.0;
        more_extras = extra.flags & netif::EXTRA_FLAG_MORE != 0;
        take_extra(&extra, &mut parsed)?;
    }
    // The first request names the whole size; its own is what the others leave.
    let mut rest: SmallVec<[TxRequest; 2]> = SmallVec::new();
    let mut more = first.flags & netif::TX_MORE_DATA != 0;
    while more {
        let next = read(request(ring, pending)?)?;
        if rest.len() + 1 >= netif::NR_SLOTS_MIN {
            return Err(TxFault::TooManyPieces);
        }
        parsed.ids.push(Some(next.id));
        more = next.flags & netif::TX_MORE_DATA != 0;
        rest.push(next);
    }
    let rest_len: usize = rest.iter().map(|request| usize::from(request.size)).sum();
    let own = parsed.len.checked_sub(rest_len).and_then(|own| u16::try_from(own).ok());
    let own = own.ok_or(TxFault::Lengths)?;
    for (request, size) in core::iter::once((&first, own)).chain(rest.iter().map(|r| (r, r.size))) {
        if usize::from(request.offset) + usize::from(size) > PAGE_SIZE {
            return Err(TxFault::CrossesPage { offset: request.offset, size });
        }
        let end =
            CopyEnd::Foreign { domain: peer, grant: GrantRef::new(request.gref), offset: request.offset };
        parsed.pieces.push(Piece { end, len: size.into() });
    }
    if parsed.len < ETHERNET_HEADER {
        parsed.is_bad = Some("shorter than a header");
    }
    Ok(parsed)
}

fn take_extra(extra: &ExtraInfo, parsed: &mut Parsed) -> Result<(), TxFault> {
    match extra.kind {
        netif::EXTRA_TYPE_GSO => {
            let (kind, size) = (extra.gso_kind(), extra.gso_size());
            if !matches!(kind, netif::GSO_TYPE_TCPV4 | netif::GSO_TYPE_TCPV6) || size == 0 {
                return Err(TxFault::Gso { kind, size });
            }
            parsed.offload.gso = Some(Gso { is_v6: kind == netif::GSO_TYPE_TCPV6, size });
        }
        // Neither was offered; both are harmless.
        netif::EXTRA_TYPE_MCAST_ADD | netif::EXTRA_TYPE_MCAST_DEL => {
            parsed.is_bad = Some("no packet, but a filter that was not offered");
        }
        netif::EXTRA_TYPE_HASH => {}
        kind => return Err(TxFault::Extra(kind)),
    }
    Ok(())
}

/// The place `skip` bytes behind an end.
pub(in super::super) fn advance(end: CopyEnd, skip: usize) -> CopyEnd {
    // Pieces stay inside a page, which was checked when they were made.
    let skip = u16::try_from(skip).unwrap_or(u16::MAX);
    match end {
        CopyEnd::Local { gfn, offset } => CopyEnd::Local { gfn, offset: offset.saturating_add(skip) },
        CopyEnd::Foreign { domain, grant, offset } => {
            CopyEnd::Foreign { domain, grant, offset: offset.saturating_add(skip) }
        }
    }
}

impl From<TxFault> for String {
    fn from(fault: TxFault) -> Self {
        alloc::format!("{fault}")
    }
}
