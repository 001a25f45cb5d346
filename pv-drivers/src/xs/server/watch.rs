//! Watches, and the queue of what a client has still to be told.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use super::super::WatchEvent;
use super::super::path;

pub(super) struct Watch {
    /// Absolute, or one of the special names that start with `@`.
    pub path: String,
    /// As the client wrote it.
    pub given: String,
    pub token: String,
    /// How far below `path` changes are told.
    pub depth: Option<usize>,
}

impl Watch {
    /// The event for a change at `changed`, if the watch covers it.
    pub fn event(&self, changed: &str) -> Option<WatchEvent> {
        let below = path::depth_below(changed, &self.path)?;
        if self.depth.is_some_and(|depth| below > depth) {
            return None;
        }
        // A relative watch hears relative paths.
        let tail = changed.get(self.path.len()..).unwrap_or_default();
        let path =
            if self.given == "/" { String::from(changed) } else { alloc::format!("{}{tail}", self.given) };
        Some(WatchEvent { path, token: self.token.clone() })
    }

    /// The event that says "look at everything again".
    pub fn whole(&self) -> WatchEvent {
        WatchEvent { path: self.given.clone(), token: self.token.clone() }
    }
}

/// A message on its way to a client.
pub(super) enum Outgoing {
    /// A reply, header and payload.
    Reply(Vec<u8>),
    Event(WatchEvent),
}

/// What waits to be sent. It cannot grow without bound: replies are limited by the connection, which takes no request
/// while a reply waits, and events fold into one for each watch when there are many.
#[derive(Default)]
pub(super) struct Queue {
    entries: VecDeque<Outgoing>,
}

/// More events than this are folded.
const EVENTS_MAX: usize = 512;

impl Queue {
    pub fn reply(&mut self, message: Vec<u8>) {
        self.entries.push_back(Outgoing::Reply(message));
    }

    pub fn event(&mut self, watch: &Watch, event: WatchEvent) {
        let event = if self.entries.len() < EVENTS_MAX { event } else { watch.whole() };
        // An event that already waits will make the client look after this change, too.
        let waits = |entry: &Outgoing| matches!(entry, Outgoing::Event(waiting) if *waiting == event);
        if !self.entries.iter().any(waits) {
            self.entries.push_back(Outgoing::Event(event));
        }
    }

    pub fn pop(&mut self) -> Option<Outgoing> {
        self.entries.pop_front()
    }

    /// Takes the first event, leaving replies alone.
    pub fn pop_event(&mut self) -> Option<WatchEvent> {
        let at = self.entries.iter().position(|entry| matches!(entry, Outgoing::Event(_)))?;
        match self.entries.remove(at)? {
            Outgoing::Event(event) => Some(event),
            Outgoing::Reply(_) => None,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }
}
