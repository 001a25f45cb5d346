//! Memory for a front end's data: pages that are granted once and used again and again.
//!
//! Lock rule: the pool's lock is held while a page is taken or given back, and nothing is called inside it but the
//! allocator and the platform's grant functions.

use alloc::sync::Arc;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, GrantRef};
use spin::Mutex;

use crate::platform::{Access, PAGE_SIZE, Platform, SharedMemory};
use crate::share::Shared;

/// Pages that are allocated side by side.
const RUN_PAGES: usize = 16;

/// One page of a run.
pub(super) struct Page<P: Platform> {
    run: Arc<Shared<P>>,
    number: usize,
}

impl<P: Platform> Page<P> {
    pub fn grant(&self) -> GrantRef {
        self.run.grants().get(self.number).copied().unwrap_or_default()
    }

    pub fn copy_in(&self, offset: usize, from: &[u8]) {
        self.run.memory().copy_in(self.number * PAGE_SIZE + offset, from);
    }

    fn copy_out(&self, offset: usize, to: &mut [u8]) {
        self.run.memory().copy_out(self.number * PAGE_SIZE + offset, to);
    }

    fn zero(&self, offset: usize, len: usize) {
        self.run.memory().zero(self.number * PAGE_SIZE + offset, len);
    }
}

struct Pool<P: Platform> {
    platform: P,
    peer: DomainId,
    /// Used from the end: what was used last is used next, so that the back end's limit of mapped pages is not hit.
    free: Vec<Page<P>>,
    pages: usize,
    limit: usize,
}

/// The pages of one front end.
pub(super) struct PoolHandle<P: Platform> {
    inner: Arc<Mutex<Pool<P>>>,
}

impl<P: Platform> Clone for PoolHandle<P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<P: Platform> PoolHandle<P> {
    pub fn new(platform: &P, peer: DomainId, limit: usize) -> Self {
        let pool = Pool { platform: platform.clone(), peer, free: Vec::new(), pages: 0, limit };
        Self { inner: Arc::new(Mutex::new(pool)) }
    }

    pub fn peer(&self) -> DomainId {
        self.inner.lock().peer
    }

    /// Takes pages, all of them or none.
    fn take(&self, count: usize, beyond_limit: bool) -> Result<Vec<Page<P>>, Errno> {
        let mut pool = self.inner.lock();
        let missing = count.saturating_sub(pool.free.len());
        if pool.pages + missing > pool.limit && !beyond_limit {
            return Err(Errno::ENOMEM);
        }
        while pool.free.len() < count {
            let run = Arc::new(Shared::new(&pool.platform, pool.peer, RUN_PAGES, Access::ReadWrite)?);
            pool.pages += RUN_PAGES;
            pool.free.extend((0..RUN_PAGES).rev().map(|number| Page { run: run.clone(), number }));
        }
        let keep = pool.free.len() - count;
        let mut pages = pool.free.split_off(keep);
        pages.reverse();
        Ok(pages)
    }

    /// Takes a page for the driver's own use, even if users have taken all.
    pub fn take_own(&self, count: usize) -> Result<Vec<Page<P>>, Errno> {
        self.take(count, true)
    }

    pub fn give(&self, pages: impl DoubleEndedIterator<Item = Page<P>>) {
        self.inner.lock().free.extend(pages.rev());
    }

    pub fn buffer(&self, len: usize) -> Result<Buffer<P>, Errno> {
        let pages = self.take(len.div_ceil(PAGE_SIZE), false)?;
        Ok(Buffer { pages, len, pool: self.clone() })
    }
}

/// Memory for the data of a request. The back end can reach it at any time: what is read from it should be copied out
/// once and then used.
pub struct Buffer<P: Platform> {
    pub(super) pages: Vec<Page<P>>,
    len: usize,
    pool: PoolHandle<P>,
}

impl<P: Platform> Buffer<P> {
    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies bytes in, as many as there is room for, and says how many.
    pub fn copy_in(&mut self, offset: usize, from: &[u8]) -> usize {
        let count = from.len().min(self.len.saturating_sub(offset));
        each(offset, count, |page, at, done, len| {
            if let (Some(page), Some(part)) = (self.pages.get(page), from.get(done..done + len)) {
                page.copy_in(at, part);
            }
        });
        count
    }

    /// Copies bytes out, as many as there are, and says how many.
    pub fn copy_out(&self, offset: usize, to: &mut [u8]) -> usize {
        let count = to.len().min(self.len.saturating_sub(offset));
        each(offset, count, |page, at, done, len| {
            if let (Some(page), Some(part)) = (self.pages.get(page), to.get_mut(done..done + len)) {
                page.copy_out(at, part);
            }
        });
        count
    }

    /// Fills it with zeroes.
    pub fn zero(&mut self) {
        each(0, self.len, |page, at, _, len| {
            if let Some(page) = self.pages.get(page) {
                page.zero(at, len);
            }
        });
    }
}

impl<P: Platform> Drop for Buffer<P> {
    fn drop(&mut self) {
        self.pool.give(core::mem::take(&mut self.pages).into_iter());
    }
}

/// Calls `work` for each part of a range that lies in one page: the page, the offset there, the offset from the start
/// of the range, and the length.
fn each(offset: usize, count: usize, mut work: impl FnMut(usize, usize, usize, usize)) {
    let mut done = 0;
    while done < count {
        let (page, at) = ((offset + done) / PAGE_SIZE, (offset + done) % PAGE_SIZE);
        let len = (count - done).min(PAGE_SIZE - at);
        work(page, at, done, len);
        done += len;
    }
}
