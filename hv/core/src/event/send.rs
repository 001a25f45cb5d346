//! Sending, raising, unmasking and polling.

use super::Wake;
use super::channel::ChannelState;
use super::table::{Abi, EventTable, Inner, Poll, Polled, Sent, virq_index};
use super::two_level::Raised;
use crate::hw::PhysMemory;
use pv_abi::errno::{Errno, Result};
use pv_abi::ids::{DomainId, Pirq, Port, VcpuId, Virq};

impl EventTable {
    /// Sends through `port`. An event for another domain is only addressed: see [`Sent::There`].
    #[inline(always)]
    pub fn send<M: PhysMemory>(&self, memory: &M, port: Port) -> Result<Sent> {
        let mut inner = self.inner.lock();
        let own = match inner.channel(port).ok_or(Errno::EINVAL)?.state {
            ChannelState::Interdomain { remote, port } if remote != self.domain => {
                return Ok(Sent::There { domain: remote, port });
            }
            ChannelState::Interdomain { port, .. } => port,
            ChannelState::Ipi => port,
            ChannelState::Unbound { .. } => return Ok(Sent::Nowhere),
            ChannelState::Free | ChannelState::Pirq(_) | ChannelState::Virq(_) => return Err(Errno::EINVAL),
        };
        Ok(Sent::Here(inner.raise(memory, own)))
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

    /// Raises a port of the domain's own virtual CPUs for the hypervisor; any other port is left alone.
    pub fn raise_ipi<M: PhysMemory>(&self, memory: &M, port: Port) -> Wake {
        let mut inner = self.inner.lock();
        match inner.channel(port).map(|channel| channel.state) {
            Some(ChannelState::Ipi) => inner.raise(memory, port),
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
}
