//! The transmit half of a queue.
//!
//! # Invariants
//!
//! * A response counts only for a page that is in the ring, once; an extra's response for one of as many extras.
//! * The back end is asked for events about responses only while there is no room for the largest frame: nobody waits
//!   otherwise, and responses are taken when the interface is polled for something else.

use alloc::format;
use alloc::string::String;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, GrantRef};
use pv_abi::io::netif::{self, ExtraInfo, TxRequest, TxResponse};

use super::super::{Offload, PACKET_MAX};
use super::pool::{Page, Pool, RUN_PAGES};
use super::{NetCounters, SendError};
use crate::platform::{PAGE_SIZE, Platform};
use crate::ring::{FrontRing, RingFault};

pub(super) struct Tx<P: Platform> {
    ring: FrontRing<P>,
    pool: Pool<P>,
    /// Extras in the ring, whose responses name no page.
    extras: u32,
    /// Runs of the pool whose grants were named.
    offered: usize,
}

/// The pages of one frame.
enum Pages {
    /// Side by side from this one on.
    Run(Page),
    /// Wherever they were free.
    Each([Page; RUN_PAGES]),
}

impl Pages {
    fn get(&self, number: usize) -> Page {
        match self {
            // There are at most `RUN_PAGES`.
            Self::Run(first) => first.advance(u16::try_from(number).unwrap_or(0)),
            Self::Each(pages) => pages.get(number).copied().unwrap_or(Page::new(u16::MAX)),
        }
    }
}

impl<P: Platform> Tx<P> {
    pub fn new(platform: &P, peer: DomainId) -> Result<Self, Errno> {
        let ring = FrontRing::new(platform, peer, 1, netif::TX_SLOT_SIZE)?;
        Ok(Self { ring, pool: Pool::new(platform, peer), extras: 0, offered: 0 })
    }

    pub fn grant(&self) -> GrantRef {
        self.ring.grants().first().copied().unwrap_or_default()
    }

    /// Grants of the pages that are new since the last call.
    pub fn grown(&mut self) -> impl Iterator<Item = GrantRef> {
        self.pool.grown(&mut self.offered)
    }

    /// Whether there are pages that [`Self::grown`] has not named.
    #[inline]
    pub fn has_grown(&self) -> bool {
        self.offered != self.pool.runs()
    }

    /// Whether a frame of `len` bytes has room.
    #[inline]
    pub fn has_room(&self, len: usize) -> bool {
        let pages = len.div_ceil(PAGE_SIZE);
        // A slot more, for an extra.
        self.ring.free() as usize > pages && self.pool.room() >= pages
    }

    /// Sends a frame of `len` bytes, which `fill` writes; nothing, if that says so ([`SendError::Length`]).
    pub fn send(
        &mut self,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> Option<Offload>,
    ) -> Result<(), SendError> {
        let count = len.div_ceil(PAGE_SIZE);
        if count == 0 || len > PACKET_MAX {
            return Err(SendError::Length);
        }
        if !self.has_room(len) {
            return Err(SendError::Full);
        }
        let mut offload = None;
        let pages = match self.pool.take(count) {
            Some(first) => {
                self.pool.fill(first, len, &mut |bytes| offload = fill(bytes));
                Pages::Run(first)
            }
            None => {
                let pages = self.take_each(count).ok_or(SendError::Full)?;
                let mut bytes = alloc::vec![0; len];
                offload = fill(&mut bytes);
                for (page, piece) in pages.iter().zip(bytes.chunks(PAGE_SIZE)) {
                    self.pool.copy_in(*page, piece);
                }
                Pages::Each(pages)
            }
        };
        match offload {
            Some(offload) => self.push(&pages, count, len, &offload),
            None => {
                (0..count).for_each(|number| _ = self.pool.give_back(pages.get(number)));
                Err(SendError::Length)
            }
        }
    }

    /// Takes pages where they are free.
    fn take_each(&mut self, count: usize) -> Option<[Page; RUN_PAGES]> {
        let mut pages = [Page::new(u16::MAX); RUN_PAGES];
        for number in 0..count {
            let Some(page) = self.pool.take(1) else {
                // What is not a page of the pool is not taken back.
                pages.iter().take(number).for_each(|page| _ = self.pool.give_back(*page));
                return None;
            };
            *pages.get_mut(number)? = page;
        }
        Some(pages)
    }

    /// Puts the requests of a frame into the ring, which has room for them.
    fn push(&mut self, pages: &Pages, count: usize, len: usize, offload: &Offload) -> Result<(), SendError> {
        let mut flags = 0;
        if offload.csum_blank {
            flags |= netif::TX_CSUM_BLANK | netif::TX_DATA_VALIDATED;
        } else if offload.validated {
            flags |= netif::TX_DATA_VALIDATED;
        }
        if offload.gso.is_some() {
            flags |= netif::TX_EXTRA_INFO;
        }
        let mut left = len;
        for number in 0..count {
            let page = pages.get(number);
            // The first names the whole frame's size.
            let size = if number == 0 { len } else { left.min(PAGE_SIZE) };
            left -= left.min(PAGE_SIZE);
            let request = TxRequest {
                gref: self.pool.grant(page).raw(),
                offset: 0,
                flags: flags | if left > 0 { netif::TX_MORE_DATA } else { 0 },
                id: page.raw(),
                size: u16::try_from(size).map_err(|_| SendError::Length)?,
            };
            // There is room for all pieces and an extra.
            let _ = self.ring.push(&request);
            flags = 0;
            if let Some(gso) = offload.gso.filter(|_| number == 0) {
                let kind = if gso.is_v6 { netif::GSO_TYPE_TCPV6 } else { netif::GSO_TYPE_TCPV4 };
                let _ = self.ring.push(&ExtraInfo::gso(kind, gso.size));
                self.extras += 1;
            }
        }
        Ok(())
    }

    /// Shows what was sent to the back end. `true`: it wants an event.
    pub fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    /// Takes responses, and asks for an event about more of them if somebody may wait for room. `true`: there were some.
    pub fn poll(&mut self, counters: &mut NetCounters) -> Result<bool, String> {
        let say = |fault: RingFault| format!("{fault}");
        let mut found = false;
        loop {
            for _ in 0..self.ring.pending().map_err(say)? {
                found = true;
                let response = self.ring.take();
                self.on_response(response, counters)?;
            }
            // Pages come back in lots.
            if self.has_room(PACKET_MAX) || !self.ring.arm(self.ring.outstanding() / 2).map_err(say)? {
                return Ok(found);
            }
        }
    }

    fn on_response(&mut self, response: TxResponse, counters: &mut NetCounters) -> Result<(), String> {
        if response.status == netif::RSP_NULL {
            self.extras = self.extras.checked_sub(1).ok_or("an answer to no extra")?;
            return Ok(());
        }
        if !self.pool.give_back(Page::new(response.id)) {
            return Err(format!("an answer to no packet, {}", response.id));
        }
        counters.tx_errors += u64::from(response.status != netif::RSP_OKAY);
        Ok(())
    }
}
