//! The way to guests that take neither large packets nor blank checksums: the packet is made ready in our own memory,
//! and so is copied once more than others.

use alloc::vec::Vec;

use super::super::Offload;
use super::super::back::FrontFeatures;
use super::super::packet::{fill_blank, fill_checksum, layout, segment};
use super::super::transit::{Packet, Transit};
use super::super::uplink::Uplink;
use super::copies::{Copies, Reader, Target};
use super::guest::{accept, answer, fill, room};
use super::{Bridge, Plan, PortId, Verdict, vif_of};
use crate::platform::{Nanos, PAGE_SIZE, Platform, SharedMemory};

impl<P: Platform, U: Uplink<P::Memory>> Bridge<P, U> {
    /// Whether a guest takes a packet only after something was done to it.
    pub(super) fn needs_slow_way(&self, port: PortId, packet: &Packet) -> bool {
        let is_offloaded = packet.offload.csum_blank || packet.offload.gso.is_some();
        let Some(vif) = vif_of(&self.vifs, port).filter(|_| is_offloaded) else { return false };
        !takes_gso(&vif.features, packet) || !takes_blank(&vif.features, packet)
    }

    /// For guests that take neither large packets nor blank checksums: the packet is made ready in our own memory,
    /// and copied once more than others.
    pub(super) fn deliver_slowly(
        &mut self,
        port: PortId,
        transit: &Transit<P::Memory>,
        plan: &mut Plan<P::Memory>,
        now: Nanos,
        wake: &mut Option<Nanos>,
    ) -> Verdict {
        let packet = &transit.packet;
        let features = match vif_of(&self.vifs, port).filter(|vif| vif.has_link()) {
            Some(vif) if !vif.queues.is_empty() => vif.features,
            _ => return Verdict::Dropped,
        };
        let takes_blank = takes_blank(&features, packet);
        // Answers to buffers taken for earlier packets come first.
        self.execute(plan);
        let Some(bytes) = self.flatten(transit) else { return Verdict::Dropped };
        let offload = Offload { csum_blank: takes_blank, validated: true, gso: None };
        let mut frames: Vec<Vec<u8>> = match packet.offload.gso {
            None => alloc::vec![bytes],
            Some(gso) => {
                let Some(plans) = segment(packet.header(), packet.len, gso) else { return Verdict::Dropped };
                let cut = plans.into_iter().map(|plan| {
                    let mut frame = plan.header;
                    frame.extend_from_slice(bytes.get(plan.start..plan.start + plan.len).unwrap_or_default());
                    frame
                });
                cut.collect()
            }
        };
        for frame in &mut frames {
            // A segment's header has neither.
            if takes_blank {
                fill_blank(frame)
            } else {
                fill_checksum(frame)
            };
        }
        let Some(vif) = self.vif(port) else { return Verdict::Dropped };
        let slots = frames.iter().map(|frame| frame.len().div_ceil(PAGE_SIZE)).sum::<usize>();
        let number = vif.steering.queue_of(vif.queues.len(), packet.header());
        let verdict = room(vif, number, u32::try_from(slots).unwrap_or(u32::MAX), now, wake);
        if verdict != Verdict::Planned {
            return verdict;
        }
        for frame in frames {
            self.stage.copy_in(0, &frame);
            let local = Packet::headless(frame.len(), offload);
            let Some(vif) = self.vif(port) else { break };
            let Some(mut delivery) = accept(vif, port, number, &local) else { break };
            let mut list = Vec::new();
            let mut copies = Copies { list: &mut list, bytes: &mut self.counters.mapped_bytes };
            let reader = Reader::own(&self.stage, &local);
            let filled =
                vif_of(&self.vifs, port).and_then(|vif| fill(vif, &mut delivery, reader, &mut copies));
            self.copy(&mut list);
            let is_good =
                filled.is_some() && delivery.is_whole && list.iter().all(|copy| copy.result.is_ok());
            if let Some(vif) = self.vif(port) {
                answer(vif, &delivery, is_good);
            }
        }
        Verdict::Planned
    }

    /// Copies a packet into private memory.
    fn flatten(&mut self, transit: &Transit<P::Memory>) -> Option<Vec<u8>> {
        let mut list = Vec::new();
        let packet = &transit.packet;
        let from = transit.from().and_then(|port| vif_of(&self.vifs, port));
        let mut reader = Reader::new(transit, from)?;
        let mut copies = Copies { list: &mut list, bytes: &mut self.counters.mapped_bytes };
        reader.copy(packet.len, &Target::Own(&self.stage, 0), &mut copies)?;
        self.copy(&mut list);
        if list.iter().any(|copy| copy.result.is_err()) {
            return None;
        }
        let mut bytes = alloc::vec![0; packet.len];
        self.stage.copy_out(0, &mut bytes);
        Some(bytes)
    }
}

fn takes_gso(features: &FrontFeatures, packet: &Packet) -> bool {
    match packet.offload.gso {
        Some(gso) if gso.is_v6 => features.has_gso_v6 && features.has_sg,
        Some(_) => features.has_gso_v4 && features.has_sg,
        None => true,
    }
}

fn takes_blank(features: &FrontFeatures, packet: &Packet) -> bool {
    let is_v6 = layout(packet.header()).is_some_and(|layout| layout.is_v6);
    if is_v6 { features.has_csum_v6 } else { features.has_csum_v4 }
}
