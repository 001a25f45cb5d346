//! Closing ports.

use super::channel::Channel;
use super::channel::ChannelState;
use super::table::{Abi, Closed, EventTable, Inner, Peers, pair, virq_index};
use crate::hw::{Mfn, PhysMemory};
use crate::mem::PageRef;
use alloc::vec::Vec;
use pv_abi::errno::{Errno, Result};
use pv_abi::ids::{Pirq, Port};

/// Ports that are closed before others are looked after.
const AT_ONCE: u32 = 1024;

impl EventTable {
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

    /// Closes a number of ports from `next` on, which says then where to go on, and tells of physical interrupts that
    /// were bound. True when no port is left.
    pub fn close_ports<M: PhysMemory>(
        &self,
        memory: &M,
        peers: &impl Peers,
        next: &mut u32,
        mut released: impl FnMut(Pirq),
    ) -> bool {
        let count = u32::try_from(self.inner.lock().channels.len()).unwrap_or(u32::MAX);
        let end = count.min(next.saturating_add(AT_ONCE));
        for port in *next..end {
            if let Ok(Closed::Pirq(pirq)) = self.close(memory, peers, Port::new(port)) {
                released(pirq);
            }
        }
        *next = end;
        end == count
    }

    /// Goes back to the 2-level ABI, after [`close_ports`](Self::close_ports). Returns the references to the pages of the
    /// FIFO ABI.
    pub fn reset(&self) -> Vec<PageRef> {
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
        pages
    }

    /// Refuses new ports from now on, and forgets where each `vcpu_info` was moved to: the domain is at its end, and is
    /// [reset](Self::reset) next.
    pub fn retire(&self) {
        let mut inner = self.inner.lock();
        inner.retired = true;
        inner.vcpus.iter().filter(|events| events.moved).for_each(|events| events.info.forget());
    }
}
