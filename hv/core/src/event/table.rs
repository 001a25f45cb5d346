//! A domain's ports: binding them, and sending through them.

use super::channel::{Channel, ChannelState, Status};
use super::fifo::Fifo;
use super::place::InfoPlace;
use super::two_level::{Bitmaps, Raised, Width};
use super::{MAX_PORTS, MAX_VCPUS, VcpuSet, Wake};
use crate::hw::{HostPhys, PhysMemory};
use crate::mem::{PageRef, make_room};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use pv_abi::errno::{Errno, Result};
use pv_abi::ids::{DomainId, Pirq, Port, VcpuId, Virq};
use pv_abi::shared_info::{LEGACY_MAX_VCPUS, VcpuInfo};
use spin::{Mutex, MutexGuard};

/// Finds other domains' tables.
pub trait Peers {
    /// Does something with the table of `domain`; `None` if there is no such domain any more.
    fn with_events<R>(&self, domain: DomainId, act: impl FnOnce(&EventTable) -> R) -> Option<R>;
}

/// Where a sent event goes.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// It was for the domain itself and has been delivered.
    Here(Wake),
    /// It is for another domain: its table's [`EventTable::deliver`] is called next.
    There {
        /// The other domain.
        domain: DomainId,
        /// Its port.
        port: Port,
    },
    /// The port waits to be bound: nobody hears it.
    Nowhere,
}

/// What a closed port was bound to, where the caller has to undo something.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closed {
    /// Nothing remains to be done.
    Done,
    /// The physical interrupt is nobody's now.
    Pirq(Pirq),
}

/// What a virtual CPU that polls for ports does next.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Polled {
    /// One of them is pending: it goes on.
    Pending,
    /// It sleeps; a [`Wake`] will name it. [`EventTable::poll_end`] must be called when it goes on.
    Waits,
}

/// What a virtual CPU polls for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Poll {
    Nothing,
    One(Port),
    Several,
}

pub(super) enum Abi {
    TwoLevel,
    Fifo(Fifo),
}

pub(super) struct VcpuEvents {
    pub(super) info: Arc<InfoPlace>,
    /// The guest has moved it.
    pub(super) moved: bool,
    pub(super) virqs: [Option<Port>; Virq::COUNT as usize],
    pub(super) poll: Poll,
}

pub(super) struct Inner {
    pub(super) channels: Vec<Channel>,
    pub(super) bitmaps: Bitmaps,
    pub(super) abi: Abi,
    pub(super) vcpus: Vec<VcpuEvents>,
    pub(super) pirqs: BTreeMap<Pirq, Port>,
    /// Those whose `poll` is not `Nothing`.
    pub(super) polling: VcpuSet,
    /// No port below this one is free.
    pub(super) first_free: usize,
    pub(super) limit: u32,
    /// The guest's pages in use here, which stay its own as long.
    pub(super) pins: Vec<PageRef>,
    pub(super) retired: bool,
}

/// A page of the guest's was refused: why, and the reference to put back.
pub type Refused = (Errno, PageRef);

/// A domain's event channels.
pub struct EventTable {
    pub(super) domain: DomainId,
    pub(super) inner: Mutex<Inner>,
}

pub(super) fn virq_index(virq: Virq) -> usize {
    virq.raw() as usize
}

impl Inner {
    pub(super) fn channel(&self, port: Port) -> Option<&Channel> {
        self.channels.get(port.raw() as usize).filter(|channel| channel.state != ChannelState::Free)
    }

    pub(super) fn channel_mut(&mut self, port: Port) -> Option<&mut Channel> {
        self.channels.get_mut(port.raw() as usize).filter(|channel| channel.state != ChannelState::Free)
    }

    /// How many ports the delivery ABI in use can have.
    pub(super) fn limit(&self) -> u32 {
        match self.abi {
            Abi::TwoLevel => self.limit.min(self.bitmaps.width.ports()),
            Abi::Fifo(_) => self.limit,
        }
    }

    pub(super) fn allocate<M: PhysMemory>(
        &mut self,
        memory: &M,
        vcpu: u8,
        state: ChannelState,
    ) -> Result<Port> {
        if self.retired {
            return Err(Errno::ESRCH);
        }
        let limit = self.limit() as usize;
        let mut index = self.first_free;
        let mut skipped = None;
        loop {
            if index >= limit {
                return Err(Errno::ENOSPC);
            }
            let Some(channel) = self.channels.get(index) else {
                break;
            };
            if channel.state == ChannelState::Free {
                let port = Port::new(u32::try_from(index).map_err(|_| Errno::ENOSPC)?);
                match &self.abi {
                    Abi::Fifo(fifo) if fifo.is_linked(memory, port) => {
                        skipped = skipped.or(Some(index));
                    }
                    _ => break,
                }
            }
            index += 1;
        }
        let port = u32::try_from(index).map_err(|_| Errno::ENOSPC)?;
        if index >= self.channels.len() {
            make_room(memory, &mut self.channels, 1)?;
            self.channels.push(Channel::FREE);
        }
        if let Some(channel) = self.channels.get_mut(index) {
            let last = (channel.last_vcpu, channel.last_priority);
            *channel = Channel { state, vcpu, last_vcpu: last.0, last_priority: last.1, ..Channel::FREE };
        }
        self.first_free = skipped.unwrap_or(index + 1);
        Ok(Port::new(port))
    }

    pub(super) fn free<M: PhysMemory>(&mut self, memory: &M, port: Port) {
        let index = port.raw() as usize;
        if let Some(channel) = self.channels.get_mut(index) {
            self.bitmaps.clear(memory, port);
            if let Abi::Fifo(fifo) = &self.abi {
                fifo.clear(memory, port, channel);
            }
            channel.state = ChannelState::Free;
            channel.pending = false;
            self.first_free = self.first_free.min(index);
        }
    }

    #[inline]
    pub(super) fn raise<M: PhysMemory>(&mut self, memory: &M, port: Port) -> Wake {
        let Self { channels, bitmaps, abi, vcpus, .. } = self;
        let Some(channel) = channels.get_mut(port.raw() as usize) else {
            return Wake::NOBODY;
        };
        let vcpu = usize::from(channel.vcpu);
        let Some(events) = vcpus.get(vcpu) else {
            return Wake::NOBODY;
        };
        let raised = match abi {
            Abi::TwoLevel => bitmaps.raise(memory, &events.info, port),
            Abi::Fifo(fifo) => fifo.raise(memory, &events.info, port, channel),
        };
        self.wake(port, vcpu, raised)
    }

    #[inline]
    pub(super) fn wake(&mut self, port: Port, vcpu: usize, raised: Raised) -> Wake {
        let mut wake = Wake { fresh: raised.fresh, ..Wake::NOBODY };
        if raised.upcall {
            wake.upcalls.add(vcpu);
        }
        if raised.fresh && !self.polling.is_empty() {
            wake.pollers = self.pollers(port);
        }
        wake
    }

    /// Those that poll for `port` poll no longer, but wake.
    #[cold]
    pub(super) fn pollers(&mut self, port: Port) -> VcpuSet {
        let mut woken = VcpuSet::EMPTY;
        for vcpu in self.polling {
            if let Some(events) = self.vcpus.get_mut(vcpu)
                && (events.poll == Poll::Several || events.poll == Poll::One(port))
            {
                events.poll = Poll::Nothing;
                self.polling.remove(vcpu);
                woken.add(vcpu);
            }
        }
        woken
    }

    pub(super) fn is_pending<M: PhysMemory>(&self, memory: &M, port: Port) -> bool {
        match (&self.abi, self.channels.get(port.raw() as usize)) {
            (Abi::TwoLevel, _) => self.bitmaps.is_pending(memory, port),
            (Abi::Fifo(fifo), Some(channel)) => fifo.is_pending(memory, port, channel),
            (Abi::Fifo(_), None) => false,
        }
    }

    pub(super) fn vcpu(&self, vcpu: VcpuId) -> Result<u8> {
        let index = vcpu.raw() as usize;
        if index < self.vcpus.len() {
            u8::try_from(index).map_err(|_| Errno::ENOENT)
        } else {
            Err(Errno::ENOENT)
        }
    }
}

/// Locks two different tables, that of the lower domain first.
pub(super) fn pair<'a>(
    a: &'a EventTable,
    b: &'a EventTable,
) -> (MutexGuard<'a, Inner>, MutexGuard<'a, Inner>) {
    if a.domain < b.domain {
        let first = a.inner.lock();
        (first, b.inner.lock())
    } else {
        let first = b.inner.lock();
        (a.inner.lock(), first)
    }
}

impl EventTable {
    /// A domain's table with no ports: the 2-level ABI on its shared page, `vcpus` virtual CPUs (at most
    /// [`MAX_VCPUS`]), and at most `limit` ports.
    pub fn new(domain: DomainId, shared_info: HostPhys, vcpus: usize, limit: u32) -> Self {
        let vcpus = (0..vcpus.min(MAX_VCPUS)).map(|index| VcpuEvents {
            info: Arc::new(if index < LEGACY_MAX_VCPUS {
                InfoPlace::at(HostPhys::new(shared_info.raw() + (index * size_of::<VcpuInfo>()) as u64))
            } else {
                InfoPlace::nowhere()
            }),
            moved: false,
            virqs: [None; Virq::COUNT as usize],
            poll: Poll::Nothing,
        });
        let inner = Inner {
            // Port 0 stays free for ever: the search starts above it.
            channels: alloc::vec![Channel::FREE],
            bitmaps: Bitmaps { shared: shared_info, width: Width::default() },
            abi: Abi::TwoLevel,
            vcpus: vcpus.collect(),
            pirqs: BTreeMap::new(),
            polling: VcpuSet::EMPTY,
            first_free: 1,
            limit: limit.min(MAX_PORTS),
            pins: Vec::new(),
            retired: false,
        };
        Self { domain, inner: Mutex::new(inner) }
    }

    /// The domain whose table this is.
    pub const fn domain(&self) -> DomainId {
        self.domain
    }

    /// Chooses the width of the words in the shared page; whether it was another. The 2-level ABI's bits are not moved:
    /// who changes the width starts anew.
    pub fn set_width(&self, width: Width) -> bool {
        core::mem::replace(&mut self.inner.lock().bitmaps.width, width) != width
    }

    /// Where the `vcpu_info` of a virtual CPU is, now and later.
    pub fn info(&self, vcpu: VcpuId) -> Option<Arc<InfoPlace>> {
        self.inner.lock().vcpus.get(vcpu.raw() as usize).map(|events| Arc::clone(&events.info))
    }

    /// The ports in use, with what they are bound to.
    pub fn bound(&self) -> Vec<(Port, Status)> {
        let inner = self.inner.lock();
        let ports =
            inner.channels.iter().enumerate().filter(|(_, channel)| channel.state != ChannelState::Free);
        ports
            .filter_map(|(index, channel)| {
                let status = Status { state: channel.state, vcpu: VcpuId::new(u32::from(channel.vcpu)) };
                Some((Port::new(u32::try_from(index).ok()?), status))
            })
            .collect()
    }
}
