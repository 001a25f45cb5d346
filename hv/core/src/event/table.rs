//! A domain's ports: binding them, and sending through them.

use super::channel::{Channel, ChannelState, Status};
use super::fifo::Fifo;
use super::place::InfoPlace;
use super::two_level::{self, Bitmaps, Raised};
use super::{MAX_PORTS, MAX_VCPUS, VcpuSet, Wake};
use crate::hw::{HostPhys, Mfn, PAGE_BYTES, PhysMemory};
use crate::mem::PageRef;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use pv_abi::errno::{Errno, Result};
use pv_abi::event::fifo::{ControlBlock, LINK_BITS, QUEUES};
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
enum Poll {
    Nothing,
    One(Port),
    Several,
}

enum Abi {
    TwoLevel,
    Fifo(Fifo),
}

struct VcpuEvents {
    info: Arc<InfoPlace>,
    /// The guest has moved it.
    moved: bool,
    virqs: [Option<Port>; Virq::COUNT as usize],
    poll: Poll,
}

struct Inner {
    channels: Vec<Channel>,
    bitmaps: Bitmaps,
    abi: Abi,
    vcpus: Vec<VcpuEvents>,
    pirqs: BTreeMap<Pirq, Port>,
    /// Those whose `poll` is not `Nothing`.
    polling: VcpuSet,
    /// No port below this one is free.
    first_free: usize,
    limit: u32,
    /// The guest's pages in use here, which stay its own as long.
    pins: Vec<PageRef>,
    retired: bool,
}

/// A page of the guest's was refused: why, and the reference to put back.
pub type Refused = (Errno, PageRef);

/// A domain's event channels.
pub struct EventTable {
    domain: DomainId,
    inner: Mutex<Inner>,
}

/// [`LINK_BITS`] in the width of the call's structure.
const WIDTH_OF_LINKS: u8 = 17;
static_assertions::const_assert_eq!(WIDTH_OF_LINKS as u32, LINK_BITS);

fn virq_index(virq: Virq) -> usize {
    virq.raw() as usize
}

impl Inner {
    fn channel(&self, port: Port) -> Option<&Channel> {
        self.channels.get(port.raw() as usize).filter(|channel| channel.state != ChannelState::Free)
    }

    fn channel_mut(&mut self, port: Port) -> Option<&mut Channel> {
        self.channels.get_mut(port.raw() as usize).filter(|channel| channel.state != ChannelState::Free)
    }

    /// How many ports the delivery ABI in use can have.
    fn limit(&self) -> u32 {
        match self.abi {
            Abi::TwoLevel => self.limit.min(two_level::PORTS),
            Abi::Fifo(_) => self.limit,
        }
    }

    fn allocate<M: PhysMemory>(&mut self, memory: &M, vcpu: u8, state: ChannelState) -> Result<Port> {
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
            self.channels.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            self.channels.push(Channel::FREE);
        }
        if let Some(channel) = self.channels.get_mut(index) {
            let last = (channel.last_vcpu, channel.last_priority);
            *channel = Channel { state, vcpu, last_vcpu: last.0, last_priority: last.1, ..Channel::FREE };
        }
        self.first_free = skipped.unwrap_or(index + 1);
        Ok(Port::new(port))
    }

    fn free<M: PhysMemory>(&mut self, memory: &M, port: Port) {
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
    fn raise<M: PhysMemory>(&mut self, memory: &M, port: Port) -> Wake {
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
    fn wake(&mut self, port: Port, vcpu: usize, raised: Raised) -> Wake {
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
    fn pollers(&mut self, port: Port) -> VcpuSet {
        let mut woken = VcpuSet::EMPTY;
        for vcpu in self.polling {
            if let Some(events) = self.vcpus.get_mut(vcpu) {
                if events.poll == Poll::Several || events.poll == Poll::One(port) {
                    events.poll = Poll::Nothing;
                    self.polling.remove(vcpu);
                    woken.add(vcpu);
                }
            }
        }
        woken
    }

    fn is_pending<M: PhysMemory>(&self, memory: &M, port: Port) -> bool {
        match (&self.abi, self.channels.get(port.raw() as usize)) {
            (Abi::TwoLevel, _) => self.bitmaps.is_pending(memory, port),
            (Abi::Fifo(fifo), Some(channel)) => fifo.is_pending(memory, port, channel),
            (Abi::Fifo(_), None) => false,
        }
    }

    fn vcpu(&self, vcpu: VcpuId) -> Result<u8> {
        let index = vcpu.raw() as usize;
        if index < self.vcpus.len() {
            u8::try_from(index).map_err(|_| Errno::ENOENT)
        } else {
            Err(Errno::ENOENT)
        }
    }
}

impl Inner {
    fn set_control<M: PhysMemory>(&mut self, memory: &M, vcpu: VcpuId, control: HostPhys) -> Result<()> {
        if self.retired {
            return Err(Errno::ESRCH);
        }
        let index = usize::from(self.vcpu(vcpu)?);
        match &mut self.abi {
            Abi::Fifo(fifo) => {
                if fifo.control(index).is_some() {
                    return Err(Errno::EBUSY);
                }
                fifo.set_control(index, control);
            }
            Abi::TwoLevel => {
                let mut fifo = Fifo::new(self.vcpus.len());
                fifo.set_control(index, control);
                self.abi = Abi::Fifo(fifo);
                for (number, channel) in self.channels.iter_mut().enumerate() {
                    let port = Port::new(u32::try_from(number).unwrap_or(0));
                    channel.pending = self.bitmaps.is_pending(memory, port);
                    channel.priority = Channel::FREE.priority;
                }
            }
        }
        Ok(())
    }

    fn expand<M: PhysMemory>(&mut self, memory: &M, page: Mfn) -> Result<Wake> {
        let Abi::Fifo(fifo) = &mut self.abi else {
            return Err(Errno::EOPNOTSUPP);
        };
        let ports = fifo.expand(page).ok_or(Errno::ENOSPC)?;
        let mut waiting = Vec::new();
        for (number, channel) in self.channels.iter_mut().enumerate().take(ports.end).skip(ports.start) {
            if core::mem::take(&mut channel.pending) && channel.state != ChannelState::Free {
                waiting.push(Port::new(u32::try_from(number).unwrap_or(0)));
            }
        }
        Ok(waiting.into_iter().fold(Wake::NOBODY, |wake, port| wake.with(self.raise(memory, port))))
    }

    fn move_info<M: PhysMemory>(&mut self, memory: &M, vcpu: VcpuId, to: HostPhys) -> Result<Wake> {
        let index = usize::from(self.vcpu(vcpu)?);
        let events = self.vcpus.get_mut(index).ok_or(Errno::ENOENT)?;
        if self.retired || core::mem::replace(&mut events.moved, true) {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; size_of::<VcpuInfo>()];
        if let Some(from) = events.info.get() {
            memory.read(from, &mut bytes);
        }
        memory.write(to, &bytes);
        events.info.set(to);
        events.info.select(memory, !0);
        events.info.mark(memory);
        let mut wake = Wake::NOBODY;
        wake.upcalls.add(index);
        Ok(wake)
    }
}

/// Locks two different tables, that of the lower domain first.
fn pair<'a>(a: &'a EventTable, b: &'a EventTable) -> (MutexGuard<'a, Inner>, MutexGuard<'a, Inner>) {
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
            bitmaps: Bitmaps { shared: shared_info },
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

    /// Where the `vcpu_info` of a virtual CPU is, now and later.
    pub fn info(&self, vcpu: VcpuId) -> Option<Arc<InfoPlace>> {
        self.inner.lock().vcpus.get(vcpu.raw() as usize).map(|events| Arc::clone(&events.info))
    }

    /// Moves the `vcpu_info` of a virtual CPU to a place that the guest registered, which it may do once. The virtual
    /// CPU is told to look for events, because it may not have seen those that came to the old place.
    pub fn move_info<M: PhysMemory>(
        &self,
        memory: &M,
        vcpu: VcpuId,
        page: PageRef,
        offset: u32,
    ) -> core::result::Result<Wake, Refused> {
        let offset = u64::from(offset);
        if offset % 8 != 0 || offset > PAGE_BYTES - size_of::<VcpuInfo>() as u64 {
            return Err((Errno::EINVAL, page));
        }
        let mut inner = self.inner.lock();
        match inner.move_info(memory, vcpu, page.mfn().at(offset)) {
            Ok(wake) => {
                inner.pins.push(page);
                Ok(wake)
            }
            Err(errno) => Err((errno, page)),
        }
    }

    // ---- Sending ----

    /// Sends through `port`. An event for another domain is only addressed: see [`Sent::There`].
    #[inline]
    pub fn send<M: PhysMemory>(&self, memory: &M, port: Port) -> Result<Sent> {
        let mut inner = self.inner.lock();
        match inner.channel(port).ok_or(Errno::EINVAL)?.state {
            ChannelState::Interdomain { remote, port } if remote != self.domain => {
                Ok(Sent::There { domain: remote, port })
            }
            ChannelState::Interdomain { port, .. } => Ok(Sent::Here(inner.raise(memory, port))),
            ChannelState::Ipi => Ok(Sent::Here(inner.raise(memory, port))),
            ChannelState::Unbound { .. } => Ok(Sent::Nowhere),
            ChannelState::Free | ChannelState::Pirq(_) | ChannelState::Virq(_) => Err(Errno::EINVAL),
        }
    }

    /// Delivers what `from` sent to `port`, if `port` still leads to that domain. (The two table locks were not held
    /// together: the port may have been closed and bound again in between. Then the event is one that its new user
    /// did not ask for, which the ABI allows, unless it belongs to another domain.)
    #[inline]
    pub fn deliver<M: PhysMemory>(&self, memory: &M, port: Port, from: DomainId) -> Wake {
        let mut inner = self.inner.lock();
        match inner.channel(port).map(|channel| channel.state) {
            Some(ChannelState::Interdomain { remote, .. }) if remote == from => inner.raise(memory, port),
            _ => Wake::NOBODY,
        }
    }

    /// Raises a virtual interrupt line of `vcpu`; lines that exist once in a domain belong to virtual CPU 0.
    pub fn raise_virq<M: PhysMemory>(&self, memory: &M, vcpu: VcpuId, virq: Virq) -> Wake {
        let mut inner = self.inner.lock();
        let port = inner
            .vcpus
            .get(vcpu.raw() as usize)
            .and_then(|events| events.virqs.get(virq_index(virq)).copied().flatten());
        match port {
            Some(port) => inner.raise(memory, port),
            None => Wake::NOBODY,
        }
    }

    /// Raises a physical interrupt; `None` if no port is bound to it.
    pub fn raise_pirq<M: PhysMemory>(&self, memory: &M, pirq: Pirq) -> Option<Wake> {
        let mut inner = self.inner.lock();
        let port = *inner.pirqs.get(&pirq)?;
        Some(inner.raise(memory, port))
    }

    /// Unmasks `port` and delivers what is pending there.
    pub fn unmask<M: PhysMemory>(&self, memory: &M, port: Port) -> Result<Wake> {
        let mut guard = self.inner.lock();
        guard.channel(port).ok_or(Errno::EINVAL)?;
        let Inner { channels, bitmaps, abi, vcpus, .. } = &mut *guard;
        let channel = channels.get_mut(port.raw() as usize).ok_or(Errno::EINVAL)?;
        let vcpu = usize::from(channel.vcpu);
        let events = vcpus.get(vcpu).ok_or(Errno::EINVAL)?;
        let upcall = match abi {
            Abi::TwoLevel => bitmaps.unmask(memory, &events.info, port),
            Abi::Fifo(fifo) => fifo.unmask(memory, &events.info, port, channel),
        };
        Ok(guard.wake(port, vcpu, Raised { fresh: false, upcall }))
    }

    /// Whether an event is pending on `port`.
    pub fn is_pending<M: PhysMemory>(&self, memory: &M, port: Port) -> bool {
        self.inner.lock().is_pending(memory, port)
    }

    /// Begins to poll for `ports` (none: for any event). Unless one is pending already, a [`Wake`] will name `vcpu`.
    pub fn poll_begin<M: PhysMemory>(&self, memory: &M, vcpu: VcpuId, ports: &[Port]) -> Result<Polled> {
        let mut inner = self.inner.lock();
        let index = usize::from(inner.vcpu(vcpu)?);
        let limit = inner.limit();
        for &port in ports {
            if port.raw() == 0 || port.raw() >= limit {
                return Err(Errno::EINVAL);
            }
        }
        if ports.iter().any(|&port| inner.is_pending(memory, port)) {
            return Ok(Polled::Pending);
        }
        let poll = match ports {
            [one] => Poll::One(*one),
            _ => Poll::Several,
        };
        if let Some(events) = inner.vcpus.get_mut(index) {
            events.poll = poll;
        }
        inner.polling.add(index);
        Ok(Polled::Waits)
    }

    /// A virtual CPU that polled goes on, for whatever reason.
    pub fn poll_end(&self, vcpu: VcpuId) {
        let mut inner = self.inner.lock();
        let index = vcpu.raw() as usize;
        if let Some(events) = inner.vcpus.get_mut(index) {
            events.poll = Poll::Nothing;
        }
        inner.polling.remove(index);
    }

    // ---- Binding ----

    /// Allocates a port that `remote` may bind to.
    pub fn alloc_unbound<M: PhysMemory>(&self, memory: &M, remote: DomainId) -> Result<Port> {
        let remote = if remote == DomainId::SELF { self.domain } else { remote };
        self.inner.lock().allocate(memory, 0, ChannelState::Unbound { remote })
    }

    /// Binds a new port to `remote_port` of `remote`, which waits for this domain. The event is raised once on the new
    /// port, for what the other end may have sent before.
    pub fn bind_interdomain<M: PhysMemory>(
        &self,
        memory: &M,
        remote: &EventTable,
        remote_port: Port,
    ) -> Result<(Port, Wake)> {
        let waiting = ChannelState::Unbound { remote: self.domain };
        if remote.domain == self.domain {
            let mut inner = self.inner.lock();
            let state = inner.channel(remote_port).map(|channel| channel.state);
            if state != Some(waiting) {
                return Err(Errno::EINVAL);
            }
            let bound = ChannelState::Interdomain { remote: self.domain, port: remote_port };
            let port = inner.allocate(memory, 0, bound)?;
            if let Some(channel) = inner.channel_mut(remote_port) {
                channel.state = ChannelState::Interdomain { remote: self.domain, port };
            }
            let wake = inner.raise(memory, port);
            return Ok((port, wake));
        }
        let (mut here, mut there) = pair(self, remote);
        let target = there.channel_mut(remote_port).ok_or(Errno::EINVAL)?;
        if target.state != waiting {
            return Err(Errno::EINVAL);
        }
        let bound = ChannelState::Interdomain { remote: remote.domain, port: remote_port };
        let port = here.allocate(memory, 0, bound)?;
        target.state = ChannelState::Interdomain { remote: self.domain, port };
        let wake = here.raise(memory, port);
        Ok((port, wake))
    }

    /// Binds a new port to a virtual interrupt line.
    pub fn bind_virq<M: PhysMemory>(&self, memory: &M, virq: Virq, vcpu: VcpuId) -> Result<Port> {
        if virq.raw() >= Virq::COUNT || (!virq.is_per_vcpu() && vcpu.raw() != 0) {
            return Err(Errno::EINVAL);
        }
        let mut inner = self.inner.lock();
        let index = inner.vcpu(vcpu)?;
        let line = |inner: &Inner| {
            inner.vcpus.get(usize::from(index)).and_then(|v| v.virqs.get(virq_index(virq)).copied().flatten())
        };
        if line(&inner).is_some() {
            return Err(Errno::EEXIST);
        }
        let port = inner.allocate(memory, index, ChannelState::Virq(virq))?;
        if let Some(slot) =
            inner.vcpus.get_mut(usize::from(index)).and_then(|v| v.virqs.get_mut(virq_index(virq)))
        {
            *slot = Some(port);
        }
        Ok(port)
    }

    /// Binds a new port to a physical interrupt, which the caller has checked that the domain may have.
    pub fn bind_pirq<M: PhysMemory>(&self, memory: &M, pirq: Pirq) -> Result<Port> {
        let mut inner = self.inner.lock();
        if inner.pirqs.contains_key(&pirq) {
            return Err(Errno::EEXIST);
        }
        let port = inner.allocate(memory, 0, ChannelState::Pirq(pirq))?;
        inner.pirqs.insert(pirq, port);
        Ok(port)
    }

    /// Allocates a port by which the domain's own virtual CPUs send to `vcpu`.
    pub fn bind_ipi<M: PhysMemory>(&self, memory: &M, vcpu: VcpuId) -> Result<Port> {
        let mut inner = self.inner.lock();
        let index = inner.vcpu(vcpu)?;
        inner.allocate(memory, index, ChannelState::Ipi)
    }

    /// Makes `vcpu` the one that is told of events on `port`.
    pub fn bind_vcpu(&self, port: Port, vcpu: VcpuId) -> Result<()> {
        let mut inner = self.inner.lock();
        let index = inner.vcpu(vcpu)?;
        let channel = inner.channel_mut(port).ok_or(Errno::EINVAL)?;
        match channel.state {
            ChannelState::Unbound { .. } | ChannelState::Interdomain { .. } | ChannelState::Pirq(_) => {}
            ChannelState::Virq(virq) if !virq.is_per_vcpu() => {}
            ChannelState::Free | ChannelState::Virq(_) | ChannelState::Ipi => return Err(Errno::EINVAL),
        }
        channel.vcpu = index;
        Ok(())
    }

    /// Chooses the queue that events on `port` go to.
    pub fn set_priority(&self, port: Port, priority: u32) -> Result<()> {
        let priority = u8::try_from(priority).map_err(|_| Errno::EINVAL)?;
        if usize::from(priority) >= QUEUES {
            return Err(Errno::EINVAL);
        }
        let mut inner = self.inner.lock();
        if matches!(inner.abi, Abi::TwoLevel) {
            return Err(Errno::ENOSYS);
        }
        inner.channel_mut(port).ok_or(Errno::EINVAL)?.priority = priority;
        Ok(())
    }

    /// Tells what `port` is bound to. A port that is not in use is free; one that cannot be is an error.
    pub fn status(&self, port: Port) -> Result<Status> {
        let inner = self.inner.lock();
        if port.raw() >= inner.limit() {
            return Err(Errno::EINVAL);
        }
        Ok(match inner.channel(port) {
            Some(channel) => Status { state: channel.state, vcpu: VcpuId::new(u32::from(channel.vcpu)) },
            None => Status { state: ChannelState::Free, vcpu: VcpuId::new(0) },
        })
    }

    // ---- The FIFO ABI ----

    /// Takes the control block of `vcpu`; the first one of a domain switches it to the FIFO ABI. Returns the width of
    /// links.
    pub fn init_control<M: PhysMemory>(
        &self,
        memory: &M,
        vcpu: VcpuId,
        page: PageRef,
        offset: u32,
    ) -> core::result::Result<u8, Refused> {
        let offset = u64::from(offset);
        if offset % 8 != 0 || offset > PAGE_BYTES - size_of::<ControlBlock>() as u64 {
            return Err((Errno::EINVAL, page));
        }
        let mut inner = self.inner.lock();
        match inner.set_control(memory, vcpu, page.mfn().at(offset)) {
            Ok(()) => {
                inner.pins.push(page);
                Ok(WIDTH_OF_LINKS)
            }
            Err(errno) => Err((errno, page)),
        }
    }

    /// Adds a page to the event array.
    pub fn expand_array<M: PhysMemory>(
        &self,
        memory: &M,
        page: PageRef,
    ) -> core::result::Result<Wake, Refused> {
        let mut inner = self.inner.lock();
        match inner.expand(memory, page.mfn()) {
            Ok(wake) => {
                inner.pins.push(page);
                Ok(wake)
            }
            Err(errno) => Err((errno, page)),
        }
    }

    // ---- Closing ----

    /// Closes `port`. The other end, if there is one, waits for this domain again.
    pub fn close<M: PhysMemory>(&self, memory: &M, peers: &impl Peers, port: Port) -> Result<Closed> {
        loop {
            let state = self.inner.lock().channel(port).ok_or(Errno::EINVAL)?.state;
            let ChannelState::Interdomain { remote, port: remote_port } = state else {
                let mut inner = self.inner.lock();
                if inner.channel(port).map(|channel| channel.state) == Some(state) {
                    return Ok(self.close_alone(&mut inner, memory, port, state));
                }
                continue;
            };
            let here = ChannelState::Interdomain { remote: self.domain, port };
            let waiting = ChannelState::Unbound { remote: self.domain };
            if remote == self.domain {
                let mut inner = self.inner.lock();
                if inner.channel(port).map(|channel| channel.state) != Some(state) {
                    continue;
                }
                if let Some(other) = inner.channel_mut(remote_port).filter(|_| remote_port != port) {
                    other.state = waiting;
                }
                inner.free(memory, port);
                return Ok(Closed::Done);
            }
            let done = peers.with_events(remote, |peer| {
                let (mut inner, mut there) = pair(self, peer);
                if inner.channel(port).map(|channel| channel.state) != Some(state) {
                    return false;
                }
                if let Some(other) = there.channel_mut(remote_port).filter(|other| other.state == here) {
                    other.state = waiting;
                }
                inner.free(memory, port);
                true
            });
            match done {
                Some(true) => return Ok(Closed::Done),
                Some(false) => {}
                None => {
                    let mut inner = self.inner.lock();
                    if inner.channel(port).map(|channel| channel.state) == Some(state) {
                        inner.free(memory, port);
                        return Ok(Closed::Done);
                    }
                }
            }
        }
    }

    /// Closes a port that no other port knows of.
    fn close_alone<M: PhysMemory>(
        &self,
        inner: &mut Inner,
        memory: &M,
        port: Port,
        state: ChannelState,
    ) -> Closed {
        let mut closed = Closed::Done;
        match state {
            ChannelState::Virq(virq) => {
                let vcpus = inner.vcpus.iter_mut();
                for slot in vcpus.filter_map(|events| events.virqs.get_mut(virq_index(virq))) {
                    if *slot == Some(port) {
                        *slot = None;
                    }
                }
            }
            ChannelState::Pirq(pirq) => {
                inner.pirqs.remove(&pirq);
                closed = Closed::Pirq(pirq);
            }
            _ => {}
        }
        inner.free(memory, port);
        closed
    }

    /// Closes all ports and goes back to the 2-level ABI. Returns the physical interrupts that were bound, and the
    /// references to the pages of the FIFO ABI.
    pub fn reset<M: PhysMemory>(&self, memory: &M, peers: &impl Peers) -> (Vec<Pirq>, Vec<PageRef>) {
        let count = self.inner.lock().channels.len();
        let mut pirqs = Vec::new();
        for index in 1..count {
            let port = Port::new(u32::try_from(index).unwrap_or(0));
            if let Ok(Closed::Pirq(pirq)) = self.close(memory, peers, port) {
                pirqs.push(pirq);
            }
        }
        let mut inner = self.inner.lock();
        inner.abi = Abi::TwoLevel;
        // The places of `vcpu_info` stay where they are.
        let infos: Vec<Mfn> = inner.vcpus.iter().filter_map(|v| Some(v.info.get()?.mfn())).collect();
        let retired = inner.retired;
        let pins = core::mem::take(&mut inner.pins);
        let (kept, pages) = pins.into_iter().partition(|page| !retired && infos.contains(&page.mfn()));
        inner.pins = kept;
        for channel in &mut inner.channels {
            if channel.state == ChannelState::Free {
                *channel = Channel::FREE;
            }
        }
        (pirqs, pages)
    }

    /// Refuses new ports from now on, does what [`reset`](Self::reset) does, and forgets where each `vcpu_info` was
    /// moved to: the domain is at its end.
    pub fn retire<M: PhysMemory>(&self, memory: &M, peers: &impl Peers) -> (Vec<Pirq>, Vec<PageRef>) {
        {
            let mut inner = self.inner.lock();
            inner.retired = true;
            inner.vcpus.iter().filter(|events| events.moved).for_each(|events| events.info.forget());
        }
        self.reset(memory, peers)
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
