//! The driver of the 82540EM, over a model of it.

use std::sync::MutexGuard;

use super::super::e1000::{E1000, E1000Error, Registers};
use super::*;
use crate::mock::Machine;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const DEPTH: u32 = 256;

/// What the model does that the manual forbids.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Vice {
    #[default]
    None,
    /// It never comes out of its reset.
    Stuck,
    /// Its EEPROM never answers.
    Mute,
    /// It is gone.
    Gone,
}

#[derive(Default)]
struct State {
    vice: Vice,
    /// Whatever is written and read back, by offset.
    plain: std::collections::BTreeMap<u32, u32>,
    causes: u32,
    mask: u32,
    missed: u32,
    is_linked: bool,
    /// Whether packets are sent as soon as they are there.
    is_lazy: bool,
    sent: Vec<Vec<u8>>,
}

/// The model, which its tests drive from the side of the wire.
#[derive(Clone)]
struct Model {
    machine: Machine,
    state: Arc<StdMutex<State>>,
}

impl Model {
    fn new(machine: &Machine) -> Self {
        let state = State { is_linked: true, ..State::default() };
        Self { machine: machine.clone(), state: Arc::new(StdMutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn plain(&self, offset: u32) -> u32 {
        self.lock().plain.get(&offset).copied().unwrap_or(0)
    }

    /// The address of a ring's descriptor under its head.
    fn descriptor(&self, ring: u32) -> u64 {
        assert_eq!(self.plain(ring + 8), DEPTH * 16);
        let base = u64::from(self.plain(ring)) | u64::from(self.plain(ring + 4)) << 32;
        base + u64::from(self.plain(ring + 0x10)) * 16
    }

    fn advance(&self, ring: u32) {
        let head = (self.plain(ring + 0x10) + 1) % DEPTH;
        self.lock().plain.insert(ring + 0x10, head);
    }

    /// Writes a received piece into the next buffer, as it says it is.
    fn receive_as(&self, bytes: &[u8], len: u16, status: u8, errors: u8) {
        let at = self.descriptor(0x2800);
        if self.plain(0x100) & 2 == 0 || self.plain(0x2810) == self.plain(0x2818) {
            let mut state = self.lock();
            state.missed += 1;
            state.causes |= 0x40;
            return;
        }
        let mut descriptor = self.machine.dma_read(at, 16);
        let buffer = u64::from_le_bytes(descriptor[..8].try_into().unwrap());
        self.machine.dma_write(buffer, bytes);
        descriptor[8..10].copy_from_slice(&len.to_le_bytes());
        descriptor[12] = status;
        descriptor[13] = errors;
        self.machine.dma_write(at, &descriptor);
        self.advance(0x2800);
        self.lock().causes |= 0x80;
    }

    fn receive(&self, bytes: &[u8]) {
        self.receive_as(bytes, bytes.len() as u16, 3, 0);
    }

    /// Sends what is in the transmit ring.
    fn transmit(&self) {
        while self.plain(0x400) & 2 != 0 && self.plain(0x3810) != self.plain(0x3818) {
            let at = self.descriptor(0x3800);
            let mut descriptor = self.machine.dma_read(at, 16);
            let buffer = u64::from_le_bytes(descriptor[..8].try_into().unwrap());
            let len = u16::from_le_bytes([descriptor[8], descriptor[9]]);
            assert_eq!(descriptor[11], 0b1011, "end of packet, check sequence, report");
            let packet = self.machine.dma_read(buffer, len.into());
            self.lock().sent.push(packet);
            descriptor[12] |= 1;
            self.machine.dma_write(at, &descriptor);
            self.advance(0x3800);
            self.lock().causes |= 1;
        }
    }

    fn interrupts(&self) -> bool {
        let state = self.lock();
        state.causes & state.mask != 0
    }
}

impl Registers for Model {
    fn read(&self, offset: u32) -> u32 {
        let mut state = self.lock();
        if state.vice == Vice::Gone {
            return u32::MAX;
        }
        match offset {
            0x0008 => u32::from(state.is_linked) << 1,
            0x0014 => {
                let number = (state.plain[&0x14] >> 8) as usize;
                let word = u32::from(MAC[2 * number]) | u32::from(MAC[2 * number + 1]) << 8;
                if state.vice == Vice::Mute { 0 } else { word << 16 | 1 << 4 }
            }
            0x00c0 => core::mem::take(&mut state.causes),
            0x4010 => core::mem::take(&mut state.missed),
            _ => state.plain.get(&offset).copied().unwrap_or(0),
        }
    }

    fn write(&self, offset: u32, value: u32) {
        let mut state = self.lock();
        let transmits = offset == 0x3818 && !state.is_lazy;
        match offset {
            0x0000 if state.vice != Vice::Stuck => drop(state.plain.insert(0, value & !(1 << 26))),
            0x00d0 => state.mask |= value,
            0x00d8 => state.mask &= !value,
            _ => drop(state.plain.insert(offset, value)),
        }
        drop(state);
        if transmits {
            self.transmit();
        }
    }
}

fn card() -> (Domain, Model, E1000<Model, Memory>) {
    let machine = Machine::new();
    let domain = machine.domain(0);
    let model = Model::new(&machine);
    let card = E1000::new(model.clone(), &domain).unwrap();
    (domain, model, card)
}

fn packet(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(7).wrapping_add(seed)).collect()
}

/// Takes a packet out of the card and gives its buffer back.
fn take(card: &mut E1000<Model, Memory>) -> Option<Vec<u8>> {
    let (buffer, len, offload) = card.receive()?;
    assert_eq!(offload, Offload::default());
    let mut bytes = std::vec![0; len];
    buffer.memory.copy_out(buffer.offset, &mut bytes);
    card.release(buffer);
    Some(bytes)
}

fn send(card: &mut E1000<Model, Memory>, packet: &[u8]) -> bool {
    let Some(buffer) = card.acquire() else { return false };
    buffer.memory.copy_in(buffer.offset, packet);
    card.send(buffer, packet.len(), Offload::default());
    true
}

#[test]
fn packets_go_both_ways_round_the_rings() {
    let (_, model, mut card) = card();
    assert_eq!((card.mac(), card.is_up()), (Mac::new(MAC), true));
    assert!(!model.interrupts());
    // Several times around.
    for number in 0..1000usize {
        let there = packet(60 + number % 1455, number as u8);
        assert!(send(&mut card, &there));
        assert!(model.lock().sent.is_empty(), "one notification for many");
        card.start();
        assert_eq!(model.lock().sent.pop(), Some(there));
        let here = packet(60 + (number * 13) % 1455, !number as u8);
        model.receive(&here);
        assert!(model.interrupts());
        card.acknowledge();
        assert!(!model.interrupts());
        assert_eq!(take(&mut card), Some(here));
        assert_eq!(take(&mut card), None);
    }
    let counters = card.counters();
    assert_eq!((counters.sent, counters.received, counters.bad, counters.missed), (1000, 1000, 0, 0));
    assert!(counters.sent_bytes > 60_000 && counters.received_bytes > 60_000);
}

#[test]
fn a_burst_fills_every_buffer_and_the_rest_is_counted_as_missed() {
    let (_, model, mut card) = card();
    for number in 0..300 {
        model.receive(&packet(64, number as u8));
    }
    for number in 0..255 {
        assert_eq!(take(&mut card), Some(packet(64, number as u8)));
    }
    assert_eq!(take(&mut card), None);
    assert_eq!((card.counters().received, card.counters().missed), (255, 45));
    // The buffers are all back.
    for number in 0..255 {
        model.receive(&packet(64, number as u8));
    }
    assert_eq!(core::iter::from_fn(|| take(&mut card)).count(), 255);
    assert_eq!(card.counters().missed, 45);
}

#[test]
fn a_slow_card_makes_its_users_wait_and_then_calls_them() {
    let (_, model, mut card) = card();
    model.lock().is_lazy = true;
    let mut sent = 0;
    while send(&mut card, &packet(100, sent as u8)) {
        sent += 1;
    }
    card.start();
    assert_eq!(sent, 255);
    assert!(!model.interrupts());
    model.transmit();
    assert!(model.interrupts(), "somebody waits for a buffer");
    card.acknowledge();
    assert!(send(&mut card, &packet(100, 0)));
    card.start();
    model.transmit();
    assert!(!model.interrupts(), "nobody waits any more");
    assert_eq!(model.lock().sent.len(), 256);
}

#[test]
fn what_is_no_packet_is_thrown_away_and_counted() {
    let (_, model, mut card) = card();
    let whole = packet(200, 1);
    model.receive_as(&whole, 200, 3, 1);
    model.receive_as(&whole, 13, 3, 0);
    model.receive_as(&whole, 65535, 3, 0);
    model.receive_as(&whole, 1519, 3, 0);
    // In two pieces, of which none is kept.
    model.receive_as(&whole, 200, 1, 0);
    model.receive_as(&whole, 200, 3, 0);
    model.receive(&whole);
    assert_eq!(take(&mut card), Some(whole));
    assert_eq!(take(&mut card), None);
    assert_eq!((card.counters().bad, card.counters().received), (6, 1));
}

#[test]
fn buffers_that_are_not_sent_come_back() {
    let (_, model, mut card) = card();
    for _ in 0..1000 {
        let buffer = card.acquire().unwrap();
        card.cancel(buffer);
        let buffer = card.acquire().unwrap();
        card.send(buffer, 13, Offload::default());
    }
    card.start();
    assert!(model.lock().sent.is_empty());
    // Longer than a packet may be: cut, not read beyond.
    let buffer = card.acquire().unwrap();
    card.send(buffer, 1 << 20, Offload::default());
    card.start();
    assert_eq!(model.lock().sent.pop().unwrap().len(), 1518);
}

#[test]
fn a_broken_card_is_refused_and_leaves_nothing_behind() {
    for (vice, why) in [
        (Vice::Gone, E1000Error::Absent),
        (Vice::Stuck, E1000Error::Reset),
        (Vice::Mute, E1000Error::Address),
    ] {
        let machine = Machine::new();
        let domain = machine.domain(0);
        let model = Model::new(&machine);
        model.lock().vice = vice;
        assert_eq!(E1000::new(model.clone(), &domain).err(), Some(why));
        assert_eq!((domain.counts().pages, model.lock().mask), (0, 0));
    }
}

#[test]
fn a_card_that_vanishes_has_no_link() {
    let (domain, model, mut card) = card();
    model.lock().is_linked = false;
    model.lock().causes = 4;
    card.acknowledge();
    assert!(!card.is_up());
    model.lock().is_linked = true;
    model.lock().causes = 4;
    card.acknowledge();
    assert!(card.is_up());
    model.lock().vice = Vice::Gone;
    card.acknowledge();
    assert!(!card.is_up() && take(&mut card).is_none());
    drop(card);
    assert_eq!(domain.counts().pages, 0);
}

#[test]
fn a_card_is_stopped_before_its_memory_is_free() {
    let (_, model, card) = card();
    assert_eq!((model.plain(0x100) & 2, model.plain(0x400) & 2), (2, 2));
    drop(card);
    assert_eq!((model.plain(0x100), model.plain(0x400), model.lock().mask), (0, 0, 0));
    // Nobody receives any more.
    model.receive(&packet(64, 0));
    assert_eq!(model.lock().missed, 1);
}
