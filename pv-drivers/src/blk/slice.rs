//! Parts of one disk, each for a user of its own.
//!
//! Lock rule: the disk's lock is taken by one method of a slice at a time; nothing else is locked inside it.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::Mutex;

use super::device::{BlockDevice, BlockError, Geometry, Location, Operation, Request, Submitted, Tag};
use crate::platform::SharedMemory;

type Done = VecDeque<(Tag, Result<(), BlockError>)>;

struct Inner<D> {
    device: D,
    next_tag: u64,
    next_user: u32,
    /// Whose a running request is, and what it is called there.
    running: BTreeMap<u64, (u32, Tag)>,
    done: BTreeMap<u32, Done>,
}

/// A disk that several users share. Its slices can be given to back ends.
pub struct SharedDisk<D> {
    inner: Arc<Mutex<Inner<D>>>,
}

impl<D> Clone for SharedDisk<D> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<D> SharedDisk<D> {
    /// Makes a disk shareable.
    #[must_use]
    pub fn new(device: D) -> Self {
        let inner =
            Inner { device, next_tag: 0, next_user: 0, running: BTreeMap::new(), done: BTreeMap::new() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// A slice of `sectors` sectors from `first` on.
    ///
    /// # Errors
    /// [`BlockError::OutOfRange`] when that is not on the disk.
    pub fn slice<M: SharedMemory>(
        &self,
        first: u64,
        sectors: u64,
        is_read_only: bool,
    ) -> Result<Slice<D>, BlockError>
    where
        D: BlockDevice<M>,
    {
        let mut inner = self.inner.lock();
        let whole = inner.device.geometry();
        if sectors == 0 || !whole.contains(first, sectors) {
            return Err(BlockError::OutOfRange);
        }
        let geometry = Geometry { sectors, is_read_only: whole.is_read_only || is_read_only, ..whole };
        let user = inner.next_user;
        inner.next_user += 1;
        inner.done.insert(user, VecDeque::new());
        drop(inner);
        Ok(Slice { inner: self.inner.clone(), user, first, geometry })
    }

    /// The whole disk.
    ///
    /// # Errors
    /// [`BlockError::OutOfRange`] when the disk is empty.
    pub fn whole<M: SharedMemory>(&self, is_read_only: bool) -> Result<Slice<D>, BlockError>
    where
        D: BlockDevice<M>,
    {
        let sectors = self.inner.lock().device.geometry().sectors;
        self.slice(0, sectors, is_read_only)
    }

    /// Works on the disk itself.
    pub fn with<T>(&self, work: impl FnOnce(&mut D) -> T) -> T {
        work(&mut self.inner.lock().device)
    }
}

/// A range of a [`SharedDisk`].
pub struct Slice<D> {
    inner: Arc<Mutex<Inner<D>>>,
    user: u32,
    first: u64,
    geometry: Geometry,
}

impl<M: SharedMemory, D: BlockDevice<M>> BlockDevice<M> for Slice<D> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn room(&self) -> usize {
        self.inner.lock().device.room()
    }

    fn submit(&mut self, tag: Tag, request: &Request<'_, M>) -> Result<Submitted, BlockError> {
        let is_change = matches!(request.operation, Operation::Write | Operation::Discard { .. });
        if is_change && self.geometry.is_read_only {
            return Err(BlockError::ReadOnly);
        }
        if request.operation != Operation::Flush && !self.geometry.contains(request.sector, request.count) {
            return Err(BlockError::OutOfRange);
        }
        let mut inner = self.inner.lock();
        let number = inner.next_tag;
        inner.next_tag = number.wrapping_add(1);
        let moved = Request { sector: request.sector.saturating_add(self.first), ..*request };
        let submitted = inner.device.submit(Tag(number), &moved)?;
        if submitted == Submitted::Running {
            inner.running.insert(number, (self.user, tag));
        }
        Ok(submitted)
    }

    fn start(&mut self) {
        self.inner.lock().device.start();
    }

    fn poll(&mut self, done: &mut dyn FnMut(Tag, Result<(), BlockError>)) {
        let mine: Vec<_> = {
            let mut inner = self.inner.lock();
            let Inner { device, running, done, .. } = &mut *inner;
            device.poll(&mut |tag, result| {
                if let Some((user, tag)) = running.remove(&tag.0)
                    && let Some(queue) = done.get_mut(&user)
                {
                    queue.push_back((tag, result));
                }
            });
            done.get_mut(&self.user).map(|queue| queue.drain(..).collect()).unwrap_or_default()
        };
        for (tag, result) in mine {
            done(tag, result);
        }
    }

    fn location(&self, sector: u64, count: u64) -> Option<Location> {
        if !self.geometry.contains(sector, count) {
            return None;
        }
        self.inner.lock().device.location(sector.checked_add(self.first)?, count)
    }
}

impl<D> Drop for Slice<D> {
    fn drop(&mut self) {
        self.inner.lock().done.remove(&self.user);
    }
}
