//! A front end's way through XenStore: what it publishes, and the states of both ends.

use alloc::format;
use alloc::string::String;

use pv_abi::io::netif::key;

use super::super::{ETHERNET_HEADER, PACKET_MAX};
use super::control::Control;
use super::queue::Queue;
use super::{Features, NetFront, NetState};
use crate::platform::{Access, PAGE_SIZE, Platform};
use crate::xenbus::XenbusState;
use crate::xs::{Store, TransactionId, in_transaction, read_number, read_text, write_display};

impl<P: Platform> NetFront<P> {
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

    /// Whether [`Self::on_store`] has something to write.
    #[must_use]
    pub fn wants_store(&self) -> bool {
        self.state == NetState::Failed && !self.queues.is_empty()
    }

    /// Pages that the back end keeps mapped, so that it copies without a hypercall.
    #[must_use]
    pub fn mapped_pages(&self) -> u32 {
        self.control.as_ref().map_or(0, Control::mapped)
    }

    /// Lets go of everything that was granted.
    fn let_go(&mut self) {
        self.queues.clear();
        self.control = None;
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
            if let Err(reason) = self.negotiate() {
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
        if ends.peer_flag(store, key::FEATURE_CTRL_RING) {
            let mut control = Control::new(&self.platform, ends.peer(), count)
                .map_err(|error| format!("no memory for the control ring: {error}"))?;
            for (number, queue) in self.queues.iter().enumerate() {
                control.offer(number, queue.rx.grants(), Access::ReadWrite);
            }
            self.control = Some(control);
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
                (key::TX_RING_REF, queue.tx.grant().raw()),
                (key::RX_RING_REF, queue.rx.grant().raw()),
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
