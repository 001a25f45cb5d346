//! One pair of rings of a back end.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::ids::{DomainId, GrantRef, Port};
use pv_abi::io::netif::{self, ExtraInfo, RxRequest, RxResponse, TxResponse};

use super::super::bridge::PortId;
use super::super::transit::{OnTheWay, Packet, Piece, Pool, Source};
use super::super::{Offload, PEEK};
use super::mapped::Mapped;
use super::tx::{TxFault, parse};
use crate::platform::{Access, CopyEnd, GrantCopy, PAGE_SIZE, Platform, SharedMemory};
use crate::ring::{BackRing, RingFault};

/// Slots of a transmit ring.
const TX_SLOTS: usize = 256;

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
    /// An event of the transmit ring was asked for, and nothing was taken since.
    is_armed: bool,
    /// Pages that stay mapped.
    pub mapped: Mapped<P::Memory>,
    /// Packets that wait for the bridge.
    pub backlog: VecDeque<OnTheWay<P::Memory>>,
}

impl<P: Platform> Queue<P> {
    /// Attaches to the rings of one of `queues` queues.
    pub fn connect(
        platform: &P,
        peer: DomainId,
        tx: GrantRef,
        rx: GrantRef,
        tx_port: Port,
        rx_port: Option<Port>,
        queues: usize,
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
            is_armed: false,
            mapped: Mapped::new(queues),
            backlog: VecDeque::new(),
        })
    }

    pub fn ports(&self) -> impl Iterator<Item = Port> {
        core::iter::once(self.tx_port).chain(self.rx_port)
    }

    /// Takes packets off the ring. The headers of those in pages that are not mapped are to be fetched by the copies
    /// that are added to `peeks`; then comes [`Self::look`] for as many packets as this returns. `place` is where the
    /// bridge finds this queue.
    pub fn take(
        &mut self,
        most: usize,
        place: (PortId, usize),
        pool: &mut Pool<P::Memory>,
        peeks: &mut Vec<GrantCopy>,
        mut charge: impl FnMut(usize, Option<&'static str>) -> bool,
    ) -> Result<usize, TxFault> {
        let mut pending = self.tx.pending().map_err(TxFault::Ring)?;
        let mut taken = 0;
        while taken < most && pending > 0 {
            self.is_armed = false;
            let mut transit = pool.get();
            let is_bad = parse(&mut self.tx, &mut pending, &mut transit)?;
            let go_on = charge(transit.packet.len, is_bad);
            match if is_bad.is_none() { self.free.pop() } else { None } {
                None => {
                    answer(&mut self.tx, &transit.ids, netif::RSP_ERROR);
                    pool.put(transit);
                }
                Some(slot) => {
                    transit.source = Source::Vif(place.0, place.1, slot);
                    self.peek(&mut transit.packet, slot, peeks);
                    self.backlog.push_back(transit);
                    taken += 1;
                }
            }
            if !go_on {
                break;
            }
        }
        Ok(taken)
    }

    /// Makes a private copy of a packet's first bytes: at once if they lie in pages that are mapped, by copies of the
    /// hypervisor otherwise.
    fn peek(&self, packet: &mut Packet, slot: u16, peeks: &mut Vec<GrantCopy>) {
        let len = packet.len.min(PEEK);
        packet.header_len = len;
        if self.peek_mapped(packet) {
            return;
        }
        let mut fetched = 0;
        for piece in &packet.pieces {
            let count = usize::from(piece.len).min(len - fetched);
            if count > 0 {
                peeks.push(GrantCopy {
                    from: self.end_of(piece, 0),
                    to: advance(self.header_end(slot), fetched),
                    len: u16::try_from(count).unwrap_or(0),
                    result: Ok(()),
                });
                fetched += count;
                packet.peeks += 1;
            }
        }
    }

    fn peek_mapped(&self, packet: &mut Packet) -> bool {
        let mut fetched = 0;
        for number in 0..packet.pieces.len() {
            let Some(piece) = packet.pieces.get(number).copied() else { return false };
            let Some(memory) = self.mapped.readable(piece.grant) else { return false };
            let count = usize::from(piece.len).min(packet.header_len - fetched);
            let Some(to) = packet.header_mut().get_mut(fetched..fetched + count) else { return false };
            memory.copy_out(piece.offset.into(), to);
            fetched += count;
            if fetched == packet.header_len {
                return true;
            }
        }
        false
    }

    /// The place `skip` bytes behind the start of a piece, for copies by the hypervisor.
    pub fn end_of(&self, piece: &Piece, skip: usize) -> CopyEnd {
        let end = CopyEnd::Foreign { domain: self.peer, grant: piece.grant, offset: piece.offset };
        advance(end, skip)
    }

    /// Where the header of a packet is kept for copies by the hypervisor.
    pub fn header_end(&self, slot: u16) -> CopyEnd {
        let place = usize::from(slot) * PEEK;
        CopyEnd::Local {
            gfn: self.headers.gfn(place / PAGE_SIZE),
            offset: u16::try_from(place % PAGE_SIZE).unwrap_or(0),
        }
    }

    /// Puts the header of a packet there, if it was not fetched through it.
    pub fn stage_header(&self, slot: u16, packet: &Packet) {
        if packet.peeks == 0 {
            self.headers.copy_in(usize::from(slot) * PEEK, packet.header());
        }
    }

    /// Looks at the headers of the last `count` packets of the backlog; `results` are those of the copies that
    /// [`Self::take`] added. Packets whose memory is not there, and those that `accept` gives a status, are answered
    /// and leave the backlog; how many had no memory is returned.
    pub fn look(
        &mut self,
        count: usize,
        results: &mut core::slice::Iter<'_, GrantCopy>,
        pool: &mut Pool<P::Memory>,
        mut accept: impl FnMut(&Packet) -> Result<(), i16>,
    ) -> u64 {
        let mut bad = 0;
        let mut at = self.backlog.len().saturating_sub(count);
        while let Some(transit) = self.backlog.get_mut(at) {
            let packet = &mut transit.packet;
            let failed = results.by_ref().take(packet.peeks).filter(|copy| copy.result.is_err()).count();
            let verdict = if failed > 0 {
                bad += 1;
                Err(netif::RSP_ERROR)
            } else {
                if let (Source::Vif(.., slot), 1..) = (&transit.source, packet.peeks) {
                    self.headers.copy_out(usize::from(*slot) * PEEK, packet.header_mut());
                }
                accept(packet)
            };
            match verdict {
                Ok(()) => at += 1,
                Err(status) => {
                    if let Some(transit) = self.backlog.remove(at) {
                        if let Source::Vif(.., slot) = transit.source {
                            self.done(&transit.ids, slot, status);
                        }
                        pool.put(transit);
                    }
                }
            }
        }
        bad
    }

    /// Answers a packet that was taken.
    pub fn done(&mut self, ids: &[Option<u16>], slot: u16, status: i16) {
        self.free.push(slot);
        answer(&mut self.tx, ids, status);
    }

    /// Asks for an event when the guest sends. `true`: it has sent already.
    pub fn arm(&mut self) -> Result<bool, RingFault> {
        if self.is_armed || !self.backlog.is_empty() {
            return Ok(false);
        }
        let more = self.tx.arm(1)?;
        self.is_armed = !more;
        Ok(more)
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
        self.platform.unmap(self.mapped.take_all());
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

/// The place `skip` bytes behind an end.
pub(in super::super) fn advance(end: CopyEnd, skip: usize) -> CopyEnd {
    // What is copied stays inside a page, which was checked when its place was made.
    let skip = u16::try_from(skip).unwrap_or(u16::MAX);
    match end {
        CopyEnd::Local { gfn, offset } => CopyEnd::Local { gfn, offset: offset.saturating_add(skip) },
        CopyEnd::Foreign { domain, grant, offset } => {
            CopyEnd::Foreign { domain, grant, offset: offset.saturating_add(skip) }
        }
    }
}
