//! The other end of a guest's interface. It lives in a [`Bridge`](super::Bridge), which moves its packets.

mod control;
mod mapped;
mod queue;
mod tx;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, GrantRef, Port};
use pv_abi::io::netif::key;

use super::packet::source;
use super::steer::Steering;
use super::{Mac, packet};
use crate::platform::{Nanos, Platform};
use crate::xenbus::{Backend, XenbusState};
use crate::xs::{Store, TransactionId, read_text, write_display};
use control::Control;
#[cfg(test)]
pub(super) use mapped::MAPPED_MAX;
pub(super) use queue::{Queue, advance};

/// What a back end offers and demands.
#[derive(Clone, Debug)]
pub struct BackOptions {
    /// The most queues.
    pub max_queues: u32,
    /// Packets must come from the interface's own address.
    pub antispoof: bool,
    /// With `antispoof`: the IP addresses that packets may come from; any, if the list is empty.
    pub addresses: Vec<IpAddr>,
    /// Bytes that may be sent in a period, in nanoseconds; `None` for no limit.
    pub rate: Option<(u64, u64)>,
    /// How long packets for this guest are kept back when it has no room, before they are dropped.
    pub stall_nanos: u64,
}

impl Default for BackOptions {
    fn default() -> Self {
        Self {
            max_queues: 4,
            antispoof: false,
            addresses: Vec::new(),
            rate: None,
            stall_nanos: 1_000_000_000,
        }
    }
}

/// What happened so far; sent and received as the guest sees it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BackCounters {
    /// Packets that the guest sent.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets of the guest that were malformed, or in memory that was not there.
    pub tx_errors: u64,
    /// Packets with a source that is not the guest's.
    pub spoofed: u64,
    /// Packets that the guest received.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets for the guest that did not arrive because of its receive buffers.
    pub rx_errors: u64,
    /// Packets for the guest that were dropped because it has no room.
    pub rx_dropped: u64,
    /// Events sent.
    pub notifications: u64,
}

/// What the front end can do.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct FrontFeatures {
    pub has_sg: bool,
    pub has_gso_v4: bool,
    pub has_gso_v6: bool,
    pub has_csum_v4: bool,
    pub has_csum_v6: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Waiting,
    Connected,
    Closed,
    Failed,
}

/// Receive buffers that may be bad, one after the other, before the interface is disabled.
const RX_ERRORS_MAX: u32 = 64;

/// The back end of one interface of one guest.
pub struct NetBack<P: Platform> {
    platform: P,
    ends: Backend,
    mac: Mac,
    options: BackOptions,
    phase: Phase,
    pub(super) features: FrontFeatures,
    pub(super) queues: Vec<Queue<P>>,
    /// How packets are spread over them.
    pub(super) steering: Steering,
    control: Option<Control<P>>,
    pub(super) counters: BackCounters,
    /// Why the guest has to go, until that is done.
    fault: Option<String>,
    failure: Option<String>,
    /// Bytes that may be sent now; less than nothing after a packet that was longer than what was left.
    credit: i64,
    refilled: Nanos,
    /// Since when packets wait for room.
    pub(super) blocked_since: Option<Nanos>,
    rx_errors_in_a_row: u32,
    /// Whether the cable is in.
    carrier: bool,
}

impl<P: Platform> NetBack<P> {
    /// Publishes what the back end can do, and waits for the front end.
    ///
    /// # Errors
    /// `EINVAL` when the toolstack gave the interface no address, or what the store says.
    pub fn new(
        platform: &P,
        store: &mut dyn Store,
        ends: Backend,
        options: BackOptions,
    ) -> Result<Self, Errno> {
        let mac = read_text(store, TransactionId::NONE, &ends.key(key::MAC)).ok_or(Errno::EINVAL)?.parse()?;
        let mut options = options;
        if let Some(rate) = read_text(store, TransactionId::NONE, &ends.key(key::RATE)) {
            options.rate = Some(parse_rate(&rate).ok_or(Errno::EINVAL)?);
        }
        let credit = options.rate.map_or(0, |(bytes, _)| i64::try_from(bytes).unwrap_or(i64::MAX));
        let back = Self {
            platform: platform.clone(),
            mac,
            options,
            phase: Phase::Waiting,
            features: FrontFeatures::default(),
            queues: Vec::new(),
            steering: Steering::default(),
            control: None,
            counters: BackCounters::default(),
            fault: None,
            failure: None,
            credit,
            refilled: platform.now(),
            blocked_since: None,
            rx_errors_in_a_row: 0,
            carrier: true,
            ends,
        };
        for (name, value) in [
            (key::FEATURE_SG, 1),
            (key::FEATURE_GSO_TCPV4, 1),
            (key::FEATURE_GSO_TCPV6, 1),
            (key::FEATURE_IPV6_CSUM_OFFLOAD, 1),
            (key::FEATURE_RX_COPY, 1),
            (key::FEATURE_SPLIT_EVENT_CHANNELS, 1),
            (key::FEATURE_CTRL_RING, 1),
            (key::MULTI_QUEUE_MAX_QUEUES, back.options.max_queues.max(1)),
            (key::CARRIER, 1),
        ] {
            write_display(store, TransactionId::NONE, &back.ends.key(name), value)?;
        }
        back.ends.set_state(store, XenbusState::InitWait)?;
        Ok(back)
    }

    /// The two ends in XenStore.
    #[must_use]
    pub fn ends(&self) -> &Backend {
        &self.ends
    }

    /// The guest.
    #[must_use]
    pub fn domain(&self) -> DomainId {
        self.ends.peer()
    }

    /// The interface's address.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> BackCounters {
        self.counters
    }

    /// Why the interface was disabled, if it was.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref().or(self.fault.as_deref())
    }

    /// Whether a front end is connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.phase == Phase::Connected && self.fault.is_none()
    }

    /// Whether this end is closed and holds nothing of the guest any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.queues.is_empty()
            && self.control.is_none()
            && matches!(self.phase, Phase::Closed | Phase::Failed)
    }

    /// Whether other interfaces may be seen behind this one, so that it is a place for packets to unknown addresses.
    pub(super) fn may_learn(&self) -> bool {
        !self.options.antispoof
    }

    /// The event channels.
    pub fn ports(&self) -> impl Iterator<Item = Port> {
        self.queues.iter().flat_map(Queue::ports).chain(self.control.iter().map(Control::port))
    }

    /// Lets go of everything that is the guest's.
    fn let_go(&mut self) {
        self.queues.clear();
        self.control = None;
        self.steering = Steering::default();
    }

    /// Serves the control ring, and returns how many requests that were.
    pub(super) fn serve_control(&mut self) -> usize {
        let Some(control) = self.control.as_mut().filter(|_| self.fault.is_none()) else { return 0 };
        match control.serve(&mut self.queues, &mut self.steering) {
            Ok(count) => count,
            Err(fault) => {
                self.disable(format!("its control ring: {fault}"));
                0
            }
        }
    }

    /// Asks for an event of the control ring. `true`: there is something in it already.
    pub(super) fn arm_control(&mut self) -> bool {
        let Some(control) = &mut self.control else { return false };
        match control.arm() {
            Ok(more) => more,
            Err(fault) => {
                self.disable(format!("its control ring: {fault}"));
                false
            }
        }
    }

    /// Whether a front end is connected, and packets go through.
    #[must_use]
    pub fn has_link(&self) -> bool {
        self.carrier && self.is_connected()
    }

    /// Plugs the cable in or out, and tells the guest: without a link packets are lost in both directions.
    ///
    /// # Errors
    /// What the store says.
    pub fn set_carrier(&mut self, store: &mut dyn Store, is_up: bool) -> Result<(), Errno> {
        self.carrier = is_up;
        write_display(store, TransactionId::NONE, &self.ends.key(key::CARRIER), u8::from(is_up))
    }

    /// Disables the interface; the reason is written to XenStore by [`Self::on_store`].
    pub(super) fn disable(&mut self, reason: String) {
        if self.fault.is_none() {
            log::warn!("{}: disabled: {reason}", self.ends.dir());
            self.fault = Some(reason);
        }
    }

    /// Whether [`Self::on_store`] has something to write.
    #[must_use]
    pub fn wants_store(&self) -> bool {
        self.fault.is_some()
    }

    /// Follows the states in XenStore; call it when the front end's state may have changed, and when the bridge asks
    /// for it.
    pub fn on_store(&mut self, store: &mut dyn Store) {
        let front = self.ends.peer_state(store);
        let is_gone = matches!(front, XenbusState::Closed | XenbusState::Unknown);
        if let Some(reason) = self.fault.take() {
            self.fail(store, reason);
        }
        match self.phase {
            Phase::Waiting => match front {
                XenbusState::Initialised | XenbusState::Connected => match self.connect(store) {
                    Ok(queues) => {
                        log::info!("{}: connected, {} queues", self.ends.dir(), queues.len());
                        self.queues = queues;
                        self.phase = Phase::Connected;
                        self.say(store, XenbusState::Connected);
                    }
                    Err(reason) => self.fail(store, reason),
                },
                XenbusState::Closing | XenbusState::Closed => self.close(store),
                _ => {}
            },
            Phase::Connected if is_gone => self.close(store),
            Phase::Connected if front == XenbusState::Closing => {
                // `Closed` follows when the front end has closed itself: Linux waits for this before it powers off.
                self.let_go();
                self.say(store, XenbusState::Closing);
            }
            Phase::Connected => {}
            Phase::Closed | Phase::Failed => {
                if is_gone {
                    self.say(store, XenbusState::Closed);
                }
                if front == XenbusState::Initialising {
                    self.phase = Phase::Waiting;
                    self.failure = None;
                    self.say(store, XenbusState::InitWait);
                }
            }
        }
    }

    fn say(&self, store: &mut dyn Store, state: XenbusState) {
        // A directory that has gone needs no state.
        if let Err(error) = self.ends.set_state(store, state) {
            log::debug!("{}: state {state:?} not written: {error}", self.ends.dir());
        }
    }

    fn close(&mut self, store: &mut dyn Store) {
        self.let_go();
        self.phase = Phase::Closed;
        self.say(store, XenbusState::Closed);
    }

    fn fail(&mut self, store: &mut dyn Store, reason: String) {
        self.let_go();
        self.ends.report(store, &reason);
        self.failure = Some(reason);
        self.phase = Phase::Failed;
        self.say(store, XenbusState::Closing);
    }

    fn connect(&mut self, store: &mut dyn Store) -> Result<Vec<Queue<P>>, String> {
        let ends = self.ends.clone();
        if !ends.peer_flag(store, key::REQUEST_RX_COPY) {
            return Err("the front end does not accept copies".into());
        }
        self.features = FrontFeatures {
            has_sg: ends.peer_flag(store, key::FEATURE_SG),
            has_gso_v4: ends.peer_flag(store, key::FEATURE_GSO_TCPV4),
            has_gso_v6: ends.peer_flag(store, key::FEATURE_GSO_TCPV6),
            has_csum_v4: !ends.peer_flag(store, key::FEATURE_NO_CSUM_OFFLOAD),
            has_csum_v6: ends.peer_flag(store, key::FEATURE_IPV6_CSUM_OFFLOAD),
        };
        let count = ends.peer_number(store, key::MULTI_QUEUE_NUM_QUEUES).unwrap_or(1);
        if count == 0 || count > u64::from(self.options.max_queues.max(1)) {
            return Err(format!("{count} queues where {} are the most", self.options.max_queues));
        }
        let mut queues = Vec::new();
        for number in 0..count {
            let dir = if count > 1 { format!("queue-{number}/") } else { String::new() };
            let mut value = |name: &str| {
                let number = ends.peer_number(store, &format!("{dir}{name}"))?;
                u32::try_from(number).ok()
            };
            let tx = GrantRef::new(value(key::TX_RING_REF).ok_or("no grant for the transmit ring")?);
            let rx = GrantRef::new(value(key::RX_RING_REF).ok_or("no grant for the receive ring")?);
            let one = value(key::EVENT_CHANNEL);
            let split = value(key::EVENT_CHANNEL_TX).zip(value(key::EVENT_CHANNEL_RX));
            let (tx_port, rx_port) = match (split, one) {
                (Some((tx_port, rx_port)), _) => (Port::new(tx_port), Some(Port::new(rx_port))),
                (None, Some(port)) => (Port::new(port), None),
                (None, None) => return Err("no event channel".into()),
            };
            let of = usize::try_from(count).unwrap_or(usize::MAX);
            queues.push(Queue::connect(&self.platform, ends.peer(), tx, rx, tx_port, rx_port, of)?);
        }
        if let Some(grant) = ends.peer_number(store, key::CTRL_RING_REF) {
            let port = ends.peer_number(store, key::EVENT_CHANNEL_CTRL);
            let number = |value: u64| u32::try_from(value).ok();
            let grant = number(grant).ok_or("no grant for the control ring")?;
            let port = port.and_then(number).ok_or("no event channel for the control ring")?;
            let (grant, port) = (GrantRef::new(grant), Port::new(port));
            self.control = Some(Control::connect(&self.platform, ends.peer(), grant, port)?);
        }
        Ok(queues)
    }

    /// Whether the guest may send now; if not, when.
    pub(super) fn allowance(&mut self) -> Result<(), Nanos> {
        let Some((bytes, period)) = self.options.rate else { return Ok(()) };
        let now = self.platform.now();
        let gained = u128::from(now.since(self.refilled)) * u128::from(bytes) / u128::from(period.max(1));
        if gained > 0 {
            // At least one of the largest packets must fit.
            let most = i64::try_from(bytes.max(1 << 17)).unwrap_or(i64::MAX);
            self.credit = self.credit.saturating_add(i64::try_from(gained).unwrap_or(i64::MAX)).min(most);
            self.refilled = now;
        }
        if self.credit > 0 {
            return Ok(());
        }
        // Until what was overdrawn is paid back; not for every few bytes.
        let owed = u128::from(self.credit.unsigned_abs()) + 1;
        let wait = owed * u128::from(period) / u128::from(bytes.max(1));
        let wait = u64::try_from(wait).unwrap_or(u64::MAX).max(1_000_000);
        Err(Nanos::new(now.raw().saturating_add(wait)))
    }

    /// Accounts for a packet; the last one may overdraw.
    pub(super) fn charge(&mut self, len: usize) {
        self.counters.tx_packets += 1;
        self.counters.tx_bytes += len as u64;
        if self.options.rate.is_some() {
            self.credit = self.credit.saturating_sub(i64::try_from(len).unwrap_or(i64::MAX));
        }
    }

    /// Whether a packet comes from whom it says.
    pub(super) fn is_genuine(&self, header: &[u8]) -> bool {
        if !self.options.antispoof {
            return true;
        }
        let is_known = |address: IpAddr| {
            self.options.addresses.is_empty()
                || self.options.addresses.contains(&address)
                // Link-local and unspecified addresses come before a guest has one of its own.
                || match address {
                    IpAddr::V4(v4) => v4.is_unspecified(),
                    IpAddr::V6(v6) => v6.is_unspecified() || v6.segments()[0] & 0xffc0 == 0xfe80,
                }
        };
        Mac::at(header, 6) == Some(self.mac)
            && packet::arp_sender(header).is_none_or(|mac| mac == self.mac)
            && source(header).is_none_or(is_known)
    }

    /// Accounts for a packet that arrived, or did not because of the guest's buffers.
    pub(super) fn delivered(&mut self, len: usize, is_good: bool) {
        if is_good {
            self.counters.rx_packets += 1;
            self.counters.rx_bytes += len as u64;
            self.rx_errors_in_a_row = 0;
            return;
        }
        self.counters.rx_errors += 1;
        self.rx_errors_in_a_row += 1;
        if self.rx_errors_in_a_row >= RX_ERRORS_MAX {
            self.disable("its receive buffers are not there".into());
        }
    }

    /// Whether packets for this guest have waited long enough.
    pub(super) fn is_stalled(&self, now: Nanos) -> bool {
        self.blocked_since.is_some_and(|since| now.since(since) >= self.options.stall_nanos)
    }

    /// When packets for this guest will have waited long enough.
    pub(super) fn stall_end(&self) -> Option<Nanos> {
        self.blocked_since.map(|since| Nanos::new(since.raw().saturating_add(self.options.stall_nanos)))
    }

    /// Shows answers to the guest, with one event for all of them.
    pub(super) fn publish(&mut self) {
        for queue in &mut self.queues {
            self.counters.notifications += queue.publish(&self.platform);
        }
    }
}

/// `bytes,microseconds`, as the toolstack writes it.
fn parse_rate(text: &str) -> Option<(u64, u64)> {
    let (bytes, micros) = text.trim().split_once(',')?;
    let (bytes, micros): (u64, u64) = (bytes.trim().parse().ok()?, micros.trim().parse().ok()?);
    if bytes == 0 || micros == 0 { None } else { Some((bytes, micros.checked_mul(1000)?)) }
}
