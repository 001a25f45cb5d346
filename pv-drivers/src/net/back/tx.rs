//! From slots of the transmit ring to a checked packet.

use alloc::string::String;
use core::fmt;

use pv_abi::ids::GrantRef;
use pv_abi::io::netif::{self, ExtraInfo, TxRequest};
use zerocopy::FromBytes;

use super::super::transit::{Packet, Piece, Transit};
use super::super::{ETHERNET_HEADER, Gso, Offload};
use crate::platform::{PAGE_SIZE, SharedMemory};
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

fn request<M: SharedMemory>(ring: &mut BackRing<M>, left: &mut u32) -> Result<Slot, TxFault> {
    *left = left.checked_sub(1).ok_or(TxFault::Unfinished)?;
    Ok(ring.take())
}

/// Takes one packet off the ring into an empty transit; `pending` slots are known to be there. Says what is wrong with
/// a packet that is malformed in well-formed slots.
pub(super) fn parse<M: SharedMemory, T>(
    ring: &mut BackRing<M>,
    pending: &mut u32,
    transit: &mut Transit<T>,
) -> Result<Option<&'static str>, TxFault> {
    let read = |slot: Slot| TxRequest::read_from_bytes(&slot[..]).map_err(|_| TxFault::Unfinished);
    let first = read(request(ring, pending)?)?;
    let (ids, packet) = (&mut transit.ids, &mut transit.packet);
    ids.push(Some(first.id));
    packet.len = first.size.into();
    packet.offload = Offload {
        csum_blank: first.flags & netif::TX_CSUM_BLANK != 0,
        validated: first.flags & (netif::TX_DATA_VALIDATED | netif::TX_CSUM_BLANK) != 0,
        gso: None,
    };
    let mut is_bad = None;
    let mut more_extras = first.flags & netif::TX_EXTRA_INFO != 0;
    while more_extras {
        let slot = request(ring, pending)?;
        if ids.len() > EXTRAS_MAX {
            return Err(TxFault::TooManyPieces);
        }
        ids.push(None);
        let extra = ExtraInfo::read_from_prefix(&slot).map_err(|_| TxFault::Unfinished)?.0;
        more_extras = extra.flags & netif::EXTRA_FLAG_MORE != 0;
        take_extra(&extra, packet, &mut is_bad)?;
    }
    let piece = |request: &TxRequest, len: u16| {
        if usize::from(request.offset) + usize::from(len) > PAGE_SIZE {
            return Err(TxFault::CrossesPage { offset: request.offset, size: len });
        }
        Ok(Piece { grant: GrantRef::new(request.gref), offset: request.offset, len })
    };
    if first.flags & netif::TX_MORE_DATA == 0 {
        packet.pieces.push(piece(&first, first.size)?);
    } else {
        // The first request names the whole size; its own is what the others leave.
        packet.pieces.push(Piece { grant: GrantRef::new(first.gref), offset: first.offset, len: 0 });
        let (mut rest, mut more, mut fault) = (0, true, None);
        while more {
            let next = read(request(ring, pending)?)?;
            if packet.pieces.len() >= netif::NR_SLOTS_MIN {
                return Err(TxFault::TooManyPieces);
            }
            ids.push(Some(next.id));
            more = next.flags & netif::TX_MORE_DATA != 0;
            rest += usize::from(next.size);
            match piece(&next, next.size) {
                Ok(piece) => packet.pieces.push(piece),
                Err(other) => fault = fault.or(Some(other)),
            }
        }
        let own = packet.len.checked_sub(rest).and_then(|own| u16::try_from(own).ok());
        let own = piece(&first, own.ok_or(TxFault::Lengths)?)?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        if let Some(first) = packet.pieces.first_mut() {
            *first = own;
        }
    }
    if packet.len < ETHERNET_HEADER {
        is_bad = Some("shorter than a header");
    }
    Ok(is_bad)
}

fn take_extra(
    extra: &ExtraInfo,
    packet: &mut Packet,
    is_bad: &mut Option<&'static str>,
) -> Result<(), TxFault> {
    match extra.kind {
        netif::EXTRA_TYPE_GSO => {
            let (kind, size) = (extra.gso_kind(), extra.gso_size());
            if !matches!(kind, netif::GSO_TYPE_TCPV4 | netif::GSO_TYPE_TCPV6) || size == 0 {
                return Err(TxFault::Gso { kind, size });
            }
            packet.offload.gso = Some(Gso { is_v6: kind == netif::GSO_TYPE_TCPV6, size });
        }
        // Neither was offered; both are harmless.
        netif::EXTRA_TYPE_MCAST_ADD | netif::EXTRA_TYPE_MCAST_DEL => {
            *is_bad = Some("no packet, but a filter that was not offered");
        }
        netif::EXTRA_TYPE_HASH => {}
        kind => return Err(TxFault::Extra(kind)),
    }
    Ok(())
}

impl From<TxFault> for String {
    fn from(fault: TxFault) -> Self {
        alloc::format!("{fault}")
    }
}
