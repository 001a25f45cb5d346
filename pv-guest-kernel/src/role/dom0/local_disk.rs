//! The driver domain's own use of a disk of the machine, beside its guests.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use pv_drivers::blk::{BlockDevice as Device, BlockError, Operation, Piece, Slice, Submitted, Tag};
use spin::Mutex;

use super::devices::AnyDisk;
use crate::block::{self, BlockDevice, Buffer, Error, Info, Limits, Op, Promise, Request, SECTOR};
use crate::task::signal::Signal;

const PAGE: usize = 4096;

struct Inner {
    slice: Slice<AnyDisk>,
    waiting: VecDeque<(Request, Promise)>,
    running: BTreeMap<u64, (Request, Promise)>,
    next: u64,
}

/// A disk of the machine, as this domain's commands use it.
pub struct LocalDisk {
    info: Info,
    inner: Mutex<Inner>,
    work: Arc<Signal>,
}

fn error(error: BlockError) -> Error {
    match error {
        BlockError::Io => Error::Io,
        BlockError::NotSupported => Error::Unsupported,
        BlockError::OutOfRange => Error::Range,
        BlockError::ReadOnly => Error::ReadOnly,
        BlockError::Disconnected => Error::Gone,
    }
}

impl LocalDisk {
    /// Makes a disk and lists it; `work` is raised when it wants to be polled.
    pub fn register(name: String, kind: String, slice: Slice<AnyDisk>, work: Arc<Signal>) -> Arc<Self> {
        let geometry = slice.geometry();
        let info = Info {
            name,
            kind,
            sectors: geometry.sectors,
            block: geometry.block_size,
            most: (geometry.max_sectors as usize * SECTOR as usize).min(geometry.max_pieces * PAGE),
            depth: 64,
            read_only: geometry.is_read_only,
            flush: geometry.can_flush,
            discard: geometry.discard.is_some(),
        };
        let inner = Inner { slice, waiting: VecDeque::new(), running: BTreeMap::new(), next: 0 };
        let disk = Arc::new(Self { info, inner: Mutex::new(inner), work });
        block::register(disk.clone());
        disk
    }

    /// Moves requests and answers. `true`: there may be more to do at once.
    pub fn poll(&self) -> bool {
        let mut inner = self.inner.lock();
        let mut over: Vec<(Tag, Result<(), BlockError>)> = Vec::new();
        inner.slice.poll(&mut |tag, result| over.push((tag, result)));
        let mut ended = Vec::new();
        for (tag, result) in over {
            if let Some((request, promise)) = inner.running.remove(&tag.0) {
                ended.push((request, promise, result));
            }
        }
        let mut started = false;
        while inner.slice.room() > 0
            && let Some((request, promise)) = inner.waiting.pop_front()
        {
            let tag = inner.next;
            inner.next += 1;
            match inner.submit(tag, &request) {
                Ok(Submitted::Running) => {
                    inner.running.insert(tag, (request, promise));
                    started = true;
                }
                Ok(Submitted::Done) => ended.push((request, promise, Ok(()))),
                Err(error) => ended.push((request, promise, Err(error))),
            }
        }
        if started {
            inner.slice.start();
        }
        drop(inner);
        for (request, promise, result) in ended {
            promise.fulfil(result.map_err(error), request.buffer);
        }
        false
    }
}

impl Inner {
    fn submit(&mut self, tag: u64, request: &Request) -> Result<Submitted, BlockError> {
        let operation = match request.op {
            Op::Read => Operation::Read,
            Op::Write => Operation::Write,
            Op::Flush => Operation::Flush,
            Op::Discard => Operation::Discard { is_secure: false },
        };
        let mut pieces = Vec::new();
        if let (Op::Read | Op::Write, Some(memory)) =
            (request.op, request.buffer.as_ref().and_then(Buffer::pages))
        {
            let bytes = (request.count * SECTOR) as usize;
            let mut offset = 0;
            while offset < bytes {
                let len = (bytes - offset).min(PAGE);
                pieces.push(Piece { memory, offset, len });
                offset += len;
            }
        }
        let request = pv_drivers::blk::Request {
            operation,
            sector: request.sector,
            count: request.count,
            pieces: &pieces,
        };
        self.slice.submit(Tag(tag), &request)
    }
}

impl BlockDevice for LocalDisk {
    fn info(&self) -> Info {
        self.info.clone()
    }

    fn limits(&self) -> Limits {
        Limits::of(&self.info)
    }

    fn submit(&self, request: Request, promise: Promise) {
        self.inner.lock().waiting.push_back((request, promise));
        self.work.raise();
    }
}
