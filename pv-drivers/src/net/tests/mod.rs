//! Front ends, back ends and the bridge, over the mock machine.

mod bridge;
mod control;
mod e1000;
mod hostile;
mod linux;
mod mapped;
mod offload;
mod peer;
mod staging;
mod traffic;

use std::collections::VecDeque;
use std::format;
use std::string::String;
use std::sync::{Arc, Mutex as StdMutex};
use std::vec::Vec;

use pv_abi::ids::DomainId;
use spin::Mutex;

use super::*;
use crate::mock::{Domain, Machine, Memory};
use crate::platform::{PAGE_SIZE, Platform, SharedMemory};
use crate::xenbus::{
    Backend, DeviceSpec, DomainSpec, Frontend, backend_dir, create_device, create_domain, frontend_dir,
};
use crate::xs::{LocalStore, Quota, Server};

/// A network card whose wire the test holds in its hands.
#[derive(Clone)]
struct Wire {
    state: Arc<StdMutex<WireState>>,
    takes_offloads: bool,
}

struct WireState {
    free: Vec<UplinkBuffer<Memory>>,
    arrived: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
    /// What was still to be done to each.
    offloads: Vec<Offload>,
    starts: usize,
    is_up: bool,
}

impl Wire {
    fn new(platform: &Domain, buffers: usize) -> Self {
        Self::of(platform, buffers, 1, 2048, false)
    }

    /// A stack of this domain's own.
    fn own(platform: &Domain) -> Self {
        Self::of(platform, 8, 17, PACKET_MAX, true)
    }

    fn of(platform: &Domain, buffers: usize, pages: usize, capacity: usize, takes_offloads: bool) -> Self {
        let mut free = Vec::new();
        for token in 0..buffers {
            // Not at the start of a page, as behind a virtio header.
            let memory = Arc::new(platform.allocate(pages).unwrap());
            free.push(UplinkBuffer { memory, offset: 12, capacity, token: token as u64 });
        }
        let state = WireState {
            free,
            arrived: VecDeque::new(),
            sent: Vec::new(),
            offloads: Vec::new(),
            starts: 0,
            is_up: true,
        };
        Self { state: Arc::new(StdMutex::new(state)), takes_offloads }
    }

    fn arrive(&self, packet: &[u8]) {
        self.state.lock().unwrap().arrived.push_back(packet.to_vec());
    }

    fn sent(&self) -> Vec<Vec<u8>> {
        core::mem::take(&mut self.state.lock().unwrap().sent)
    }
}

impl Uplink<Memory> for Wire {
    fn is_up(&self) -> bool {
        self.state.lock().unwrap().is_up
    }

    fn acquire(&mut self) -> Option<UplinkBuffer<Memory>> {
        self.state.lock().unwrap().free.pop()
    }

    fn takes_offloads(&self) -> bool {
        self.takes_offloads
    }

    fn send(&mut self, buffer: UplinkBuffer<Memory>, len: usize, offload: Offload) {
        let mut bytes = std::vec![0; len];
        buffer.memory.copy_out(buffer.offset, &mut bytes);
        let mut state = self.state.lock().unwrap();
        state.sent.push(bytes);
        state.offloads.push(offload);
        state.free.push(buffer);
    }

    fn cancel(&mut self, buffer: UplinkBuffer<Memory>) {
        self.state.lock().unwrap().free.push(buffer);
    }

    fn start(&mut self) {
        self.state.lock().unwrap().starts += 1;
    }

    fn receive(&mut self) -> Option<(UplinkBuffer<Memory>, usize, Offload)> {
        let mut state = self.state.lock().unwrap();
        if state.free.is_empty() {
            return None;
        }
        let bytes = state.arrived.pop_front()?;
        let buffer = state.free.pop()?;
        buffer.memory.copy_in(buffer.offset, &bytes);
        Some((buffer, bytes.len(), Offload::default()))
    }

    fn release(&mut self, buffer: UplinkBuffer<Memory>) {
        self.cancel(buffer);
    }
}

struct Guest {
    domain: Domain,
    store: LocalStore,
    front: NetFront<Domain>,
    port: PortId,
    events: u64,
}

/// Guests on a bridge.
struct Rig {
    machine: Machine,
    dom0: Domain,
    store: LocalStore,
    server: Arc<Mutex<Server>>,
    bridge: Bridge<Domain, Wire>,
    wire: Wire,
    guests: Vec<Guest>,
    back_events: u64,
}

fn mac(guest: u16) -> Mac {
    Mac::new([0x00, 0x16, 0x3e, 0, 0, guest as u8])
}

impl Rig {
    fn new() -> Self {
        let machine = Machine::new();
        let dom0 = machine.domain(0);
        let server = Arc::new(Mutex::new(Server::new(Quota::default())));
        let store = LocalStore::new(&server, DomainId::DOM0);
        let wire = Wire::new(&dom0, 64);
        let bridge = Bridge::new(&dom0, wire.clone()).unwrap();
        Self { machine, dom0, store, server, bridge, wire, guests: Vec::new(), back_events: 0 }
    }

    /// Makes the nodes of an interface, and its back end.
    fn prepare(&mut self, id: u16, options: BackOptions, keys: &[(&str, &str)]) -> PortId {
        let frontend = DomainId::new(id);
        let spec = DomainSpec { domain: frontend, name: "guest", memory_kib: 1024, vcpus: 1 };
        create_domain(&mut self.store, &spec).unwrap();
        let address = format!("{}", mac(id));
        let mut frontend_keys: Vec<(&str, &str)> = std::vec![("mac", &address), ("handle", "0")];
        frontend_keys.extend(keys);
        let spec = DeviceSpec {
            kind: "vif",
            number: 0,
            frontend,
            backend: DomainId::DOM0,
            frontend_keys: &frontend_keys,
            backend_keys: &[("mac", &address), ("handle", "0")],
        };
        create_device(&mut self.store, &spec).unwrap();
        let dir = backend_dir(DomainId::DOM0, "vif", frontend, 0);
        let ends = Backend::open(&mut self.store, &dir).unwrap();
        let back = NetBack::new(&self.dom0, &mut self.store, ends, options).unwrap();
        self.bridge.add(back).unwrap()
    }

    fn add_with(&mut self, id: u16, options: BackOptions, front: NetOptions, keys: &[(&str, &str)]) -> usize {
        let port = self.prepare(id, options, keys);
        let domain = self.machine.domain(id);
        let mut store = LocalStore::unprivileged(&self.server, DomainId::new(id));
        let ends = Frontend::open(&mut store, &frontend_dir(DomainId::new(id), "vif", 0)).unwrap();
        let front = NetFront::new(&domain, ends, front);
        self.guests.push(Guest { domain, store, front, port, events: 0 });
        self.talk();
        let number = self.guests.len() - 1;
        assert_eq!(
            self.guests[number].front.state(),
            NetState::Connected,
            "{:?} {:?}",
            self.guests[number].front.failure(),
            self.bridge.vif(port).unwrap().failure()
        );
        number
    }

    fn add(&mut self, id: u16) -> usize {
        self.add_with(id, BackOptions::default(), NetOptions::default(), &[])
    }

    fn talk(&mut self) {
        for _ in 0..6 {
            for guest in &mut self.guests {
                guest.front.on_store(&mut guest.store);
            }
            for (_, vif) in self.bridge.vifs() {
                vif.on_store(&mut self.store);
            }
        }
    }

    /// Lets the bridge work if one of its ports has fired.
    fn run_bridge(&mut self) -> bool {
        let ports: Vec<_> = self.bridge.ports().collect();
        let fired = ports.into_iter().filter(|port| self.dom0.take_event(*port)).count();
        self.back_events += u64::from(fired > 0);
        if fired > 0 {
            while self.bridge.poll(64) == Progress::More {}
        }
        fired > 0
    }

    /// Delivers events until there are none.
    fn run(&mut self) {
        for _ in 0..10_000 {
            let mut busy = self.run_bridge();
            for guest in &mut self.guests {
                let ports: Vec<_> = guest.front.ports().collect();
                for port in ports {
                    if guest.domain.take_event(port) {
                        guest.events += 1;
                        guest.front.poll();
                        busy = true;
                    }
                }
            }
            if !busy {
                return;
            }
        }
        panic!("never comes to rest");
    }

    fn send(&mut self, guest: usize, packet: &[u8]) {
        self.send_with(guest, packet, Offload::default());
    }

    fn send_with(&mut self, guest: usize, packet: &[u8], offload: Offload) {
        let front = &mut self.guests[guest].front;
        front.send(packet, offload).unwrap();
        front.kick();
        self.run();
    }

    fn received(&mut self, guest: usize) -> Vec<Vec<u8>> {
        let front = &mut self.guests[guest].front;
        core::iter::from_fn(|| front.receive()).map(|frame| frame.bytes).collect()
    }

    fn vif(&mut self, guest: usize) -> &mut NetBack<Domain> {
        let port = self.guests[guest].port;
        self.bridge.vif(port).unwrap()
    }

    /// Closes everything and checks that nothing is left.
    fn end(mut self) {
        for guest in &mut self.guests {
            guest.front.close(&mut guest.store);
        }
        self.talk();
        let domains: Vec<_> = self.guests.iter().map(|guest| guest.domain.clone()).collect();
        let dom0 = self.dom0.clone();
        drop(self);
        for domain in domains.into_iter().chain([dom0]) {
            domain.retry_retired();
            assert_eq!(domain.counts(), crate::mock::Counts::default(), "{}", domain.id);
        }
    }
}

/// An Ethernet packet that is nothing in particular.
fn plain(from: Mac, to: Mac, len: usize, seed: u8) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend_from_slice(&to.bytes());
    packet.extend_from_slice(&from.bytes());
    packet.extend_from_slice(&[0x88, 0xb5]);
    packet.extend((packet.len()..len).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed)));
    packet
}

/// A TCP packet without checksum.
fn tcp(from: Mac, to: Mac, is_v6: bool, payload: usize) -> Vec<u8> {
    let mut packet = plain(from, to, 14, 0);
    let transport = 20 + 12;
    if is_v6 {
        packet[12..14].copy_from_slice(&[0x86, 0xdd]);
        packet.extend([0x60, 0, 0, 0]);
        // A large packet's length is what fits.
        packet.extend(((transport + payload).min(0xffff) as u16).to_be_bytes());
        packet.extend([6, 64]);
        packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    } else {
        packet[12..14].copy_from_slice(&[0x08, 0x00]);
        packet.extend([0x45, 0]);
        packet.extend(((20 + transport + payload) as u16).to_be_bytes());
        packet.extend([0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    }
    // Ports, sequence, acknowledgement, 32 bytes of header, CWR ACK PSH FIN, window, no checksum, no urgency.
    packet.extend([0x30, 0x39, 0, 80, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 0x80, 0x99, 1, 0, 0, 0, 0, 0]);
    packet.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    packet.extend((0..payload).map(|n| (n % 251) as u8));
    packet
}

/// Whether IP and TCP checksums and lengths of a packet are right, computed the plain way.
fn is_sound(packet: &[u8]) -> Result<(), String> {
    let sum = |bytes: &[u8]| {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
        sum
    };
    let fold = |mut sum: u32| {
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum
    };
    let is_v6 = packet[12] == 0x86;
    let transport = if is_v6 { 54 } else { 34 };
    let len = u16::from_be_bytes(if is_v6 { [packet[18], packet[19]] } else { [packet[16], packet[17]] });
    let wanted = if is_v6 { packet.len() - 54 } else { packet.len() - 14 };
    if usize::from(len) != wanted {
        return Err(format!("length {len}, not {wanted}"));
    }
    if !is_v6 && fold(sum(&packet[14..34])) != 0xffff {
        return Err("IP checksum".into());
    }
    let addresses = if is_v6 { &packet[22..54] } else { &packet[26..34] };
    let pseudo = sum(addresses) + 6 + (packet.len() - transport) as u32;
    if fold(pseudo + sum(&packet[transport..])) != 0xffff {
        return Err("TCP checksum".into());
    }
    Ok(())
}
