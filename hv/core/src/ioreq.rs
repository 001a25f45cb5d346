//! Accesses to I/O ports that another domain emulates (`xen/hvm/ioreq.h`).
//!
//! The vCPU that made an access waits for its end, and what it waits for is kept in its own context: the record in the
//! emulator's page tells the emulator what to do, and is never read for anything but the state and the answer, once
//! each. So whatever the emulator writes there, the guest gets a wrong value or none, and nobody else anything.
//!
//! Lock rule: the lock is a leaf. It is held while a record is written or read, which keeps the page there.

use crate::exit::PortAccess;
use crate::hw::{HostPhys, PhysMemory};
use crate::mem::{PageAccount, PageRef, Ram};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use pv_abi::control::PortRange;
use pv_abi::errno::{Errno, Result};
use pv_abi::ids::{DomainId, Port, VcpuId};
use pv_abi::ioreq::{Ioreq, state};
use spin::Mutex;
use zerocopy::IntoBytes;

/// Who emulates, and where it is told of accesses.
#[derive(Debug)]
pub struct Server {
    /// The domain.
    pub owner: DomainId,
    /// Its port.
    pub port: Port,
    /// Its page of records.
    pub page: PageRef,
    /// The account of the page.
    pub account: Arc<PageAccount>,
    /// The ports that it emulates.
    pub ranges: [PortRange; 2],
}

impl Server {
    fn record(&self, vcpu: VcpuId) -> HostPhys {
        self.page.mfn().at(u64::from(vcpu.raw()) * size_of::<Ioreq>() as u64)
    }

    /// Gives the page back.
    pub fn dismiss<M: PhysMemory>(self, ram: Ram<'_, M>) {
        self.account.put(ram, self.page);
    }
}

#[derive(Debug, Default)]
struct Inner {
    server: Option<Server>,
    closed: bool,
}

/// The emulator of a domain's ports, if it has one.
#[derive(Debug, Default)]
pub struct Emulation(Mutex<Inner>);

/// What has become of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Nothing yet.
    Waits,
    /// It is done: what was read.
    Done(u32),
    /// Nobody emulates any more.
    Nobody,
}

impl Emulation {
    /// Begins; refuses, giving the server back, where there is one already or the domain is at its end.
    pub fn begin(&self, server: Server) -> core::result::Result<(), (Errno, Server)> {
        let mut inner = self.0.lock();
        match (&inner.server, inner.closed) {
            (_, true) => Err((Errno::ESRCH, server)),
            (Some(_), _) => Err((Errno::EBUSY, server)),
            (None, false) => {
                inner.server = Some(server);
                Ok(())
            }
        }
    }

    /// Ends it if it is `owner`'s; the caller wakes those that wait.
    pub fn end(&self, owner: DomainId) -> Option<Server> {
        let mut inner = self.0.lock();
        if inner.server.as_ref()?.owner == owner { inner.server.take() } else { None }
    }

    /// Ends it for good: the domain is at its end.
    pub fn close(&self) -> Option<Server> {
        let mut inner = self.0.lock();
        inner.closed = true;
        inner.server.take()
    }

    /// Whether it is `owner`'s.
    pub fn check(&self, owner: DomainId) -> Result<()> {
        let is_owner = self.0.lock().server.as_ref().is_some_and(|server| server.owner == owner);
        if is_owner { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// Hands an access over, if somebody emulates the port: whom to tell, and by which port.
    pub fn publish<M: PhysMemory>(
        &self,
        memory: &M,
        vcpu: VcpuId,
        access: PortAccess,
    ) -> Option<(DomainId, Port)> {
        let inner = self.0.lock();
        let server = inner.server.as_ref()?;
        if !server.ranges.iter().any(|range| range.contains(access.port)) {
            return None;
        }
        let request = Ioreq::port(access.port, access.bytes, access.value);
        let record = server.record(vcpu);
        memory.write(record, request.as_bytes());
        // From here on it is the emulator's.
        let ready = request.in_state(state::READY).control();
        memory.u32_at(HostPhys::new(record.raw() + Ioreq::CONTROL)).store(ready, Ordering::Release);
        Some((server.owner, server.port))
    }

    /// Looks for the answer to an access of this vCPU.
    pub fn answer<M: PhysMemory>(&self, memory: &M, vcpu: VcpuId) -> Answer {
        let inner = self.0.lock();
        let Some(server) = &inner.server else { return Answer::Nobody };
        let record = server.record(vcpu);
        let control = memory.u32_at(HostPhys::new(record.raw() + Ioreq::CONTROL));
        if Ioreq::state(control.load(Ordering::Acquire)) != state::ANSWERED {
            return Answer::Waits;
        }
        let data = HostPhys::new(record.raw() + core::mem::offset_of!(Ioreq, data) as u64);
        Answer::Done(memory.u32_at(data).load(Ordering::Relaxed))
    }
}
