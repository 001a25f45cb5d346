//! Doing what was planned, and answering.

use alloc::vec::Vec;

use pv_abi::io::netif;

use super::super::back::Packet;
use super::super::packet::fill_checksum_in;
use super::super::uplink::{Uplink, UplinkBuffer};
use super::guest::answer;
use super::{Bridge, Plan, PortId, Source};
use crate::platform::{CopyEnd, GrantCopy, Platform, SharedMemory};

impl<P: Platform, U: Uplink<P::Memory>> Bridge<P, U> {
    /// Does what was planned, and answers.
    pub(super) fn execute(&mut self, plan: &mut Plan<P::Memory>) {
        let mut copies = core::mem::take(&mut plan.copies);
        let packets = core::mem::take(&mut plan.packets);
        if packets.is_empty() {
            return;
        }
        self.copy(&mut copies);
        let mut results = copies.iter();
        let mut has_sent = false;
        for planned in packets {
            let mut is_sender_bad = None;
            for delivery in &planned.deliveries {
                let failed =
                    results.by_ref().take(delivery.copies).filter(|copy| copy.result.is_err()).count();
                let is_good = failed == 0 && delivery.is_whole;
                let sender_bad = !is_good
                    && *is_sender_bad.get_or_insert_with(|| self.is_unreachable(planned.source.packet()));
                if let Some(vif) = self.vifs.get_mut(&delivery.port) {
                    answer(vif, delivery, is_good);
                    if !is_good && !sender_bad {
                        vif.delivered(delivery.len, false);
                    }
                }
            }
            for send in planned.sends {
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
                if let Some(card) = self.cards.get_mut(&send.card) {
                    card.uplink.send(send.buffer, send.len, send.offload);
                }
                has_sent = true;
            }
            let is_bad = is_sender_bad == Some(true);
            if is_bad && let Some(vif) = self.vifs.get_mut(&planned.source.port()) {
                vif.counters.tx_errors += 1;
            }
            self.finish(planned.source, if is_bad { netif::RSP_ERROR } else { netif::RSP_OKAY });
        }
        if has_sent {
            for card in self.cards.values_mut() {
                card.uplink.start();
            }
        }
    }

    /// Answers the sender of a packet.
    pub(super) fn finish(&mut self, source: Source<P::Memory>, status: i16) {
        match source {
            Source::Card(port, buffer, _) => {
                if let Some(card) = self.cards.get_mut(&port) {
                    card.uplink.release(buffer);
                }
            }
            Source::Vif(port, queue, held) => {
                if let Some(queue) = self.vifs.get_mut(&port).and_then(|vif| vif.queues.get_mut(queue)) {
                    queue.done(held, status);
                }
            }
        }
    }

    /// Gives a buffer of a card back unsent.
    pub(super) fn cancel(&mut self, port: PortId, buffer: UplinkBuffer<P::Memory>) {
        if let Some(card) = self.cards.get_mut(&port) {
            card.uplink.cancel(buffer);
        }
    }

    /// Whether a packet's own memory is not there (any more): tried by copying a byte of each piece.
    pub(super) fn is_unreachable(&self, packet: &Packet) -> bool {
        let mut probes: Vec<GrantCopy> = packet
            .body
            .iter()
            .map(|piece| GrantCopy {
                from: piece.end,
                to: CopyEnd::Local { gfn: self.stage.gfn(0), offset: 0 },
                len: 1,
                result: Ok(()),
            })
            .collect();
        self.platform.grant_copy(&mut probes);
        probes.iter().any(|probe| probe.result.is_err())
    }
}
