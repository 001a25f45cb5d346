//! Deciding where packets go, and planning their copies.

use alloc::vec::Vec;

use smallvec::SmallVec;

use super::super::packet::{SegmentPlan, segment};
use super::super::uplink::{Uplink, UplinkBuffer};
use super::super::{Mac, Offload};
use super::guest::{deliver, room};
use super::place::place;
use super::plan::copy_range;
use super::{
    Bridge, CARD_STALL, CardSend, PLAN_COPIES, PLAN_PACKETS, Plan, Planned, PortId, Source, Verdict, sooner,
};
use crate::platform::{Nanos, PAGE_SIZE, Platform, SharedMemory};

impl<P: Platform, U: Uplink<P::Memory>> Bridge<P, U> {
    /// Sends packets on their way, one from each sender in turn.
    pub(super) fn forward(&mut self, wake: &mut Option<Nanos>) -> usize {
        let is_idle = self.cards.values().all(|card| card.received.is_empty())
            && self.vifs.values().all(|vif| vif.queues.iter().all(|queue| queue.backlog.is_empty()));
        if is_idle {
            return 0;
        }
        let mut senders: Vec<(PortId, usize)> = self.cards.keys().map(|port| (*port, 0)).collect();
        for (port, vif) in self.vifs.iter().filter(|(_, vif)| vif.is_connected()) {
            senders.extend((0..vif.queues.len()).map(|queue| (*port, queue)));
        }
        let start = self.turn % senders.len();
        senders.rotate_left(start);
        self.turn = self.turn.wrapping_add(1);
        let mut plan = Plan { copies: Vec::new(), packets: Vec::new() };
        let mut finished = 0;
        while !senders.is_empty() {
            senders.retain(|&(port, queue)| {
                let Some(source) = self.pop(port, queue) else { return false };
                match self.plan(source, &mut plan, wake) {
                    None => {
                        finished += 1;
                        if plan.packets.len() >= PLAN_PACKETS || plan.copies.len() >= PLAN_COPIES {
                            self.execute(&mut plan);
                        }
                        true
                    }
                    Some(source) => {
                        self.put_back(source);
                        false
                    }
                }
            });
        }
        self.execute(&mut plan);
        finished
    }

    pub(super) fn pop(&mut self, port: PortId, queue: usize) -> Option<Source<P::Memory>> {
        if let Some(card) = self.cards.get_mut(&port) {
            return card.received.pop_front().map(|(buffer, packet)| Source::Card(port, buffer, packet));
        }
        let held = self.vifs.get_mut(&port)?.queues.get_mut(queue)?.backlog.pop_front()?;
        Some(Source::Vif(port, queue, held))
    }

    pub(super) fn put_back(&mut self, source: Source<P::Memory>) {
        match source {
            Source::Card(port, buffer, packet) => {
                if let Some(card) = self.cards.get_mut(&port) {
                    card.received.push_front((buffer, packet));
                }
            }
            Source::Vif(port, queue, held) => {
                if let Some(queue) = self.vifs.get_mut(&port).and_then(|vif| vif.queues.get_mut(queue)) {
                    queue.backlog.push_front(held);
                }
            }
        }
    }

    /// Decides where a packet goes and plans its copies. The packet comes back if it has to wait.
    pub(super) fn plan(
        &mut self,
        source: Source<P::Memory>,
        plan: &mut Plan<P::Memory>,
        wake: &mut Option<Nanos>,
    ) -> Option<Source<P::Memory>> {
        let now = self.platform.now();
        let from = source.port();
        let to = Mac::at(&source.packet().header, 0).unwrap_or_default();
        let known = if to.is_group() { None } else { self.table.find(to, now) };
        let mut planned = Planned { source, deliveries: SmallVec::new(), sends: SmallVec::new() };
        let mut went = 0;
        match known {
            Some(port) if port == from => {}
            Some(port) => match self.plan_one(port, &mut planned, plan, now, wake) {
                Verdict::Planned => went = 1,
                Verdict::Dropped => {}
                Verdict::Blocked => return Some(planned.source),
            },
            // Those whose only address is known are no place for other addresses.
            None => {
                let vifs = self.vifs.iter().filter(|(_, vif)| to.is_group() || vif.may_learn());
                let cards = self.cards.iter().filter(|(_, card)| to.is_group() || card.mac.is_none());
                let all = vifs.map(|(port, _)| *port).chain(cards.map(|(port, _)| *port));
                let all = all.filter(|port| *port != from);
                // Those that need the slow way are served first: it does what was planned before at once.
                let (slow, fast): (Vec<PortId>, Vec<PortId>) =
                    all.partition(|port| self.needs_slow_way(*port, planned.source.packet()));
                for port in slow.into_iter().chain(fast) {
                    match self.plan_one(port, &mut planned, plan, now, wake) {
                        Verdict::Planned => went += 1,
                        Verdict::Dropped => {}
                        // Copies for everybody wait for nobody.
                        Verdict::Blocked => self.count_dropped(port),
                    }
                }
            }
        }
        match (went, known) {
            (0, _) => self.counters.dropped += 1,
            (_, Some(_)) => self.counters.forwarded += 1,
            (_, None) => self.counters.flooded += 1,
        }
        plan.packets.push(planned);
        None
    }

    /// Plans the way of a packet to one interface.
    fn plan_one(
        &mut self,
        port: PortId,
        planned: &mut Planned<P::Memory>,
        plan: &mut Plan<P::Memory>,
        now: Nanos,
        wake: &mut Option<Nanos>,
    ) -> Verdict {
        if self.cards.contains_key(&port) {
            self.plan_card(port, planned, plan, now, wake)
        } else if self.needs_slow_way(port, planned.source.packet()) {
            self.deliver_slowly(port, planned, plan, now, wake)
        } else {
            self.plan_vif(port, planned, plan, now, wake)
        }
    }

    pub(super) fn count_dropped(&mut self, port: PortId) {
        if let Some(vif) = self.vifs.get_mut(&port) {
            vif.counters.rx_dropped += 1;
        }
    }

    pub(super) fn plan_vif(
        &mut self,
        port: PortId,
        planned: &mut Planned<P::Memory>,
        plan: &mut Plan<P::Memory>,
        now: Nanos,
        wake: &mut Option<Nanos>,
    ) -> Verdict {
        let Some(vif) = self.vifs.get_mut(&port).filter(|vif| vif.is_connected() && !vif.queues.is_empty())
        else {
            return Verdict::Dropped;
        };
        let packet = planned.source.packet();
        let features = vif.features;
        let extra = u32::from(packet.offload.gso.is_some());
        let pages = packet.len.div_ceil(PAGE_SIZE);
        if pages > 1 && !features.has_sg {
            vif.counters.rx_dropped += 1;
            return Verdict::Dropped;
        }
        let slots = u32::try_from(pages).unwrap_or(u32::MAX).saturating_add(extra);
        let number = vif.steering.queue_of(vif.queues.len(), &packet.header);
        let verdict = room(vif, number, slots, now, wake);
        if verdict != Verdict::Planned {
            return verdict;
        }
        match deliver(vif, port, number, packet, &mut plan.copies) {
            Some(delivery) => {
                planned.deliveries.push(delivery);
                Verdict::Planned
            }
            None => Verdict::Dropped,
        }
    }

    pub(super) fn plan_card(
        &mut self,
        port: PortId,
        planned: &mut Planned<P::Memory>,
        plan: &mut Plan<P::Memory>,
        now: Nanos,
        wake: &mut Option<Nanos>,
    ) -> Verdict {
        let Some(card) = self.cards.get_mut(&port).filter(|card| card.uplink.is_up()) else {
            return Verdict::Dropped;
        };
        let packet = planned.source.packet();
        let is_as_it_is = card.uplink.takes_offloads();
        // Cut large packets, each segment with headers of its own.
        let parts: Vec<SegmentPlan> = match packet.offload.gso.filter(|_| !is_as_it_is) {
            // Whole: its own header comes first.
            None => Vec::new(),
            Some(gso) => match segment(&packet.header, packet.len, gso) {
                Some(plans) => plans,
                None => return Verdict::Dropped,
            },
        };
        let mut buffers: SmallVec<[UplinkBuffer<P::Memory>; 1]> = SmallVec::new();
        for _ in 0..parts.len().max(1) {
            match card.uplink.acquire() {
                Some(buffer) => buffers.push(buffer),
                None => {
                    for buffer in buffers {
                        card.uplink.cancel(buffer);
                    }
                    let since = *card.blocked_since.get_or_insert(now);
                    sooner(wake, Nanos::new(since.raw().saturating_add(CARD_STALL)));
                    let is_stalled = now.since(since) >= CARD_STALL;
                    return if is_stalled { Verdict::Dropped } else { Verdict::Blocked };
                }
            }
        }
        card.blocked_since = None;
        let is_blank = !is_as_it_is && (packet.offload.csum_blank || packet.offload.gso.is_some());
        let offload = if is_as_it_is { packet.offload } else { Offload::default() };
        let mut sends: SmallVec<[CardSend<P::Memory>; 1]> = SmallVec::new();
        let start = plan.copies.len();
        let mut is_fitting = true;
        let mut parts = parts.into_iter();
        for buffer in buffers {
            let part = parts.next();
            let (header, from, len) = match &part {
                Some(part) => (&part.header[..], part.start, part.len),
                None => (&packet.header[..], packet.header.len(), packet.len - packet.header.len()),
            };
            let before = plan.copies.len();
            let whole = header.len() + len;
            is_fitting &= whole <= buffer.capacity;
            if is_fitting {
                buffer.memory.copy_in(buffer.offset, header);
                let base = buffer.offset + header.len();
                let to = |done| place(&*buffer.memory, base + done);
                is_fitting &= copy_range(packet, from, len, to, &mut plan.copies).is_some();
            }
            let copies = plan.copies.len() - before;
            let checksum = is_blank.then(|| header.to_vec());
            sends.push(CardSend { card: port, offload, buffer, len: whole, checksum, copies });
        }
        if !is_fitting {
            plan.copies.truncate(start);
            for send in sends {
                self.cancel(port, send.buffer);
            }
            return Verdict::Dropped;
        }
        planned.sends.extend(sends);
        Verdict::Planned
    }
}
