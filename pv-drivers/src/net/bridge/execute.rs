//! Doing what was planned, and answering.

use alloc::vec::Vec;

use pv_abi::io::netif;

use super::super::packet::fill_checksum_in;
use super::super::transit::{OnTheWay, Source, Transit};
use super::super::uplink::{Uplink, UplinkBuffer};
use super::guest::answer;
use super::{Bridge, Plan, PortId, vif_of};
use crate::platform::{CopyEnd, GrantCopy, Platform, SharedMemory};

impl<P: Platform, U: Uplink<P::Memory>> Bridge<P, U> {
    /// Does what was planned, and answers.
    pub(super) fn execute(&mut self, plan: &mut Plan<P::Memory>) {
        if plan.packets.is_empty() {
            return;
        }
        self.copy(&mut plan.copies);
        let mut results = plan.copies.iter();
        let mut has_sent = false;
        for mut transit in plan.packets.drain(..) {
            let mut is_sender_bad = None;
            for delivery in &transit.deliveries {
                let failed =
                    results.by_ref().take(delivery.copies).filter(|copy| copy.result.is_err()).count();
                let is_good = failed == 0 && delivery.is_whole;
                let sender_bad =
                    !is_good && *is_sender_bad.get_or_insert_with(|| self.is_unreachable(&transit));
                if let Some(vif) = self.vif(delivery.port) {
                    answer(vif, delivery, is_good);
                    if !is_good && !sender_bad {
                        vif.delivered(delivery.len, false);
                    }
                }
            }
            for send in transit.sends.drain(..) {
                let failed = results.by_ref().take(send.copies).filter(|copy| copy.result.is_err()).count();
                if failed > 0 {
                    is_sender_bad = Some(true);
                    self.cancel(send.card, send.buffer);
                    continue;
                }
                if let Some(header) = send.checksum {
                    fill_checksum_in(&*send.buffer.memory, send.buffer.offset, send.len, &header);
                }
                self.counters.to_uplink += 1;
                if let Some(card) = self.card(send.card) {
                    card.uplink.send(send.buffer, send.len, send.offload);
                }
                has_sent = true;
            }
            let is_bad = is_sender_bad == Some(true);
            if is_bad && let Some(vif) = transit.from().and_then(|from| self.vif(from)) {
                vif.counters.tx_errors += 1;
            }
            self.finish(transit, if is_bad { netif::RSP_ERROR } else { netif::RSP_OKAY });
        }
        plan.copies.clear();
        if has_sent {
            for card in &mut self.cards {
                card.uplink.start();
            }
        }
    }

    /// Answers the sender of a packet.
    fn finish(&mut self, mut transit: OnTheWay<P::Memory>, status: i16) {
        match core::mem::replace(&mut transit.source, Source::None) {
            Source::None => {}
            Source::Card(port, buffer) => {
                if let Some(card) = self.card(port) {
                    card.uplink.release(buffer);
                }
            }
            Source::Vif(port, queue, slot) => {
                if let Some(queue) = self.vif(port).and_then(|vif| vif.queues.get_mut(queue)) {
                    queue.done(&transit.ids, slot, status);
                }
            }
        }
        self.pool.put(transit);
    }

    /// Gives a buffer of a card back unsent.
    fn cancel(&mut self, port: PortId, buffer: UplinkBuffer<P::Memory>) {
        if let Some(card) = self.card(port) {
            card.uplink.cancel(buffer);
        }
    }

    /// Whether a packet's own memory is not there (any more): tried by copying a byte of each piece.
    fn is_unreachable(&self, transit: &Transit<P::Memory>) -> bool {
        let Some(vif) = transit.from().and_then(|from| vif_of(&self.vifs, from)) else { return false };
        let packet = &transit.packet;
        let mut end = 0;
        let behind_header = packet.pieces.iter().filter(|piece| {
            end += usize::from(piece.len);
            piece.len > 0 && end > packet.header_len
        });
        let to = CopyEnd::Local { gfn: self.stage.gfn(0), offset: 0 };
        let domain = vif.domain();
        let probe = |grant, offset| {
            let from = CopyEnd::Foreign { domain, grant, offset };
            GrantCopy { from, to, len: 1, result: Ok(()) }
        };
        let mut probes: Vec<GrantCopy> =
            behind_header.map(|piece| probe(piece.grant, piece.offset)).collect();
        self.platform.grant_copy(&mut probes);
        probes.iter().any(|probe| probe.result.is_err())
    }
}
