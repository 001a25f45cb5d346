//! Intel's 82540EM network controller ("e1000"), the card that QEMU and Bochs both emulate (Intel, "PCI/PCI-X Family of
//! Gigabit Ethernet Controllers Software Developer's Manual", 317453; sections named below are its).
//!
//! # Invariants
//!
//! * A ring has one descriptor more than it has buffers, so its tail never meets its head: whatever is between head and
//!   tail is the controller's.
//! * A buffer is in one place: in a ring, in the list of free ones, or lent to the bridge.
//! * The controller is believed nothing: a length is cut to the buffer, a packet in pieces or with errors is counted and
//!   thrown away, and a controller whose registers vanish has no link.
//!
//! Descriptors are those of the oldest kind, which every controller of the family takes. Packets are sent and received as
//! they are, without offloads. While there are buffers for packets to be sent, their completion does not interrupt.

mod registers;
mod ring;

use alloc::sync::Arc;

use pv_abi::errno::Errno;

use super::{ETHERNET_HEADER, Mac, Offload, Uplink, UplinkBuffer, UplinkCounters};
use crate::platform::{Platform, SharedMemory};
use registers::{GAPS, LINK_UP, cause, ctrl, eerd, rctl, register, tctl};
use ring::Ring;

/// Bytes of the controller's memory range that are used.
pub const REGISTERS: usize = 0x8000;
/// Bytes of the longest packet: 1,500 of payload, the header, and a VLAN tag.
const LONGEST: usize = 1518;
/// Reads of a register before a reset counts as failed.
const PATIENCE: usize = 100_000;
/// Buffers given back before the controller is told.
const BATCH: usize = 32;
/// The causes that always interrupt.
const CAUSES: u32 = cause::RECEIVED | cause::FEW | cause::OVERRUN | cause::LINK;

/// How the controller's registers are reached.
pub trait Registers: Send {
    /// Reads the register at `offset`, a multiple of four below [`REGISTERS`].
    fn read(&self, offset: u32) -> u32;
    /// Writes the register at `offset`; earlier writes to memory are done before it.
    fn write(&self, offset: u32, value: u32);
}

/// Why a controller cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum E1000Error {
    /// All of its registers read as ones.
    Absent,
    /// Its reset does not end.
    Reset,
    /// It has no hardware address.
    Address,
    /// There is no memory for its rings, or none that it could reach.
    Memory(Errno),
}

impl core::fmt::Display for E1000Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Absent => f.write_str("its registers are not there"),
            Self::Reset => f.write_str("its reset does not end"),
            Self::Address => f.write_str("it has no hardware address"),
            Self::Memory(error) => write!(f, "no memory for its rings: {error}"),
        }
    }
}

/// A controller at work. When dropped it is stopped first.
pub struct E1000<R: Registers, M: SharedMemory> {
    registers: R,
    receive: Ring<M>,
    send: Ring<M>,
    mac: Mac,
    is_up: bool,
    /// The packet whose end has not come yet has pieces that were thrown away.
    is_in_pieces: bool,
    /// Somebody waits for a buffer to send.
    is_awaited: bool,
    counters: UplinkCounters,
}

impl<R: Registers, M: SharedMemory> E1000<R, M> {
    /// Resets the controller and starts it.
    ///
    /// # Errors
    /// See [`E1000Error`]; the controller is then silent.
    pub fn new(registers: R, platform: &impl Platform<Memory = M>) -> Result<Self, E1000Error> {
        reset(&registers)?;
        let mac = address(&registers).ok_or(E1000Error::Address)?;
        let receive = Ring::new(platform).map_err(E1000Error::Memory)?;
        let send = Ring::new(platform).map_err(E1000Error::Memory)?;
        registers.write(register::CTRL, registers.read(register::CTRL) | ctrl::SLU | ctrl::ASDE);
        receive.install(&registers, register::RECEIVE_RING);
        send.install(&registers, register::TRANSMIT_RING);
        let counters = UplinkCounters::default();
        let is_up = registers.read(register::STATUS) & LINK_UP != 0;
        let mut card =
            Self { registers, receive, send, mac, is_up, is_in_pieces: false, is_awaited: false, counters };
        let how = rctl::EN | rctl::UPE | rctl::MPE | rctl::BAM | rctl::SECRC;
        card.registers.write(register::RCTL, how);
        card.registers.write(register::TIPG, GAPS);
        card.registers.write(register::TCTL, tctl::EN | tctl::PSP | tctl::COLLISIONS);
        while let Some(buffer) = card.receive.take() {
            card.receive.post(buffer, 0);
        }
        card.receive.publish(&card.registers, register::RECEIVE_RING);
        card.registers.write(register::IMS, CAUSES);
        Ok(card)
    }

    /// Its hardware address.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.mac
    }

    fn lend(&self, ring: &Ring<M>, buffer: u16) -> UplinkBuffer<M> {
        UplinkBuffer {
            memory: Arc::clone(ring.buffers()),
            offset: Ring::<M>::offset(buffer),
            capacity: LONGEST,
            token: u64::from(buffer),
        }
    }

    /// Takes back the buffers of packets that are sent.
    fn reap(&mut self) {
        while let Some(done) = self.send.complete() {
            self.send.free(done.buffer);
        }
    }

    /// Gives a receive buffer to the controller, which learns of it with others.
    fn give_back(&mut self, buffer: u16) {
        self.receive.post(buffer, 0);
        if self.receive.unpublished() >= BATCH {
            self.receive.publish(&self.registers, register::RECEIVE_RING);
        }
    }
}

/// Stops the controller and resets it (section 14.4).
fn reset(registers: &impl Registers) -> Result<(), E1000Error> {
    if registers.read(register::STATUS) == u32::MAX {
        return Err(E1000Error::Absent);
    }
    silence(registers);
    registers.write(register::CTRL, registers.read(register::CTRL) | ctrl::RST);
    if !(0..PATIENCE).any(|_| registers.read(register::CTRL) & ctrl::RST == 0) {
        return Err(E1000Error::Reset);
    }
    // Bochs leaves the other registers as they are.
    silence(registers);
    registers.read(register::ICR);
    Ok(())
}

/// No interrupts, nothing sent, nothing received.
fn silence(registers: &impl Registers) {
    for (register, value) in [(register::IMC, u32::MAX), (register::RCTL, 0), (register::TCTL, 0)] {
        registers.write(register, value);
    }
}

/// The hardware address: the first three words of the EEPROM (section 5.6.1). The reset copies them into the receive
/// filter, but not in Bochs.
fn address(registers: &impl Registers) -> Option<Mac> {
    let mut bytes = [0; 6];
    for (number, pair) in (0..).zip(bytes.chunks_mut(2)) {
        registers.write(register::EERD, eerd::START | number << eerd::ADDRESS_SHIFT);
        let answer = (0..PATIENCE)
            .map(|_| registers.read(register::EERD))
            .find(|answer| answer & eerd::DONE != 0 && *answer != u32::MAX)?;
        let [_, _, low, high] = answer.to_le_bytes();
        pair.copy_from_slice(&[low, high]);
    }
    let mac = Mac::new(bytes);
    (!mac.is_group() && bytes != [0; 6]).then_some(mac)
}

impl<R: Registers, M: SharedMemory> Uplink<M> for E1000<R, M> {
    fn is_up(&self) -> bool {
        self.is_up
    }

    fn acknowledge(&mut self) {
        self.counters.interrupts += 1;
        let causes = self.registers.read(register::ICR);
        if causes == u32::MAX {
            self.is_up = false;
            return;
        }
        if causes & cause::LINK != 0 {
            self.is_up = self.registers.read(register::STATUS) & LINK_UP != 0;
        }
        if core::mem::take(&mut self.is_awaited) {
            self.registers.write(register::IMC, cause::SENT);
        }
    }

    fn counters(&mut self) -> UplinkCounters {
        if self.is_up {
            self.counters.missed += u64::from(self.registers.read(register::MPC));
        }
        self.counters
    }

    fn acquire(&mut self) -> Option<UplinkBuffer<M>> {
        if self.send.is_exhausted() {
            self.reap();
        }
        match self.send.take() {
            Some(buffer) => Some(self.lend(&self.send, buffer)),
            None => {
                // What was sent meanwhile has left its cause, and interrupts at once.
                self.is_awaited = true;
                self.registers.write(register::IMS, cause::SENT);
                None
            }
        }
    }

    fn send(&mut self, buffer: UplinkBuffer<M>, len: usize, _offload: Offload) {
        let Ok(number) = u16::try_from(buffer.token) else { return };
        let len = u16::try_from(len.min(buffer.capacity)).unwrap_or(0);
        if usize::from(len) < ETHERNET_HEADER {
            return self.send.free(number);
        }
        self.counters.sent += 1;
        self.counters.sent_bytes += u64::from(len);
        self.send.post(number, registers::descriptor::SEND | u32::from(len));
    }

    fn cancel(&mut self, buffer: UplinkBuffer<M>) {
        if let Ok(number) = u16::try_from(buffer.token) {
            self.send.free(number);
        }
    }

    fn start(&mut self) {
        self.send.publish(&self.registers, register::TRANSMIT_RING);
    }

    fn receive(&mut self) -> Option<(UplinkBuffer<M>, usize, Offload)> {
        while let Some(done) = self.receive.complete() {
            let starts_amid = core::mem::replace(&mut self.is_in_pieces, !done.is_end);
            if starts_amid
                || !done.is_end
                || done.is_damaged
                || !(ETHERNET_HEADER..=LONGEST).contains(&done.len)
            {
                self.counters.bad += 1;
                self.give_back(done.buffer);
                continue;
            }
            self.counters.received += 1;
            self.counters.received_bytes += done.len as u64;
            return Some((self.lend(&self.receive, done.buffer), done.len, Offload::default()));
        }
        self.receive.publish(&self.registers, register::RECEIVE_RING);
        None
    }

    fn release(&mut self, buffer: UplinkBuffer<M>) {
        if let Ok(number) = u16::try_from(buffer.token) {
            self.give_back(number);
        }
    }
}

impl<R: Registers, M: SharedMemory> Drop for E1000<R, M> {
    fn drop(&mut self) {
        silence(&self.registers);
        // What was still on its way into memory is there when a read is answered.
        self.registers.read(register::STATUS);
    }
}
