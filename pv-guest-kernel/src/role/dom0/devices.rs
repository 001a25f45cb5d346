//! The machine's disks, and the back ends that serve them to guests.
//!
//! One task does all the work: when a disk's interrupt, a guest's event or the store calls, it polls every back end
//! until none has anything to do. A disk may have several users, and whoever asks it first takes everybody's
//! completions: so all of its users are polled, not only the one that was called.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::Poll;

use pv_abi::DomainId;
use pv_abi::io::blkif;
use pv_abi::manifest::{Disk, DiskSource, DomainConfig};
use pv_drivers::blk::{BlkBack, BlockDevice, MemoryDisk, Options, Progress, SECTOR_SIZE, SharedDisk, Slice};
use pv_drivers::xenbus::{self, Backend, DeviceSpec};
use pv_drivers::xs::{LocalStore, Store};
use spin::Mutex;

use super::emulated::Emulator;
use super::local_disk::LocalDisk;
use super::store::Service;
use crate::dev::interrupt::Interrupt;
use crate::dev::{ide_disk, pci, virtio_disk};
use crate::task::signal::Signal;
use crate::xen::events;
use crate::xen::platform::{Pages, Xen};

/// Any kind of disk.
pub type AnyDisk = Box<dyn BlockDevice<Pages>>;
/// The numbers of guests' disks: major 202 (xvd), a minor of 16 for each (Linux's `Documentation/admin-guide/devices.txt`).
const MAJOR_XVD: u32 = 202 << 8;
const MINORS: u32 = 16;
/// Disks of one guest at most.
const MOST_DISKS: u32 = 16;
/// Rounds over all back ends before other tasks get their turn.
const ROUNDS: usize = 64;

struct MachineDisk {
    kind: String,
    shared: SharedDisk<AnyDisk>,
    interrupt: Arc<Interrupt>,
}

struct Served {
    back: BlkBack<Xen, Slice<AnyDisk>>,
    domain: DomainId,
    /// The number among the guest's disks, and what it shows.
    name: String,
}

/// The machine's disks and what is made of them.
pub struct Devices {
    own: DomainId,
    store: Arc<Service>,
    disks: Vec<MachineDisk>,
    served: Mutex<Vec<Served>>,
    emulated: Mutex<Vec<Emulator>>,
    local: Vec<Arc<LocalDisk>>,
    client: Mutex<LocalStore>,
    /// Back ends came or went, or a local request waits.
    work: Arc<Signal>,
}

fn letter(number: u32) -> char {
    char::from(b'a' + u8::try_from(number % 26).unwrap_or(0))
}

/// Starts every disk on the bus.
fn find_disks() -> Vec<MachineDisk> {
    let mut disks = Vec::new();
    for function in pci::functions() {
        if virtio_disk::is_disk(&function) {
            let started = Interrupt::msix(&function, 0)
                .map_err(|error| format!("its interrupt: {error}"))
                .and_then(|interrupt| Ok((interrupt, virtio_disk::VirtioDisk::new(&function)?)));
            match started {
                Ok((interrupt, disk)) => {
                    let kind = format!("virtio {}", function.address);
                    add_disk(&mut disks, kind, Box::new(disk), &Arc::new(interrupt));
                }
                Err(why) => log::error!("the disk at {} is not used: {why}", function.address),
            }
        } else if ide_disk::is_controller(&function) {
            for channel in ide_disk::find(&function) {
                match Interrupt::gsi(channel.gsi, false) {
                    Ok(interrupt) => {
                        let interrupt = Arc::new(interrupt);
                        for disk in channel.disks {
                            let kind = format!("IDE {} line {}", function.address, channel.gsi);
                            add_disk(&mut disks, kind, Box::new(disk), &interrupt);
                        }
                    }
                    Err(error) => log::error!("IDE disks on line {} are not used: {error}", channel.gsi),
                }
            }
        }
    }
    disks
}

fn add_disk(disks: &mut Vec<MachineDisk>, kind: String, disk: AnyDisk, interrupt: &Arc<Interrupt>) {
    let geometry = disk.geometry();
    let note = if geometry.is_read_only { ", read-only" } else { "" };
    log::info!("disk {}: {kind}, {} MiB{note}", disks.len(), geometry.sectors >> 11);
    events::listen(interrupt.port(), "disk");
    disks.push(MachineDisk { kind, shared: SharedDisk::new(disk), interrupt: interrupt.clone() });
}

impl Devices {
    /// Finds the machine's devices.
    pub fn find(own: DomainId, store: Arc<Service>) -> Arc<Self> {
        let disks = find_disks();
        let work = Arc::new(Signal::new());
        let mut local = Vec::new();
        for (number, disk) in disks.iter().enumerate() {
            match disk.shared.whole(false) {
                Ok(slice) => {
                    let name = format!("disk{number}");
                    local.push(LocalDisk::register(name, disk.kind.clone(), slice, work.clone()));
                }
                Err(error) => log::error!("disk {number}: {error}"),
            }
        }
        let client = Mutex::new(store.client());
        Arc::new(Self {
            own,
            store,
            disks,
            served: Mutex::default(),
            emulated: Mutex::default(),
            local,
            client,
            work,
        })
    }

    /// The back ends, a line each.
    pub fn list(&self) -> Vec<String> {
        let served = self.served.lock();
        served
            .iter()
            .map(|device| {
                let c = device.back.counters();
                let state = match device.back.failure() {
                    Some(reason) => format!("given up: {reason}"),
                    None if device.back.is_connected() => "connected".to_string(),
                    None => "waiting".to_string(),
                };
                format!(
                    "{} {}: {state}; {} requests ({} merged, {} failed), {} to the disk, {} copies, {} maps, {} events",
                    device.domain,
                    device.name,
                    c.requests,
                    c.merged,
                    c.errors,
                    c.device_requests,
                    c.copies,
                    c.maps,
                    c.notifications
                )
            })
            .collect()
    }

    fn open(&self, disk: &Disk) -> Result<Vec<(String, Slice<AnyDisk>)>, String> {
        let of_machine = |number: usize| -> Result<_, String> {
            let there = self.disks.get(number).ok_or_else(|| match self.disks.len() {
                0 => "the machine has no disk".to_string(),
                count => format!("the machine has no disk {number}, only {count}"),
            })?;
            let slice = match disk.range {
                None => there.shared.whole(disk.read_only),
                Some((start, length)) => {
                    let unit = SECTOR_SIZE as u64;
                    there.shared.slice(start / unit, length / unit, disk.read_only)
                }
            };
            slice
                .map(|slice| (format!("{} of {}", disk_text(disk), there.kind), slice))
                .map_err(|error| format!("disk {number}: {error}"))
        };
        match disk.source {
            DiskSource::Machine => (0..self.disks.len()).map(of_machine).collect(),
            DiskSource::MachineDisk(number) => of_machine(number as usize).map(|one| alloc::vec![one]),
            DiskSource::Memory(bytes) => {
                let memory = MemoryDisk::new(&Xen, bytes, disk.read_only)
                    .map_err(|_| format!("no memory for a disk of {} MiB", bytes >> 20))?;
                let slice = SharedDisk::new(Box::new(memory) as AnyDisk)
                    .whole(disk.read_only)
                    .map_err(|error| error.to_string())?;
                Ok(alloc::vec![(format!("memory, {} MiB", bytes >> 20), slice)])
            }
        }
    }

    /// Makes the devices of a new guest.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn create(&self, domain: DomainId, config: &DomainConfig<'_>) -> Result<(), String> {
        let mut number = 0;
        for disk in config.disks() {
            if disk.emulated {
                let DiskSource::Memory(bytes) = disk.source else { continue };
                let emulator = Emulator::start(domain, config.vcpus, bytes, disk.read_only)?;
                self.emulated.lock().push(emulator);
                continue;
            }
            for (what, slice) in self.open(&disk)? {
                if number == MOST_DISKS {
                    return Err(format!("a guest has {MOST_DISKS} disks at most"));
                }
                self.serve_disk(domain, number, &what, disk.read_only, slice)?;
                number += 1;
            }
        }
        self.store.touched();
        self.work.raise();
        Ok(())
    }

    fn serve_disk(
        &self,
        domain: DomainId,
        number: u32,
        what: &str,
        read_only: bool,
        slice: Slice<AnyDisk>,
    ) -> Result<(), String> {
        let device = MAJOR_XVD + number * MINORS;
        let name = format!("xvd{}", letter(number));
        let device_text = device.to_string();
        let mode = if read_only || slice.geometry().is_read_only { "r" } else { "w" };
        let spec = DeviceSpec {
            kind: "vbd",
            number: device,
            frontend: domain,
            backend: self.own,
            frontend_keys: &[(blkif::key::VIRTUAL_DEVICE, &device_text), ("device-type", "disk")],
            backend_keys: &[("mode", mode), ("dev", &name), ("params", what), ("removable", "0")],
        };
        let mut client = self.client.lock();
        let failed = |error| format!("{name}: {error}");
        xenbus::create_device(&mut *client, &spec).map_err(failed)?;
        let dir = xenbus::backend_dir(self.own, "vbd", domain, device);
        let ends = Backend::open(&mut *client, &dir).map_err(failed)?;
        ends.watch_peer(&mut *client, &dir).map_err(failed)?;
        let back = BlkBack::new(&Xen, &mut *client, ends, slice, Options::default()).map_err(failed)?;
        drop(client);
        self.served.lock().push(Served { back, domain, name: format!("{name} ({what})") });
        Ok(())
    }

    /// Takes a guest's devices away. Its memory is let go as soon as no device uses it.
    pub fn remove(&self, domain: DomainId) {
        self.emulated.lock().retain(|emulator| emulator.domain() != domain);
        let mut gone = Vec::new();
        let mut served = self.served.lock();
        let mut index = 0;
        while index < served.len() {
            if served[index].domain == domain {
                gone.push(served.swap_remove(index));
            } else {
                index += 1;
            }
        }
        drop(served);
        let mut client = self.client.lock();
        for device in &gone {
            let ends = device.back.ends();
            ends.unwatch_peer(&mut *client, ends.dir());
        }
        drop(client);
        drop(gone);
    }

    /// Serves for ever.
    pub async fn serve(self: Arc<Self>) {
        let (mut seen_store, mut seen_work) = (0, 0);
        loop {
            poll_fn(|cx| {
                let mut ready = self.store.changed().poll_changed(&mut seen_store, cx).is_ready();
                ready |= self.work.poll_changed(&mut seen_work, cx).is_ready();
                for disk in &self.disks {
                    ready |= events::poll_wait(disk.interrupt.port(), cx).is_ready();
                }
                for device in self.served.lock().iter() {
                    for port in device.back.ports() {
                        ready |= events::poll_wait(port, cx).is_ready();
                    }
                }
                if ready { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            self.follow_store();
            self.pump().await;
        }
    }

    /// Lets back ends look at the store if their front ends changed something there.
    fn follow_store(&self) {
        let mut client = self.client.lock();
        let mut dirs: Vec<String> = Vec::new();
        while let Some(event) = client.next_event() {
            if !dirs.contains(&event.token) {
                dirs.push(event.token);
            }
        }
        if dirs.is_empty() {
            return;
        }
        for device in self.served.lock().iter_mut() {
            if dirs.iter().any(|dir| dir == device.back.ends().dir()) {
                Self::on_store(device, &mut client);
            }
        }
        drop(client);
        self.store.touched();
    }

    fn on_store(device: &mut Served, client: &mut LocalStore) {
        let before: Vec<_> = device.back.ports().collect();
        device.back.on_store(client);
        for port in device.back.ports().filter(|port| !before.contains(port)) {
            events::listen(port, "blkback");
        }
    }

    /// Polls until nothing is left to do.
    async fn pump(&self) {
        loop {
            let mut again = self.poll_round();
            for _ in 1..ROUNDS {
                if !again {
                    break;
                }
                again = self.poll_round();
            }
            for disk in &self.disks {
                disk.interrupt.end();
            }
            if !again {
                return;
            }
            crate::task::yield_now().await;
        }
    }

    fn poll_round(&self) -> bool {
        let mut again = false;
        let mut wrote = false;
        for disk in &self.local {
            again |= disk.poll();
        }
        for device in self.served.lock().iter_mut() {
            match device.back.poll() {
                Progress::Idle => {}
                Progress::More => again = true,
                Progress::Store => {
                    Self::on_store(device, &mut self.client.lock());
                    wrote = true;
                }
            }
        }
        if wrote {
            self.store.touched();
        }
        again
    }
}

fn disk_text(disk: &Disk) -> String {
    match disk.range {
        None => "all".to_string(),
        Some((start, length)) => format!("{length} bytes from {start}"),
    }
}
