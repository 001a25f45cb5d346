//! Packets come in: from the rings of guests, and from the uplink.

use alloc::format;

use pv_abi::io::netif;

use super::super::packet::checked_gso;
use super::super::transit::Source;
use super::super::uplink::Uplink;
use super::super::{ETHERNET_HEADER, Mac, PEEK};
use super::{BACKLOG, Bridge, Place, PortId, sooner};
use crate::platform::{Nanos, Platform, SharedMemory};

impl<P: Platform, U: Uplink<P::Memory>> Bridge<P, U> {
    /// Takes packets off the rings and looks at them.
    pub(super) fn take(&mut self, now: Nanos, wake: &mut Option<Nanos>) -> usize {
        let mut lists = core::mem::take(&mut self.lists);
        for (number, vif) in self.vifs.iter_mut().enumerate() {
            let Some(vif) = vif.as_deref_mut().filter(|vif| vif.is_connected()) else { continue };
            let port = PortId(Place::Vif(number));
            let mut queues = core::mem::take(&mut vif.queues);
            for (place, queue) in queues.iter_mut().enumerate() {
                let before = lists.peeks.len();
                if let Err(at) = vif.allowance() {
                    sooner(wake, at);
                    break;
                }
                let most = BACKLOG.saturating_sub(queue.backlog.len());
                let charge = |len, bad: Option<&'static str>| {
                    if bad.is_some() {
                        vif.counters.tx_errors += 1;
                    }
                    vif.charge(len);
                    vif.allowance().is_ok()
                };
                match queue.take(most, (port, place), &mut self.pool, &mut lists.peeks, charge) {
                    Ok(0) => {}
                    Ok(count) => lists.taken.push((number, place, count)),
                    Err(fault) => {
                        vif.disable(format!("its transmit ring: {fault}"));
                        // What was taken before is lost with the rings.
                        queue.backlog.clear();
                        lists.peeks.truncate(before);
                    }
                }
            }
            vif.queues = queues;
        }
        self.copy(&mut lists.peeks);
        let mut results = lists.peeks.iter();
        let mut count = 0;
        for (number, place, packets) in lists.taken.drain(..) {
            count += packets;
            let port = PortId(Place::Vif(number));
            let Some(vif) = self.vifs.get_mut(number).and_then(|vif| vif.as_deref_mut()) else { continue };
            let mut queues = core::mem::take(&mut vif.queues);
            if let Some(queue) = queues.get_mut(place) {
                let (mut spoofed, mut malformed) = (0, 0);
                let bad = queue.look(packets, &mut results, &mut self.pool, |packet| {
                    if !vif.has_link() {
                        return Err(netif::RSP_DROPPED);
                    }
                    let header = packet.header();
                    if !vif.is_genuine(header) {
                        spoofed += 1;
                        return Err(netif::RSP_DROPPED);
                    }
                    if packet.offload.gso.is_some_and(|gso| checked_gso(header, packet.len, gso).is_none()) {
                        malformed += 1;
                        return Err(netif::RSP_ERROR);
                    }
                    if let Some(mac) = Mac::at(header, 6) {
                        self.table.learn(mac, port, now);
                    }
                    Ok(())
                });
                vif.counters.spoofed += spoofed;
                vif.counters.tx_errors += bad + malformed;
            }
            vif.queues = queues;
        }
        lists.peeks.clear();
        self.lists = lists;
        count
    }

    /// Takes packets from the uplink and other cards.
    pub(super) fn receive(&mut self) -> usize {
        let mut count = 0;
        for (number, card) in self.cards.iter_mut().enumerate() {
            let port = PortId(Place::Card(number));
            while card.received.len() < BACKLOG {
                let Some((buffer, len, offload)) = card.uplink.receive() else { break };
                count += 1;
                let len = len.min(buffer.capacity);
                if len < ETHERNET_HEADER {
                    card.uplink.release(buffer);
                    continue;
                }
                let mut transit = self.pool.get();
                let packet = &mut transit.packet;
                (packet.len, packet.header_len, packet.offload) = (len, len.min(PEEK), offload);
                buffer.memory.copy_out(buffer.offset, packet.header_mut());
                if let (Some(mac), None) = (Mac::at(packet.header(), 6), card.mac) {
                    self.table.learn(mac, port, self.platform.now());
                }
                transit.source = Source::Card(port, buffer);
                card.received.push_back(transit);
            }
        }
        self.counters.from_uplink += count as u64;
        count
    }
}
