//! Front end against back end, over the mock machine.

mod closing;
mod data;
mod hostile_back;
mod hostile_front;
mod narrow;
mod order;
mod queues;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex as StdMutex};
use std::vec::Vec;

use pv_abi::ids::DomainId;
use spin::Mutex;

use super::*;
use crate::mock::{Domain, Machine, Memory};
use crate::platform::Platform;
use crate::xenbus::{Backend, DeviceSpec, DomainSpec, Frontend, create_device, create_domain, frontend_dir};
use crate::xs::{LocalStore, Quota, Server, Store};

const GUEST: DomainId = DomainId::new(1);
const MIB: u64 = 1 << 20;

/// What a slow disk was asked, and what it has still to say.
#[derive(Default)]
struct SlowState {
    log: Vec<(Operation, u64, u64)>,
    done: VecDeque<(Tag, Result<(), BlockError>)>,
    ready: usize,
    bad_sector: Option<u64>,
    starts: usize,
}

/// A disk whose answers come when the test says so.
#[derive(Clone)]
struct SlowDisk {
    disk: Arc<StdMutex<MemoryDisk<Memory>>>,
    state: Arc<StdMutex<SlowState>>,
    room: usize,
    max_pieces: usize,
}

impl SlowDisk {
    fn new(platform: &Domain, bytes: u64) -> Self {
        let disk = MemoryDisk::new(platform, bytes, false).unwrap();
        Self { disk: Arc::new(StdMutex::new(disk)), state: Arc::default(), room: 1000, max_pieces: 1000 }
    }

    /// Lets so many requests end.
    fn release(&self, count: usize) {
        let mut state = self.state.lock().unwrap();
        state.ready = (state.ready + count).min(state.done.len());
    }

    fn running(&self) -> usize {
        self.state.lock().unwrap().done.len()
    }

    fn log(&self) -> Vec<(Operation, u64, u64)> {
        self.state.lock().unwrap().log.clone()
    }
}

impl BlockDevice<Memory> for SlowDisk {
    fn geometry(&self) -> Geometry {
        Geometry { max_pieces: self.max_pieces, ..self.disk.lock().unwrap().geometry() }
    }

    fn room(&self) -> usize {
        self.room - self.running()
    }

    fn submit(&mut self, tag: Tag, request: &Request<'_, Memory>) -> Result<Submitted, BlockError> {
        assert!(self.room() > 0, "submitted without room");
        assert!(request.pieces.len() <= self.max_pieces);
        let mut state = self.state.lock().unwrap();
        state.log.push((request.operation, request.sector, request.count));
        let range = request.sector..request.sector + request.count;
        let result = match state.bad_sector {
            Some(bad) if range.contains(&bad) => Err(BlockError::Io),
            _ => self.disk.lock().unwrap().submit(tag, request).map(|_| ()),
        };
        state.done.push_back((tag, result));
        Ok(Submitted::Running)
    }

    fn start(&mut self) {
        self.state.lock().unwrap().starts += 1;
    }

    fn poll(&mut self, done: &mut dyn FnMut(Tag, Result<(), BlockError>)) {
        let mut state = self.state.lock().unwrap();
        while state.ready > 0 {
            state.ready -= 1;
            let (tag, result) = state.done.pop_front().unwrap();
            done(tag, result);
        }
    }

    fn location(&self, _sector: u64, _count: u64) -> Option<Location> {
        None
    }
}

/// A guest and a driver domain with one disk between them.
struct Rig<D: BlockDevice<Memory>> {
    machine: Machine,
    guest: Domain,
    dom0: Domain,
    guest_store: LocalStore,
    dom0_store: LocalStore,
    front: BlkFront<Domain>,
    back: BlkBack<Domain, D>,
    /// Events that reached each end.
    front_events: u64,
    back_events: u64,
}

fn stores() -> (LocalStore, LocalStore) {
    let server = Arc::new(Mutex::new(Server::new(Quota::default())));
    let mut dom0_store = LocalStore::new(&server, DomainId::DOM0);
    let spec = DomainSpec { domain: GUEST, name: "guest", memory_kib: 1024, vcpus: 1 };
    create_domain(&mut dom0_store, &spec).unwrap();
    (LocalStore::unprivileged(&server, GUEST), dom0_store)
}

fn add_disk(store: &mut dyn Store, mode: &str) {
    let spec = DeviceSpec {
        kind: "vbd",
        number: 51712,
        frontend: GUEST,
        backend: DomainId::DOM0,
        frontend_keys: &[],
        backend_keys: &[("mode", mode)],
    };
    create_device(store, &spec).unwrap();
}

fn open_back<D: BlockDevice<Memory>>(
    dom0: &Domain,
    store: &mut dyn Store,
    disk: D,
    options: Options,
) -> BlkBack<Domain, D> {
    let dir = crate::xenbus::backend_dir(DomainId::DOM0, "vbd", GUEST, 51712);
    let ends = Backend::open(store, &dir).unwrap();
    BlkBack::new(dom0, store, ends, disk, options).unwrap()
}

impl<D: BlockDevice<Memory>> Rig<D> {
    fn new(make: impl FnOnce(&Domain) -> D, options: Options, front_options: FrontOptions) -> Self {
        let machine = Machine::new();
        let (guest, dom0) = (machine.domain(GUEST.raw()), machine.domain(0));
        let (mut guest_store, mut dom0_store) = stores();
        add_disk(&mut dom0_store, "w");
        let disk = make(&dom0);
        let back = open_back(&dom0, &mut dom0_store, disk, options);
        let ends = Frontend::open(&mut guest_store, &frontend_dir(GUEST, "vbd", 51712)).unwrap();
        let front = BlkFront::new(&guest, ends, front_options);
        let mut rig = Self {
            machine,
            guest,
            dom0,
            guest_store,
            dom0_store,
            front,
            back,
            front_events: 0,
            back_events: 0,
        };
        rig.talk();
        assert_eq!(rig.front.state(), FrontState::Connected, "{:?}", rig.back.failure());
        assert!(rig.back.is_connected());
        rig
    }

    /// Lets both ends follow the store.
    fn talk(&mut self) {
        for _ in 0..8 {
            self.front.on_store(&mut self.guest_store);
            self.back.on_store(&mut self.dom0_store);
        }
    }

    /// Delivers events until there are none. Ends run only when they were told to.
    fn run(&mut self) {
        for _ in 0..10_000 {
            let mut busy = false;
            // Every port is looked at: each event is counted.
            let back = self.back.ports().filter(|port| self.dom0.take_event(*port)).count() as u64;
            if back > 0 {
                self.back_events += back;
                while self.back.poll() == Progress::More {}
                busy = true;
            }
            let front = self.front.ports().filter(|port| self.guest.take_event(*port)).count() as u64;
            if front > 0 {
                self.front_events += front;
                self.front.poll();
                busy = true;
            }
            if !busy {
                return;
            }
        }
        panic!("the two ends never come to rest");
    }

    /// The device has fired.
    fn device_event(&mut self) {
        while self.back.poll() == Progress::More {}
        self.run();
    }

    fn read(&mut self, sector: u64, len: usize) -> Result<Vec<u8>, BlockError> {
        let buffer = self.front.buffer(len).unwrap();
        let id = self.front.read(sector, buffer).map_err(|error| error.error.unwrap())?;
        let completion = self.finish(id);
        completion.result?;
        let mut bytes = std::vec![0; len];
        assert_eq!(completion.buffer.unwrap().copy_out(0, &mut bytes), len);
        Ok(bytes)
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<(), BlockError> {
        let mut buffer = self.front.buffer(bytes.len()).unwrap();
        assert_eq!(buffer.copy_in(0, bytes), bytes.len());
        let id = self.front.write(sector, buffer).map_err(|error| error.error.unwrap())?;
        self.finish(id).result
    }

    fn finish(&mut self, id: RequestId) -> Completion<Domain> {
        self.front.kick();
        self.run();
        let completion = self.front.next_completion().expect("the request is done");
        assert_eq!(completion.id, id);
        completion
    }
}

impl Rig<MemoryDisk<Memory>> {
    fn memory(options: Options, front_options: FrontOptions) -> Self {
        Self::new(|dom0| MemoryDisk::new(dom0, MIB, false).unwrap(), options, front_options)
    }
}

impl Rig<SlowDisk> {
    fn slow(options: Options, front_options: FrontOptions) -> (Self, SlowDisk) {
        let mut made = None;
        let rig = Self::new(
            |dom0| {
                let disk = SlowDisk::new(dom0, MIB);
                made = Some(disk.clone());
                disk
            },
            options,
            front_options,
        );
        (rig, made.unwrap())
    }
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}
