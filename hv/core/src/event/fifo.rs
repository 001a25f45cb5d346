//! The FIFO ABI: queues of events per virtual CPU and priority, in the guest's memory.
//!
//! A port's word has the bits PENDING, MASKED, LINKED and BUSY and a link to the next port of its queue; a control
//! block per virtual CPU has the heads of its queues and a bit for each queue that is ready. The hypervisor appends at
//! the tail, which only it knows, and writes a head only when the queue was empty. The guest takes from the head and
//! clears LINKED together with the link; a tail that is no longer LINKED means that the queue is empty.
//!
//! The algorithm is that of the ABI's design ("FIFO-based event channel ABI", draft G, section 5), under the table's
//! lock instead of one lock per queue.

use super::channel::Channel;
use super::place::InfoPlace;
use super::two_level::Raised;
use crate::hw::{HostPhys, Mfn, PhysMemory};
use crate::mem::make_room;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};
use pv_abi::errno::{Errno, Result};
use pv_abi::event::fifo::{
    BUSY, ControlBlock, LINK_MASK, LINKED, MASKED, MAX_PAGES, PENDING, QUEUES, WORDS_PER_PAGE,
};
use pv_abi::ids::Port;

/// A virtual CPU's queues.
#[derive(Clone, Debug, Default)]
struct Queues {
    /// The control block, once the guest has given it.
    control: Option<HostPhys>,
    /// The port that was last appended to each queue; 0 for none.
    tails: [u32; QUEUES],
}

/// The queues and the event array of a domain.
#[derive(Clone, Debug)]
pub(super) struct Fifo {
    queues: Vec<Queues>,
    array: Vec<Mfn>,
}

impl Fifo {
    pub fn new<M: PhysMemory>(memory: &M, vcpus: usize) -> Result<Self> {
        let mut queues = Vec::new();
        make_room(memory, &mut queues, vcpus)?;
        queues.resize(vcpus, Queues::default());
        Ok(Self { queues, array: Vec::new() })
    }

    /// The control block of a virtual CPU.
    pub fn control(&self, vcpu: usize) -> Option<HostPhys> {
        self.queues.get(vcpu)?.control
    }

    /// Takes the control block of a virtual CPU that has none.
    pub fn set_control(&mut self, vcpu: usize, control: HostPhys) {
        if let Some(queues) = self.queues.get_mut(vcpu) {
            queues.control = Some(control);
        }
    }

    /// Adds a page to the event array, unless there are enough. Returns the ports whose words it holds.
    pub fn expand<M: PhysMemory>(&mut self, memory: &M, page: Mfn) -> Result<core::ops::Range<usize>> {
        if self.array.len() >= MAX_PAGES {
            return Err(Errno::ENOSPC);
        }
        make_room(memory, &mut self.array, 1)?;
        let first = self.array.len() * WORDS_PER_PAGE;
        self.array.push(page);
        Ok(first..first + WORDS_PER_PAGE)
    }

    #[inline]
    fn word<'a, M: PhysMemory>(&self, memory: &'a M, port: u32) -> Option<&'a AtomicU32> {
        let port = port as usize;
        let page = self.array.get(port / WORDS_PER_PAGE)?;
        Some(memory.u32_at(page.at((port % WORDS_PER_PAGE * 4) as u64)))
    }

    /// Makes `port` pending and appends it to its queue, unless it is masked or in one already.
    pub fn raise<M: PhysMemory>(
        &mut self,
        memory: &M,
        info: &InfoPlace,
        port: Port,
        channel: &mut Channel,
    ) -> Raised {
        let Some(word) = self.word(memory, port.raw()) else {
            // The guest has not given the memory yet: `expand` makes up for it.
            let fresh = !channel.pending;
            channel.pending = true;
            return Raised { fresh, upcall: false };
        };
        let control = self.queues.get(usize::from(channel.vcpu)).and_then(|queues| queues.control);
        let (fresh, control) = match control {
            // Most often the port is in no queue and nobody touches its word: both bits at once.
            Some(control)
                if word
                    .compare_exchange(0, PENDING | LINKED, Ordering::SeqCst, Ordering::Relaxed)
                    .is_ok() =>
            {
                (true, control)
            }
            control => {
                let fresh = word.fetch_or(PENDING, Ordering::SeqCst) & PENDING == 0;
                // The guest may have masked or unlinked it since: look again. Before its control block is there, a
                // virtual CPU has no events.
                let is_masked = word.load(Ordering::SeqCst) & MASKED != 0;
                match control.filter(|_| !is_masked) {
                    Some(control) if word.fetch_or(LINKED, Ordering::SeqCst) & LINKED == 0 => {
                        (fresh, control)
                    }
                    _ => return Raised { fresh, upcall: false },
                }
            }
        };
        let upcall = self.append(memory, control, port, channel) && info.mark(memory);
        Raised { fresh, upcall }
    }

    /// Appends `port`, just LINKED, to the queue of its channel; whether that queue became ready by that.
    fn append<M: PhysMemory>(
        &mut self,
        memory: &M,
        control: HostPhys,
        port: Port,
        channel: &mut Channel,
    ) -> bool {
        // If it is the tail of the queue that it was in last, that queue is empty: it has just been unlinked.
        let now = (channel.vcpu, channel.priority);
        let last = (channel.last_vcpu, channel.last_priority);
        if last != now {
            (channel.last_vcpu, channel.last_priority) = now;
            let queues = self.queues.get_mut(usize::from(last.0));
            if let Some(tail) = queues.and_then(|queues| queues.tails.get_mut(usize::from(last.1)))
                && *tail == port.raw()
            {
                *tail = 0;
            }
        }
        let (vcpu, priority) = (usize::from(now.0), usize::from(now.1));
        let Some(tail) = self.queues.get(vcpu).and_then(|queues| queues.tails.get(priority)).copied() else {
            return false;
        };
        let is_empty = tail == 0 || tail == port.raw();
        let linked = !is_empty && self.word(memory, tail).is_some_and(|word| link(word, port.raw()));
        if let Some(tail) = self.queues.get_mut(vcpu).and_then(|queues| queues.tails.get_mut(priority)) {
            *tail = port.raw();
        }
        if linked {
            return false;
        }
        let head = (offset_of!(ControlBlock, head) + priority * 4) as u64;
        memory.u32_at(within(control, head)).store(port.raw(), Ordering::SeqCst);
        let bit = 1u32 << priority;
        memory.u32_at(control).fetch_or(bit, Ordering::SeqCst) & bit == 0
    }

    /// Unmasks `port`; whether its virtual CPU's upcall became due by that.
    pub fn unmask<M: PhysMemory>(
        &mut self,
        memory: &M,
        info: &InfoPlace,
        port: Port,
        channel: &mut Channel,
    ) -> bool {
        let Some(word) = self.word(memory, port.raw()) else {
            return false;
        };
        let before = word.fetch_and(!MASKED, Ordering::SeqCst);
        before & PENDING != 0 && self.raise(memory, info, port, channel).upcall
    }

    pub fn is_pending<M: PhysMemory>(&self, memory: &M, port: Port, channel: &Channel) -> bool {
        match self.word(memory, port.raw()) {
            Some(word) => word.load(Ordering::SeqCst) & PENDING != 0,
            None => channel.pending,
        }
    }

    pub fn clear<M: PhysMemory>(&self, memory: &M, port: Port, channel: &mut Channel) {
        channel.pending = false;
        if let Some(word) = self.word(memory, port.raw()) {
            word.fetch_and(!PENDING, Ordering::SeqCst);
        }
    }

    /// Whether the guest has not yet taken `port` out of its queue: it cannot be allocated again.
    pub fn is_linked<M: PhysMemory>(&self, memory: &M, port: Port) -> bool {
        self.word(memory, port.raw()).is_some_and(|word| word.load(Ordering::SeqCst) & LINKED != 0)
    }
}

/// The address `offset` bytes into a control block: it was checked to be within its page.
fn within(control: HostPhys, offset: u64) -> HostPhys {
    control.mfn().at(control.offset() + offset)
}

/// Links the tail `word` to `port` if it is LINKED; whether it was.
///
/// The guest may set and clear MASKED and clear PENDING, LINKED and the link meanwhile. BUSY forbids it to unmask, so
/// that a guest that keeps to the ABI makes the exchange fail four times at most; for one that does not, its event
/// counts as linked and is lost to it alone.
fn link(word: &AtomicU32, port: u32) -> bool {
    let mut seen = word.load(Ordering::SeqCst);
    for attempt in 0..5 {
        if seen & LINKED == 0 {
            if attempt > 0 {
                word.fetch_and(!BUSY, Ordering::SeqCst);
            }
            return false;
        }
        let new = (seen & !(BUSY | LINK_MASK)) | port;
        match word.compare_exchange(seen, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return true,
            Err(now) if attempt == 0 => {
                let _ = now;
                seen = word.fetch_or(BUSY, Ordering::SeqCst) | BUSY;
            }
            Err(now) => seen = now,
        }
    }
    word.fetch_and(!BUSY, Ordering::SeqCst);
    true
}
