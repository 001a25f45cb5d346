//! One device behind several queues: each sees what it submitted itself.

use alloc::vec::Vec;

use super::super::device::{BlockDevice, BlockError, Geometry, Location, Request, Submitted, Tag};
use crate::platform::SharedMemory;

/// What the device has done for a queue that was not the one that asked.
pub(super) type Mail = Vec<Vec<(Tag, Result<(), BlockError>)>>;

/// Where the number of the queue is in a tag. A queue's own numbers are below.
const SHIFT: u32 = 48;

/// The device as one queue sees it.
pub(super) struct Fan<'a, D> {
    pub device: &'a mut D,
    pub queue: usize,
    /// An entry for each queue.
    pub mail: &'a mut Mail,
}

impl<M: SharedMemory, D: BlockDevice<M>> BlockDevice<M> for Fan<'_, D> {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn room(&self) -> usize {
        self.device.room()
    }

    fn submit(&mut self, tag: Tag, request: &Request<'_, M>) -> Result<Submitted, BlockError> {
        let number = tag.0 & ((1 << SHIFT) - 1);
        self.device.submit(Tag(number | (self.queue as u64) << SHIFT), request)
    }

    fn start(&mut self) {
        self.device.start();
    }

    fn poll(&mut self, done: &mut dyn FnMut(Tag, Result<(), BlockError>)) {
        let Self { device, queue, mail } = self;
        if let Some(own) = mail.get_mut(*queue) {
            own.drain(..).for_each(|(tag, result)| done(tag, result));
        }
        device.poll(&mut |tag, result| {
            let number = Tag(tag.0 & ((1 << SHIFT) - 1));
            match usize::try_from(tag.0 >> SHIFT) {
                Ok(of) if of == *queue => done(number, result),
                Ok(of) => {
                    if let Some(other) = mail.get_mut(of) {
                        other.push((number, result));
                    }
                }
                Err(_) => {}
            }
        });
    }

    fn location(&self, sector: u64, count: u64) -> Option<Location> {
        self.device.location(sector, count)
    }
}
