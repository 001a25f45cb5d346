//! Deciding where packets go, and planning their copies.

use alloc::vec::Vec;

use smallvec::SmallVec;

use super::super::packet::{SegmentPlan, segment};
use super::super::transit::{CardSend, OnTheWay, Packet, Transit};
use super::super::uplink::{Uplink, UplinkBuffer};
use super::super::{Mac, Offload};
use super::copies::{Copies, Reader, Target};
use super::guest::{accept, fill, room};
use super::{Bridge, CARD_STALL, PLAN_COPIES, PLAN_PACKETS, Place, Plan, PortId, Verdict, sooner, vif_of};
use crate::platform::{Nanos, PAGE_SIZE, Platform, SharedMemory};

impl<P: Platform, U: Uplink<P::Memory>> Bridge<P, U> {
    /// Sends packets on their way, one from each sender in turn.
    pub(super) fn forward(&mut self, now: Nanos, wake: &mut Option<Nanos>) -> usize {
        let mut senders = core::mem::take(&mut self.lists.senders);
        for (number, card) in self.cards.iter().enumerate() {
            if !card.received.is_empty() {
                senders.push((PortId(Place::Card(number)), 0));
            }
        }
        for (number, vif) in self.vifs.iter().enumerate() {
            let Some(vif) = vif.as_deref().filter(|vif| vif.is_connected()) else { continue };
            for (queue, _) in vif.queues.iter().enumerate().filter(|(_, queue)| !queue.backlog.is_empty()) {
                senders.push((PortId(Place::Vif(number)), queue));
            }
        }
        if senders.len() > 1 {
            let start = self.turn % senders.len();
            senders.rotate_left(start);
            self.turn = self.turn.wrapping_add(1);
        }
        let mut plan = core::mem::take(&mut self.plan);
        plan.has_blocked = false;
        let mut finished = 0;
        while !senders.is_empty() {
            senders.retain(|&(port, queue)| {
                let Some(transit) = self.pop(port, queue) else { return false };
                match self.plan(transit, port, &mut plan, now, wake) {
                    None => {
                        finished += 1;
                        if plan.packets.len() >= PLAN_PACKETS || plan.copies.len() >= PLAN_COPIES {
                            self.execute(&mut plan);
                        }
                        true
                    }
                    Some(transit) => {
                        plan.has_blocked = true;
                        self.put_back(port, queue, transit);
                        false
                    }
                }
            });
        }
        self.execute(&mut plan);
        self.plan = plan;
        self.lists.senders = senders;
        finished
    }

    fn pop(&mut self, port: PortId, queue: usize) -> Option<OnTheWay<P::Memory>> {
        match port.0 {
            Place::Card(_) => self.card(port)?.received.pop_front(),
            Place::Vif(_) => self.vif(port)?.queues.get_mut(queue)?.backlog.pop_front(),
        }
    }

    fn put_back(&mut self, port: PortId, queue: usize, transit: OnTheWay<P::Memory>) {
        match port.0 {
            Place::Card(_) => {
                if let Some(card) = self.card(port) {
                    card.received.push_front(transit);
                }
            }
            Place::Vif(_) => {
                if let Some(queue) = self.vif(port).and_then(|vif| vif.queues.get_mut(queue)) {
                    queue.backlog.push_front(transit);
                }
            }
        }
    }

    /// Decides where a packet goes and plans its copies. The packet comes back if it has to wait.
    fn plan(
        &mut self,
        mut transit: OnTheWay<P::Memory>,
        from: PortId,
        plan: &mut Plan<P::Memory>,
        now: Nanos,
        wake: &mut Option<Nanos>,
    ) -> Option<OnTheWay<P::Memory>> {
        let to = Mac::at(transit.packet.header(), 0).unwrap_or_default();
        let known = if to.is_group() { None } else { self.table.find(to, now) };
        let mut went = 0;
        match known {
            Some(port) if port == from => {}
            Some(port) => match self.plan_one(port, &mut transit, plan, now, wake) {
                Verdict::Planned => went = 1,
                Verdict::Dropped => {}
                Verdict::Blocked => return Some(transit),
            },
            None => went = self.plan_all(to, from, &mut transit, plan, now, wake),
        }
        match (went, known) {
            (0, _) => self.counters.dropped += 1,
            (_, Some(_)) => self.counters.forwarded += 1,
            (_, None) => self.counters.flooded += 1,
        }
        plan.packets.push(transit);
        None
    }

    /// Plans the way of a packet to all interfaces behind which somebody may want it; how many that were.
    fn plan_all(
        &mut self,
        to: Mac,
        from: PortId,
        transit: &mut Transit<P::Memory>,
        plan: &mut Plan<P::Memory>,
        now: Nanos,
        wake: &mut Option<Nanos>,
    ) -> usize {
        // Those whose only address is known are no place for other addresses.
        let vifs = self.vifs.iter().enumerate().filter_map(|(number, vif)| {
            (to.is_group() || vif.as_deref()?.may_learn()).then_some(PortId(Place::Vif(number)))
        });
        let cards = self.cards.iter().enumerate().filter_map(|(number, card)| {
            (to.is_group() || card.mac.is_none()).then_some(PortId(Place::Card(number)))
        });
        let all = vifs.chain(cards).filter(|port| *port != from);
        // Those that need the slow way are served first: it does what was planned before at once.
        let (slow, fast): (Vec<PortId>, Vec<PortId>) =
            all.partition(|port| self.needs_slow_way(*port, &transit.packet));
        let mut went = 0;
        for port in slow.into_iter().chain(fast) {
            match self.plan_one(port, transit, plan, now, wake) {
                Verdict::Planned => went += 1,
                Verdict::Dropped => {}
                // Copies for everybody wait for nobody.
                Verdict::Blocked => self.count_dropped(port),
            }
        }
        went
    }

    /// Plans the way of a packet to one interface.
    fn plan_one(
        &mut self,
        port: PortId,
        transit: &mut Transit<P::Memory>,
        plan: &mut Plan<P::Memory>,
        now: Nanos,
        wake: &mut Option<Nanos>,
    ) -> Verdict {
        match port.0 {
            Place::Card(number) => self.plan_card(number, transit, plan, now, wake),
            Place::Vif(_) if self.needs_slow_way(port, &transit.packet) => {
                self.deliver_slowly(port, transit, plan, now, wake)
            }
            Place::Vif(_) => self.plan_vif(port, transit, plan, now, wake),
        }
    }

    fn count_dropped(&mut self, port: PortId) {
        if let Some(vif) = self.vif(port) {
            vif.counters.rx_dropped += 1;
        }
    }

    fn plan_vif(
        &mut self,
        port: PortId,
        transit: &mut Transit<P::Memory>,
        plan: &mut Plan<P::Memory>,
        now: Nanos,
        wake: &mut Option<Nanos>,
    ) -> Verdict {
        let Some(vif) = self.vif(port).filter(|vif| vif.has_link() && !vif.queues.is_empty()) else {
            return Verdict::Dropped;
        };
        let packet = &transit.packet;
        let extra = u32::from(packet.offload.gso.is_some());
        let pages = packet.len.div_ceil(PAGE_SIZE);
        if pages > 1 && !vif.features.has_sg {
            vif.counters.rx_dropped += 1;
            return Verdict::Dropped;
        }
        let slots = u32::try_from(pages).unwrap_or(u32::MAX).saturating_add(extra);
        let number = vif.steering.queue_of(vif.queues.len(), packet.header());
        let verdict = room(vif, number, slots, now, wake);
        if verdict != Verdict::Planned {
            return verdict;
        }
        let Some(mut delivery) = accept(vif, port, number, packet) else { return Verdict::Dropped };
        let mut copies = Copies { list: &mut plan.copies, bytes: &mut self.counters.mapped_bytes };
        let at = |port| vif_of(&self.vifs, port);
        if let (Some(vif), Some(reader)) = (at(port), Reader::new(transit, transit.from().and_then(at))) {
            let _ = fill(vif, &mut delivery, reader, &mut copies);
        }
        transit.deliveries.push(delivery);
        Verdict::Planned
    }

    fn plan_card(
        &mut self,
        number: usize,
        transit: &mut Transit<P::Memory>,
        plan: &mut Plan<P::Memory>,
        now: Nanos,
        wake: &mut Option<Nanos>,
    ) -> Verdict {
        let Some(card) = self.cards.get_mut(number).filter(|card| card.uplink.is_up()) else {
            return Verdict::Dropped;
        };
        let packet = &transit.packet;
        let is_as_it_is = card.uplink.takes_offloads();
        // Cut large packets, each segment with headers of its own.
        let parts: Vec<SegmentPlan> = match packet.offload.gso.filter(|_| !is_as_it_is) {
            // Whole: its own header comes first.
            None => Vec::new(),
            Some(gso) => match segment(packet.header(), packet.len, gso) {
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
        let at = |port| vif_of(&self.vifs, port);
        let Some(mut reader) = Reader::new(transit, transit.from().and_then(at)) else {
            buffers.into_iter().for_each(|buffer| card.uplink.cancel(buffer));
            return Verdict::Dropped;
        };
        let is_blank = !is_as_it_is && (packet.offload.csum_blank || packet.offload.gso.is_some());
        let offload = if is_as_it_is { packet.offload } else { Offload::default() };
        let (first, sends) = (plan.copies.len(), &mut SmallVec::<[CardSend<P::Memory>; 1]>::new());
        let mut copies = Copies { list: &mut plan.copies, bytes: &mut self.counters.mapped_bytes };
        let mut is_fitting = true;
        let mut parts = parts.iter();
        for buffer in buffers {
            let part = parts.next();
            let before = copies.list.len();
            let whole = part.map_or(packet.len, |part| part.header.len() + part.len);
            is_fitting = is_fitting
                && whole <= buffer.capacity
                && write(&buffer, packet, part, &mut reader, &mut copies).is_some();
            let planned = copies.list.len() - before;
            let header = part.map_or(packet.header(), |part| &part.header);
            let checksum = is_blank.then(|| header.to_vec());
            let card = PortId(Place::Card(number));
            sends.push(CardSend { card, offload, buffer, len: whole, checksum, copies: planned });
        }
        if !is_fitting {
            plan.copies.truncate(first);
            sends.drain(..).for_each(|send| card.uplink.cancel(send.buffer));
            return Verdict::Dropped;
        }
        transit.sends.append(sends);
        Verdict::Planned
    }
}

/// Copies a packet into a card's buffer, or a part with headers of its own.
fn write<P: Platform>(
    buffer: &UplinkBuffer<P::Memory>,
    packet: &Packet,
    part: Option<&SegmentPlan>,
    reader: &mut Reader<'_, P>,
    copies: &mut Copies<'_>,
) -> Option<()> {
    let memory = &*buffer.memory;
    let Some(part) = part else {
        return reader.copy(packet.len, &Target::Own(memory, buffer.offset), copies);
    };
    memory.copy_in(buffer.offset, &part.header);
    reader.skip_to(part.start);
    reader.copy(part.len, &Target::Own(memory, buffer.offset + part.header.len()), copies)
}
