//! An interface for the guest, served by another domain.
//!
//! Packets are copied into and out of pages that are granted once. [`NetFront::send`] puts packets into the ring,
//! [`NetFront::kick`] shows them to the back end, [`NetFront::poll`] takes what came. Nothing waits.
//!
//! # Invariants
//!
//! * A response counts only for a request that is in the ring, once.
//! * What is not taken by [`NetFront::receive`] stays in the ring: the back end feels it and does not drop.

mod connect;
mod control;
mod hash;
mod pool;
mod queue;
mod rx;
mod staging;
mod tx;

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::ids::Port;

use super::packet::flow;
use super::{ETHERNET_HEADER, Mac, Offload, PACKET_MAX};
use crate::platform::{Access, PAGE_SIZE, Platform};
use crate::xenbus::Frontend;
pub(super) use control::Control;
use queue::Queue;

/// What a front end asks for.
#[derive(Clone, Copy, Debug)]
pub struct NetOptions {
    /// The most queues.
    pub queues: u32,
    /// Pages for received packets in each queue, at most 256.
    pub rx_pages: usize,
    /// Packets that are received before the user takes them.
    pub backlog: usize,
    /// Accept large TCP packets.
    pub receive_large: bool,
}

impl Default for NetOptions {
    fn default() -> Self {
        Self { queues: 1, rx_pages: 256, backlog: 256, receive_large: true }
    }
}

/// Where a front end stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NetState {
    /// The back end is not ready.
    Connecting,
    /// In use.
    Connected,
    /// Waits for the back end to let go.
    Closing,
    /// Closed.
    Closed,
    /// Given up; see [`NetFront::failure`].
    Failed,
}

/// A received packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Its bytes, from the Ethernet header on.
    pub bytes: Vec<u8>,
    /// What need not be checked, and how it was cut.
    pub offload: Offload,
}

/// Why a packet was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendError {
    /// The ring is full: try again when the port has fired.
    Full,
    /// It is longer than the back end takes, or shorter than a header.
    Length,
    /// The interface is not in use.
    Down,
}

/// What happened so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NetCounters {
    /// Packets sent.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets that the back end refused.
    pub tx_errors: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets that the back end spoilt.
    pub rx_errors: u64,
    /// Events sent.
    pub notifications: u64,
    /// Polls that found something.
    pub busy_polls: u64,
}

/// What the back end can do.
#[derive(Clone, Copy, Default, Debug)]
struct Features {
    has_sg: bool,
    has_gso_v4: bool,
    has_gso_v6: bool,
    has_csum_v4: bool,
    has_csum_v6: bool,
}

impl Features {
    /// The longest packet that can be sent, with its Ethernet header.
    fn longest(&self, offload: &Offload, mtu: usize) -> usize {
        let can_be_large = match offload.gso {
            Some(gso) if gso.is_v6 => self.has_gso_v6 && self.has_sg,
            Some(_) => self.has_gso_v4 && self.has_sg,
            None => false,
        };
        let one = if self.has_sg { PACKET_MAX } else { PAGE_SIZE };
        if can_be_large { PACKET_MAX } else { one.min(mtu + ETHERNET_HEADER) }
    }
}

/// The front end of a network interface.
pub struct NetFront<P: Platform> {
    platform: P,
    ends: Frontend,
    options: NetOptions,
    state: NetState,
    mac: Mac,
    mtu: usize,
    is_up: bool,
    features: Features,
    queues: Vec<Queue<P>>,
    /// Says how packets are spread over the queues, and which pages may stay mapped.
    control: Option<Control<P>>,
    received: VecDeque<Frame>,
    /// Packets may wait in the rings, because as many were there as are kept.
    is_behind: bool,
    /// Where packets are written whose queue is not known before.
    scratch: Vec<u8>,
    counters: NetCounters,
    failure: Option<String>,
}

impl<P: Platform> NetFront<P> {
    /// Starts a front end; call [`Self::on_store`] now and whenever a watch of [`Self::watch`] fires.
    pub fn new(platform: &P, ends: Frontend, options: NetOptions) -> Self {
        Self {
            platform: platform.clone(),
            ends,
            options,
            state: NetState::Connecting,
            mac: Mac::default(),
            mtu: 1500,
            is_up: false,
            features: Features::default(),
            queues: Vec::new(),
            control: None,
            received: VecDeque::new(),
            is_behind: false,
            scratch: Vec::new(),
            counters: NetCounters::default(),
            failure: None,
        }
    }

    /// The two ends in XenStore.
    #[must_use]
    pub fn ends(&self) -> &Frontend {
        &self.ends
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> NetState {
        self.state
    }

    /// Why it was given up, if it was.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The interface's address.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Bytes of the largest packet, without the Ethernet header.
    #[must_use]
    pub fn mtu(&self) -> usize {
        self.mtu
    }

    /// Whether packets go through.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.is_up && self.state == NetState::Connected
    }

    /// The event channels: one for each queue, and the control ring's.
    pub fn ports(&self) -> impl Iterator<Item = Port> {
        self.queues.iter().map(|queue| queue.port).chain(self.control.iter().map(Control::port))
    }

    /// Whether the back end hashes packets, as it was asked to, to choose the queue.
    #[must_use]
    pub fn is_hashing(&self) -> bool {
        self.control.as_ref().is_some_and(Control::is_hashing)
    }

    /// Whether checksums may be left out of packets that are sent, over IPv4 and IPv6.
    #[must_use]
    pub fn can_leave_checksums(&self) -> bool {
        self.features.has_csum_v4 && self.features.has_csum_v6
    }

    /// Whether large TCP packets may be sent, over IPv4 and over IPv6.
    #[must_use]
    pub fn can_send_large(&self) -> (bool, bool) {
        (self.features.has_gso_v4 && self.features.has_sg, self.features.has_gso_v6 && self.features.has_sg)
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> NetCounters {
        self.counters
    }

    /// A line about the connection.
    #[must_use]
    pub fn summary(&self) -> String {
        let mapped = match self.mapped_pages() {
            0 => String::new(),
            count => format!(", {count} pages stay mapped"),
        };
        let yes = |is_there, name: &'static str| if is_there { name } else { "" };
        format!(
            "{} queues{}{}{}{}{mapped}",
            self.queues.len(),
            yes(self.is_hashing(), ", hashing"),
            yes(self.features.has_sg, ", scatter/gather"),
            yes(self.can_leave_checksums(), ", checksums"),
            yes(self.can_send_large().0, ", large packets"),
        )
    }

    /// Whether a packet of `len` bytes has room, whatever its queue.
    #[must_use]
    pub fn can_send(&self, len: usize) -> bool {
        self.state == NetState::Connected && self.queues.iter().all(|queue| queue.tx.has_room(len))
    }

    /// Sends a packet; [`Self::kick`] lets the back end know.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&mut self, packet: &[u8], offload: Offload) -> Result<(), SendError> {
        let queue = match self.queues.len() {
            0 | 1 => 0,
            // Packets of a connection stay in order.
            count => usize::try_from(flow(packet)).unwrap_or(0) % count,
        };
        self.send_on(queue, packet.len(), &mut |bytes| {
            bytes.copy_from_slice(packet);
            offload
        })
    }

    /// Sends a packet of `len` bytes that `fill` writes where the back end reads it, if there is one queue; else it is
    /// copied once. What `fill` finds there is of earlier packets. It is called once, or not at all if there is an error
    /// that is known before.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send_with(
        &mut self,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> Offload,
    ) -> Result<(), SendError> {
        if self.queues.len() <= 1 {
            return self.send_on(0, len, fill);
        }
        // Which queue it is depends on what is written.
        let mut packet = core::mem::take(&mut self.scratch);
        packet.resize(len, 0);
        let offload = fill(&mut packet);
        let sent = self.send(&packet, offload);
        self.scratch = packet;
        sent
    }

    fn send_on(
        &mut self,
        queue: usize,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> Offload,
    ) -> Result<(), SendError> {
        if self.state != NetState::Connected {
            return Err(SendError::Down);
        }
        if !(ETHERNET_HEADER..=PACKET_MAX).contains(&len) {
            return Err(SendError::Length);
        }
        let (features, mtu) = (self.features, self.mtu);
        let queue = self.queues.get_mut(queue).ok_or(SendError::Down)?;
        queue.tx.send(len, &mut |bytes| {
            let offload = fill(bytes);
            (len <= features.longest(&offload, mtu)).then_some(offload)
        })?;
        self.counters.tx_packets += 1;
        self.counters.tx_bytes += len as u64;
        Ok(())
    }

    /// Shows sent packets to the back end. Where there is no room for the largest one now, an event tells when responses
    /// have come.
    pub fn kick(&mut self) {
        if self.state != NetState::Connected {
            return;
        }
        let mut result = Ok(());
        for queue in &mut self.queues {
            queue.kick(&mut self.counters);
            if !queue.tx.has_room(PACKET_MAX) {
                result = result.and(queue.tx.poll(&mut self.counters).map(drop));
            }
        }
        if let Err(reason) = result {
            self.give_up(reason);
        }
    }

    /// Takes what the back end did, and asks for an event when it has done more. Call it when a port fires. `true`:
    /// packets wait to be taken.
    pub fn poll(&mut self) -> bool {
        if self.state == NetState::Connected {
            let mut result = Ok(());
            for queue in &mut self.queues {
                result = result.and(queue.poll(self.options.backlog, &mut self.received, &mut self.counters));
            }
            result = result.and(self.negotiate());
            self.is_behind = self.received.len() >= self.options.backlog;
            match result {
                Ok(()) => self.kick(),
                Err(reason) => self.give_up(reason),
            }
        }
        !self.received.is_empty()
    }

    /// Follows the conversation over the control ring.
    fn negotiate(&mut self) -> Result<(), String> {
        let Some(control) = &mut self.control else { return Ok(()) };
        for (number, queue) in self.queues.iter_mut().enumerate() {
            if queue.tx.has_grown() {
                control.offer(number, queue.tx.grown(), Access::ReadOnly);
            }
        }
        control.poll()
    }

    /// Whether packets wait to be taken.
    #[must_use]
    pub fn has_received(&self) -> bool {
        !self.received.is_empty()
    }

    /// Takes a received packet.
    pub fn receive(&mut self) -> Option<Frame> {
        let frame = self.received.pop_front();
        if self.received.is_empty() && core::mem::take(&mut self.is_behind) {
            // What waits in the ring may come now.
            self.poll();
        }
        frame
    }

    fn give_up(&mut self, reason: String) {
        log::error!("{}: the back end broke the protocol: {reason}", self.ends.dir());
        self.failure = Some(reason);
        self.state = NetState::Failed;
    }
}
