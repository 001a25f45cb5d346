//! A client of a XenStore in another domain.
//!
//! [`XsClient::send`] and [`XsClient::poll`] never wait; the methods of [`Store`] wait for their reply by the function
//! given at the start, which may block the virtual CPU until the port fires, or run other tasks.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::Port;
use pv_abi::io::xs_wire::{Header, PAYLOAD_MAX, error_from_text, kind};
use zerocopy::{FromBytes, IntoBytes};

use super::local::store_by_calls;
use super::{Permission, Store, TransactionId, WatchEvent, split_texts};
use crate::platform::Platform;
use crate::ring::{RingFault, StreamLayout, StreamReader, StreamWriter};

/// Watch events that are kept for [`Store::next_event`]; more are dropped, the oldest first.
const EVENTS_MAX: usize = 4096;

/// A number by which a request and its reply belong together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RequestId(u32);

/// The client's end of a XenStore ring.
pub struct XsClient<P: Platform> {
    platform: P,
    page: P::Memory,
    port: Port,
    writer: StreamWriter,
    reader: StreamReader,
    next_id: u32,
    output: VecDeque<u8>,
    input: Vec<u8>,
    /// Requests without a reply, by id: what kind they are.
    waiting: BTreeMap<u32, u32>,
    replies: BTreeMap<u32, Result<Vec<u8>, Errno>>,
    events: VecDeque<WatchEvent>,
    wait: Box<dyn FnMut(Port) + Send>,
    is_broken: bool,
}

impl<P: Platform> XsClient<P> {
    /// Attaches to the ring in `page`, whose server listens behind `port`. `wait` returns when the port has fired, or
    /// earlier.
    pub fn new(platform: &P, page: P::Memory, port: Port, wait: Box<dyn FnMut(Port) + Send>) -> Self {
        Self {
            platform: platform.clone(),
            writer: StreamWriter::attach(StreamLayout::STORE_REQ, &page),
            reader: StreamReader::attach(StreamLayout::STORE_RSP, &page),
            page,
            port,
            next_id: 1,
            output: VecDeque::new(),
            input: Vec::new(),
            waiting: BTreeMap::new(),
            replies: BTreeMap::new(),
            events: VecDeque::new(),
            wait,
            is_broken: false,
        }
    }

    /// The event channel to the server.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// Sends a request.
    ///
    /// # Errors
    /// `E2BIG` for a payload that is too long, `EIO` when the server has broken the protocol.
    pub fn send(
        &mut self,
        kind: u32,
        transaction: TransactionId,
        payload: &[u8],
    ) -> Result<RequestId, Errno> {
        if payload.len() > PAYLOAD_MAX {
            return Err(Errno::E2BIG);
        }
        if self.is_broken {
            return Err(Errno::EIO);
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let len = u32::try_from(payload.len()).map_err(|_| Errno::E2BIG)?;
        let header = Header { kind, req_id: id, tx_id: transaction.raw(), len };
        self.output.extend(header.as_bytes());
        self.output.extend(payload);
        self.waiting.insert(id, kind);
        self.poll();
        Ok(RequestId(id))
    }

    /// Moves what can be moved; call it when the port fires. `true`: replies or events may have come.
    pub fn poll(&mut self) -> bool {
        if self.is_broken {
            return false;
        }
        match self.pump() {
            Ok((moved, came)) => {
                if moved {
                    self.platform.notify(self.port);
                }
                came
            }
            Err(reason) => {
                log::error!("the XenStore server broke the protocol: {reason}");
                self.is_broken = true;
                true
            }
        }
    }

    /// Takes the reply to a request, once it has come.
    pub fn take_reply(&mut self, id: RequestId) -> Option<Result<Vec<u8>, Errno>> {
        if let Some(reply) = self.replies.remove(&id.0) {
            return Some(reply);
        }
        if self.is_broken || !self.waiting.contains_key(&id.0) {
            return Some(Err(Errno::EIO));
        }
        None
    }

    fn pump(&mut self) -> Result<(bool, bool), String> {
        let (mut moved, mut came) = (false, false);
        let say = |fault: RingFault| format!("{fault}");
        while !self.output.is_empty() {
            let (head, _) = self.output.as_slices();
            let count = self.writer.write(&self.page, head).map_err(say)?;
            if count == 0 {
                break;
            }
            self.output.drain(..count);
            moved = true;
        }
        loop {
            let head = size_of::<Header>();
            let header = Header::read_from_prefix(&self.input).ok().map(|(header, _)| header);
            let wanted = match header {
                None => head,
                Some(header) if header.len as usize > PAYLOAD_MAX => {
                    return Err(format!("a message of {} bytes", header.len));
                }
                Some(header) => head + header.len as usize,
            };
            if let Some(header) = header
                && self.input.len() == wanted
            {
                let payload = self.input.split_off(head);
                self.input.clear();
                self.deliver(&header, payload);
                came = true;
                continue;
            }
            let start = self.input.len();
            self.input.resize(wanted, 0);
            let rest = self.input.get_mut(start..).unwrap_or_default();
            let count = self.reader.read(&self.page, rest).map_err(say)?;
            self.input.truncate(start + count);
            if count == 0 {
                return Ok((moved, came));
            }
            moved = true;
        }
    }

    fn deliver(&mut self, header: &Header, payload: Vec<u8>) {
        if header.kind == kind::WATCH_EVENT {
            if let [path, token, ..] = split_texts(&payload).as_slice() {
                if self.events.len() >= EVENTS_MAX {
                    self.events.pop_front();
                }
                self.events.push_back(WatchEvent { path: path.clone(), token: token.clone() });
            }
            return;
        }
        // A reply to nothing, or of another kind, is dropped.
        let Some(asked) = self.waiting.remove(&header.req_id) else { return };
        let reply = match header.kind {
            kind::ERROR => Err(error_from_text(&payload)),
            kind if kind == asked => Ok(payload),
            _ => Err(Errno::EIO),
        };
        self.replies.insert(header.req_id, reply);
    }

    fn call(&mut self, kind: u32, transaction: TransactionId, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        let id = self.send(kind, transaction, payload)?;
        loop {
            if let Some(reply) = self.take_reply(id) {
                return reply;
            }
            if !self.poll() {
                (self.wait)(self.port);
            }
        }
    }
}

impl<P: Platform> Store for XsClient<P> {
    store_by_calls!();

    fn next_event(&mut self) -> Option<WatchEvent> {
        self.poll();
        self.events.pop_front()
    }
}
