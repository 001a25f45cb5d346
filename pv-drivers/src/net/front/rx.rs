//! The receive half of a queue.
//!
//! # Invariants
//!
//! * Pages are posted in order, over and over: the place of a request in the ring says which page it names, and a
//!   response there must name the same.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, GrantRef};
use pv_abi::io::netif::{self, ExtraInfo, RxRequest, RxResponse};
use pv_abi::io::ring::RingIndex;
use zerocopy::{FromBytes, IntoBytes};

use super::super::{Gso, Offload, PACKET_MAX};
use super::{Frame, NetCounters};
use crate::platform::{Access, PAGE_SIZE, Platform, SharedMemory};
use crate::ring::{FrontRing, RingFault};
use crate::share::Shared;

/// Pages that are allocated side by side.
const RUN_PAGES: usize = 16;
/// The fewest pages: more than the largest packet takes.
const PAGES_MIN: usize = 32;
/// Slots that one packet may take.
const SLOTS_MAX: usize = 32;

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

pub(super) struct Rx<P: Platform> {
    ring: FrontRing<P>,
    runs: Vec<Shared<P>>,
    /// How many pages, a power of two.
    pages: u32,
    partial: Option<Partial>,
}

/// The page that the request at a place of the ring names.
fn page_at(at: RingIndex, pages: u32) -> u16 {
    // At most 256.
    u16::try_from(at.raw() & (pages - 1)).unwrap_or(0)
}

impl<P: Platform> Rx<P> {
    /// A ring with so many pages, as a power of two and as far as its slots go.
    pub fn new(platform: &P, peer: DomainId, pages: usize) -> Result<Self, Errno> {
        let ring = FrontRing::new(platform, peer, 1, netif::RX_SLOT_SIZE)?;
        let pages = pages.clamp(PAGES_MIN, (ring.slots() as usize).min(256));
        let count = 1 << pages.ilog2();
        let runs = (0..count / RUN_PAGES).map(|_| Shared::new(platform, peer, RUN_PAGES, Access::ReadWrite));
        let runs = runs.collect::<Result<_, _>>()?;
        let pages = u32::try_from(count).map_err(|_| Errno::EINVAL)?;
        let mut rx = Self { ring, runs, pages, partial: None };
        rx.post();
        Ok(rx)
    }

    pub fn grant(&self) -> GrantRef {
        self.ring.grants().first().copied().unwrap_or_default()
    }

    /// Grants of all pages.
    pub fn grants(&self) -> impl Iterator<Item = GrantRef> {
        self.runs.iter().flat_map(|run| run.grants().iter().copied())
    }

    /// Puts pages that are free into the ring, in lots.
    fn post(&mut self) {
        let free = self.pages - self.ring.outstanding();
        if free < self.pages / 8 {
            return;
        }
        for _ in 0..free {
            let page = page_at(self.ring.next_request(), self.pages);
            let (run, at) = (usize::from(page) / RUN_PAGES, usize::from(page) % RUN_PAGES);
            let grant = self.runs.get(run).and_then(|run| run.grants().get(at)).copied().unwrap_or_default();
            let _ = self.ring.push(&RxRequest { id: page, pad: 0, gref: grant.raw() });
        }
    }

    /// Shows pages to the back end. `true`: it wants an event.
    pub fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    /// Takes packets until `limit` of them are there. `true` if something came.
    pub fn poll(
        &mut self,
        limit: usize,
        received: &mut VecDeque<Frame>,
        counters: &mut NetCounters,
    ) -> Result<bool, String> {
        let say = |fault: RingFault| format!("{fault}");
        let mut found = false;
        loop {
            let pending = self.ring.pending().map_err(say)?;
            for _ in 0..pending {
                if received.len() >= limit {
                    // The user is asked to take packets first; until then nothing needs to be said.
                    self.post();
                    return Ok(found);
                }
                found = true;
                self.on_response(received, counters)?;
            }
            self.post();
            if !self.ring.arm(1).map_err(say)? {
                return Ok(found);
            }
        }
    }

    /// Takes what the next slot says.
    fn on_response(
        &mut self,
        received: &mut VecDeque<Frame>,
        counters: &mut NetCounters,
    ) -> Result<(), String> {
        let page = page_at(self.ring.next_response(), self.pages);
        let slot: [u8; 8] = self.ring.take();
        let mut open = match self.partial.take() {
            Some(mut open) if open.expects_extra => {
                open.add_extra(&ExtraInfo::read_from_bytes(slot.as_bytes()).map_err(|_| "a short slot")?);
                open
            }
            partial => {
                let response = RxResponse::read_from_bytes(slot.as_bytes()).map_err(|_| "a short slot")?;
                if response.id != page {
                    return Err(format!("an answer for page {} in the slot of page {page}", response.id));
                }
                let mut open = partial.unwrap_or_else(|| Partial::new(&response));
                self.add_piece(&mut open, page, &response);
                open
            }
        };
        open.pieces += 1;
        if open.pieces > SLOTS_MAX || open.bytes.len() > PACKET_MAX {
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

    /// Copies a piece of a packet out of its page, or marks the packet as bad.
    fn add_piece(&self, open: &mut Partial, page: u16, response: &RxResponse) {
        open.more_data = response.flags & netif::RX_MORE_DATA != 0;
        let len = usize::try_from(response.status).ok();
        let start = usize::from(response.offset);
        let run = self.runs.get(usize::from(page) / RUN_PAGES);
        match (len.filter(|len| start + len <= PAGE_SIZE), run) {
            (Some(len), Some(run)) if !open.is_bad => {
                let at = usize::from(page) % RUN_PAGES * PAGE_SIZE;
                run.memory().append_out(at + start, len, &mut open.bytes);
            }
            _ => open.is_bad = true,
        }
    }
}

impl Partial {
    /// A packet of which this is the first response.
    fn new(first: &RxResponse) -> Self {
        // Room for all of it, so that large packets are not moved while they grow.
        let room = match usize::try_from(first.status) {
            _ if first.flags & netif::RX_MORE_DATA != 0 => PACKET_MAX,
            Ok(len) => len.min(PAGE_SIZE),
            Err(_) => 0,
        };
        let csum_blank = first.flags & netif::RX_CSUM_BLANK != 0;
        Self {
            bytes: Vec::with_capacity(room),
            offload: Offload {
                csum_blank,
                validated: csum_blank || first.flags & netif::RX_DATA_VALIDATED != 0,
                gso: None,
            },
            pieces: 0,
            expects_extra: first.flags & netif::RX_EXTRA_INFO != 0,
            more_data: false,
            is_bad: false,
        }
    }

    fn add_extra(&mut self, extra: &ExtraInfo) {
        self.expects_extra = extra.flags & netif::EXTRA_FLAG_MORE != 0;
        let is_v6 = match (extra.kind, extra.gso_kind()) {
            (netif::EXTRA_TYPE_GSO, netif::GSO_TYPE_TCPV4) => false,
            (netif::EXTRA_TYPE_GSO, netif::GSO_TYPE_TCPV6) => true,
            _ => return self.is_bad = true,
        };
        self.offload.gso = Some(Gso { is_v6, size: extra.gso_size() });
    }
}
