//! An interface for the guest, served by another domain.
//!
//! Packets are copied into and out of pages that are granted once. [`NetFront::send`] puts packets into the ring,
//! [`NetFront::kick`] shows them to the back end, [`NetFront::poll`] takes what came. Nothing waits.
//!
//! # Invariants
//!
//! * A response counts only for a request that is in the ring, once.
//! * What is not taken by [`NetFront::receive`] stays in the ring: the back end feels it and does not drop.

mod control;
mod queue;

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::ids::Port;
use pv_abi::io::netif::key;

use super::packet::flow;
use super::{ETHERNET_HEADER, Mac, Offload, PACKET_MAX};
use crate::platform::{PAGE_SIZE, Platform};
use crate::xenbus::{Frontend, XenbusState};
use crate::xs::{Store, TransactionId, in_transaction, read_number, read_text, write_display};
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
    /// Says how packets are spread over the queues, if there are several.
    control: Option<Control<P>>,
    received: VecDeque<Frame>,
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
            counters: NetCounters::default(),
            failure: None,
        }
    }

    /// Asks for events when the back end's state or link changes.
    ///
    /// # Errors
    /// What the store says.
    pub fn watch(&self, store: &mut dyn Store, token: &str) -> Result<(), pv_abi::errno::Errno> {
        self.ends.watch_peer(store, token)?;
        match store.watch(&self.ends.peer_key(key::CARRIER), token) {
            Err(error) if error != pv_abi::errno::Errno::EEXIST => Err(error),
            _ => Ok(()),
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

    /// Lets go of everything that was granted.
    fn let_go(&mut self) {
        self.queues.clear();
        self.control = None;
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
        let yes = |is_there, name: &'static str| if is_there { name } else { "" };
        format!(
            "{} queues{}{}{}{}",
            self.queues.len(),
            yes(self.is_hashing(), ", hashing"),
            yes(self.features.has_sg, ", scatter/gather"),
            yes(self.can_leave_checksums(), ", checksums"),
            yes(self.can_send_large().0, ", large packets"),
        )
    }

    /// The longest packet that can be sent, with its Ethernet header.
    fn longest(&self, offload: &Offload) -> usize {
        let can_be_large = match offload.gso {
            Some(gso) if gso.is_v6 => self.can_send_large().1,
            Some(_) => self.can_send_large().0,
            None => false,
        };
        let one = if self.features.has_sg { PACKET_MAX } else { PAGE_SIZE };
        if can_be_large { PACKET_MAX } else { one.min(self.mtu + ETHERNET_HEADER) }
    }

    /// The queue on which a packet goes: packets of a connection stay in order.
    fn queue_of(&self, header: &[u8]) -> usize {
        match self.queues.len() {
            0 | 1 => 0,
            count => usize::try_from(flow(header)).unwrap_or(0) % count,
        }
    }

    /// Whether a packet of `len` bytes has room, whatever its queue.
    #[must_use]
    pub fn can_send(&self, len: usize) -> bool {
        self.state == NetState::Connected && self.queues.iter().all(|queue| queue.tx_has_room(len))
    }

    /// Sends a packet; [`Self::kick`] lets the back end know.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&mut self, packet: &[u8], offload: Offload) -> Result<(), SendError> {
        if self.state != NetState::Connected {
            return Err(SendError::Down);
        }
        if packet.len() < ETHERNET_HEADER || packet.len() > self.longest(&offload) {
            return Err(SendError::Length);
        }
        let number = self.queue_of(packet);
        let queue = self.queues.get_mut(number).ok_or(SendError::Down)?;
        queue.send(packet, &offload)?;
        self.counters.tx_packets += 1;
        self.counters.tx_bytes += packet.len() as u64;
        Ok(())
    }

    /// Shows sent packets to the back end.
    pub fn kick(&mut self) {
        if self.state == NetState::Connected {
            for queue in &mut self.queues {
                queue.kick(&self.platform, &mut self.counters);
            }
        }
    }

    /// Moves packets; call it when a port fires and after packets were taken. `true`: packets wait to be taken.
    pub fn poll(&mut self) -> bool {
        if self.state == NetState::Connected {
            let mut result = Ok(());
            for queue in &mut self.queues {
                let room = self.options.backlog.saturating_sub(self.received.len());
                result = result.and(queue.poll(room, &mut self.received, &mut self.counters));
            }
            if let Some(control) = &mut self.control {
                result = result.and(control.poll());
            }
            if let Err(reason) = result {
                self.give_up(reason);
            }
            self.kick();
        }
        !self.received.is_empty()
    }

    /// Takes a received packet.
    pub fn receive(&mut self) -> Option<Frame> {
        let frame = self.received.pop_front();
        if self.received.is_empty() && frame.is_some() {
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

    /// Whether [`Self::on_store`] has something to write.
    #[must_use]
    pub fn wants_store(&self) -> bool {
        self.state == NetState::Failed && !self.queues.is_empty()
    }

    fn say(&self, store: &mut dyn Store, state: XenbusState) {
        // A directory that has gone needs no state.
        if let Err(error) = self.ends.set_state(store, state) {
            log::debug!("{}: state {state:?} not written: {error}", self.ends.dir());
        }
    }

    /// Follows the states in XenStore.
    pub fn on_store(&mut self, store: &mut dyn Store) {
        let back = self.ends.peer_state(store);
        let is_gone = matches!(back, XenbusState::Closed | XenbusState::Unknown);
        match self.state {
            NetState::Connecting => self.on_store_connecting(store, back),
            NetState::Connected => match back {
                XenbusState::Connected => self.is_up = self.carrier(store),
                XenbusState::Closing => {
                    self.let_go();
                    self.state = NetState::Closed;
                    self.say(store, XenbusState::Closed);
                }
                _ => {
                    // The back end has gone without a word: packets are lost, as they are on a wire.
                    self.let_go();
                    self.state = NetState::Connecting;
                    self.say(store, XenbusState::Closed);
                    self.say(store, XenbusState::Initialising);
                    self.on_store_connecting(store, back);
                }
            },
            NetState::Closing => {
                if is_gone || back == XenbusState::Closing {
                    self.let_go();
                    self.state = NetState::Closed;
                    self.say(store, XenbusState::Closed);
                }
            }
            NetState::Failed => {
                if !self.queues.is_empty() {
                    self.let_go();
                    let reason = self.failure.clone().unwrap_or_default();
                    self.ends.report(store, &reason);
                    self.say(store, XenbusState::Closing);
                }
                if is_gone {
                    self.say(store, XenbusState::Closed);
                }
            }
            NetState::Closed => {}
        }
    }

    fn on_store_connecting(&mut self, store: &mut dyn Store, back: XenbusState) {
        match back {
            XenbusState::InitWait | XenbusState::Initialised | XenbusState::Connected => {}
            _ => return,
        }
        if self.queues.is_empty() {
            match self.publish(store) {
                Ok(()) => self.say(store, XenbusState::Connected),
                Err(reason) => {
                    self.let_go();
                    self.ends.report(store, &reason);
                    self.failure = Some(reason);
                    self.state = NetState::Failed;
                    self.say(store, XenbusState::Closing);
                    return;
                }
            }
        }
        if back == XenbusState::Connected {
            self.is_up = self.carrier(store);
            self.state = NetState::Connected;
            // Receive buffers were put into the rings before the back end was there.
            self.kick();
            if let Some(Err(reason)) = self.control.as_mut().map(Control::poll) {
                self.give_up(reason);
            }
        }
    }

    fn carrier(&self, store: &mut dyn Store) -> bool {
        self.ends.peer_number(store, key::CARRIER) != Some(0)
    }

    fn publish(&mut self, store: &mut dyn Store) -> Result<(), String> {
        let ends = self.ends.clone();
        let own = |store: &mut dyn Store, name| read_text(store, TransactionId::NONE, &ends.key(name));
        let mac = own(store, key::MAC).ok_or("the interface has no address")?;
        self.mac = mac.parse().map_err(|_| format!("'{mac}' is no address"))?;
        let mtu = read_number(store, TransactionId::NONE, &ends.key(key::MTU)).unwrap_or(1500);
        self.mtu = usize::try_from(mtu).unwrap_or(1500).clamp(68, PACKET_MAX - ETHERNET_HEADER);
        if ends.peer_number(store, key::FEATURE_RX_COPY) == Some(0) {
            return Err("the back end does not copy".into());
        }
        self.features = Features {
            has_sg: ends.peer_flag(store, key::FEATURE_SG),
            has_gso_v4: ends.peer_flag(store, key::FEATURE_GSO_TCPV4),
            has_gso_v6: ends.peer_flag(store, key::FEATURE_GSO_TCPV6),
            has_csum_v4: !ends.peer_flag(store, key::FEATURE_NO_CSUM_OFFLOAD),
            has_csum_v6: ends.peer_flag(store, key::FEATURE_IPV6_CSUM_OFFLOAD),
        };
        if !self.features.has_sg {
            self.mtu = self.mtu.min(PAGE_SIZE - ETHERNET_HEADER);
        }
        let offered = ends.peer_number(store, key::MULTI_QUEUE_MAX_QUEUES).unwrap_or(1);
        let count = u32::try_from(offered).unwrap_or(u32::MAX).min(self.options.queues).max(1);
        for _ in 0..count {
            let queue = Queue::new(&self.platform, ends.peer(), self.options.rx_pages)
                .map_err(|error| format!("no memory for the rings: {error}"))?;
            self.queues.push(queue);
        }
        if count > 1 && ends.peer_flag(store, key::FEATURE_CTRL_RING) {
            let control = Control::new(&self.platform, ends.peer(), count);
            self.control = Some(control.map_err(|error| format!("no memory for the control ring: {error}"))?);
        }
        in_transaction(store, |store, transaction| self.write_keys(store, transaction))
            .map_err(|error| format!("nothing can be published: {error}"))
    }

    fn write_keys(
        &self,
        store: &mut dyn Store,
        transaction: TransactionId,
    ) -> Result<(), pv_abi::errno::Errno> {
        let is_many = self.queues.len() > 1;
        for (number, queue) in self.queues.iter().enumerate() {
            let dir =
                if is_many { self.ends.key(&format!("queue-{number}")) } else { self.ends.dir().into() };
            for (name, value) in [
                (key::TX_RING_REF, queue.tx_grant().raw()),
                (key::RX_RING_REF, queue.rx_grant().raw()),
                (key::EVENT_CHANNEL, queue.port.raw()),
            ] {
                write_display(store, transaction, &format!("{dir}/{name}"), value)?;
            }
        }
        if is_many {
            write_display(
                store,
                transaction,
                &self.ends.key(key::MULTI_QUEUE_NUM_QUEUES),
                self.queues.len(),
            )?;
        }
        if let Some(control) = &self.control {
            write_display(store, transaction, &self.ends.key(key::CTRL_RING_REF), control.grant().raw())?;
            write_display(store, transaction, &self.ends.key(key::EVENT_CHANNEL_CTRL), control.port().raw())?;
        }
        let large = u8::from(self.options.receive_large);
        for (name, value) in [
            (key::REQUEST_RX_COPY, 1),
            (key::FEATURE_RX_NOTIFY, 1),
            (key::FEATURE_SG, 1),
            (key::FEATURE_GSO_TCPV4, large),
            (key::FEATURE_GSO_TCPV6, large),
            (key::FEATURE_IPV6_CSUM_OFFLOAD, 1),
        ] {
            write_display(store, transaction, &self.ends.key(name), value)?;
        }
        Ok(())
    }

    /// Starts to close. Call [`Self::on_store`] until the state is [`NetState::Closed`].
    pub fn close(&mut self, store: &mut dyn Store) {
        match self.state {
            NetState::Connected => {
                self.kick();
                self.state = NetState::Closing;
                self.say(store, XenbusState::Closing);
            }
            NetState::Connecting => {
                self.let_go();
                self.state = NetState::Closed;
                self.say(store, XenbusState::Closed);
            }
            NetState::Closing | NetState::Closed | NetState::Failed => {}
        }
    }
}
