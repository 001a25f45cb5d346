//! The front end's states: connecting, closing, losing the back end.

use alloc::string::String;

use super::super::device::BlockError;
use super::link::{Link, read_geometry};
use super::{BlkFront, FrontState};
use crate::platform::Platform;
use crate::xenbus::XenbusState;
use crate::xs::Store;

impl<P: Platform> BlkFront<P> {
    /// Whether [`Self::on_store`] has something to write.
    #[must_use]
    pub fn wants_store(&self) -> bool {
        (self.state == FrontState::Failed && !self.links.is_empty())
            || (self.state == FrontState::Closing && self.outstanding() == 0)
    }

    pub(super) fn say(&self, store: &mut dyn Store, state: XenbusState) {
        // A directory that has gone needs no state.
        if let Err(error) = self.ends.set_state(store, state) {
            log::debug!("{}: state {state:?} not written: {error}", self.ends.dir());
        }
    }

    /// Follows the states in XenStore.
    pub fn on_store(&mut self, store: &mut dyn Store) {
        let back = self.ends.peer_state(store);
        match self.state {
            FrontState::Connecting => self.on_store_connecting(store, back),
            FrontState::Connected => match back {
                XenbusState::Closing => {
                    self.poll();
                    self.state = FrontState::Closing;
                    self.close_if_idle(store, back);
                }
                XenbusState::Closed | XenbusState::Unknown | XenbusState::Initialising => self.lose(store),
                XenbusState::InitWait => self.lose(store),
                _ => {}
            },
            FrontState::Closing => {
                self.poll();
                if matches!(back, XenbusState::Closed | XenbusState::Unknown) {
                    self.fail_all();
                }
                self.close_if_idle(store, back);
            }
            FrontState::Failed => {
                if !core::mem::take(&mut self.links).is_empty() {
                    let reason = self.failure.clone().unwrap_or_default();
                    self.ends.report(store, &reason);
                    self.say(store, XenbusState::Closing);
                }
                if matches!(back, XenbusState::Closed | XenbusState::Unknown) {
                    self.say(store, XenbusState::Closed);
                }
            }
            FrontState::Closed => {}
        }
    }

    pub(super) fn on_store_connecting(&mut self, store: &mut dyn Store, back: XenbusState) {
        match back {
            XenbusState::InitWait | XenbusState::Initialised | XenbusState::Connected => {}
            // A closed one may start over when it sees that we have.
            XenbusState::Closing if !self.options.reconnect => {
                self.state = FrontState::Closed;
                self.say(store, XenbusState::Closed);
                return;
            }
            _ => return,
        }
        if self.links.is_empty() {
            Link::<P>::unpublish(store, &self.ends, &self.options);
            match Link::publish(&self.platform, store, &self.ends, &self.options) {
                Ok(links) => {
                    self.links = links;
                    self.say(store, XenbusState::Initialised);
                }
                Err(reason) => {
                    self.ends.report(store, &reason);
                    self.failure = Some(reason);
                    self.state = FrontState::Failed;
                    self.say(store, XenbusState::Closing);
                    return;
                }
            }
        }
        if back == XenbusState::Connected {
            self.connected(store);
        }
    }

    pub(super) fn connected(&mut self, store: &mut dyn Store) {
        let Some(link) = self.links.first() else { return };
        match read_geometry(store, &self.ends, &link.features) {
            Ok(geometry) => {
                self.geometry = Some(geometry);
                self.state = FrontState::Connected;
                self.say(store, XenbusState::Connected);
                self.requeue();
                self.kick();
            }
            Err(reason) => self.give_up(reason),
        }
    }

    /// The back end has gone without a word.
    pub(super) fn lose(&mut self, store: &mut dyn Store) {
        self.poll();
        if self.state != FrontState::Connected {
            return;
        }
        // The ring dies with the back end; its pages are kept away until nobody maps them.
        self.links.clear();
        for part in self.parts.drain() {
            self.pool.give(part.descriptors.into_iter());
        }
        if self.options.reconnect && self.pool.peer() == self.ends.peer() {
            log::warn!("{}: the back end has gone; waiting for another", self.ends.dir());
            for job in self.jobs.values_mut() {
                job.parts_left = 0;
                job.error = None;
            }
            self.state = FrontState::Connecting;
            self.say(store, XenbusState::Closed);
            self.say(store, XenbusState::Initialising);
            self.on_store(store);
        } else {
            self.fail_all();
            self.state = FrontState::Closed;
            self.say(store, XenbusState::Closed);
        }
    }

    /// Starts to close: no new requests; those submitted are still answered. Call [`Self::on_store`] until the state
    /// is [`FrontState::Closed`].
    pub fn close(&mut self, store: &mut dyn Store) {
        match self.state {
            FrontState::Connected => {
                self.kick();
                self.state = FrontState::Closing;
                self.close_if_idle(store, XenbusState::Connected);
            }
            FrontState::Connecting => {
                self.links.clear();
                self.fail_all();
                self.state = FrontState::Closed;
                self.say(store, XenbusState::Closed);
            }
            FrontState::Closing | FrontState::Closed | FrontState::Failed => {}
        }
    }

    /// Says `Closing` when all is answered, and `Closed` when the back end has let go of the ring, or wants us to be
    /// first.
    pub(super) fn close_if_idle(&mut self, store: &mut dyn Store, back: XenbusState) {
        if self.outstanding() > 0 {
            return;
        }
        if matches!(back, XenbusState::Closing | XenbusState::Closed | XenbusState::Unknown) {
            self.links.clear();
            self.state = FrontState::Closed;
            self.say(store, XenbusState::Closed);
        } else {
            self.say(store, XenbusState::Closing);
        }
    }

    pub(super) fn give_up(&mut self, reason: String) {
        log::error!("{}: the back end broke the protocol: {reason}", self.ends.dir());
        self.failure = Some(reason);
        self.state = FrontState::Failed;
        self.fail_all();
    }

    pub(super) fn fail_all(&mut self) {
        self.links.iter_mut().for_each(|link| link.waiting.clear());
        self.parts.drain().for_each(drop);
        for at in self.jobs.numbers() {
            if let Some(job) = self.jobs.get_mut(at) {
                job.error = Some(BlockError::Disconnected);
                self.finish(at);
            }
        }
    }
}
