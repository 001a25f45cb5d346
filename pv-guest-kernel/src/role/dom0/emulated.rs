//! Emulated ATA disks: register by register, an exit of the guest's and a switch to this domain for each access.
//!
//! Kept to measure paravirtual disks against. The disk itself is `pv_drivers::ata`; here are the page of records
//! through which the hypervisor hands accesses over (`pv_abi::ioreq`), and the task that answers them.
//! Lock rule: the drive's lock is taken for one access, with nothing locked inside.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, Ordering};

use pv_abi::control::{Emulate, PortRange};
use pv_abi::ioreq::{Ioreq, READ, state};
use pv_abi::{DomainId, Gfn, Port, VcpuId};
use pv_drivers::ata::{self, Drive, SECTOR, Sectors};
use pv_drivers::blk::{BlockDevice, MemoryDisk, Operation, Piece, Request, Submitted, Tag};
use pv_drivers::platform::SharedMemory;
use spin::Mutex;

use crate::task;
use crate::xen::platform::{Pages, Xen};
use crate::xen::{events, hv, stub};

const RANGES: [PortRange; 2] = [
    PortRange { first: ata::PORTS, last: ata::PORTS + 7 },
    PortRange { first: ata::CONTROL_PORT, last: ata::CONTROL_PORT },
];

/// Sectors of a disk in this domain's memory, copied through a page.
struct Memory {
    disk: MemoryDisk<Pages>,
    page: Pages,
}

impl Memory {
    fn submit(&mut self, operation: Operation, sector: u64) -> bool {
        let pieces = [Piece { memory: &self.page, offset: 0, len: SECTOR }];
        let request = Request { operation, sector, count: 1, pieces: &pieces };
        matches!(self.disk.submit(Tag(0), &request), Ok(Submitted::Done))
    }
}

impl Sectors for Memory {
    fn count(&self) -> u64 {
        self.disk.geometry().sectors
    }

    fn read(&mut self, sector: u64, into: &mut [u8; SECTOR]) -> bool {
        let done = self.submit(Operation::Read, sector);
        self.page.copy_out(0, into);
        done
    }

    fn write(&mut self, sector: u64, from: &[u8; SECTOR]) -> bool {
        self.page.copy_in(0, from);
        self.submit(Operation::Write, sector)
    }
}

struct Shared {
    domain: DomainId,
    vcpus: u32,
    port: Port,
    records: Pages,
    drive: Mutex<Drive<Memory>>,
    over: AtomicBool,
}

/// The emulated disk of a guest, until it is dropped.
pub struct Emulator(Arc<Shared>);

impl Emulator {
    /// Gives a guest an emulated disk of zeroes.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn start(domain: DomainId, vcpus: u32, bytes: u64, read_only: bool) -> Result<Self, String> {
        let no_memory = |_| format!("no memory for an emulated disk of {} MiB", bytes >> 20);
        let memory = Memory {
            disk: MemoryDisk::new(&Xen, bytes, read_only).map_err(no_memory)?,
            page: Pages::new(1).map_err(no_memory)?,
        };
        let records = Pages::new(1).map_err(no_memory)?;
        let port = events::bind_ipi(0).map_err(|error| format!("an emulated disk's event: {error}"))?;
        events::listen(port, "ata");
        let page: Gfn = records.gfn(0);
        let drive = Mutex::new(Drive::new(memory));
        let shared = Arc::new(Shared { domain, vcpus, port, records, drive, over: AtomicBool::new(false) });
        let emulator = Self(shared.clone());
        let arg = Emulate { domid: domain, pad: 0, port, page, ranges: RANGES };
        stub::control_emulate(hv(), &arg).map_err(|error| format!("emulating a disk: {error}"))?;
        task::spawn(async move { shared.serve().await });
        Ok(emulator)
    }

    /// The guest.
    pub fn domain(&self) -> DomainId {
        self.0.domain
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // With the guest gone, it has ended already.
        let end = Emulate { domid: self.0.domain, port: Port::new(0), ..Emulate::default() };
        let _ = stub::control_emulate(hv(), &end);
        self.0.over.store(true, Ordering::Release);
        events::close(self.0.port);
    }
}

impl Shared {
    async fn serve(&self) {
        while !self.over.load(Ordering::Acquire) {
            for vcpu in 0..self.vcpus {
                self.answer(vcpu);
            }
            events::wait(self.port).await;
        }
    }

    /// Does the access that waits in a vCPU's record, if there is one.
    fn answer(&self, vcpu: u32) {
        let at = vcpu as usize * size_of::<Ioreq>();
        let control = self.records.read_u32(at + Ioreq::CONTROL as usize);
        if Ioreq::state(control) != state::READY {
            return;
        }
        // Only the hypervisor writes here besides this domain.
        let port = self.records.read_u64(at + offset_of!(Ioreq, addr)) as u16;
        let bytes = self.records.read_u32(at + offset_of!(Ioreq, size)) as u8;
        let data = at + offset_of!(Ioreq, data);
        let value = (control & READ == 0).then(|| self.records.read_u64(data) as u32);
        let answer = self.drive.lock().access(port, bytes, value);
        self.records.write_u64(data, answer.into());
        let answered = Ioreq::with_state(control, state::ANSWERED);
        self.records.write_u32(at + Ioreq::CONTROL as usize, answered);
        if let Err(error) = stub::control_emulated(hv(), self.domain, VcpuId::new(vcpu)) {
            log::debug!("an answer to {}: {error}", self.domain);
        }
    }
}
