//! One pair of rings of a back end.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::ids::{DomainId, GrantRef, Port};
use pv_abi::io::netif::{self, ExtraInfo, RxRequest, RxResponse, TxResponse};

use super::super::Offload;
use super::tx::{Ids, Packet, Piece, Pieces, TxFault, advance, parse};
use crate::platform::{Access, CopyEnd, GrantCopy, PAGE_SIZE, Platform, SharedMemory};
use crate::ring::{BackRing, RingFault};

/// Bytes of a packet that are looked at: Ethernet, IP and TCP with all that they usually carry.
pub(in super::super) const PEEK: usize = 128;
/// Slots of a transmit ring.
const TX_SLOTS: usize = 256;

/// A packet that was taken from a ring and not yet answered.
pub(in super::super) struct Held {
    pub ids: Ids,
    pub packet: Packet,
    /// Where its header is kept.
    slot: u16,
}

pub(in super::super) struct Queue<P: Platform> {
    platform: P,
    peer: DomainId,
    pub tx: BackRing<P::Memory>,
    pub rx: BackRing<P::Memory>,
    tx_port: Port,
    rx_port: Option<Port>,
    /// Our own memory for headers, in places of [`PEEK`] bytes.
    headers: P::Memory,
    free: Vec<u16>,
    /// Packets that wait for the bridge.
    pub backlog: VecDeque<Held>,
}

impl<P: Platform> Queue<P> {
    pub fn connect(
        platform: &P,
        peer: DomainId,
        tx: GrantRef,
        rx: GrantRef,
        tx_port: Port,
        rx_port: Option<Port>,
    ) -> Result<Self, String> {
        let map = |grant, slot_size| {
            let pages = platform.map(peer, &[grant], Access::ReadWrite);
            let pages = pages.map_err(|error| format!("a ring cannot be mapped: {error}"))?;
            BackRing::new(pages, slot_size).map_err(|error| format!("{error}"))
        };
        let tx = map(tx, netif::TX_SLOT_SIZE)?;
        let rx = map(rx, netif::RX_SLOT_SIZE)?;
        let headers = platform.allocate(TX_SLOTS * PEEK / PAGE_SIZE).map_err(|error| format!("{error}"))?;
        let bind = |port| {
            platform
                .bind_interdomain(peer, port)
                .map_err(|error| format!("an event channel cannot be bound: {error}"))
        };
        let tx_port = bind(tx_port)?;
        let rx_port = match rx_port.map(bind).transpose() {
            Ok(port) => port,
            Err(reason) => {
                platform.close(tx_port);
                return Err(reason);
            }
        };
        Ok(Self {
            platform: platform.clone(),
            peer,
            tx,
            rx,
            tx_port,
            rx_port,
            headers,
            free: (0..u16::try_from(TX_SLOTS).unwrap_or(u16::MAX)).rev().collect(),
            backlog: VecDeque::new(),
        })
    }

    pub fn ports(&self) -> impl Iterator<Item = Port> {
        core::iter::once(self.tx_port).chain(self.rx_port)
    }

    /// Takes packets off the ring. Their headers are to be fetched by the copies that are added to `peeks`; then
    /// comes [`Self::look`] for as many packets as this returns.
    pub fn take(
        &mut self,
        most: usize,
        peeks: &mut Vec<GrantCopy>,
        mut charge: impl FnMut(usize, Option<&'static str>) -> bool,
    ) -> Result<usize, TxFault> {
        let mut pending = self.tx.pending().map_err(TxFault::Ring)?;
        let mut taken = 0;
        while taken < most && pending > 0 {
            let parsed = parse(&mut self.tx, &mut pending, self.peer)?;
            let go_on = charge(parsed.len, parsed.is_bad);
            let slot = if parsed.is_bad.is_none() { self.free.pop() } else { None };
            match slot {
                None => answer(&mut self.tx, &parsed.ids, netif::RSP_ERROR),
                Some(slot) => {
                    let header_len = parsed.len.min(PEEK);
                    let place = usize::from(slot) * PEEK;
                    let source = CopyEnd::Local {
                        gfn: self.headers.gfn(place / PAGE_SIZE),
                        offset: u16::try_from(place % PAGE_SIZE).unwrap_or(0),
                    };
                    let body = split(&parsed.pieces, header_len, source, peeks);
                    let packet = Packet {
                        header: smallvec::smallvec![0; header_len],
                        header_source: source,
                        body,
                        len: parsed.len,
                        offload: parsed.offload,
                    };
                    self.backlog.push_back(Held { ids: parsed.ids, packet, slot });
                    taken += 1;
                }
            }
            if !go_on {
                break;
            }
        }
        Ok(taken)
    }

    /// Looks at the headers of the last `count` packets of the backlog; `results` are those of the copies that
    /// [`Self::take`] added. Packets whose memory is not there, and those that `accept` gives a status, are answered
    /// and leave the backlog; how many had no memory is returned.
    pub fn look(
        &mut self,
        count: usize,
        results: &mut core::slice::Iter<'_, GrantCopy>,
        mut accept: impl FnMut(&Packet) -> Result<(), i16>,
    ) -> u64 {
        let mut bad = 0;
        let start = self.backlog.len().saturating_sub(count);
        for mut held in self.backlog.split_off(start) {
            let mut fetched = 0;
            let mut is_good = true;
            while fetched < held.packet.header.len() {
                let Some(copy) = results.next() else { break };
                fetched += usize::from(copy.len);
                is_good &= copy.result.is_ok();
            }
            if is_good {
                self.headers.copy_out(usize::from(held.slot) * PEEK, &mut held.packet.header);
                match accept(&held.packet) {
                    Ok(()) => self.backlog.push_back(held),
                    Err(status) => self.done(held, status),
                }
            } else {
                bad += 1;
                self.done(held, netif::RSP_ERROR);
            }
        }
        bad
    }

    /// Answers a packet of the backlog.
    pub fn done(&mut self, held: Held, status: i16) {
        self.free.push(held.slot);
        answer(&mut self.tx, &held.ids, status);
    }

    /// Whether the guest has buffers for a packet of `slots` slots now.
    pub fn has_room(&mut self, slots: u32) -> Result<bool, RingFault> {
        if self.rx.pending()? >= slots {
            return Ok(true);
        }
        // It may come between the look and the wish.
        self.rx.arm(slots)
    }

    /// Answers a receive request that was taken.
    pub fn answer_rx(&mut self, response: &RxResponse) {
        // There is room: each answers a request that was taken.
        let _ = self.rx.push(response);
    }

    /// Puts an extra in the place of a receive request that was taken.
    pub fn answer_rx_extra(&mut self, offload: &Offload) {
        if let Some(gso) = offload.gso {
            let kind = if gso.is_v6 { netif::GSO_TYPE_TCPV6 } else { netif::GSO_TYPE_TCPV4 };
            let _ = self.rx.push(&ExtraInfo::gso(kind, gso.size));
        }
    }

    pub fn take_rx(&mut self) -> RxRequest {
        self.rx.take()
    }

    /// Shows all answers, and returns the number of events that took.
    pub fn publish(&mut self, platform: &P) -> u64 {
        let tx = self.tx.publish();
        let rx = self.rx.publish();
        match self.rx_port {
            Some(rx_port) => {
                if tx {
                    platform.notify(self.tx_port);
                }
                if rx {
                    platform.notify(rx_port);
                }
                u64::from(tx) + u64::from(rx)
            }
            None => {
                if tx || rx {
                    platform.notify(self.tx_port);
                }
                u64::from(tx || rx)
            }
        }
    }
}

impl<P: Platform> Drop for Queue<P> {
    fn drop(&mut self) {
        for port in self.ports() {
            self.platform.close(port);
        }
    }
}

fn answer<M: SharedMemory>(ring: &mut BackRing<M>, ids: &[Option<u16>], status: i16) {
    for id in ids {
        let response = match id {
            Some(id) => TxResponse { id: *id, status },
            None => TxResponse { id: 0, status: netif::RSP_NULL },
        };
        // There is room: each answers a request that was taken.
        let _ = ring.push(&response);
    }
}

/// Adds the copies that fetch the first `header_len` bytes to `to`, and returns the pieces that follow them.
fn split(pieces: &[Piece], header_len: usize, to: CopyEnd, copies: &mut Vec<GrantCopy>) -> Pieces {
    let mut body = Pieces::with_capacity(pieces.len());
    let mut fetched = 0;
    for piece in pieces {
        let count = piece.len.min(header_len - fetched);
        if count > 0 {
            copies.push(GrantCopy {
                from: piece.end,
                to: advance(to, fetched),
                len: u16::try_from(count).unwrap_or(0),
                result: Ok(()),
            });
            fetched += count;
        }
        if count < piece.len {
            body.push(Piece { end: advance(piece.end, count), len: piece.len - count });
        }
    }
    body
}
