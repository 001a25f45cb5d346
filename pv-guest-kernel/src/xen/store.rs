//! XenStore, as this domain sees it: one client for the whole kernel.
//!
//! Calls wait for their reply on the spot (set-up work, a few milliseconds): the vCPU halts until the store's event, and
//! if that is delivered to another vCPU, its handler sends an IPI here. Watch events are handed to [`Watch`]es by one
//! task. A domain that serves the store itself provides its own client with [`provide`].

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::Poll;

use futures_util::task::AtomicWaker;
use pv_abi::{Errno, Gfn, Port, hvm};
use pv_drivers::xs::{Store, TransactionId, XsClient};

use super::platform::{Pages, Xen};
use super::{events, params, sched};
use crate::arch::{cpu, instr, trap};
use crate::sync::IrqMutex;
use crate::task;

struct Client {
    store: Box<dyn Store + Send>,
    /// Called after every use.
    after: fn(),
}

static CLIENT: spin::Mutex<Option<Client>> = spin::Mutex::new(None);
/// Events of the store's port.
static GENERATION: AtomicU64 = AtomicU64::new(0);
/// Bit n: vCPU n waits for the store.
static WAITING: AtomicU64 = AtomicU64::new(0);
static DISPATCHER: AtomicWaker = AtomicWaker::new();
static WATCHES: IrqMutex<Vec<Arc<Signal>>> = IrqMutex::new(Vec::new());
static NEXT_TOKEN: AtomicU64 = AtomicU64::new(0);

/// Connects to the store, if the toolstack set up a ring.
pub fn init() {
    let page = params::get(hvm::param::STORE_PFN).unwrap_or(0);
    let port = params::get(hvm::param::STORE_EVTCHN).unwrap_or(0);
    if page == 0 || port == 0 {
        log::debug!("no XenStore ring");
        return;
    }
    let port = match events::adopt(Port::new(port as u32)) {
        Ok(port) => port,
        Err(e) => return log::error!("XenStore's event channel: {e}"),
    };
    events::on(port, "store", |_| on_event(), 0);
    let mut seen = 0;
    let wait = Box::new(move |_: Port| {
        let me = 1u64 << cpu::this().id;
        WAITING.fetch_or(me, Ordering::SeqCst);
        instr::cli();
        if GENERATION.load(Ordering::SeqCst) == seen {
            trap::idle_wait();
        } else {
            instr::sti();
        }
        WAITING.fetch_and(!me, Ordering::SeqCst);
        seen = GENERATION.load(Ordering::SeqCst);
    });
    let client = XsClient::new(&Xen, Pages::of_frame(Gfn::new(page)), port, wait);
    provide(Box::new(client), || DISPATCHER.wake());
    task::spawn(dispatch());
}

/// Makes `store` this kernel's client; `after` is called after every use.
pub fn provide(store: Box<dyn Store + Send>, after: fn()) {
    *CLIENT.lock() = Some(Client { store, after });
}

fn on_event() {
    GENERATION.fetch_add(1, Ordering::SeqCst);
    let me = cpu::this().id;
    let waiting = WAITING.load(Ordering::SeqCst) & !(1 << me);
    for cpu in cpu::all().filter(|c| waiting >> c.id & 1 == 1) {
        events::kick(cpu);
    }
    DISPATCHER.wake();
}

/// Uses the store; `None` if there is none.
pub fn with<R>(work: impl FnOnce(&mut dyn Store) -> R) -> Option<R> {
    let mut client = loop {
        match CLIENT.try_lock() {
            Some(client) => break client,
            // Another vCPU waits for a reply: give the CPU to whoever serves it.
            None => sched::yield_now(),
        }
    };
    let client_ref = client.as_mut()?;
    let result = work(&mut *client_ref.store);
    let after = client_ref.after;
    drop(client);
    after();
    Some(result)
}

/// Is there a store?
pub fn is_there() -> bool {
    with(|_| ()).is_some()
}

/// Reads a node as text.
pub fn read(path: &str) -> Result<String, Errno> {
    let value = with(|store| store.read(TransactionId::NONE, path)).unwrap_or(Err(Errno::ENODEV))?;
    Ok(String::from_utf8_lossy(&value).into_owned())
}

/// Writes a node.
pub fn write(path: &str, value: &str) -> Result<(), Errno> {
    with(|store| store.write(TransactionId::NONE, path, value.as_bytes())).unwrap_or(Err(Errno::ENODEV))
}

/// Writes `data/exit-status`.
pub async fn write_exit_status(status: i32) {
    if let Some(Err(e)) =
        with(|store| store.write(TransactionId::NONE, "data/exit-status", status.to_string().as_bytes()))
    {
        log::warn!("cannot tell the exit status: {e}");
    }
}

/// What a watch waits on.
struct Signal {
    token: String,
    count: AtomicU64,
    waker: AtomicWaker,
}

/// Asks to be told when something at or below a path changes.
pub struct Watch {
    path: String,
    signal: Arc<Signal>,
    seen: u64,
}

impl Watch {
    /// Watches a path; the first event comes at once.
    pub fn new(path: &str) -> Result<Watch, Errno> {
        let token = format!("w{}", NEXT_TOKEN.fetch_add(1, Ordering::Relaxed));
        let signal =
            Arc::new(Signal { token: token.clone(), count: AtomicU64::new(0), waker: AtomicWaker::new() });
        WATCHES.lock().push(signal.clone());
        let watch = Watch { path: path.into(), signal, seen: 0 };
        with(|store| store.watch(path, &token)).unwrap_or(Err(Errno::ENODEV))?;
        Ok(watch)
    }

    /// The token of the watch, for drivers that set theirs themselves: their events arrive here too.
    pub fn token(&self) -> &str {
        &self.signal.token
    }

    /// Waits for a change since the last wait.
    pub async fn changed(&mut self) {
        poll_fn(|cx| self.poll_changed(cx)).await;
    }

    /// As [`Watch::changed`], for hand-written futures.
    pub fn poll_changed(&mut self, cx: &mut core::task::Context<'_>) -> Poll<()> {
        self.signal.waker.register(cx.waker());
        let now = self.signal.count.load(Ordering::Acquire);
        if now == self.seen {
            return Poll::Pending;
        }
        self.seen = now;
        Poll::Ready(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let signal = self.signal.clone();
        WATCHES.lock().retain(|s| !Arc::ptr_eq(s, &signal));
        let _ = with(|store| store.unwatch(&self.path, &signal.token));
    }
}

/// Hands watch events out for ever.
async fn dispatch() {
    loop {
        poll_fn(|cx| {
            DISPATCHER.register(cx.waker());
            let mut any = false;
            let mut tokens = Vec::new();
            if let Some(mut client) = CLIENT.try_lock()
                && let Some(client) = client.as_mut()
            {
                while let Some(event) = client.store.next_event() {
                    tokens.push(event.token);
                }
            }
            let watches = WATCHES.lock();
            for token in tokens {
                any = true;
                for signal in watches.iter().filter(|s| s.token == token) {
                    signal.count.fetch_add(1, Ordering::Release);
                    signal.waker.wake();
                }
            }
            if any { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
