//! Joins the interfaces of guests with each other and with an uplink.
//!
//! A packet is taken from its sender's ring, its first bytes are copied into private memory and looked at, and all of
//! it is then copied by the hypervisor straight into the receiver's buffers (or the uplink's). What decided about the
//! packet is what arrives: the looked-at bytes come from the private copy.
//!
//! # Rules
//!
//! * Nothing is dropped for want of room: the packet stays with its sender, whose ring fills up. Only a receiver that
//!   shows no life for a while, and copies for everybody (broadcasts), lose packets.
//! * Senders take turns, packet by packet, so that a flood takes no more than its share.
//! * Whoever breaks the rules of a ring is disabled alone.
//!
//! A bridge has one owner; put a lock around it if several processors serve it.

mod plan;
mod table;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::Port;
use pv_abi::io::netif::{self, RxResponse};

use super::back::{FrontFeatures, Held, NetBack, PEEK, Packet, Piece};
use super::packet::{checked_gso, fill_checksum, fill_checksum_in, flow, layout, segment};
use super::uplink::{Uplink, UplinkBuffer};
use super::{Mac, Offload};
use crate::platform::{CopyEnd, GrantCopy, Nanos, PAGE_SIZE, Platform, SharedMemory};
use plan::{Delivery, RxSlot, copy_range};
pub use table::MacTable;

/// An interface of a bridge.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortId(u32);

/// The uplink's place among the interfaces.
const UPLINK: PortId = PortId(0);
/// Packets of a queue that are taken before the earlier ones are gone.
const BACKLOG: usize = 64;
/// Packets that are planned before they are copied.
const PLAN_PACKETS: usize = 128;
/// Copies that are planned before they are done.
const PLAN_COPIES: usize = 1024;
/// How long packets for the uplink are kept back when it has no room.
const UPLINK_STALL: u64 = 1_000_000_000;
/// Bytes for the slow path: one packet.
const STAGE_PAGES: usize = 17;

/// What a poll did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Nothing more to do until an event channel or the uplink fires.
    Idle,
    /// The same, but at this time at the latest there is something to do.
    Wake(Nanos),
    /// The budget is used up: poll again soon.
    More,
}

/// What happened so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BridgeCounters {
    /// Packets that went to one interface.
    pub forwarded: u64,
    /// Packets that went to all.
    pub flooded: u64,
    /// Packets that went nowhere.
    pub dropped: u64,
    /// Packets and segments sent to the uplink.
    pub to_uplink: u64,
    /// Packets received from the uplink.
    pub from_uplink: u64,
    /// Copies by the hypervisor.
    pub copies: u64,
    /// Bytes in them.
    pub copied_bytes: u64,
}

/// Where a packet came from.
enum Source<M> {
    Vif(PortId, usize, Held),
    Uplink(UplinkBuffer<M>, Packet),
}

impl<M> Source<M> {
    fn packet(&self) -> &Packet {
        match self {
            Self::Vif(_, _, held) => &held.packet,
            Self::Uplink(_, packet) => packet,
        }
    }

    fn port(&self) -> PortId {
        match self {
            Self::Vif(port, ..) => *port,
            Self::Uplink(..) => UPLINK,
        }
    }
}

/// A packet for the uplink whose bytes are being copied.
struct UplinkSend<M> {
    buffer: UplinkBuffer<M>,
    len: usize,
    /// To fill in the checksum, the headers.
    checksum: Option<Vec<u8>>,
    copies: usize,
}

/// A packet and all that is being done with it.
struct Planned<M> {
    source: Source<M>,
    deliveries: Vec<Delivery>,
    sends: Vec<UplinkSend<M>>,
}

struct Plan<M> {
    copies: Vec<GrantCopy>,
    packets: Vec<Planned<M>>,
}

/// Whether a packet can go on its way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Planned,
    Dropped,
    /// Its receiver has no room.
    Blocked,
}

/// A learning bridge.
pub struct Bridge<P: Platform, U: Uplink<P::Memory>> {
    platform: P,
    uplink: U,
    vifs: BTreeMap<PortId, NetBack<P>>,
    next_port: u32,
    /// Whose turn it is to be first.
    turn: usize,
    table: MacTable,
    received: VecDeque<(UplinkBuffer<P::Memory>, Packet)>,
    uplink_blocked: Option<Nanos>,
    /// Our own memory for what has to be made ready before it goes on.
    stage: P::Memory,
    counters: BridgeCounters,
}

impl<P: Platform, U: Uplink<P::Memory>> Bridge<P, U> {
    /// A bridge without guests.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(platform: &P, uplink: U) -> Result<Self, Errno> {
        Ok(Self {
            platform: platform.clone(),
            uplink,
            vifs: BTreeMap::new(),
            next_port: 1,
            turn: 0,
            table: MacTable::new(64, 1024),
            received: VecDeque::new(),
            uplink_blocked: None,
            stage: platform.allocate(STAGE_PAGES)?,
            counters: BridgeCounters::default(),
        })
    }

    /// Adds an interface.
    ///
    /// # Errors
    /// `EEXIST` when another one has its address.
    pub fn add(&mut self, vif: NetBack<P>) -> Result<PortId, Errno> {
        let port = PortId(self.next_port);
        if !self.table.add_static(vif.mac(), port) {
            return Err(Errno::EEXIST);
        }
        self.next_port += 1;
        self.vifs.insert(port, vif);
        Ok(port)
    }

    /// Takes an interface out.
    pub fn remove(&mut self, port: PortId) -> Option<NetBack<P>> {
        self.table.remove(port);
        self.vifs.remove(&port)
    }

    /// An interface.
    pub fn vif(&mut self, port: PortId) -> Option<&mut NetBack<P>> {
        self.vifs.get_mut(&port)
    }

    /// All interfaces.
    pub fn vifs(&mut self) -> impl Iterator<Item = (PortId, &mut NetBack<P>)> {
        self.vifs.iter_mut().map(|(port, vif)| (*port, vif))
    }

    /// The event channels of all interfaces.
    pub fn ports(&self) -> impl Iterator<Item = Port> {
        self.vifs.values().flat_map(NetBack::ports)
    }

    /// The way out.
    pub fn uplink(&mut self) -> &mut U {
        &mut self.uplink
    }

    /// The table of addresses.
    #[must_use]
    pub fn table(&self) -> &MacTable {
        &self.table
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> BridgeCounters {
        self.counters
    }

    /// Whether [`NetBack::on_store`] of an interface has something to write.
    #[must_use]
    pub fn wants_store(&self) -> bool {
        self.vifs.values().any(NetBack::wants_store)
    }

    /// Moves packets, about `budget` of them; call it when an event channel or the uplink fires.
    pub fn poll(&mut self, budget: usize) -> Progress {
        let mut moved = 0;
        let progress = loop {
            let mut wake = None;
            let now = self.round(&mut wake);
            moved += now;
            if moved >= budget {
                break Progress::More;
            }
            if now == 0 && !self.arm() {
                break wake.map_or(Progress::Idle, Progress::Wake);
            }
        };
        // Answers are shown once for each poll, and so are events.
        for vif in self.vifs.values_mut() {
            vif.publish();
        }
        progress
    }

    /// Asks for events of queues from which all was taken. `true`: there is more already.
    fn arm(&mut self) -> bool {
        let mut found = false;
        for vif in self.vifs.values_mut().filter(|vif| vif.is_connected()) {
            let mut fault = None;
            if vif.allowance().is_err() {
                continue;
            }
            for queue in vif.queues.iter_mut().filter(|queue| queue.backlog.is_empty()) {
                match queue.tx.arm(1) {
                    Ok(more) => found |= more,
                    Err(reason) => fault = Some(reason),
                }
            }
            if let Some(reason) = fault {
                vif.disable(format!("{reason}"));
            }
        }
        found
    }

    fn round(&mut self, wake: &mut Option<Nanos>) -> usize {
        let taken = self.take(wake) + self.receive();
        let forwarded = self.forward(wake);
        taken + forwarded
    }

    /// Takes packets off the rings and looks at them.
    fn take(&mut self, wake: &mut Option<Nanos>) -> usize {
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

    fn copy(&mut self, copies: &mut [GrantCopy]) {
        if !copies.is_empty() {
            self.counters.copies += copies.len() as u64;
            self.counters.copied_bytes += copies.iter().map(|copy| u64::from(copy.len)).sum::<u64>();
            self.platform.grant_copy(copies);
        }
    }

    /// Takes packets from the uplink.
    fn receive(&mut self) -> usize {
        let now = self.platform.now();
        let mut count = 0;
        while self.received.len() < BACKLOG {
            let Some((buffer, len)) = self.uplink.receive() else { break };
            count += 1;
            self.counters.from_uplink += 1;
            let len = len.min(buffer.capacity);
            if len < super::ETHERNET_HEADER {
                self.uplink.release(buffer);
                continue;
            }
            let packet = local_packet(&*buffer.memory, buffer.offset, len, Offload::default());
            if let Some(mac) = Mac::at(&packet.header, 6) {
                self.table.learn(mac, UPLINK, now);
            }
            self.received.push_back((buffer, packet));
        }
        count
    }

    /// Sends packets on their way, one from each sender in turn.
    fn forward(&mut self, wake: &mut Option<Nanos>) -> usize {
        let mut senders: Vec<(PortId, usize)> = alloc::vec![(UPLINK, 0)];
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
                    Ok(count) => {
                        finished += count;
                        if plan.packets.len() >= PLAN_PACKETS || plan.copies.len() >= PLAN_COPIES {
                            self.execute(&mut plan);
                        }
                        true
                    }
                    Err(source) => {
                        self.put_back(source);
                        false
                    }
                }
            });
        }
        self.execute(&mut plan);
        finished
    }

    fn pop(&mut self, port: PortId, queue: usize) -> Option<Source<P::Memory>> {
        if port == UPLINK {
            return self.received.pop_front().map(|(buffer, packet)| Source::Uplink(buffer, packet));
        }
        let held = self.vifs.get_mut(&port)?.queues.get_mut(queue)?.backlog.pop_front()?;
        Some(Source::Vif(port, queue, held))
    }

    fn put_back(&mut self, source: Source<P::Memory>) {
        match source {
            Source::Uplink(buffer, packet) => self.received.push_front((buffer, packet)),
            Source::Vif(port, queue, held) => {
                if let Some(queue) = self.vifs.get_mut(&port).and_then(|vif| vif.queues.get_mut(queue)) {
                    queue.backlog.push_front(held);
                }
            }
        }
    }

    /// Answers the sender of a packet.
    fn finish(&mut self, source: Source<P::Memory>, status: i16) {
        match source {
            Source::Uplink(buffer, _) => self.uplink.release(buffer),
            Source::Vif(port, queue, held) => {
                if let Some(queue) = self.vifs.get_mut(&port).and_then(|vif| vif.queues.get_mut(queue)) {
                    queue.done(held, status);
                }
            }
        }
    }

    /// Decides where a packet goes and plans its copies. The packet comes back if it has to wait.
    fn plan(
        &mut self,
        source: Source<P::Memory>,
        plan: &mut Plan<P::Memory>,
        wake: &mut Option<Nanos>,
    ) -> Result<usize, Source<P::Memory>> {
        let now = self.platform.now();
        let from = source.port();
        let to = Mac::at(&source.packet().header, 0).unwrap_or_default();
        let known = if to.is_group() { None } else { self.table.find(to, now) };
        let targets: Vec<PortId> = match known {
            Some(port) if port == from => Vec::new(),
            Some(port) => alloc::vec![port],
            // Guests whose only address is known are no place for other addresses.
            None => {
                let vifs = self.vifs.iter().filter(|(_, vif)| to.is_group() || vif.may_learn());
                let all = vifs.map(|(port, _)| *port).chain(core::iter::once(UPLINK));
                all.filter(|port| *port != from).collect()
            }
        };
        // Those that need the slow way are served first: it does what was planned before at once.
        let (slow, fast): (Vec<PortId>, Vec<PortId>) =
            targets.iter().partition(|port| self.needs_slow_way(**port, source.packet()));
        let mut planned = Planned { source, deliveries: Vec::new(), sends: Vec::new() };
        let mut went = 0;
        for (port, is_slow) in slow.iter().map(|p| (p, true)).chain(fast.iter().map(|p| (p, false))) {
            let verdict = match port {
                &UPLINK => self.plan_uplink(&mut planned, plan, now, wake),
                port if is_slow => self.deliver_slowly(*port, &planned, plan, now, wake),
                port => self.plan_vif(*port, &mut planned, plan, now, wake),
            };
            match verdict {
                Verdict::Planned => went += 1,
                Verdict::Dropped => {}
                Verdict::Blocked if known.is_some() => return Err(planned.source),
                // Copies for everybody wait for nobody.
                Verdict::Blocked => self.count_dropped(*port),
            }
        }
        match (went, known) {
            (0, _) => self.counters.dropped += 1,
            (_, Some(_)) => self.counters.forwarded += 1,
            (_, None) => self.counters.flooded += 1,
        }
        plan.packets.push(planned);
        Ok(1)
    }

    fn count_dropped(&mut self, port: PortId) {
        if let Some(vif) = self.vifs.get_mut(&port) {
            vif.counters.rx_dropped += 1;
        }
    }

    fn plan_vif(
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
        let number = queue_of(vif.queues.len(), &packet.header);
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

    /// Whether a guest takes a packet only after something was done to it.
    fn needs_slow_way(&self, port: PortId, packet: &Packet) -> bool {
        let Some(features) = self.vifs.get(&port).map(|vif| vif.features) else { return false };
        let is_offloaded = packet.offload.csum_blank || packet.offload.gso.is_some();
        !takes_gso(&features, packet) || (is_offloaded && !takes_blank(&features, packet))
    }

    /// For guests that take neither large packets nor blank checksums: the packet is made ready in our own memory,
    /// and copied once more than others.
    fn deliver_slowly(
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
        if !takes_blank {
            for frame in &mut frames {
                fill_checksum(frame);
            }
        }
        let Some(vif) = self.vifs.get_mut(&port) else { return Verdict::Dropped };
        let slots = frames.iter().map(|frame| frame.len().div_ceil(PAGE_SIZE)).sum::<usize>();
        let number = queue_of(vif.queues.len(), &packet.header);
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
    fn flatten(&mut self, packet: &Packet) -> Option<Vec<u8>> {
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

    fn plan_uplink(
        &mut self,
        planned: &mut Planned<P::Memory>,
        plan: &mut Plan<P::Memory>,
        now: Nanos,
        wake: &mut Option<Nanos>,
    ) -> Verdict {
        if !self.uplink.is_up() {
            return Verdict::Dropped;
        }
        let packet = planned.source.packet();
        // Cut large packets, each segment with headers of its own.
        let parts: Vec<(Vec<u8>, usize, usize)> = match packet.offload.gso {
            None => {
                alloc::vec![(packet.header.clone(), packet.header.len(), packet.len - packet.header.len())]
            }
            Some(gso) => match segment(&packet.header, packet.len, gso) {
                Some(plans) => plans.into_iter().map(|plan| (plan.header, plan.start, plan.len)).collect(),
                None => return Verdict::Dropped,
            },
        };
        let mut buffers = Vec::with_capacity(parts.len());
        for _ in &parts {
            match self.uplink.acquire() {
                Some(buffer) => buffers.push(buffer),
                None => {
                    for buffer in buffers {
                        self.uplink.cancel(buffer);
                    }
                    let since = *self.uplink_blocked.get_or_insert(now);
                    sooner(wake, Nanos::new(since.raw().saturating_add(UPLINK_STALL)));
                    let is_stalled = now.since(since) >= UPLINK_STALL;
                    return if is_stalled { Verdict::Dropped } else { Verdict::Blocked };
                }
            }
        }
        self.uplink_blocked = None;
        let is_blank = packet.offload.csum_blank || packet.offload.gso.is_some();
        let mut sends = Vec::with_capacity(parts.len());
        let start = plan.copies.len();
        let mut is_fitting = true;
        for ((header, from, len), buffer) in parts.into_iter().zip(buffers) {
            let before = plan.copies.len();
            let whole = header.len() + len;
            is_fitting &= whole <= buffer.capacity;
            if is_fitting {
                buffer.memory.copy_in(buffer.offset, &header);
                let base = buffer.offset + header.len();
                let to = |done| place(&*buffer.memory, base + done);
                is_fitting &= copy_range(packet, from, len, to, &mut plan.copies).is_some();
            }
            let copies = plan.copies.len() - before;
            sends.push(UplinkSend { buffer, len: whole, checksum: is_blank.then_some(header), copies });
        }
        if !is_fitting {
            plan.copies.truncate(start);
            for send in sends {
                self.uplink.cancel(send.buffer);
            }
            return Verdict::Dropped;
        }
        planned.sends = sends;
        Verdict::Planned
    }

    /// Does what was planned, and answers.
    fn execute(&mut self, plan: &mut Plan<P::Memory>) {
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
                    self.uplink.cancel(send.buffer);
                    continue;
                }
                if let Some(header) = send.checksum {
                    fill_checksum_in(&*send.buffer.memory, send.buffer.offset, send.len, &header);
                }
                self.counters.to_uplink += 1;
                self.uplink.send(send.buffer, send.len);
                has_sent = true;
            }
            let is_bad = is_sender_bad == Some(true);
            if is_bad && let Some(vif) = self.vifs.get_mut(&planned.source.port()) {
                vif.counters.tx_errors += 1;
            }
            self.finish(planned.source, if is_bad { netif::RSP_ERROR } else { netif::RSP_OKAY });
        }
        if has_sent {
            self.uplink.start();
        }
    }

    /// Whether a packet's own memory is not there (any more): tried by copying a byte of each piece.
    fn is_unreachable(&self, packet: &Packet) -> bool {
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

fn sooner(wake: &mut Option<Nanos>, at: Nanos) {
    *wake = Some(wake.map_or(at, |other| other.min(at)));
}

fn queue_of(queues: usize, header: &[u8]) -> usize {
    if queues > 1 { usize::try_from(flow(header)).unwrap_or(0) % queues } else { 0 }
}

/// A place in a run of our own pages, and how many bytes there are up to the end of its page.
fn place<M: SharedMemory>(memory: &M, at: usize) -> Option<(CopyEnd, usize)> {
    if at >= memory.pages() * PAGE_SIZE {
        return None;
    }
    let offset = at % PAGE_SIZE;
    let end = CopyEnd::Local { gfn: memory.gfn(at / PAGE_SIZE), offset: u16::try_from(offset).ok()? };
    Some((end, PAGE_SIZE - offset))
}

/// A packet in memory that only we can reach.
fn local_packet<M: SharedMemory>(memory: &M, offset: usize, len: usize, offload: Offload) -> Packet {
    // The looked-at bytes must lie in one page, as a copy does.
    let header_len = len.min(PEEK).min(PAGE_SIZE - offset % PAGE_SIZE);
    let mut header = alloc::vec![0; header_len];
    memory.copy_out(offset, &mut header);
    let mut body = Vec::new();
    let mut at = header_len;
    while at < len {
        let Some((end, room)) = place(memory, offset + at) else { break };
        let count = room.min(len - at);
        body.push(Piece { end, len: count });
        at += count;
    }
    let header_source =
        place(memory, offset).map_or(CopyEnd::Local { gfn: memory.gfn(0), offset: 0 }, |(end, _)| end);
    Packet { header, header_source, body, len, offload }
}

/// Whether a guest has room; if not, since when, and how long that is borne.
fn room<P: Platform>(
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
fn deliver<P: Platform>(
    vif: &mut NetBack<P>,
    port: PortId,
    number: usize,
    packet: &Packet,
    copies: &mut Vec<GrantCopy>,
) -> Option<Delivery> {
    let domain = vif.domain();
    let queue = vif.queues.get_mut(number)?;
    let mut slots = Vec::new();
    let mut grants = Vec::new();
    let has_extra = packet.offload.gso.is_some();
    for page in 0..packet.len.div_ceil(PAGE_SIZE) {
        let request = queue.take_rx();
        grants.push(pv_abi::ids::GrantRef::new(request.gref));
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
fn answer<P: Platform>(vif: &mut NetBack<P>, delivery: &Delivery, is_good: bool) {
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
