//! The serving domain's own way into its store.
//!
//! Lock rule: the server's lock is taken for one operation at a time and nothing else is locked inside it.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::DomainId;
use pv_abi::io::xs_wire::kind;
use spin::Mutex;

use super::server::{ConnectionId, Server};
use super::{Permission, Store, TransactionId, WatchEvent};

/// A privileged client in the same domain as the server. Each holds its own watches.
pub struct LocalStore {
    server: Arc<Mutex<Server>>,
    id: ConnectionId,
}

impl LocalStore {
    /// Connects to the server in the name of `domain`, the serving one.
    #[must_use]
    pub fn new(server: &Arc<Mutex<Server>>, domain: DomainId) -> Self {
        let id = server.lock().connect(domain, true);
        Self { server: server.clone(), id }
    }

    /// Connects an unprivileged domain without a ring.
    #[cfg(test)]
    pub fn unprivileged(server: &Arc<Mutex<Server>>, domain: DomainId) -> Self {
        let id = server.lock().connect(domain, false);
        Self { server: server.clone(), id }
    }

    /// Sends `XS_RESET_WATCHES`.
    #[cfg(test)]
    pub fn reset_for_test(&mut self) {
        self.call(kind::RESET_WATCHES, TransactionId::NONE, b"\0").unwrap();
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &Arc<Mutex<Server>> {
        &self.server
    }

    fn call(&mut self, kind: u32, transaction: TransactionId, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        self.server.lock().call_local(self.id, kind, transaction, payload)
    }
}

impl Drop for LocalStore {
    fn drop(&mut self) {
        self.server.lock().disconnect(self.id);
    }
}

/// The payloads of requests and replies, for every kind of client.
macro_rules! store_by_calls {
    () => {
        fn read(&mut self, transaction: TransactionId, path: &str) -> Result<Vec<u8>, Errno> {
            self.call(kind::READ, transaction, format!("{path}\0").as_bytes())
        }

        fn write(&mut self, transaction: TransactionId, path: &str, value: &[u8]) -> Result<(), Errno> {
            let mut payload = format!("{path}\0").into_bytes();
            payload.extend_from_slice(value);
            self.call(kind::WRITE, transaction, &payload).map(|_| ())
        }

        fn make(&mut self, transaction: TransactionId, path: &str) -> Result<(), Errno> {
            self.call(kind::MKDIR, transaction, format!("{path}\0").as_bytes()).map(|_| ())
        }

        fn remove(&mut self, transaction: TransactionId, path: &str) -> Result<(), Errno> {
            self.call(kind::RM, transaction, format!("{path}\0").as_bytes()).map(|_| ())
        }

        fn list(&mut self, transaction: TransactionId, path: &str) -> Result<Vec<String>, Errno> {
            match self.call(kind::DIRECTORY, transaction, format!("{path}\0").as_bytes()) {
                Ok(names) => Ok($crate::xs::split_texts(&names)),
                Err(Errno::E2BIG) => $crate::xs::list_in_parts(path, |payload| {
                    self.call(kind::DIRECTORY_PART, transaction, payload)
                }),
                Err(error) => Err(error),
            }
        }

        fn permissions(&mut self, transaction: TransactionId, path: &str) -> Result<Vec<Permission>, Errno> {
            let list = self.call(kind::GET_PERMS, transaction, format!("{path}\0").as_bytes())?;
            $crate::xs::split_texts(&list).iter().map(|text| text.parse()).collect()
        }

        fn set_permissions(
            &mut self,
            transaction: TransactionId,
            path: &str,
            permissions: &[Permission],
        ) -> Result<(), Errno> {
            let mut payload = format!("{path}\0");
            for entry in permissions {
                payload.push_str(&entry.text());
                payload.push('\0');
            }
            self.call(kind::SET_PERMS, transaction, payload.as_bytes()).map(|_| ())
        }

        fn begin(&mut self) -> Result<TransactionId, Errno> {
            let text = self.call(kind::TRANSACTION_START, TransactionId::NONE, b"\0")?;
            let texts = $crate::xs::split_texts(&text);
            let number = texts.first().and_then(|text| text.parse().ok()).ok_or(Errno::EIO)?;
            Ok(TransactionId::new(number))
        }

        fn commit(&mut self, transaction: TransactionId) -> Result<(), Errno> {
            self.call(kind::TRANSACTION_END, transaction, b"T\0").map(|_| ())
        }

        fn abort(&mut self, transaction: TransactionId) -> Result<(), Errno> {
            self.call(kind::TRANSACTION_END, transaction, b"F\0").map(|_| ())
        }

        fn watch(&mut self, path: &str, token: &str) -> Result<(), Errno> {
            let payload = format!("{path}\0{token}\0");
            self.call(kind::WATCH, TransactionId::NONE, payload.as_bytes()).map(|_| ())
        }

        fn unwatch(&mut self, path: &str, token: &str) -> Result<(), Errno> {
            let payload = format!("{path}\0{token}\0");
            self.call(kind::UNWATCH, TransactionId::NONE, payload.as_bytes()).map(|_| ())
        }
    };
}
pub(super) use store_by_calls;

impl Store for LocalStore {
    store_by_calls!();

    fn next_event(&mut self) -> Option<WatchEvent> {
        self.server.lock().next_event(self.id)
    }
}
