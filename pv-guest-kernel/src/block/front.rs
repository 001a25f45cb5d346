//! Disks that a back end in another domain serves: one task for each, around the driver's state machine.
//!
//! A request is queued in the front end by whoever submits it, and shown to the back end by the disk's task, which runs
//! when the submitter waits: so a burst of requests costs one notification at most.
//! Lock rule: a disk's lock is held while the state machine moves, and while it uses XenStore; nothing else is locked
//! inside but the store's client.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Poll;
use core::time::Duration;

use futures_util::task::AtomicWaker;
use pv_abi::Port;
use pv_drivers::blk::{BlkFront, BlockError, FrontCounters, FrontOptions, FrontState, RequestId};
use pv_drivers::xenbus::{Frontend, list_frontends};
use spin::Mutex;

use super::{BlockDevice, Buffer, Error, Info, Limits, Op, Promise, Request, SECTOR};
use crate::xen::platform::Xen;
use crate::xen::store::{self, Watch};
use crate::xen::{events, platform};
use crate::{cmdline, task};

/// How long a disk may take to appear before the boot goes on without it.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most bytes of one request; the front end cuts it as the back end wants it.
const MOST: usize = 1 << 20;

struct Inner {
    front: BlkFront<Xen>,
    /// How many it has, and which is next: they take turns.
    queues: usize,
    turn: usize,
    promises: Promises,
    /// Requests that found no room.
    waiting: VecDeque<(Request, Promise)>,
}

struct FrontDisk {
    name: String,
    inner: Mutex<Inner>,
    limits: Mutex<Option<Limits>>,
    /// There are requests that the back end has not been shown.
    unseen: AtomicBool,
    task: AtomicWaker,
}

/// Who waits for which request, in the order of their numbers.
#[derive(Default)]
struct Promises {
    /// The number of the first one.
    first: u64,
    waiting: VecDeque<Option<Promise>>,
}

impl Promises {
    fn insert(&mut self, id: RequestId, promise: Promise) {
        if self.waiting.is_empty() {
            self.first = id.number();
        }
        let at = (id.number() - self.first) as usize;
        self.waiting.resize_with(self.waiting.len().max(at), || None);
        self.waiting.push_back(Some(promise));
    }

    fn remove(&mut self, id: RequestId) -> Option<Promise> {
        let at = id.number().checked_sub(self.first)? as usize;
        let promise = self.waiting.get_mut(at)?.take();
        while let Some(None) = self.waiting.front() {
            self.waiting.pop_front();
            self.first += 1;
        }
        promise
    }
}

static FRONTS: Mutex<Vec<Arc<FrontDisk>>> = Mutex::new(Vec::new());

fn error(error: BlockError) -> Error {
    match error {
        BlockError::Io => Error::Io,
        BlockError::NotSupported => Error::Unsupported,
        BlockError::OutOfRange => Error::Range,
        BlockError::ReadOnly => Error::ReadOnly,
        BlockError::Disconnected => Error::Gone,
    }
}

/// The queues of a disk: the command line's word `blk-queues=N`, else one.
fn queues() -> u32 {
    cmdline::value("blk-queues").and_then(|number| number.parse().ok()).unwrap_or(1)
}

/// The name of a virtual device's number: major 202 as Linux numbers it, or the extended scheme above 15 disks.
fn name(device: u32) -> String {
    let disk = if device >> 28 == 1 { device >> 8 & 0xf_ffff } else { device >> 4 & 0xf };
    let mut letters = Vec::new();
    let mut rest = disk + 1;
    while rest > 0 {
        letters.push((b'a' + ((rest - 1) % 26) as u8) as char);
        rest = (rest - 1) / 26;
    }
    format!("xvd{}", letters.iter().rev().collect::<String>())
}

impl Inner {
    /// Hands a request to the front end; `Some` is what found no room.
    fn submit(&mut self, mut request: Request, promise: Promise) -> Option<(Request, Promise)> {
        let bytes = (request.count * SECTOR) as usize;
        let buffer = match request.buffer.take() {
            Some(Buffer::Granted(buffer)) if buffer.len() == bytes => Some(buffer),
            Some(other) => {
                // Memory that the back end cannot reach, or of another length: the back end would move other bytes.
                promise.fulfil(Err(Error::Range), Some(other));
                return None;
            }
            None => None,
        };
        if self.queues > 1 {
            self.turn = (self.turn + 1) % self.queues;
            self.front.choose_queue(self.turn);
        }
        let result = match (request.op, buffer) {
            (Op::Read, Some(buffer)) => self.front.read(request.sector, buffer),
            (Op::Write, Some(buffer)) => self.front.write(request.sector, buffer),
            (Op::Flush, _) => self.front.flush(),
            (Op::Discard, _) => self.front.discard(request.sector, request.count, false),
            _ => {
                promise.fulfil(Err(Error::Range), None);
                return None;
            }
        };
        match result {
            Ok(id) => {
                self.promises.insert(id, promise);
                None
            }
            Err(refused) => {
                let buffer = refused.buffer.map(Buffer::Granted);
                match refused.error {
                    Some(why) => {
                        promise.fulfil(Err(error(why)), buffer);
                        None
                    }
                    None => {
                        request.buffer = buffer;
                        Some((request, promise))
                    }
                }
            }
        }
    }

    fn refill(&mut self) {
        while let Some((request, promise)) = self.waiting.pop_front() {
            if let Some(back) = self.submit(request, promise) {
                self.waiting.push_front(back);
                return;
            }
        }
    }
}

impl BlockDevice for FrontDisk {
    fn info(&self) -> Info {
        let inner = self.inner.lock();
        let geometry = inner.front.geometry();
        Info {
            name: self.name.clone(),
            kind: format!("{}: {}", inner.front.ends().peer(), inner.front.summary()),
            sectors: geometry.map_or(0, |g| g.sectors),
            block: geometry.map_or(512, |g| g.block_size),
            most: geometry.map_or(MOST, |g| MOST.min(g.max_sectors as usize * SECTOR as usize)),
            depth: 32,
            read_only: geometry.is_some_and(|g| g.is_read_only),
            flush: geometry.is_some_and(|g| g.can_flush),
            discard: geometry.is_some_and(|g| g.discard.is_some()),
        }
    }

    fn limits(&self) -> Limits {
        let cached = *self.limits.lock();
        cached.unwrap_or_else(|| Limits::of(&self.info()))
    }

    fn submit(&self, request: Request, promise: Promise) {
        let mut inner = self.inner.lock();
        if !inner.waiting.is_empty() {
            inner.waiting.push_back((request, promise));
        } else if let Some(back) = inner.submit(request, promise) {
            inner.waiting.push_back(back);
        }
        drop(inner);
        if !self.unseen.swap(true, Ordering::AcqRel) {
            self.task.wake();
        }
    }

    fn buffer(&self, bytes: usize) -> Result<Buffer, Error> {
        let buffer = self.inner.lock().front.buffer(bytes);
        buffer.map(Buffer::Granted).map_err(|_| Error::NoMemory)
    }
}

impl FrontDisk {
    /// One round: answers, requests, and if the back end's state changed, XenStore.
    fn advance(&self, changed: bool) -> FrontState {
        self.unseen.store(false, Ordering::Release);
        let mut inner = self.inner.lock();
        let mut ended = Vec::with_capacity(inner.promises.waiting.len());
        for round in 0..2 {
            if (round == 0 && changed) || inner.front.wants_store() {
                store::with(|store| inner.front.on_store(store));
            }
            inner.front.poll();
            while let Some(completion) = inner.front.next_completion() {
                if let Some(promise) = inner.promises.remove(completion.id) {
                    ended.push((promise, completion.result, completion.buffer));
                }
            }
            inner.refill();
            inner.front.kick();
        }
        let now = inner.front.state();
        if matches!(now, FrontState::Closed | FrontState::Failed) {
            let waiting = core::mem::take(&mut inner.waiting);
            drop(inner);
            for (request, promise) in waiting {
                promise.fulfil(Err(Error::Gone), request.buffer);
            }
        } else {
            drop(inner);
        }
        for (promise, result, buffer) in ended {
            promise.fulfil(result.map_err(error), buffer.map(Buffer::Granted));
        }
        now
    }
}

async fn serve(disk: Arc<FrontDisk>, mut watch: Watch) {
    let mut ports: Vec<Port> = Vec::new();
    let mut state = FrontState::Connecting;
    let mut changed = true;
    loop {
        let now = disk.advance(changed);
        if changed || now != state {
            // Ports come and go with the connection only.
            let mut inner = disk.inner.lock();
            let before = core::mem::replace(&mut ports, inner.front.ports().collect());
            inner.queues = ports.len();
            drop(inner);
            ports
                .iter()
                .filter(|port| !before.contains(port))
                .for_each(|port| events::listen(*port, "blkfront"));
        }
        changed = false;
        if now != state {
            log::debug!("{}: {now:?}", disk.name);
            match now {
                FrontState::Connected => {
                    *disk.limits.lock() = Some(Limits::of(&disk.info()));
                    super::register(disk.clone());
                }
                FrontState::Closed | FrontState::Failed => {
                    super::remove(&disk.name);
                    log::warn!("{} is gone", disk.name);
                }
                _ => {}
            }
            state = now;
        }
        if now == FrontState::Closed {
            return;
        }
        platform::retry_retired();
        poll_fn(|cx| {
            disk.task.register(cx.waker());
            let mut ready = disk.unseen.load(Ordering::Acquire);
            if watch.poll_changed(cx).is_ready() {
                changed = true;
                ready = true;
            }
            for port in &ports {
                ready |= events::poll_wait(*port, cx).is_ready();
            }
            if ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Connects the disks that the toolstack gave this domain, and waits until they are there.
pub async fn connect_all() {
    let Some(mut numbers) = store::with(|store| list_frontends(store, "vbd")) else { return };
    numbers.sort_unstable();
    let mut started = Vec::new();
    for number in numbers {
        let ends = store::with(|store| Frontend::open(store, &format!("device/vbd/{number}")));
        let Some(Ok(ends)) = ends else {
            log::warn!("device/vbd/{number} does not name its back end");
            continue;
        };
        let watch = match Watch::new(&ends.peer_key("state")) {
            Ok(watch) => watch,
            Err(e) => {
                log::warn!("device/vbd/{number}: {e}");
                continue;
            }
        };
        let options = FrontOptions { max_queues: queues(), ..FrontOptions::default() };
        let front = BlkFront::new(&Xen, ends, options);
        let inner =
            Inner { front, queues: 1, turn: 0, promises: Promises::default(), waiting: VecDeque::new() };
        let disk = Arc::new(FrontDisk {
            name: name(number),
            inner: Mutex::new(inner),
            limits: Mutex::new(None),
            unseen: AtomicBool::new(false),
            task: AtomicWaker::new(),
        });
        FRONTS.lock().push(disk.clone());
        task::spawn(serve(disk.clone(), watch));
        started.push(disk);
    }
    for disk in started {
        let appeared = async {
            while super::find(&disk.name).is_none() {
                task::sleep(Duration::from_millis(2)).await;
                let state = disk.inner.lock().front.state();
                if matches!(state, FrontState::Closed | FrontState::Failed) {
                    return;
                }
            }
        };
        if task::timeout(PATIENCE, appeared).await.is_err() {
            log::error!("{} does not appear: its back end does not answer", disk.name);
            continue;
        }
        if let Some(disk) = super::find(&disk.name) {
            super::partition::scan(&disk).await;
        }
    }
}

/// The counters of a disk, if a front end serves it.
pub fn statistics(name: &str) -> Option<FrontCounters> {
    let fronts = FRONTS.lock();
    let disk = fronts.iter().find(|d| d.name == name)?;
    let counters = disk.inner.lock().front.counters();
    Some(counters)
}
