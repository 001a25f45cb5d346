//! A guest's ring page, connected to the server.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use pv_abi::ids::{DomainId, Port};
use pv_abi::io::xs_wire::{self, Header, PAYLOAD_MAX};
use spin::Mutex;
use zerocopy::FromBytes;

use super::server::{ConnectionId, Server};
use crate::platform::{Platform, SharedMemory};
use crate::ring::{RingFault, StreamLayout, StreamReader, StreamWriter};

/// Requests taken in one call of [`RingConnection::poll`], so that one guest cannot keep the server to itself.
const BUDGET: usize = 64;

/// How a guest broke the rules of its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// An index of the ring is impossible.
    Ring(RingFault),
    /// A message claims to be longer than any may be.
    TooLong {
        /// The length that its header names.
        len: u32,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(fault) => fault.fmt(f),
            Self::TooLong { len } => write!(f, "a message of {len} bytes where {PAYLOAD_MAX} are allowed"),
        }
    }
}

impl From<RingFault> for Fault {
    fn from(fault: RingFault) -> Self {
        Self::Ring(fault)
    }
}

/// What a poll of a connection did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Nothing more to do until the guest's next event.
    Idle,
    /// The budget is used up: poll again soon.
    More,
    /// The connection is dead.
    Dead(Fault),
}

/// The server's end of one guest's XenStore ring.
pub struct RingConnection<P: Platform> {
    platform: P,
    server: Arc<Mutex<Server>>,
    domain: DomainId,
    id: ConnectionId,
    page: P::Memory,
    port: Port,
    reader: StreamReader,
    writer: StreamWriter,
    /// The message that is coming in.
    input: Vec<u8>,
    /// The message that is going out, and how much of it has gone.
    output: Vec<u8>,
    sent: usize,
    fault: Option<Fault>,
}

impl<P: Platform> RingConnection<P> {
    /// Connects a guest: `page` is a mapping of its ring, `port` is bound to its end of the event channel.
    pub fn new(
        platform: &P,
        server: &Arc<Mutex<Server>>,
        domain: DomainId,
        page: P::Memory,
        port: Port,
    ) -> Self {
        let id = server.lock().connect(domain, false);
        page.write_u32(
            xs_wire::SERVER_FEATURES,
            xs_wire::SERVER_FEATURE_RECONNECTION | xs_wire::SERVER_FEATURE_ERROR,
        );
        Self {
            platform: platform.clone(),
            server: server.clone(),
            domain,
            id,
            reader: StreamReader::attach(StreamLayout::STORE_REQ, &page),
            writer: StreamWriter::attach(StreamLayout::STORE_RSP, &page),
            page,
            port,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            fault: None,
        }
    }

    /// The guest.
    #[must_use]
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// Our end of the event channel.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// Moves what can be moved: call it when the port fires, and after anything else has used the store, since that
    /// may have made watch events for this guest.
    pub fn poll(&mut self) -> Progress {
        if let Some(fault) = self.fault {
            return if self.reconnect() { self.poll() } else { Progress::Dead(fault) };
        }
        if self.page.read_u32(xs_wire::CONNECTION) == xs_wire::RECONNECT {
            self.reconnect();
        }
        let (moved, result) = self.pump();
        if moved {
            self.platform.notify(self.port);
        }
        match result {
            Ok(progress) => progress,
            Err(fault) => {
                log::warn!("{}: XenStore connection closed: {fault}", self.domain);
                let code = match fault {
                    Fault::Ring(_) => xs_wire::ERROR_RINGIDX,
                    Fault::TooLong { .. } => xs_wire::ERROR_PROTO,
                };
                self.page.write_u32(xs_wire::ERROR, code);
                self.fault = Some(fault);
                self.server.lock().reset(self.id);
                Progress::Dead(fault)
            }
        }
    }

    /// Starts over if the guest asks for it (`XENSTORE_RECONNECT`): empty ring, no watches, no transactions.
    fn reconnect(&mut self) -> bool {
        if self.page.read_u32(xs_wire::CONNECTION) != xs_wire::RECONNECT {
            return false;
        }
        self.server.lock().reset(self.id);
        for index in [xs_wire::REQ_CONS, xs_wire::REQ_PROD, xs_wire::RSP_CONS, xs_wire::RSP_PROD] {
            self.page.write_u32(index, 0);
        }
        self.reader = StreamReader::attach(StreamLayout::STORE_REQ, &self.page);
        self.writer = StreamWriter::attach(StreamLayout::STORE_RSP, &self.page);
        self.input.clear();
        self.output.clear();
        self.sent = 0;
        self.fault = None;
        self.page.write_u32(xs_wire::ERROR, xs_wire::ERROR_NONE);
        self.page.write_u32(xs_wire::CONNECTION, xs_wire::CONNECTED);
        self.platform.notify(self.port);
        true
    }

    fn pump(&mut self) -> (bool, Result<Progress, Fault>) {
        let mut moved = false;
        for _ in 0..BUDGET {
            match self.step(&mut moved) {
                Ok(true) => {}
                Ok(false) => return (moved, Ok(Progress::Idle)),
                Err(fault) => return (moved, Err(fault)),
            }
        }
        (moved, Ok(Progress::More))
    }

    /// Sends what waits, then takes one message. `false`: nothing more can be done now.
    fn step(&mut self, moved: &mut bool) -> Result<bool, Fault> {
        // No request is taken while an answer waits: a guest that does not read cannot fill our memory.
        if !self.flush(moved)? {
            return Ok(false);
        }
        let Some((header, payload)) = self.receive(moved)? else { return Ok(false) };
        self.server.lock().handle(self.id, header, &payload);
        Ok(true)
    }

    /// Sends what waits. `true`: all of it is in the ring.
    fn flush(&mut self, moved: &mut bool) -> Result<bool, Fault> {
        loop {
            let rest = self.output.get(self.sent..).unwrap_or_default();
            if rest.is_empty() {
                match self.server.lock().next_message(self.id) {
                    Some(message) => (self.output, self.sent) = (message, 0),
                    None => return Ok(true),
                }
                continue;
            }
            let count = self.writer.write(&self.page, rest)?;
            if count == 0 {
                return Ok(false);
            }
            self.sent += count;
            *moved = true;
        }
    }

    /// Takes one whole message, if it is there.
    fn receive(&mut self, moved: &mut bool) -> Result<Option<(Header, Vec<u8>)>, Fault> {
        loop {
            let head = size_of::<Header>();
            let header = Header::read_from_prefix(&self.input).ok().map(|(header, _)| header);
            let wanted = match header {
                None => head,
                Some(header) if header.len as usize > PAYLOAD_MAX => {
                    return Err(Fault::TooLong { len: header.len });
                }
                Some(header) => head + header.len as usize,
            };
            if let Some(header) = header
                && self.input.len() == wanted
            {
                let payload = self.input.split_off(head);
                self.input.clear();
                return Ok(Some((header, payload)));
            }
            let start = self.input.len();
            self.input.resize(wanted, 0);
            let count = self.reader.read(&self.page, self.input.get_mut(start..).unwrap_or_default())?;
            self.input.truncate(start + count);
            if count == 0 {
                return Ok(None);
            }
            *moved = true;
        }
    }
}

impl<P: Platform> Drop for RingConnection<P> {
    fn drop(&mut self) {
        self.server.lock().disconnect(self.id);
        self.platform.close(self.port);
    }
}
