//! The way to guests that take neither large packets nor blank checksums: the packet is made ready in our own memory,
//! and so is copied once more than others.

use alloc::vec::Vec;

use super::super::Offload;
use super::super::back::{FrontFeatures, Packet};
use super::super::packet::{fill_blank, fill_checksum, layout, segment};
use super::super::uplink::Uplink;
use super::guest::{answer, deliver, room};
use super::place::{local_packet, place};
use super::plan::copy_range;
use super::{Bridge, Plan, Planned, PortId, Verdict};
use crate::platform::{Nanos, PAGE_SIZE, Platform, SharedMemory};

impl<P: Platform, U: Uplink<P::Memory>> Bridge<P, U> {
    /// Whether a guest takes a packet only after something was done to it.
    pub(super) fn needs_slow_way(&self, port: PortId, packet: &Packet) -> bool {
        let Some(features) = self.vifs.get(&port).map(|vif| vif.features) else { return false };
        let is_offloaded = packet.offload.csum_blank || packet.offload.gso.is_some();
        !takes_gso(&features, packet) || (is_offloaded && !takes_blank(&features, packet))
    }

    /// For guests that take neither large packets nor blank checksums: the packet is made ready in our own memory,
    /// and copied once more than others.
    pub(super) fn deliver_slowly(
        &mut self,
        port: PortId,
        planned: &Planned<P::Memory>,
        plan: &mut Plan<P::Memory>,
        now: Nanos,
        wake: &mut Option<Nanos>,
    ) -> Verdict {
        let packet = planned.source.packet();
        let features = match self.vifs.get(&port).filter(|vif| vif.is_connected()) {
            Some(vif) if !vif.queues.is_empty() => vif.features,
            _ => return Verdict::Dropped,
        };
        let takes_blank = takes_blank(&features, packet);
        // Answers to buffers taken for earlier packets come first.
        self.execute(plan);
        let Some(bytes) = self.flatten(packet) else { return Verdict::Dropped };
        let offload = Offload { csum_blank: takes_blank, validated: true, gso: None };
        let mut frames: Vec<Vec<u8>> = match packet.offload.gso {
            None => alloc::vec![bytes],
            Some(gso) => {
                let Some(plans) = segment(&packet.header, packet.len, gso) else { return Verdict::Dropped };
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
        let Some(vif) = self.vifs.get_mut(&port) else { return Verdict::Dropped };
        let slots = frames.iter().map(|frame| frame.len().div_ceil(PAGE_SIZE)).sum::<usize>();
        let number = vif.steering.queue_of(vif.queues.len(), &packet.header);
        let verdict = room(vif, number, u32::try_from(slots).unwrap_or(u32::MAX), now, wake);
        if verdict != Verdict::Planned {
            return verdict;
        }
        for frame in frames {
            self.stage.copy_in(0, &frame);
            let local = local_packet(&self.stage, 0, frame.len(), offload);
            let mut copies = Vec::new();
            let Some(vif) = self.vifs.get_mut(&port) else { break };
            let Some(delivery) = deliver(vif, port, number, &local, &mut copies) else { break };
            self.copy(&mut copies);
            let is_good = delivery.is_whole && copies.iter().all(|copy| copy.result.is_ok());
            if let Some(vif) = self.vifs.get_mut(&port) {
                answer(vif, &delivery, is_good);
            }
        }
        Verdict::Planned
    }

    /// Copies a packet into private memory.
    pub(super) fn flatten(&mut self, packet: &Packet) -> Option<Vec<u8>> {
        let mut copies = Vec::new();
        let stage = &self.stage;
        copy_range(packet, 0, packet.len, |done| place(stage, done), &mut copies)?;
        self.copy(&mut copies);
        if copies.iter().any(|copy| copy.result.is_err()) {
            return None;
        }
        let mut bytes = alloc::vec![0; packet.len];
        self.stage.copy_out(0, &mut bytes);
        // What was looked at is what counts.
        bytes.get_mut(..packet.header.len())?.copy_from_slice(&packet.header);
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
    let is_v6 = layout(&packet.header).is_some_and(|layout| layout.is_v6);
    if is_v6 { features.has_csum_v6 } else { features.has_csum_v4 }
}
