//! Into a guest: its room, its buffers, and the answers for them.

use alloc::format;

use pv_abi::ids::GrantRef;
use pv_abi::io::netif::{self, RxResponse};
use smallvec::SmallVec;

use super::super::back::NetBack;
use super::super::transit::{Delivery, Packet, RxSlot};
use super::copies::{Copies, Reader, Target};
use super::{PortId, Verdict, sooner};
use crate::platform::{CopyEnd, Nanos, PAGE_SIZE, Platform};

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

/// Takes a guest's buffers for a packet.
pub(super) fn accept<P: Platform>(
    vif: &mut NetBack<P>,
    port: PortId,
    number: usize,
    packet: &Packet,
) -> Option<Delivery> {
    let queue = vif.queues.get_mut(number)?;
    let mut slots = SmallVec::new();
    let has_extra = packet.offload.gso.is_some();
    let mut left = packet.len;
    while left > 0 {
        let request = queue.take_rx();
        let len = left.min(PAGE_SIZE);
        slots.push(RxSlot { id: request.id, grant: GrantRef::new(request.gref), len });
        left -= len;
        if slots.len() == 1 && has_extra {
            // The extra takes a slot, and with it the request there.
            let _ = queue.take_rx();
        }
    }
    Some(Delivery {
        port,
        queue: number,
        slots,
        has_extra,
        len: packet.len,
        offload: packet.offload,
        is_whole: false,
        copies: 0,
    })
}

/// Copies a packet into the buffers that were taken for it, or adds the copies that do so.
pub(super) fn fill<P: Platform>(
    vif: &NetBack<P>,
    delivery: &mut Delivery,
    mut reader: Reader<'_, P>,
    copies: &mut Copies<'_>,
) -> Option<()> {
    let domain = vif.domain();
    let queue = vif.queues.get(delivery.queue)?;
    let before = copies.list.len();
    let mut is_whole = true;
    for slot in &delivery.slots {
        let target = Target::Guest {
            end: CopyEnd::Foreign { domain, grant: slot.grant, offset: 0 },
            memory: queue.mapped.writable(slot.grant),
        };
        is_whole &= reader.copy(slot.len, &target, copies).is_some();
    }
    delivery.is_whole = is_whole;
    delivery.copies = copies.list.len() - before;
    Some(())
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
