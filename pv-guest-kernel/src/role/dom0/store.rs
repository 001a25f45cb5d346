//! The store service: XenStore for all domains.
//!
//! One task moves the messages of all guests. Whoever changes the store on behalf of this domain says so with
//! [`Service::touched`], since watch events for guests may have come of it; the task in turn raises the local signal,
//! since guests' messages may have made watch events for this domain's own drivers.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::Poll;

use pv_abi::{DomainId, Errno, GrantRef, Port};
use pv_drivers::platform::{Access, Platform};
use pv_drivers::xs::{LocalStore, Progress, Quota, RingConnection, Server};
use spin::Mutex;

use crate::task::signal::Signal;
use crate::xen::events;
use crate::xen::platform::Xen;

/// The reference by which a domain's creator reaches its ring (GNTTAB_RESERVED_XENSTORE, grant_table.h).
const RESERVED_STORE: GrantRef = GrantRef::new(1);

/// The store service.
pub struct Service {
    server: Arc<Mutex<Server>>,
    own: DomainId,
    connections: Mutex<Vec<RingConnection<Xen>>>,
    /// Work for the task.
    work: Signal,
    /// Something may have happened to watched nodes.
    changed: Signal,
}

impl Service {
    /// An empty store, served in the name of domain `own`.
    pub fn new(own: DomainId) -> Arc<Self> {
        Arc::new(Self {
            server: Arc::new(Mutex::new(Server::new(Quota::default()))),
            own,
            connections: Mutex::new(Vec::new()),
            work: Signal::new(),
            changed: Signal::new(),
        })
    }

    /// A client of this domain's own. Call [`touched`](Self::touched) after changing anything.
    pub fn client(&self) -> LocalStore {
        LocalStore::new(&self.server, self.own)
    }

    /// Raised whenever this domain's clients may have watch events.
    pub fn changed(&self) -> &Signal {
        &self.changed
    }

    /// This domain changed the store.
    pub fn touched(&self) {
        self.work.raise();
        self.changed.raise();
    }

    /// Connects a new guest by its ring and its unbound port.
    ///
    /// # Errors
    /// What the hypervisor says of the ring or the port.
    pub fn introduce(&self, domain: DomainId, port: Port) -> Result<(), Errno> {
        let page = Xen.map(domain, &[RESERVED_STORE], Access::ReadWrite)?;
        let port = events::bind_interdomain(domain, port)?;
        events::listen(port, "store");
        self.connections.lock().push(RingConnection::new(&Xen, &self.server, domain, page, port));
        self.work.raise();
        Ok(())
    }

    /// Disconnects a guest.
    pub fn release(&self, domain: DomainId) {
        let gone = {
            let mut connections = self.connections.lock();
            let index = connections.iter().position(|connection| connection.domain() == domain);
            index.map(|index| connections.swap_remove(index))
        };
        if let Some(connection) = gone {
            let port = connection.port();
            drop(connection);
            events::close(port);
            self.touched();
        }
    }

    /// Serves for ever.
    pub async fn serve(self: Arc<Self>) {
        let mut seen = 0;
        loop {
            poll_fn(|cx| {
                let mut ready = self.work.poll_changed(&mut seen, cx).is_ready();
                for connection in self.connections.lock().iter() {
                    ready |= events::poll_wait(connection.port(), cx).is_ready();
                }
                if ready { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            self.pump().await;
            self.changed.raise();
        }
    }

    /// Moves messages until all are quiet: what one guest writes another may be watching.
    async fn pump(&self) {
        loop {
            let mut again = false;
            for connection in self.connections.lock().iter_mut() {
                again |= connection.poll() == Progress::More;
            }
            // A second round for the events that the first one made.
            for connection in self.connections.lock().iter_mut() {
                again |= connection.poll() == Progress::More;
            }
            if !again {
                return;
            }
            crate::task::yield_now().await;
        }
    }
}
