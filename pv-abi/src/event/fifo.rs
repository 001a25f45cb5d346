//! The FIFO ABI: per-vCPU, per-priority queues of events in shared memory.
//!
//! Every port has a word in the *event array*: pending, masked and linked bits, and a link to the next port of its
//! queue. Every vCPU has a *control block*: a bit per queue that is not empty, and the queues' heads. The hypervisor
//! appends at the tail and only writes a head when the queue was empty; the guest takes from the head and remembers it
//! itself. Nothing the guest writes here can hurt the hypervisor, which keeps its own tails.
//!
//! Rule of the guest's side: a [`Consumer`] belongs to one vCPU and is used with that vCPU's control block only.

use super::Unmasked;
use crate::PAGE_SIZE;
use crate::ids::Port;
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most urgent queue (`EVTCHN_FIFO_PRIORITY_MAX`).
pub const PRIORITY_MAX: u32 = 0;
/// Queue of a new port (`EVTCHN_FIFO_PRIORITY_DEFAULT`).
pub const PRIORITY_DEFAULT: u32 = 7;
/// Least urgent queue (`EVTCHN_FIFO_PRIORITY_MIN`).
pub const PRIORITY_MIN: u32 = 15;
/// Number of queues (`EVTCHN_FIFO_MAX_QUEUES`).
pub const QUEUES: usize = 16;
/// Bits of a link (`EVTCHN_FIFO_LINK_BITS`).
pub const LINK_BITS: u32 = 17;
/// Mask of the link (`EVTCHN_FIFO_LINK_MASK`).
pub const LINK_MASK: u32 = (1 << LINK_BITS) - 1;
/// Number of ports (`EVTCHN_FIFO_NR_CHANNELS`).
pub const PORTS: u32 = 1 << LINK_BITS;

/// Bit of an event word: the event happened (`EVTCHN_FIFO_PENDING`).
pub const PENDING: u32 = 1 << 31;
/// Bit of an event word: do not tell the guest (`EVTCHN_FIFO_MASKED`).
pub const MASKED: u32 = 1 << 30;
/// Bit of an event word: the port is in a queue (`EVTCHN_FIFO_LINKED`).
pub const LINKED: u32 = 1 << 29;
/// Bit of an event word: the hypervisor is changing it (`EVTCHN_FIFO_BUSY`).
pub const BUSY: u32 = 1 << 28;

/// Event words in a page.
pub const WORDS_PER_PAGE: usize = PAGE_SIZE / 4;
/// Pages of a full event array.
pub const MAX_PAGES: usize = PORTS as usize / WORDS_PER_PAGE;

/// A vCPU's control block, as bytes (`struct evtchn_fifo_control_block`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ControlBlock {
    /// A bit per queue that may not be empty.
    pub ready: u32,
    /// Unused.
    pub rsvd: u32,
    /// First port of each queue, 0 for none.
    pub head: [u32; QUEUES],
}
const_assert_eq!(size_of::<ControlBlock>(), 72);

/// The guest's live view of [`ControlBlock`].
#[derive(Debug, Default)]
#[repr(C, align(8))]
pub struct LiveControlBlock {
    ready: AtomicU32,
    rsvd: u32,
    head: [AtomicU32; QUEUES],
}
const_assert_eq!(size_of::<LiveControlBlock>(), size_of::<ControlBlock>());
const_assert_eq!(offset_of!(LiveControlBlock, head), offset_of!(ControlBlock, head));

impl LiveControlBlock {
    /// Whether the hypervisor has queued something since the last look.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) != 0
    }
}

/// A page of event words, for the guest's event array.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct EventPage {
    words: [AtomicU32; WORDS_PER_PAGE],
}
const_assert_eq!(size_of::<EventPage>(), PAGE_SIZE);

impl EventPage {
    /// An empty page.
    #[allow(clippy::new_without_default)] // a page is large: made in place, on purpose
    pub const fn new() -> Self {
        Self { words: [const { AtomicU32::new(0) }; WORDS_PER_PAGE] }
    }
}

/// The guest's event array: pages that are added and never taken away.
#[derive(Debug)]
pub struct EventArray {
    pages: [AtomicPtr<EventPage>; MAX_PAGES],
}

impl EventArray {
    /// An array without pages.
    #[allow(clippy::new_without_default)] // meant for a static
    pub const fn new() -> Self {
        Self { pages: [const { AtomicPtr::new(ptr::null_mut()) }; MAX_PAGES] }
    }

    /// Number of ports that have a word.
    pub fn capacity(&self) -> u32 {
        let pages = self.pages.iter().take_while(|page| !page.load(Ordering::Relaxed).is_null()).count();
        u32::try_from(pages * WORDS_PER_PAGE).unwrap_or(PORTS)
    }

    /// Adds the page whose frame the hypervisor has accepted by `evtchn_expand_array`; `Err` when the array is full.
    pub fn push(&self, page: &'static EventPage) -> Result<(), &'static EventPage> {
        let raw = ptr::from_ref(page).cast_mut();
        for slot in &self.pages {
            if slot.compare_exchange(ptr::null_mut(), raw, Ordering::Release, Ordering::Relaxed).is_ok() {
                return Ok(());
            }
        }
        Err(page)
    }

    /// The port's word, if its page is there.
    #[inline]
    fn word(&self, port: u32) -> Option<&AtomicU32> {
        let page = self.pages.get(port as usize / WORDS_PER_PAGE)?.load(Ordering::Acquire);
        if page.is_null() {
            return None;
        }
        // SAFETY: every pointer that is not null came from a `&'static EventPage` in `push`, and never changes.
        let page: &'static EventPage = unsafe { &*page };
        page.words.get(port as usize % WORDS_PER_PAGE)
    }

    /// Keeps the port's events from being delivered; they stay pending.
    #[inline]
    pub fn mask(&self, port: Port) {
        if let Some(word) = self.word(port.raw()) {
            word.fetch_or(MASKED, Ordering::SeqCst);
        }
    }

    /// Allows delivery again; when the event is pending the hypervisor must be asked to queue it.
    ///
    /// Waits while the hypervisor has the word marked as busy: it is linking the port then, and counts on the mask.
    #[inline]
    pub fn unmask(&self, port: Port) -> Unmasked {
        let Some(word) = self.word(port.raw()) else { return Unmasked::Done };
        let mut old = word.load(Ordering::Relaxed) & !BUSY;
        loop {
            match word.compare_exchange_weak(old, old & !MASKED, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) if old & PENDING != 0 => return Unmasked::Pending,
                Ok(_) => return Unmasked::Done,
                Err(now) => {
                    core::hint::spin_loop();
                    old = now & !BUSY;
                }
            }
        }
    }

    /// Whether the port is masked.
    #[inline]
    pub fn is_masked(&self, port: Port) -> bool {
        self.word(port.raw()).is_some_and(|word| word.load(Ordering::Acquire) & MASKED != 0)
    }

    /// Whether the port is pending.
    #[inline]
    pub fn is_pending(&self, port: Port) -> bool {
        self.word(port.raw()).is_some_and(|word| word.load(Ordering::Acquire) & PENDING != 0)
    }

    /// Clears the port's pending bit and tells whether it was set.
    #[inline]
    pub fn clear_pending(&self, port: Port) -> bool {
        self.word(port.raw()).is_some_and(|word| word.fetch_and(!PENDING, Ordering::AcqRel) & PENDING != 0)
    }

    /// Sets the port's pending bit, as if the event had happened, without queueing it.
    #[inline]
    pub fn set_pending(&self, port: Port) {
        if let Some(word) = self.word(port.raw()) {
            word.fetch_or(PENDING, Ordering::AcqRel);
        }
    }
}

/// Takes the link out of a word and marks the port as in no queue.
#[inline]
fn unlink(word: &AtomicU32) -> u32 {
    let mut old = word.load(Ordering::Acquire);
    loop {
        match word.compare_exchange_weak(
            old,
            old & !(LINKED | LINK_MASK),
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            Ok(old) => return old & LINK_MASK,
            Err(now) => old = now,
        }
    }
}

/// One vCPU's reader of its queues.
#[derive(Debug, Default)]
pub struct Consumer {
    ready: u32,
    head: [u32; QUEUES],
}

impl Consumer {
    /// A reader of empty queues.
    pub const fn new() -> Self {
        Self { ready: 0, head: [0; QUEUES] }
    }

    /// Takes the most urgent event that is pending and not masked, and clears its pending bit.
    ///
    /// Masked events met on the way leave the queue; unmasking queues them again.
    #[inline]
    pub fn next(&mut self, control: &LiveControlBlock, array: &EventArray) -> Option<Port> {
        loop {
            // An atomic exchange costs a locked instruction; look before.
            if control.ready.load(Ordering::Relaxed) != 0 {
                self.ready |= control.ready.swap(0, Ordering::AcqRel) & ((1 << QUEUES) - 1);
            }
            if self.ready == 0 {
                return None;
            }
            let queue = self.ready.trailing_zeros() as usize;
            if let Some(port) = self.take(queue, control, array) {
                return Some(port);
            }
        }
    }

    /// Takes one port from a queue; `None` when the queue is empty or the port has nothing to deliver.
    #[inline]
    fn take(&mut self, queue: usize, control: &LiveControlBlock, array: &EventArray) -> Option<Port> {
        let (head, first) = (self.head.get_mut(queue)?, control.head.get(queue)?);
        if *head == 0 {
            // The queue was empty: the hypervisor has written its new head before the ready bit.
            *head = first.load(Ordering::Acquire);
        }
        let port = *head;
        let word = if port == 0 { None } else { array.word(port) };
        let Some(word) = word else {
            *head = 0;
            self.ready &= !(1 << queue);
            return None;
        };
        *head = unlink(word);
        if *head == 0 {
            self.ready &= !(1 << queue);
        }
        if word.load(Ordering::Acquire) & (PENDING | MASKED) == PENDING {
            word.fetch_and(!PENDING, Ordering::AcqRel);
            Some(Port::new(port))
        } else {
            None
        }
    }
}

#[cfg(test)]
#[path = "fifo_tests.rs"]
mod tests;
