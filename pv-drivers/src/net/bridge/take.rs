//! Packets come in: from the rings of guests, and from the uplink.

use alloc::format;
use alloc::vec::Vec;

use pv_abi::io::netif;

use super::super::packet::checked_gso;
use super::super::uplink::Uplink;
use super::super::{ETHERNET_HEADER, Mac};
use super::place::local_packet;
use super::{BACKLOG, Bridge, PortId, sooner};
use crate::platform::{GrantCopy, Nanos, Platform};

impl<P: Platform, U: Uplink<P::Memory>> Bridge<P, U> {
    /// Takes packets off the rings and looks at them.
    pub(super) fn take(&mut self, wake: &mut Option<Nanos>) -> usize {
        let now = self.platform.now();
        let mut peeks: Vec<GrantCopy> = Vec::new();
        let mut taken: Vec<(PortId, usize, usize)> = Vec::new();
        for (port, vif) in self.vifs.iter_mut().filter(|(_, vif)| vif.is_connected()) {
            let mut queues = core::mem::take(&mut vif.queues);
            for (number, queue) in queues.iter_mut().enumerate() {
                let before = peeks.len();
                if let Err(at) = vif.allowance() {
                    sooner(wake, at);
                    break;
                }
                let most = BACKLOG.saturating_sub(queue.backlog.len());
                let result = queue.take(most, &mut peeks, |len, bad| {
                    if bad.is_some() {
                        vif.counters.tx_errors += 1;
                    }
                    vif.charge(len);
                    vif.allowance().is_ok()
                });
                match result {
                    Ok(0) => {}
                    Ok(count) => taken.push((*port, number, count)),
                    Err(fault) => {
                        vif.disable(format!("its transmit ring: {fault}"));
                        // What was taken before is lost with the rings.
                        queue.backlog.clear();
                        peeks.truncate(before);
                    }
                }
            }
            vif.queues = queues;
        }
        self.copy(&mut peeks);
        let mut results = peeks.iter();
        let mut count = 0;
        for (port, number, packets) in taken {
            count += packets;
            let Some(vif) = self.vifs.get_mut(&port) else { continue };
            let mut queues = core::mem::take(&mut vif.queues);
            if let Some(queue) = queues.get_mut(number) {
                let (mut spoofed, mut malformed) = (0, 0);
                let bad = queue.look(packets, &mut results, |packet| {
                    if !vif.is_genuine(&packet.header) {
                        spoofed += 1;
                        return Err(netif::RSP_DROPPED);
                    }
                    if packet
                        .offload
                        .gso
                        .is_some_and(|gso| checked_gso(&packet.header, packet.len, gso).is_none())
                    {
                        malformed += 1;
                        return Err(netif::RSP_ERROR);
                    }
                    if let Some(mac) = Mac::at(&packet.header, 6) {
                        self.table.learn(mac, port, now);
                    }
                    Ok(())
                });
                vif.counters.spoofed += spoofed;
                vif.counters.tx_errors += bad + malformed;
            }
            vif.queues = queues;
        }
        count
    }

    /// Takes packets from the uplink and other cards.
    pub(super) fn receive(&mut self) -> usize {
        let now = self.platform.now();
        let mut count = 0;
        for (port, card) in &mut self.cards {
            while card.received.len() < BACKLOG {
                let Some((buffer, len, offload)) = card.uplink.receive() else { break };
                count += 1;
                let len = len.min(buffer.capacity);
                if len < ETHERNET_HEADER {
                    card.uplink.release(buffer);
                    continue;
                }
                let packet = local_packet(&*buffer.memory, buffer.offset, len, offload);
                if let (Some(mac), None) = (Mac::at(&packet.header, 6), card.mac) {
                    self.table.learn(mac, *port, now);
                }
                card.received.push_back((buffer, packet));
            }
        }
        self.counters.from_uplink += count as u64;
        count
    }
}
