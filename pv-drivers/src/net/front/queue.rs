//! One pair of rings of a front end.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, GrantRef, Port};
use pv_abi::io::netif::{self, ExtraInfo, RxRequest, RxResponse, TxRequest, TxResponse};
use zerocopy::{FromBytes, IntoBytes};

use super::super::{Gso, Offload, PACKET_MAX};
use super::{Frame, NetCounters, SendError};
use crate::platform::{Access, PAGE_SIZE, Platform, SharedMemory};
use crate::ring::{FrontRing, RingFault};
use crate::share::Shared;

/// Pages for packets to be sent: as many as the ring has slots.
const TX_PAGES: usize = 256;
/// Pages that are allocated side by side.
const RUN_PAGES: usize = 16;

/// Pages, granted once for all time, by number.
struct Pages<P: Platform> {
    runs: Vec<Shared<P>>,
}

impl<P: Platform> Pages<P> {
    fn grow(&mut self, platform: &P, peer: DomainId) -> Result<usize, Errno> {
        self.runs.push(Shared::new(platform, peer, RUN_PAGES, Access::ReadWrite)?);
        Ok(RUN_PAGES)
    }

    fn grant(&self, page: u16) -> GrantRef {
        let (run, at) = (usize::from(page) / RUN_PAGES, usize::from(page) % RUN_PAGES);
        self.runs.get(run).and_then(|run| run.grants().get(at)).copied().unwrap_or_default()
    }

    /// The memory of a page, and where it starts there.
    fn memory(&self, page: u16) -> Option<(&P::Memory, usize)> {
        let (run, at) = (usize::from(page) / RUN_PAGES, usize::from(page) % RUN_PAGES);
        self.runs.get(run).map(|run| (run.memory(), at * PAGE_SIZE))
    }
}

/// A packet of which more pieces are to come.
struct Partial {
    bytes: Vec<u8>,
    offload: Offload,
    pieces: usize,
    /// The next slot holds an extra.
    expects_extra: bool,
    more_data: bool,
    is_bad: bool,
}

pub(super) struct Queue<P: Platform> {
    platform: P,
    peer: DomainId,
    pub port: Port,
    tx: FrontRing<P>,
    tx_pages: Pages<P>,
    tx_free: Vec<u16>,
    tx_total: usize,
    /// Which page numbers are in the ring.
    tx_busy: Vec<bool>,
    /// Extras in the ring, whose responses name no page.
    tx_extras: u32,
    rx: FrontRing<P>,
    rx_pages: Pages<P>,
    rx_free: Vec<u16>,
    /// The page of each slot in the receive ring.
    rx_slots: Vec<Option<u16>>,
    partial: Option<Partial>,
}

impl<P: Platform> Queue<P> {
    pub fn new(platform: &P, peer: DomainId, rx_pages: usize) -> Result<Self, Errno> {
        let tx = FrontRing::new(platform, peer, 1, netif::TX_SLOT_SIZE)?;
        let rx = FrontRing::new(platform, peer, 1, netif::RX_SLOT_SIZE)?;
        let slots = rx.slots() as usize;
        let mut pages = Pages { runs: Vec::new() };
        let mut rx_free = Vec::new();
        while rx_free.len() < rx_pages.clamp(32, slots) {
            let start = rx_free.len();
            let count = pages.grow(platform, peer)?;
            rx_free.extend((start..start + count).filter_map(|page| u16::try_from(page).ok()));
        }
        let port = platform.alloc_unbound(peer)?;
        let mut queue = Self {
            platform: platform.clone(),
            peer,
            port,
            tx,
            tx_pages: Pages { runs: Vec::new() },
            tx_free: Vec::new(),
            tx_total: 0,
            tx_busy: alloc::vec![false; TX_PAGES],
            tx_extras: 0,
            rx,
            rx_pages: pages,
            rx_free,
            rx_slots: alloc::vec![None; slots],
            partial: None,
        };
        queue.post();
        Ok(queue)
    }

    pub fn tx_grant(&self) -> GrantRef {
        self.tx.grants().first().copied().unwrap_or_default()
    }

    pub fn rx_grant(&self) -> GrantRef {
        self.rx.grants().first().copied().unwrap_or_default()
    }

    /// Puts free pages into the receive ring.
    fn post(&mut self) {
        while let Some(page) = self.rx_free.pop() {
            let request = RxRequest { id: page, pad: 0, gref: self.rx_pages.grant(page).raw() };
            match self.rx.push(&request) {
                Ok(at) => {
                    let slot = at.raw() as usize % self.rx_slots.len();
                    if let Some(entry) = self.rx_slots.get_mut(slot) {
                        *entry = Some(page);
                    }
                }
                Err(_) => {
                    self.rx_free.push(page);
                    return;
                }
            }
        }
    }

    pub fn tx_has_room(&self, len: usize) -> bool {
        let pages = len.div_ceil(PAGE_SIZE);
        let unused = TX_PAGES - self.tx_total;
        self.tx.free() as usize > pages && self.tx_free.len() + unused >= pages
    }

    pub fn send(&mut self, packet: &[u8], offload: &Offload) -> Result<(), SendError> {
        let pages = packet.len().div_ceil(PAGE_SIZE);
        if !self.tx_has_room(packet.len()) {
            return Err(SendError::Full);
        }
        while self.tx_free.len() < pages {
            let start = self.tx_total;
            let grown = self.tx_pages.grow(&self.platform, self.peer).map_err(|_| SendError::Full)?;
            self.tx_total += grown;
            self.tx_free.extend((start..start + grown).filter_map(|page| u16::try_from(page).ok()).rev());
        }
        let mut flags = 0;
        if offload.csum_blank {
            flags |= netif::TX_CSUM_BLANK | netif::TX_DATA_VALIDATED;
        } else if offload.validated {
            flags |= netif::TX_DATA_VALIDATED;
        }
        let extra = offload.gso.map(|gso| {
            let kind = if gso.is_v6 { netif::GSO_TYPE_TCPV6 } else { netif::GSO_TYPE_TCPV4 };
            ExtraInfo::gso(kind, gso.size)
        });
        let whole = u16::try_from(packet.len()).map_err(|_| SendError::Length)?;
        for (number, piece) in packet.chunks(PAGE_SIZE).enumerate() {
            let Some(id) = self.tx_free.pop() else { return Err(SendError::Full) };
            if let Some((memory, offset)) = self.tx_pages.memory(id) {
                memory.copy_in(offset, piece);
            }
            if let Some(busy) = self.tx_busy.get_mut(usize::from(id)) {
                *busy = true;
            }
            let is_first = number == 0;
            let more = if number + 1 < pages { netif::TX_MORE_DATA } else { 0 };
            let with_extra = if is_first && extra.is_some() { netif::TX_EXTRA_INFO } else { 0 };
            let request = TxRequest {
                gref: self.tx_pages.grant(id).raw(),
                offset: 0,
                flags: more | if is_first { flags | with_extra } else { 0 },
                id,
                // The first names the whole packet's size.
                size: if is_first {
                    whole
                } else {
                    u16::try_from(piece.len()).map_err(|_| SendError::Length)?
                },
            };
            // There is room for all pieces and an extra: looked at above.
            let _ = self.tx.push(&request);
            if let Some(extra) = extra.filter(|_| is_first) {
                let _ = self.tx.push(&extra);
                self.tx_extras += 1;
            }
        }
        Ok(())
    }

    pub fn kick(&mut self, platform: &P, counters: &mut NetCounters) {
        let wants_tx = self.tx.publish();
        let wants_rx = self.rx.publish();
        if wants_tx || wants_rx {
            counters.notifications += 1;
            platform.notify(self.port);
        }
    }

    pub fn poll(
        &mut self,
        room: usize,
        received: &mut VecDeque<Frame>,
        counters: &mut NetCounters,
    ) -> Result<(), String> {
        let say = |fault: RingFault| format!("{fault}");
        let mut found = false;
        loop {
            while let Some((_, response)) = self.tx.pop::<TxResponse>().map_err(say)? {
                found = true;
                self.on_tx(response, counters)?;
            }
            // Pages come back in lots; nothing is lost if that is late, unless somebody waits for room.
            let after = self.tx.outstanding() / 2;
            if !self.tx.arm(after).map_err(say)? {
                break;
            }
        }
        let limit = received.len() + room;
        loop {
            while received.len() < limit {
                let Some((at, slot)) = self.rx.pop::<[u8; 8]>().map_err(say)? else { break };
                found = true;
                self.on_rx(at.raw() as usize, slot, received, counters)?;
            }
            self.post();
            if received.len() >= limit {
                // The user is asked to take packets first; until then nothing needs to be said.
                break;
            }
            if !self.rx.arm(1).map_err(say)? {
                break;
            }
        }
        counters.busy_polls += u64::from(found);
        Ok(())
    }

    fn on_tx(&mut self, response: TxResponse, counters: &mut NetCounters) -> Result<(), String> {
        if response.status == netif::RSP_NULL {
            self.tx_extras = self.tx_extras.checked_sub(1).ok_or("an answer to no extra")?;
            return Ok(());
        }
        let busy = self.tx_busy.get_mut(usize::from(response.id)).filter(|busy| **busy);
        let busy = busy.ok_or_else(|| format!("an answer to no packet, {}", response.id))?;
        *busy = false;
        self.tx_free.push(response.id);
        counters.tx_errors += u64::from(response.status != netif::RSP_OKAY);
        Ok(())
    }

    fn on_rx(
        &mut self,
        at: usize,
        slot: [u8; 8],
        received: &mut VecDeque<Frame>,
        counters: &mut NetCounters,
    ) -> Result<(), String> {
        let index = at % self.rx_slots.len();
        let page = self.rx_slots.get_mut(index).and_then(Option::take).ok_or("an answer in an empty slot")?;
        self.rx_free.push(page);
        let mut partial = self.partial.take();
        if let Some(open) = partial.as_mut().filter(|open| open.expects_extra) {
            let extra = ExtraInfo::read_from_bytes(slot.as_bytes()).map_err(|_| "a short slot")?;
            open.pieces += 1;
            open.expects_extra = extra.flags & netif::EXTRA_FLAG_MORE != 0;
            match (extra.kind, extra.gso_kind()) {
                (netif::EXTRA_TYPE_GSO, netif::GSO_TYPE_TCPV4 | netif::GSO_TYPE_TCPV6) => {
                    let is_v6 = extra.gso_kind() == netif::GSO_TYPE_TCPV6;
                    open.offload.gso = Some(Gso { is_v6, size: extra.gso_size() });
                }
                _ => open.is_bad = true,
            }
        } else {
            let response = RxResponse::read_from_bytes(slot.as_bytes()).map_err(|_| "a short slot")?;
            if response.id != page {
                return Err(format!("an answer for page {} in the slot of page {page}", response.id));
            }
            let open = partial.get_or_insert_with(|| Partial {
                // Room for all of it, so that large packets are not moved while they grow.
                bytes: Vec::with_capacity(match usize::try_from(response.status) {
                    _ if response.flags & netif::RX_MORE_DATA != 0 => PACKET_MAX,
                    Ok(len) => len.min(PAGE_SIZE),
                    Err(_) => 0,
                }),
                offload: Offload {
                    csum_blank: response.flags & netif::RX_CSUM_BLANK != 0,
                    validated: response.flags & (netif::RX_DATA_VALIDATED | netif::RX_CSUM_BLANK) != 0,
                    gso: None,
                },
                pieces: 0,
                expects_extra: response.flags & netif::RX_EXTRA_INFO != 0,
                more_data: false,
                is_bad: false,
            });
            open.pieces += 1;
            open.more_data = response.flags & netif::RX_MORE_DATA != 0;
            self.rx_pages.add_piece(open, page, &response);
        }
        let Some(open) = partial else { return Ok(()) };
        if open.pieces > 32 || open.bytes.len() > PACKET_MAX {
            return Err("a packet without an end".into());
        }
        if open.more_data || open.expects_extra {
            self.partial = Some(open);
        } else if open.is_bad || open.bytes.is_empty() {
            counters.rx_errors += 1;
        } else {
            counters.rx_packets += 1;
            counters.rx_bytes += open.bytes.len() as u64;
            received.push_back(Frame { bytes: open.bytes, offload: open.offload });
        }
        Ok(())
    }
}

impl<P: Platform> Pages<P> {
    /// Copies a piece of a packet out of its page, or marks the packet as bad.
    fn add_piece(&self, open: &mut Partial, page: u16, response: &RxResponse) {
        let len = usize::try_from(response.status).ok();
        let end = len.and_then(|len| usize::from(response.offset).checked_add(len));
        match (len, end, self.memory(page)) {
            (Some(len), Some(end), Some((memory, start))) if end <= PAGE_SIZE && !open.is_bad => {
                memory.append_out(start + usize::from(response.offset), len, &mut open.bytes);
            }
            _ => open.is_bad = true,
        }
    }
}

impl<P: Platform> Drop for Queue<P> {
    fn drop(&mut self) {
        self.platform.close(self.port);
    }
}
