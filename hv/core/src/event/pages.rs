//! The guest's pages: places of `vcpu_info`, control blocks, and the event array.

use super::Wake;
use super::channel::Channel;
use super::channel::ChannelState;
use super::fifo::Fifo;
use super::table::{Abi, EventTable, Inner, Refused};
use crate::hw::{HostPhys, Mfn, PAGE_BYTES, PhysMemory};
use crate::mem::{PageRef, make_room};
use pv_abi::errno::{Errno, Result};
use pv_abi::event::fifo::{ControlBlock, LINK_BITS};
use pv_abi::ids::{Port, VcpuId};
use pv_abi::shared_info::VcpuInfo;

/// [`LINK_BITS`] in the width of the call's structure.
const WIDTH_OF_LINKS: u8 = 17;
static_assertions::const_assert_eq!(WIDTH_OF_LINKS as u32, LINK_BITS);

impl Inner {
    pub(super) fn set_control<M: PhysMemory>(
        &mut self,
        memory: &M,
        vcpu: VcpuId,
        control: HostPhys,
    ) -> Result<()> {
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
                let mut fifo = Fifo::new(memory, self.vcpus.len())?;
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

    pub(super) fn expand<M: PhysMemory>(&mut self, memory: &M, page: Mfn) -> Result<Wake> {
        let Abi::Fifo(fifo) = &mut self.abi else {
            return Err(Errno::EOPNOTSUPP);
        };
        let mut wake = Wake::NOBODY;
        for number in fifo.expand(memory, page)? {
            let Some(channel) = self.channels.get_mut(number) else { break };
            if core::mem::take(&mut channel.pending) && channel.state != ChannelState::Free {
                wake = wake.with(self.raise(memory, Port::new(u32::try_from(number).unwrap_or(0))));
            }
        }
        Ok(wake)
    }

    pub(super) fn move_info<M: PhysMemory>(
        &mut self,
        memory: &M,
        vcpu: VcpuId,
        to: HostPhys,
    ) -> Result<Wake> {
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
        events.info.select(memory, self.bitmaps.width, !0);
        events.info.mark(memory);
        let mut wake = Wake::NOBODY;
        wake.upcalls.add(index);
        Ok(wake)
    }
}

/// The offset of a structure that is aligned and within its page.
fn fitting<T>(offset: u32) -> Option<u64> {
    let offset = u64::from(offset);
    (offset.is_multiple_of(8) && offset <= PAGE_BYTES - size_of::<T>() as u64).then_some(offset)
}

impl EventTable {
    /// Moves the `vcpu_info` of a virtual CPU to a place that the guest registered, which it may do once. The virtual
    /// CPU is told to look for events, because it may not have seen those that came to the old place.
    pub fn move_info<M: PhysMemory>(
        &self,
        memory: &M,
        vcpu: VcpuId,
        page: PageRef,
        offset: u32,
    ) -> core::result::Result<Wake, Refused> {
        let Some(offset) = fitting::<VcpuInfo>(offset) else { return Err((Errno::EINVAL, page)) };
        self.keep(memory, page, |inner, page| inner.move_info(memory, vcpu, page.at(offset)))
    }

    /// Takes the control block of `vcpu`; the first one of a domain switches it to the FIFO ABI. Returns the width of
    /// links.
    pub fn init_control<M: PhysMemory>(
        &self,
        memory: &M,
        vcpu: VcpuId,
        page: PageRef,
        offset: u32,
    ) -> core::result::Result<u8, Refused> {
        let Some(offset) = fitting::<ControlBlock>(offset) else { return Err((Errno::EINVAL, page)) };
        self.keep(memory, page, |inner, page| inner.set_control(memory, vcpu, page.at(offset)))?;
        Ok(WIDTH_OF_LINKS)
    }

    /// Adds a page to the event array.
    pub fn expand_array<M: PhysMemory>(
        &self,
        memory: &M,
        page: PageRef,
    ) -> core::result::Result<Wake, Refused> {
        self.keep(memory, page, |inner, page| inner.expand(memory, page))
    }

    /// Takes a page into use and keeps the reference to it, or gives that back.
    fn keep<M: PhysMemory, T>(
        &self,
        memory: &M,
        page: PageRef,
        work: impl FnOnce(&mut Inner, Mfn) -> Result<T>,
    ) -> core::result::Result<T, Refused> {
        let mut inner = self.inner.lock();
        let room = make_room(memory, &mut inner.pins, 1);
        match room.map_err(Errno::from).and_then(|()| work(&mut inner, page.mfn())) {
            Ok(done) => {
                inner.pins.push(page);
                Ok(done)
            }
            Err(errno) => Err((errno, page)),
        }
    }
}
