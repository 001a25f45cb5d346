//! The block layer: named disks, asynchronous requests, byte-wise helpers.
//!
//! A request owns its buffer and gives it back when done, so that dropping the future (Ctrl-C, a time-out) leaves the
//! buffer with the driver until the device has finished with it. Sectors are 512 bytes; a device with larger blocks
//! refuses requests that are not multiples of them.

pub mod front;
pub mod memory;
pub mod partition;
pub mod trapped;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use pv_drivers::blk;
use pv_drivers::platform::SharedMemory;

use crate::sync::IrqMutex;
use crate::xen::platform::{Pages, Xen};

/// Bytes of a sector, the unit of places on a disk.
pub const SECTOR: u64 = 512;

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The device or the back end says so.
    Io,
    /// Beyond the end, or not a multiple of the block size.
    Range,
    /// The disk must not be written.
    ReadOnly,
    /// The disk does not do this.
    Unsupported,
    /// The disk went away.
    Gone,
    /// No memory for a buffer.
    NoMemory,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::Io => "I/O error",
            Error::Range => "beyond the end of the disk, or not a multiple of its block size",
            Error::ReadOnly => "the disk is read-only",
            Error::Unsupported => "the disk does not support this",
            Error::Gone => "the disk is gone",
            Error::NoMemory => "out of memory",
        })
    }
}

impl core::error::Error for Error {}

/// What a disk is like.
#[derive(Debug, Clone)]
pub struct Info {
    /// Its name, such as `xvda`.
    pub name: String,
    /// What serves it, for people.
    pub kind: String,
    /// Sectors.
    pub sectors: u64,
    /// Bytes of a block: the smallest request, and its alignment.
    pub block: u32,
    /// Most bytes of one request.
    pub most: usize,
    /// Requests worth having under way at a time.
    pub depth: usize,
    /// May not be written?
    pub read_only: bool,
    /// Does a flush do something?
    pub flush: bool,
    /// Can ranges be discarded?
    pub discard: bool,
}

/// The part of [`Info`] that every request is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    sectors: u64,
    block: u32,
    most: usize,
    read_only: bool,
    discard: bool,
}

impl Limits {
    /// Takes the limits out of a description.
    pub fn of(info: &Info) -> Limits {
        let Info { sectors, block, most, read_only, discard, .. } = *info;
        Limits { sectors, block, most, read_only, discard }
    }
}

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Fills the buffer.
    Read,
    /// Stores the buffer.
    Write,
    /// Makes earlier writes durable; no buffer, no place.
    Flush,
    /// Gives a range up; no buffer.
    Discard,
}

/// Memory for the data of requests to one disk, from [`Disk::buffer`].
///
/// What it holds may change at any time while the other end of the disk can reach it: copy out once, then use.
pub enum Buffer {
    /// Memory of this kernel, adjacent frames.
    Own(Pages),
    /// Pages granted once to a back end.
    Granted(blk::Buffer<Xen>),
}

impl Buffer {
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Buffer::Own(pages) => pages.len(),
            Buffer::Granted(buffer) => buffer.len(),
        }
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its memory, if it is this kernel's own.
    pub fn pages(&self) -> Option<&Pages> {
        match self {
            Buffer::Own(pages) => Some(pages),
            Buffer::Granted(_) => None,
        }
    }

    /// Copies bytes in; all of them must fit.
    pub fn copy_in(&mut self, offset: usize, from: &[u8]) {
        assert!(offset + from.len() <= self.len(), "{} bytes at {offset} of {}", from.len(), self.len());
        match self {
            Buffer::Own(pages) => pages.copy_in(offset, from),
            Buffer::Granted(buffer) => {
                buffer.copy_in(offset, from);
            }
        }
    }

    /// Copies bytes out; all of them must be there.
    pub fn copy_out(&self, offset: usize, to: &mut [u8]) {
        assert!(offset + to.len() <= self.len(), "{} bytes at {offset} of {}", to.len(), self.len());
        match self {
            Buffer::Own(pages) => pages.copy_out(offset, to),
            Buffer::Granted(buffer) => {
                buffer.copy_out(offset, to);
            }
        }
    }
}

/// A request.
pub struct Request {
    /// What to do.
    pub op: Op,
    /// First sector.
    pub sector: u64,
    /// Number of sectors.
    pub count: u64,
    /// The data, from the buffer's first byte on.
    pub buffer: Option<Buffer>,
}

/// A request's end.
pub struct Done {
    /// How it went.
    pub result: Result<(), Error>,
    /// The buffer.
    pub buffer: Option<Buffer>,
}

struct Shared {
    done: IrqMutex<Option<Done>>,
    over: AtomicBool,
    waker: AtomicWaker,
}

/// The driver's end of a request under way. Dropped without an answer, it says that the disk is gone.
pub struct Promise(Option<Arc<Shared>>);

impl Promise {
    /// Ends the request.
    pub fn fulfil(mut self, result: Result<(), Error>, buffer: Option<Buffer>) {
        if let Some(shared) = self.0.take() {
            *shared.done.lock() = Some(Done { result, buffer });
            shared.over.store(true, Ordering::Release);
            shared.waker.wake();
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            Promise(Some(shared)).fulfil(Err(Error::Gone), None);
        }
    }
}

/// Waits for a request's end.
pub struct Completion(Arc<Shared>);

impl Future for Completion {
    type Output = Done;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        self.0.waker.register(cx.waker());
        if !self.0.over.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        match self.0.done.lock().take() {
            Some(done) => Poll::Ready(done),
            None => Poll::Pending,
        }
    }
}

/// A disk's driver.
pub trait BlockDevice: Send + Sync {
    /// What the disk is like, now.
    fn info(&self) -> Info;
    /// What requests are checked against: like [`BlockDevice::info`], without the names.
    fn limits(&self) -> Limits {
        Limits::of(&self.info())
    }
    /// Takes a request that [`Disk::submit`] has checked; any number may be handed over, the driver queues them.
    fn submit(&self, request: Request, promise: Promise);

    /// Memory for requests of up to `bytes`.
    fn buffer(&self, bytes: usize) -> Result<Buffer, Error> {
        Pages::new(bytes.div_ceil(4096).max(1)).map(Buffer::Own).map_err(|_| Error::NoMemory)
    }
}

/// A handle of a disk.
#[derive(Clone)]
pub struct Disk(Arc<dyn BlockDevice>);

static DISKS: spin::RwLock<Vec<Disk>> = spin::RwLock::new(Vec::new());

/// Makes a disk known under its name, in place of one of that name.
pub fn register(device: Arc<dyn BlockDevice>) -> Disk {
    let disk = Disk(device);
    let name = disk.info().name;
    let mut disks = DISKS.write();
    disks.retain(|d| d.info().name != name);
    disks.push(disk.clone());
    disks.sort_by_key(|d| d.info().name);
    disk
}

/// Forgets a disk.
pub fn remove(name: &str) {
    DISKS.write().retain(|d| d.info().name != name);
}

/// Every disk, by name.
pub fn list() -> Vec<Disk> {
    DISKS.read().clone()
}

/// The disk of a name, with or without `/dev/` before it.
pub fn find(name: &str) -> Option<Disk> {
    let name = name.strip_prefix("/dev/").unwrap_or(name);
    DISKS.read().iter().find(|d| d.info().name == name).cloned()
}

impl Disk {
    /// A disk that is not in the list.
    pub fn new(device: Arc<dyn BlockDevice>) -> Disk {
        Disk(device)
    }

    /// What the disk is like.
    pub fn info(&self) -> Info {
        self.0.info()
    }

    /// Starts a request.
    pub fn submit(&self, request: Request) -> Completion {
        let shared = Arc::new(Shared {
            done: IrqMutex::new(None),
            over: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        let promise = Promise(Some(shared.clone()));
        match self.check(&request) {
            Ok(()) => self.0.submit(request, promise),
            Err(e) => promise.fulfil(Err(e), request.buffer),
        }
        Completion(shared)
    }

    fn check(&self, request: &Request) -> Result<(), Error> {
        let info = self.0.limits();
        let data = matches!(request.op, Op::Read | Op::Write);
        if matches!(request.op, Op::Write | Op::Discard) && info.read_only {
            return Err(Error::ReadOnly);
        }
        if request.op == Op::Flush {
            return Ok(());
        }
        let end = request.sector.checked_add(request.count).ok_or(Error::Range)?;
        let per_block = u64::from(info.block) / SECTOR;
        let aligned = request.sector.is_multiple_of(per_block) && request.count.is_multiple_of(per_block);
        if end > info.sectors || request.count == 0 || !aligned {
            return Err(Error::Range);
        }
        if request.op == Op::Discard && !info.discard {
            return Err(Error::Unsupported);
        }
        if data {
            let bytes = (request.count * SECTOR) as usize;
            if bytes > info.most || request.buffer.as_ref().is_none_or(|b| b.len() < bytes) {
                return Err(Error::Range);
            }
        }
        Ok(())
    }

    /// Starts a read of `count` sectors into `buffer`.
    pub fn read(&self, sector: u64, count: u64, buffer: Buffer) -> Completion {
        self.submit(Request { op: Op::Read, sector, count, buffer: Some(buffer) })
    }

    /// Starts a write of `count` sectors from `buffer`.
    pub fn write(&self, sector: u64, count: u64, buffer: Buffer) -> Completion {
        self.submit(Request { op: Op::Write, sector, count, buffer: Some(buffer) })
    }

    /// Makes what was written durable.
    pub async fn flush(&self) -> Result<(), Error> {
        if !self.info().flush {
            return Ok(());
        }
        self.submit(Request { op: Op::Flush, sector: 0, count: 0, buffer: None }).await.result
    }

    /// Gives up `count` sectors.
    pub async fn discard(&self, sector: u64, count: u64) -> Result<(), Error> {
        self.submit(Request { op: Op::Discard, sector, count, buffer: None }).await.result
    }

    /// A buffer for requests of up to `bytes` to this disk.
    pub fn buffer(&self, bytes: usize) -> Result<Buffer, Error> {
        self.0.buffer(bytes)
    }

    /// Reads whole sectors into private memory, in as many requests as it takes.
    pub async fn read_sectors(&self, mut sector: u64, mut to: &mut [u8]) -> Result<(), Error> {
        let most = self.info().most;
        while !to.is_empty() {
            let n = to.len().min(most);
            let done = self.read(sector, n as u64 / SECTOR, self.buffer(n)?).await;
            done.result?;
            let (now, rest) = core::mem::take(&mut to).split_at_mut(n);
            done.buffer.ok_or(Error::Gone)?.copy_out(0, now);
            to = rest;
            sector += n as u64 / SECTOR;
        }
        Ok(())
    }

    /// Writes whole sectors from private memory, in as many requests as it takes.
    pub async fn write_sectors(&self, mut sector: u64, mut from: &[u8]) -> Result<(), Error> {
        let most = self.info().most;
        while !from.is_empty() {
            let n = from.len().min(most);
            let mut buffer = self.buffer(n)?;
            let (now, rest) = from.split_at(n);
            buffer.copy_in(0, now);
            self.write(sector, n as u64 / SECTOR, buffer).await.result?;
            from = rest;
            sector += n as u64 / SECTOR;
        }
        Ok(())
    }
}
