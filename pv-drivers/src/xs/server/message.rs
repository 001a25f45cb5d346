//! The messages of the protocol: taking them apart, and the replies (`io/xs_wire.h`, `docs/misc/xenstore.txt`).

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, Port};
use pv_abi::io::xs_wire::{Header, PAYLOAD_MAX, error_text, kind};
use zerocopy::IntoBytes;

use super::super::path::{absolute, domain_home};
use super::super::{Permission, TransactionId};
use super::view::Operation;
use super::{Action, ConnectionId, Server};

/// A message, ready for the wire.
pub(super) fn encode(kind: u32, req_id: u32, tx_id: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut message = Header { kind, req_id, tx_id, len }.as_bytes().to_vec();
    message.extend_from_slice(payload);
    message
}

/// The answer to a request.
pub(super) fn reply(request: &Header, result: Result<&[u8], &Errno>) -> Vec<u8> {
    match result {
        Ok(payload) if payload.len() <= PAYLOAD_MAX => {
            encode(request.kind, request.req_id, request.tx_id, payload)
        }
        Ok(_) => reply(request, Err(&Errno::E2BIG)),
        Err(error) => encode(kind::ERROR, request.req_id, request.tx_id, &strings(&[error_text(*error)])),
    }
}

/// Texts, each with a zero byte.
pub(super) fn strings(texts: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in texts {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    }
    bytes
}

/// Takes a payload apart that consists of texts, each with a zero byte.
fn texts(payload: &[u8]) -> Result<Vec<&str>, Errno> {
    let payload = payload.strip_suffix(b"\0").ok_or(Errno::EINVAL)?;
    payload
        .split(|&byte| byte == 0)
        .map(|text| core::str::from_utf8(text).map_err(|_| Errno::EINVAL))
        .collect()
}

fn one_text(payload: &[u8]) -> Result<&str, Errno> {
    match texts(payload)?.as_slice() {
        [text] => Ok(text),
        _ => Err(Errno::EINVAL),
    }
}

fn number(text: &str) -> Result<u32, Errno> {
    text.parse().map_err(|_| Errno::EINVAL)
}

fn domain(text: &str) -> Result<DomainId, Errno> {
    text.parse().map(DomainId::new).map_err(|_| Errno::EINVAL)
}

const OK: &[u8] = b"OK\0";

impl Server {
    /// Does what a message asks, and returns the reply's payload.
    pub(super) fn call(
        &mut self,
        id: ConnectionId,
        message: u32,
        transaction: TransactionId,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        match message {
            kind::READ => self.on_read(id, transaction, payload),
            kind::DIRECTORY => self.on_directory(id, transaction, payload),
            kind::DIRECTORY_PART => self.on_directory_part(id, transaction, payload),
            kind::GET_PERMS => self.on_get_perms(id, transaction, payload),
            kind::WRITE => self.on_write(id, transaction, payload),
            kind::MKDIR => {
                let path = self.path(id, one_text(payload)?)?;
                self.apply(id, transaction, Operation::Make { path }).map(|()| OK.to_vec())
            }
            kind::RM => {
                let path = self.path(id, one_text(payload)?)?;
                self.apply(id, transaction, Operation::Remove { path }).map(|()| OK.to_vec())
            }
            kind::SET_PERMS => self.on_set_perms(id, transaction, payload),
            kind::WATCH => self.on_watch(id, payload),
            kind::UNWATCH => match texts(payload)?.as_slice() {
                [path, token] => self.remove_watch(id, path, token).map(|()| OK.to_vec()),
                _ => Err(Errno::EINVAL),
            },
            kind::RESET_WATCHES => {
                let connection = self.connection(id)?;
                connection.watches.clear();
                connection.transactions.clear();
                Ok(OK.to_vec())
            }
            kind::TRANSACTION_START => {
                // A transaction inside a transaction is refused.
                if transaction != TransactionId::NONE {
                    return Err(Errno::EBUSY);
                }
                let number = self.start_transaction(id)?;
                Ok(strings(&[&format!("{}", number.raw())]))
            }
            kind::TRANSACTION_END => match one_text(payload)? {
                "T" => self.end_transaction(id, transaction, true).map(|()| OK.to_vec()),
                "F" => self.end_transaction(id, transaction, false).map(|()| OK.to_vec()),
                _ => Err(Errno::EINVAL),
            },
            kind::GET_DOMAIN_PATH => Ok(strings(&[&domain_home(domain(one_text(payload)?)?)])),
            kind::IS_DOMAIN_INTRODUCED => {
                let known = self.is_introduced(domain(one_text(payload)?)?);
                Ok(strings(&[if known { "T" } else { "F" }]))
            }
            kind::INTRODUCE | kind::RELEASE | kind::RESUME | kind::CONTROL => {
                self.on_privileged(id, message, payload)
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    fn path(&self, id: ConnectionId, given: &str) -> Result<String, Errno> {
        absolute(self.caller(id)?.domain, given)
    }

    fn on_read(
        &mut self,
        id: ConnectionId,
        transaction: TransactionId,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let path = self.path(id, one_text(payload)?)?;
        self.with_view(id, transaction, |view, caller| {
            view.readable(caller, &path, false).map(|node| node.value.clone())
        })
    }

    /// The names of the children, each with a zero byte, and the version of the list.
    fn children(
        &mut self,
        id: ConnectionId,
        transaction: TransactionId,
        path: &str,
    ) -> Result<(Vec<u8>, u64), Errno> {
        self.with_view(id, transaction, |view, caller| {
            let node = view.readable(caller, path, true)?;
            let names: Vec<&str> = node.children.keys().map(String::as_str).collect();
            Ok((strings(&names), node.children_version))
        })
    }

    fn on_directory(
        &mut self,
        id: ConnectionId,
        transaction: TransactionId,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let path = self.path(id, one_text(payload)?)?;
        self.children(id, transaction, &path).map(|(names, _)| names)
    }

    /// A list that does not fit one message, in parts: version, the names from an offset on, and an empty name after
    /// the last.
    fn on_directory_part(
        &mut self,
        id: ConnectionId,
        transaction: TransactionId,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let texts = texts(payload)?;
        let [given, offset] = texts.as_slice() else { return Err(Errno::EINVAL) };
        let offset = usize::try_from(number(offset)?).map_err(|_| Errno::EINVAL)?;
        let path = self.path(id, given)?;
        let (names, version) = self.children(id, transaction, &path)?;
        let mut part = strings(&[&format!("{version}")]);
        let rest = names.get(offset..).unwrap_or_default();
        // One byte stays for the empty name at the end.
        let room = PAYLOAD_MAX.saturating_sub(part.len() + 1);
        if rest.len() <= room {
            part.extend_from_slice(rest);
            part.push(0);
        } else {
            let whole = rest.get(..room).unwrap_or_default();
            let end = whole.iter().rposition(|&byte| byte == 0).map_or(0, |at| at + 1);
            part.extend_from_slice(whole.get(..end).unwrap_or_default());
        }
        Ok(part)
    }

    fn on_get_perms(
        &mut self,
        id: ConnectionId,
        transaction: TransactionId,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let path = self.path(id, one_text(payload)?)?;
        self.with_view(id, transaction, |view, caller| {
            let node = view.readable(caller, &path, false)?;
            let texts: Vec<String> = node.permissions.iter().map(|entry| entry.text()).collect();
            Ok(strings(&texts.iter().map(String::as_str).collect::<Vec<_>>()))
        })
    }

    fn on_write(
        &mut self,
        id: ConnectionId,
        transaction: TransactionId,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let end = payload.iter().position(|&byte| byte == 0).ok_or(Errno::EINVAL)?;
        let (given, value) = payload.split_at(end);
        let given = core::str::from_utf8(given).map_err(|_| Errno::EINVAL)?;
        let path = self.path(id, given)?;
        let value = value.get(1..).unwrap_or_default().to_vec();
        self.apply(id, transaction, Operation::Write { path, value })?;
        Ok(OK.to_vec())
    }

    fn on_set_perms(
        &mut self,
        id: ConnectionId,
        transaction: TransactionId,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let texts = texts(payload)?;
        let (given, entries) = texts.split_first().ok_or(Errno::EINVAL)?;
        let permissions = entries.iter().map(|text| text.parse()).collect::<Result<Vec<Permission>, _>>()?;
        let path = self.path(id, given)?;
        self.apply(id, transaction, Operation::SetPermissions { path, permissions })?;
        Ok(OK.to_vec())
    }

    fn on_watch(&mut self, id: ConnectionId, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        match texts(payload)?.as_slice() {
            [path, token] => self.add_watch(id, path, token, None)?,
            [path, token, depth] => {
                let depth = usize::try_from(number(depth)?).map_err(|_| Errno::EINVAL)?;
                self.add_watch(id, path, token, Some(depth))?;
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(OK.to_vec())
    }

    fn on_privileged(&mut self, id: ConnectionId, message: u32, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        if !self.caller(id)?.is_privileged {
            return Err(Errno::EACCES);
        }
        match (message, texts(payload)?.as_slice()) {
            (kind::INTRODUCE, [who, _gfn, port]) => {
                let (domain, port) = (domain(who)?, Port::new(number(port)?));
                self.actions.push_back(Action::Introduce { domain, port });
                Ok(OK.to_vec())
            }
            (kind::RELEASE, [who]) => {
                let domain = domain(who)?;
                if !self.is_introduced(domain) {
                    return Err(Errno::ENOENT);
                }
                self.actions.push_back(Action::Release { domain });
                Ok(OK.to_vec())
            }
            (kind::RESUME, [who]) => {
                if !self.is_introduced(domain(who)?) {
                    return Err(Errno::ENOENT);
                }
                Ok(OK.to_vec())
            }
            (kind::CONTROL, ["help"]) => Ok(vec![0]),
            (kind::CONTROL, _) => Err(Errno::ENOSYS),
            _ => Err(Errno::EINVAL),
        }
    }
}
