//! A disk as the file system wants it: polled, with the state of each operation owned by the operation.
//!
//! Data pass through a buffer that belongs to the request, so that a dropped operation harms nobody.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, ready};

use hadris_io::{Error as FsError, ErrorKind, ErrorType};
use hadris_storage::async_::BlockDevice;
use hadris_storage::{BlockIndex, BlockSize};

use crate::block::{Completion, Disk, Error, Op, Request, SECTOR};

/// A disk under a FAT volume.
pub struct FatDevice {
    disk: Disk,
    block: BlockSize,
    blocks: u64,
    per_block: u64,
    most: usize,
    writable: bool,
    flush: bool,
}

/// One operation under way.
#[derive(Default)]
pub struct Operation {
    /// Bytes done.
    done: usize,
    /// The request under way and its length.
    request: Option<(Completion, usize)>,
}

impl FatDevice {
    /// Takes a disk.
    pub fn new(disk: Disk, read_only: bool) -> FatDevice {
        let info = disk.info();
        let block =
            BlockSize::new(info.block).unwrap_or_else(|| BlockSize::new(512).expect("512 is a block size"));
        let per_block = u64::from(block.get()) / SECTOR;
        FatDevice {
            block,
            blocks: info.sectors / per_block.max(1),
            per_block: per_block.max(1),
            most: info.most,
            writable: !info.read_only && !read_only,
            flush: info.flush,
            disk,
        }
    }

    fn start(
        &self,
        op: Op,
        first: BlockIndex,
        done: usize,
        length: usize,
        data: Option<&[u8]>,
    ) -> Result<Completion, Error> {
        let mut buffer = self.disk.buffer(length)?;
        if let Some(data) = data {
            buffer.copy_in(0, data);
        }
        let sector = first.get() * self.per_block + done as u64 / SECTOR;
        Ok(self.disk.submit(Request { op, sector, count: length as u64 / SECTOR, buffer: Some(buffer) }))
    }
}

fn failed(e: Error) -> FsError<Error> {
    let kind = match e {
        Error::ReadOnly => ErrorKind::ReadOnly,
        Error::Range => ErrorKind::InvalidInput,
        _ => ErrorKind::Io,
    };
    FsError::device(e, "disk").with_kind(kind)
}

impl ErrorType for FatDevice {
    type Error = Error;
}

impl BlockDevice for FatDevice {
    type State = Operation;

    fn block_size(&self) -> BlockSize {
        self.block
    }

    fn block_count(&self) -> u64 {
        self.blocks
    }

    fn writable(&self) -> bool {
        self.writable
    }

    fn poll_read_blocks(
        &mut self,
        state: &mut Operation,
        cx: &mut Context<'_>,
        first: BlockIndex,
        buf: &mut [u8],
    ) -> Poll<Result<(), FsError<Error>>> {
        while state.done < buf.len() {
            let Some((completion, length)) = &mut state.request else {
                let length = (buf.len() - state.done).min(self.most);
                let completion = self.start(Op::Read, first, state.done, length, None).map_err(failed)?;
                state.request = Some((completion, length));
                continue;
            };
            let length = *length;
            let end = ready!(Pin::new(completion).poll(cx));
            state.request = None;
            end.result.map_err(failed)?;
            let filled = end.buffer.ok_or_else(|| failed(Error::Gone))?;
            filled.copy_out(0, &mut buf[state.done..state.done + length]);
            state.done += length;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_blocks(
        &mut self,
        state: &mut Operation,
        cx: &mut Context<'_>,
        first: BlockIndex,
        buf: &[u8],
    ) -> Poll<Result<(), FsError<Error>>> {
        while state.done < buf.len() {
            let Some((completion, length)) = &mut state.request else {
                let length = (buf.len() - state.done).min(self.most);
                let data = &buf[state.done..state.done + length];
                let completion =
                    self.start(Op::Write, first, state.done, length, Some(data)).map_err(failed)?;
                state.request = Some((completion, length));
                continue;
            };
            let length = *length;
            let end = ready!(Pin::new(completion).poll(cx));
            state.request = None;
            end.result.map_err(failed)?;
            state.done += length;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(
        &mut self,
        state: &mut Operation,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), FsError<Error>>> {
        if !self.flush {
            return Poll::Ready(Ok(()));
        }
        let (completion, _) = state.request.get_or_insert_with(|| {
            (self.disk.submit(Request { op: Op::Flush, sector: 0, count: 0, buffer: None }), 0)
        });
        let end = ready!(Pin::new(completion).poll(cx));
        state.request = None;
        Poll::Ready(end.result.map_err(failed))
    }

    fn cancel(&mut self, state: &mut Operation) {
        // The request goes on without us and owns its buffer.
        state.request = None;
    }
}
