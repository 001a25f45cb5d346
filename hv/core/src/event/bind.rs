//! Binding ports, and what can be set and asked of them.

use super::Wake;
use super::channel::ChannelState;
use super::channel::Status;
use super::table::{Abi, EventTable, Inner, pair, virq_index};
use crate::hw::PhysMemory;
use pv_abi::errno::{Errno, Result};
use pv_abi::event::fifo::QUEUES;
use pv_abi::ids::{DomainId, Pirq, Port, VcpuId, Virq};

impl EventTable {
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
}
