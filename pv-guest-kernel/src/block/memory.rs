//! A disk in memory, for tests and benchmarks without a back end.

use alloc::string::String;
use alloc::sync::Arc;

use pv_drivers::platform::SharedMemory;

use super::{BlockDevice, Buffer, Disk, Error, Info, Op, Promise, Request, SECTOR};
use crate::sync::IrqMutex;
use crate::xen::platform::Pages;

struct Memory {
    name: String,
    bytes: u64,
    pages: IrqMutex<Pages>,
}

/// Makes a disk of `bytes` (a multiple of 4 KiB) and lists it.
pub fn create(name: &str, bytes: u64) -> Result<Disk, Error> {
    let bytes = bytes.next_multiple_of(4096);
    let pages = Pages::new((bytes / 4096) as usize).map_err(|_| Error::NoMemory)?;
    Ok(super::register(Arc::new(Memory { name: name.into(), bytes, pages: IrqMutex::new(pages) })))
}

impl BlockDevice for Memory {
    fn info(&self) -> Info {
        Info {
            name: self.name.clone(),
            kind: "memory".into(),
            sectors: self.bytes / SECTOR,
            block: SECTOR as u32,
            most: 1 << 20,
            depth: 1,
            read_only: false,
            flush: false,
            discard: true,
        }
    }

    fn submit(&self, request: Request, promise: Promise) {
        let (at, length) = ((request.sector * SECTOR) as usize, (request.count * SECTOR) as usize);
        let pages = self.pages.lock();
        match (request.op, request.buffer.as_ref().and_then(Buffer::pages)) {
            (Op::Read, Some(buffer)) => pages.copy_to(at, buffer, 0, length),
            (Op::Write, Some(buffer)) => buffer.copy_to(0, &pages, at, length),
            (Op::Discard, _) => pages.zero(at, length),
            _ => {}
        }
        drop(pages);
        promise.fulfil(Ok(()), request.buffer);
    }
}
