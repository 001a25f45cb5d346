//! Into a guest: its room, its buffers, and the answers for them.

use alloc::format;
use alloc::vec::Vec;

use pv_abi::ids::GrantRef;
use pv_abi::io::netif::{self, RxResponse};
use smallvec::SmallVec;

use super::super::back::{NetBack, Packet};
use super::plan::{Delivery, RxSlot, copy_range};
use super::{PortId, Verdict, sooner};
use crate::platform::{CopyEnd, GrantCopy, Nanos, PAGE_SIZE, Platform};

/// Whether a guest has room; if not, since when, and how long that is borne.
pub(super) fn room<P: Platform>(
    vif: &mut NetBack<P>,
    number: usize,
    slots: u32,
    now: Nanos,
    wake: &mut Option<Nanos>,
) -> Verdict {
    let Some(queue) = vif.queues.get_mut(number) else { return Verdict::Dropped };
    match queue.has_room(slots) {
        Err(fault) => {
            vif.disable(format!("its receive ring: {fault}"));
            Verdict::Dropped
        }
        Ok(_) if slots > queue.rx.slots() => {
            vif.counters.rx_dropped += 1;
            Verdict::Dropped
        }
        Ok(true) => {
            vif.blocked_since = None;
            Verdict::Planned
        }
        Ok(false) => {
            vif.blocked_since.get_or_insert(now);
            if vif.is_stalled(now) {
                vif.counters.rx_dropped += 1;
                return Verdict::Dropped;
            }
            if let Some(end) = vif.stall_end() {
                sooner(wake, end);
            }
            Verdict::Blocked
        }
    }
}

/// Takes a guest's buffers for a packet and adds the copies into them.
pub(super) fn deliver<P: Platform>(
    vif: &mut NetBack<P>,
    port: PortId,
    number: usize,
    packet: &Packet,
    copies: &mut Vec<GrantCopy>,
) -> Option<Delivery> {
    let domain = vif.domain();
    let queue = vif.queues.get_mut(number)?;
    let mut slots = SmallVec::new();
    let mut grants: SmallVec<[GrantRef; 4]> = SmallVec::new();
    let has_extra = packet.offload.gso.is_some();
    for page in 0..packet.len.div_ceil(PAGE_SIZE) {
        let request = queue.take_rx();
        grants.push(GrantRef::new(request.gref));
        slots.push(RxSlot { id: request.id, len: PAGE_SIZE.min(packet.len - page * PAGE_SIZE) });
        if page == 0 && has_extra {
            // The extra takes a slot, and with it the request there.
            let _ = queue.take_rx();
        }
    }
    let to = |done: usize| {
        let grant = *grants.get(done / PAGE_SIZE)?;
        let offset = u16::try_from(done % PAGE_SIZE).ok()?;
        Some((CopyEnd::Foreign { domain, grant, offset }, PAGE_SIZE - done % PAGE_SIZE))
    };
    let before = copies.len();
    let is_whole = copy_range(packet, 0, packet.len, to, copies).is_some();
    let delivery = Delivery {
        port,
        queue: number,
        slots,
        has_extra,
        len: packet.len,
        offload: packet.offload,
        is_whole,
        copies: copies.len() - before,
    };
    Some(delivery)
}

/// Answers the buffers of a packet.
pub(super) fn answer<P: Platform>(vif: &mut NetBack<P>, delivery: &Delivery, is_good: bool) {
    let Some(queue) = vif.queues.get_mut(delivery.queue) else { return };
    let last = delivery.slots.len().saturating_sub(1);
    let mut first_flags = 0;
    if delivery.offload.csum_blank {
        first_flags |= netif::RX_CSUM_BLANK | netif::RX_DATA_VALIDATED;
    } else if delivery.offload.validated {
        first_flags |= netif::RX_DATA_VALIDATED;
    }
    for (number, slot) in delivery.slots.iter().enumerate() {
        let mut flags = if number < last { netif::RX_MORE_DATA } else { 0 };
        if number == 0 {
            flags |= first_flags;
            flags |= if delivery.has_extra { netif::RX_EXTRA_INFO } else { 0 };
        }
        let status =
            if is_good { i16::try_from(slot.len).unwrap_or(netif::RSP_ERROR) } else { netif::RSP_ERROR };
        queue.answer_rx(&RxResponse { id: slot.id, offset: 0, flags, status });
        if number == 0 && delivery.has_extra {
            queue.answer_rx_extra(&delivery.offload);
        }
    }
    if is_good {
        vif.delivered(delivery.len, true);
    }
}
