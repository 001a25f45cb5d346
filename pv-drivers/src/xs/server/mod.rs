//! The store itself: nodes, transactions, watches, permissions and quotas.
//!
//! Pure: a message of a client goes in by [`Server::handle`], and what the client is to be told waits in its queue.
//! Nothing here touches shared memory, and nothing a client sends can make it panic or use memory without bound.
//!
//! # Rules
//!
//! * The domains that may do everything are those introduced with [`Server::connect`] as privileged: the serving one.
//! * A transaction works on a snapshot. At its end, if anybody changed what it looked at, it is refused with `EAGAIN`;
//!   otherwise its operations are done again on the store, all at once.
//! * A client hears of a change only if it may read the node.

mod fire;
mod message;
mod quota;
mod transaction;
mod tree;
mod view;
mod watch;

use alloc::collections::VecDeque;
use alloc::collections::btree_map::{BTreeMap, Entry};
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, Port};
use pv_abi::io::xs_wire::{Header, kind};

use super::permissions::Permission;
use super::{TransactionId, WatchEvent, path};
use transaction::Transaction;
use tree::{Node, Tree};
use view::{Account, Caller, Operation, View};

use watch::{Outgoing, Queue, Watch};

pub use quota::Quota;

/// A client of the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ConnectionId(u32);

/// What a privileged client asks of the serving domain itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Connect the ring page of a domain (`XS_INTRODUCE`).
    Introduce {
        /// The domain.
        domain: DomainId,
        /// Its unbound port for the store.
        port: Port,
    },
    /// Disconnect a domain (`XS_RELEASE`).
    Release {
        /// The domain.
        domain: DomainId,
    },
}

struct Connection {
    caller: Caller,
    watches: Vec<Watch>,
    transactions: BTreeMap<TransactionId, Transaction>,
    next_transaction: u32,
    queue: Queue,
}

/// A XenStore.
pub struct Server {
    tree: Tree,
    next_version: u64,
    nodes: BTreeMap<DomainId, Account>,
    quota: Quota,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: u32,
    actions: VecDeque<Action>,
}

impl Server {
    /// An empty store.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self {
            tree: Tree::new(),
            next_version: 0,
            nodes: BTreeMap::new(),
            quota,
            connections: BTreeMap::new(),
            next_connection: 0,
            actions: VecDeque::new(),
        }
    }

    /// Adds a client. For an unprivileged domain this introduces it: those who watch `@introduceDomain` hear of it.
    pub fn connect(&mut self, domain: DomainId, is_privileged: bool) -> ConnectionId {
        let id = ConnectionId(self.next_connection);
        self.next_connection = self.next_connection.wrapping_add(1);
        let connection = Connection {
            caller: Caller { domain, is_privileged },
            watches: Vec::new(),
            transactions: BTreeMap::new(),
            next_transaction: 1,
            queue: Queue::default(),
        };
        self.connections.insert(id, connection);
        if !is_privileged {
            self.fire_special("@introduceDomain");
        }
        id
    }

    /// Forgets a client's watches, transactions and waiting messages, as if it had just connected.
    pub fn reset(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.watches.clear();
            connection.transactions.clear();
            connection.queue.clear();
        }
    }

    /// Removes a client. If its domain has no other, the domain is released: what permissions say of it is dropped,
    /// so that a later domain with the same number inherits nothing, and those who watch `@releaseDomain` hear of it.
    pub fn disconnect(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else { return };
        let domain = connection.caller.domain;
        if connection.caller.is_privileged || self.is_introduced(domain) {
            return;
        }
        self.forget_domain(domain);
        self.fire_special("@releaseDomain");
    }

    fn forget_domain(&mut self, domain: DomainId) {
        let owned = self.nodes.remove(&domain).unwrap_or_default();
        self.nodes.entry(DomainId::DOM0).or_default().add(owned);
        let mut version = self.next_version;
        Node::change_all(&mut self.tree.root, &mut |node| {
            if !node.permissions.iter().any(|entry| entry.domain == domain) {
                return;
            }
            version += 1;
            node.version = version;
            if let Some((owner, rest)) = node.permissions.split_first()
                && owner.domain == domain
            {
                let mut list = alloc::vec![Permission::new(DomainId::DOM0, owner.rights)];
                list.extend(rest.iter().filter(|entry| entry.domain != domain));
                node.permissions = list;
            } else {
                node.permissions.retain(|entry| entry.domain != domain);
            }
        });
        self.next_version = version;
    }

    /// Whether a domain has a connection.
    #[must_use]
    pub fn is_introduced(&self, domain: DomainId) -> bool {
        self.connections.values().any(|connection| connection.caller.domain == domain)
    }

    /// What privileged clients asked of the serving domain.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Takes the next message for a client, header and payload.
    pub fn next_message(&mut self, id: ConnectionId) -> Option<Vec<u8>> {
        let outgoing = self.connections.get_mut(&id)?.queue.pop()?;
        Some(match outgoing {
            Outgoing::Reply(message) => message,
            Outgoing::Event(event) => {
                message::encode(kind::WATCH_EVENT, 0, 0, &message::strings(&[&event.path, &event.token]))
            }
        })
    }

    /// Whether nothing waits to be sent to a client.
    #[must_use]
    pub fn is_quiet(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_none_or(|connection| connection.queue.is_empty())
    }

    /// Takes the next watch event for a client that reads no messages.
    pub fn next_event(&mut self, id: ConnectionId) -> Option<WatchEvent> {
        self.connections.get_mut(&id)?.queue.pop_event()
    }

    /// The number of nodes that a domain owns.
    #[must_use]
    pub fn nodes_owned(&self, domain: DomainId) -> usize {
        self.nodes.get(&domain).map_or(0, |account| account.nodes)
    }

    /// Handles one message of a client; the reply and the events it causes wait in queues.
    pub fn handle(&mut self, id: ConnectionId, header: Header, payload: &[u8]) {
        let result = self.call(id, header.kind, TransactionId::new(header.tx_id), payload);
        let message = message::reply(&header, result.as_deref());
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.queue.reply(message);
        // The first event of a new watch follows its reply.
        if header.kind == kind::WATCH && result.is_ok() {
            Self::fire_new(connection);
        }
    }

    /// Does what a message of a client in the serving domain asks, and returns the reply's payload at once.
    pub(super) fn call_local(
        &mut self,
        id: ConnectionId,
        message: u32,
        transaction: TransactionId,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let reply = self.call(id, message, transaction, payload)?;
        if message == kind::WATCH
            && let Some(connection) = self.connections.get_mut(&id)
        {
            Self::fire_new(connection);
        }
        if reply.len() > pv_abi::io::xs_wire::PAYLOAD_MAX { Err(Errno::E2BIG) } else { Ok(reply) }
    }

    fn fire_new(connection: &mut Connection) {
        if let Some(watch) = connection.watches.last() {
            connection.queue.event(watch, watch.whole());
        }
    }

    fn connection(&mut self, id: ConnectionId) -> Result<&mut Connection, Errno> {
        self.connections.get_mut(&id).ok_or(Errno::EIO)
    }

    fn caller(&self, id: ConnectionId) -> Result<Caller, Errno> {
        self.connections.get(&id).map(|connection| connection.caller).ok_or(Errno::EIO)
    }

    /// Runs `work` on the store, or on a transaction's version of it.
    fn with_view<T>(
        &mut self,
        id: ConnectionId,
        transaction: TransactionId,
        work: impl FnOnce(&mut View<'_>, Caller) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let caller = self.caller(id)?;
        if transaction == TransactionId::NONE {
            let mut view = View {
                tree: &mut self.tree,
                nodes: &mut self.nodes,
                next_version: &mut self.next_version,
                quota: &self.quota,
                looked: None,
            };
            return work(&mut view, caller);
        }
        let connection = self.connections.get_mut(&id).ok_or(Errno::EIO)?;
        let held = connection.transactions.values().map(Transaction::bytes).sum::<usize>();
        let entry = connection.transactions.get_mut(&transaction).ok_or(Errno::ENOENT)?;
        if !caller.is_privileged
            && (held >= self.quota.bytes
                || entry.looked.len().max(entry.log.len()) >= self.quota.transaction_size)
        {
            return Err(Errno::ENOSPC);
        }
        let mut view = View {
            tree: &mut entry.tree,
            nodes: &mut entry.nodes,
            next_version: &mut self.next_version,
            quota: &self.quota,
            looked: Some(&mut entry.looked),
        };
        work(&mut view, caller)
    }

    /// Does an operation; outside a transaction its watchers hear of it.
    fn apply(
        &mut self,
        id: ConnectionId,
        transaction: TransactionId,
        operation: Operation,
    ) -> Result<(), Errno> {
        let change = self.with_view(id, transaction, |view, caller| view.apply(caller, &operation))?;
        if transaction == TransactionId::NONE {
            self.fire(change);
        } else if let Some(entry) = self.connection(id)?.transactions.get_mut(&transaction) {
            entry.log.push(operation);
        }
        Ok(())
    }

    fn start_transaction(&mut self, id: ConnectionId) -> Result<TransactionId, Errno> {
        let quota = self.quota.transactions;
        let transaction = Transaction::new(&self.tree, &self.nodes);
        let connection = self.connection(id)?;
        if !connection.caller.is_privileged && connection.transactions.len() >= quota {
            return Err(Errno::ENOSPC);
        }
        loop {
            let number = TransactionId::new(connection.next_transaction);
            connection.next_transaction = connection.next_transaction.wrapping_add(1).max(1);
            if let Entry::Vacant(slot) = connection.transactions.entry(number) {
                slot.insert(transaction);
                return Ok(number);
            }
        }
    }

    fn end_transaction(
        &mut self,
        id: ConnectionId,
        transaction: TransactionId,
        commit: bool,
    ) -> Result<(), Errno> {
        let connection = self.connection(id)?;
        let caller = connection.caller;
        let entry = connection.transactions.remove(&transaction).ok_or(Errno::ENOENT)?;
        if !commit {
            return Ok(());
        }
        entry.check(&self.tree)?;
        // Several transactions may each have stayed below a quota that they exceed together: try on a copy.
        let (mut tree, mut nodes) = (self.tree.clone(), self.nodes.clone());
        let mut changes = Vec::new();
        for operation in &entry.log {
            let mut view = View {
                tree: &mut tree,
                nodes: &mut nodes,
                next_version: &mut self.next_version,
                quota: &self.quota,
                looked: None,
            };
            changes.push(view.apply(caller, operation)?);
        }
        (self.tree, self.nodes) = (tree, nodes);
        for change in changes {
            self.fire(change);
        }
        Ok(())
    }

    fn add_watch(
        &mut self,
        id: ConnectionId,
        given: &str,
        token: &str,
        depth: Option<usize>,
    ) -> Result<(), Errno> {
        let quota = self.quota.watches;
        let connection = self.connection(id)?;
        let path = watched_path(connection.caller, given)?;
        if connection.watches.iter().any(|watch| watch.path == path && watch.token == token) {
            return Err(Errno::EEXIST);
        }
        if !connection.caller.is_privileged && connection.watches.len() >= quota {
            return Err(Errno::E2BIG);
        }
        connection.watches.push(Watch { path, given: given.into(), token: token.into(), depth });
        Ok(())
    }

    fn remove_watch(&mut self, id: ConnectionId, given: &str, token: &str) -> Result<(), Errno> {
        let connection = self.connection(id)?;
        let path = watched_path(connection.caller, given)?;
        let at = connection
            .watches
            .iter()
            .position(|watch| watch.path == path && watch.token == token)
            .ok_or(Errno::ENOENT)?;
        connection.watches.remove(at);
        Ok(())
    }
}

/// The absolute path of a watch; the special names are for privileged clients.
fn watched_path(caller: Caller, given: &str) -> Result<String, Errno> {
    match given {
        "@introduceDomain" | "@releaseDomain" if caller.is_privileged => Ok(given.into()),
        "@introduceDomain" | "@releaseDomain" => Err(Errno::EACCES),
        _ => path::absolute(caller.domain, given),
    }
}
