//! The bridge: the guests' network interfaces, joined with each other and with the machine's network card.
//!
//! One task moves all packets. An interface is looked after like a disk: its front end's state is watched in the store.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::Poll;

use pv_abi::manifest::DomainConfig;
use pv_abi::{DomainId, Errno, Port};
use pv_drivers::net::{BackOptions, Bridge, Mac, NetBack, NoUplink, PortId, Progress, UPLINK, Uplink};
use pv_drivers::platform::Platform as _;
use pv_drivers::xenbus::{self, Backend, DeviceSpec};
use pv_drivers::xs::{LocalStore, Store};
use spin::Mutex;

use super::store::Service;
use crate::dev::interrupt::Interrupt;
use crate::dev::{e1000, pci, virtio_net};
use crate::task::{self, signal::Signal};
use crate::xen::events;
use crate::xen::platform::{Pages, Xen};
use crate::{cmdline, net};

/// Any kind of way out.
type AnyUplink = Box<dyn Uplink<Pages>>;
/// Packets moved before other tasks get their turn.
const BUDGET: usize = 512;
/// The number of this domain's own address, which no guest's interface has.
const OWN_NUMBER: u32 = 0xff;
/// The period of a rate limit, in nanoseconds.
const RATE_PERIOD: u64 = 50_000_000;

struct Interface {
    port: PortId,
    domain: DomainId,
    dir: String,
    name: String,
}

/// The bridge and what is joined by it.
pub struct Network {
    own: DomainId,
    store: Arc<Service>,
    bridge: Mutex<Bridge<Xen, AnyUplink>>,
    interrupt: Option<Interrupt>,
    interfaces: Mutex<Vec<Interface>>,
    client: Mutex<LocalStore>,
    /// Something is to be done: an interface's event came, or somebody changed something here.
    work: &'static Signal,
}

/// Starts the first network card that there is a driver for.
fn find_uplink() -> (AnyUplink, Option<Interrupt>) {
    for function in &pci::functions() {
        let (kind, started) = if virtio_net::is_nic(function) {
            ("virtio", start_virtio(function))
        } else if e1000::is_nic(function) {
            ("e1000", start_e1000(function))
        } else {
            continue;
        };
        match started {
            Ok((uplink, mac, interrupt)) => {
                log::info!("uplink: {kind} {}, {mac}", function.address);
                events::listen(interrupt.port(), "uplink");
                return (uplink, Some(interrupt));
            }
            Err(why) => log::error!("the network card at {} is not used: {why}", function.address),
        }
    }
    (Box::new(NoUplink), None)
}

/// A card at work, its address, and its interrupt.
type Started = (AnyUplink, Mac, Interrupt);

fn start_virtio(function: &pci::Function) -> Result<Started, String> {
    let interrupt = Interrupt::msix(function, 0).map_err(|error| format!("its interrupt: {error}"))?;
    let nic = virtio_net::VirtioNet::new(function)?;
    let mac = Mac::new(nic.mac());
    Ok((Box::new(nic), mac, interrupt))
}

fn start_e1000(function: &pci::Function) -> Result<Started, String> {
    let line = function.interrupt_line().ok_or("it has no interrupt line")?;
    let interrupt =
        Interrupt::gsi(line.into(), true).map_err(|error| format!("its interrupt {line}: {error}"))?;
    let nic = e1000::start(function)?;
    let mac = nic.mac();
    Ok((Box::new(nic), mac, interrupt))
}

/// The address of a guest's interface, if the manifest gives none: locally administered, of Xen's kind.
fn default_mac(domain: DomainId, number: u32) -> [u8; 6] {
    let [high, low] = domain.raw().to_be_bytes();
    [0x02, 0x16, 0x3e, high, low, number as u8]
}

/// Puts this domain itself on its bridge: `ip=` on the command line says with which address.
fn join(
    own: DomainId,
    bridge: &mut Bridge<Xen, AnyUplink>,
    work: &'static Signal,
) -> Result<(), pv_abi::Errno> {
    let mac = default_mac(own, OWN_NUMBER);
    let (link, card) = net::local::pair(mac, work)?;
    bridge.add_card(Mac::new(mac), Box::new(card))?;
    net::start(Box::new(link));
    Ok(())
}

impl Network {
    /// Finds the machine's network card and makes the bridge.
    ///
    /// # Errors
    /// Out of memory.
    pub fn find(own: DomainId, store: Arc<Service>) -> Result<Arc<Self>, pv_abi::Errno> {
        let (uplink, interrupt) = find_uplink();
        let mut bridge = Bridge::new(&Xen, uplink)?;
        let work: &'static Signal = Box::leak(Box::default());
        if cmdline::value("ip").is_some() {
            join(own, &mut bridge, work)?;
        }
        let client = Mutex::new(store.client());
        Ok(Arc::new(Self {
            own,
            store,
            bridge: Mutex::new(bridge),
            interrupt,
            interfaces: Mutex::new(Vec::new()),
            client,
            work,
        }))
    }

    /// The interfaces, a line each.
    pub fn list(&self) -> Vec<String> {
        let mut bridge = self.bridge.lock();
        let mut lines = Vec::new();
        for interface in self.interfaces.lock().iter() {
            let Some(vif) = bridge.vif(interface.port) else { continue };
            let state = match vif.failure() {
                Some(reason) => format!("given up: {reason}"),
                None if vif.has_link() => "connected".to_string(),
                None if vif.is_connected() => "connected, without a link".to_string(),
                None => "waiting".to_string(),
            };
            lines.push(format!("{} {}: {state}; {:?}", interface.domain, interface.name, vif.counters()));
        }
        if !lines.is_empty() {
            lines.push(format!("bridge: {:?}", bridge.counters()));
            if let Some(uplink) = bridge.uplink().filter(|uplink| uplink.is_up()) {
                lines.push(format!("uplink: {:?}", uplink.counters()));
            }
        }
        lines
    }

    /// The addresses that the bridge knows, a line each.
    pub fn addresses(&self) -> Vec<String> {
        let bridge = self.bridge.lock();
        let interfaces = self.interfaces.lock();
        let name = |port: PortId| match interfaces.iter().find(|interface| interface.port == port) {
            Some(interface) => interface.name.as_str(),
            None if port == UPLINK => "uplink",
            None => "dom0",
        };
        let now = Xen.now();
        let entries = bridge.table().entries().map(|(mac, port, seen)| match seen {
            None => format!("{mac} {} static", name(port)),
            Some(seen) => format!("{mac} {} seen {} s ago", name(port), now.since(seen) / 1_000_000_000),
        });
        entries.collect()
    }

    /// An interface by its name, such as `vif1.0`.
    fn interface(&self, name: &str) -> Option<PortId> {
        self.interfaces.lock().iter().find(|interface| interface.name == name).map(|interface| interface.port)
    }

    /// Enters an address that stays behind an interface, or behind the `uplink`.
    ///
    /// # Errors
    /// There is no such interface, or what [`Bridge::add_static`] says.
    pub fn add_static(&self, mac: Mac, name: &str) -> Result<(), Errno> {
        let port = if name == "uplink" { UPLINK } else { self.interface(name).ok_or(Errno::ENOENT)? };
        self.bridge.lock().add_static(mac, port)
    }

    /// Forgets an address.
    ///
    /// # Errors
    /// What [`Bridge::forget`] says.
    pub fn forget(&self, mac: Mac) -> Result<(), Errno> {
        self.bridge.lock().forget(mac)
    }

    /// Plugs the cable of an interface in or out.
    ///
    /// # Errors
    /// `ENOENT` when there is no such interface, or what the store says.
    pub fn set_link(&self, name: &str, is_up: bool) -> Result<(), Errno> {
        let port = self.interface(name).ok_or(Errno::ENOENT)?;
        let mut bridge = self.bridge.lock();
        let vif = bridge.vif(port).ok_or(Errno::ENOENT)?;
        vif.set_carrier(&mut *self.client.lock(), is_up)?;
        drop(bridge);
        self.store.touched();
        Ok(())
    }

    /// Makes the interfaces of a new guest.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn create(&self, domain: DomainId, config: &DomainConfig<'_>) -> Result<(), String> {
        for (number, vif) in (0..).zip(config.vifs()) {
            let name = format!("vif{}.{number}", domain.raw());
            let failed = |error| format!("{name}: {error}");
            let mac = vif.mac.unwrap_or_else(|| default_mac(domain, number));
            let mac_text = mac.map(|byte| format!("{byte:02x}")).join(":");
            let mtu = vif.mtu.unwrap_or(1500).to_string();
            let spec = DeviceSpec {
                kind: "vif",
                number,
                frontend: domain,
                backend: self.own,
                frontend_keys: &[("mac", &mac_text), ("handle", &number.to_string()), ("mtu", &mtu)],
                backend_keys: &[("mac", &mac_text), ("handle", &number.to_string()), ("bridge", "bridge")],
            };
            let mut client = self.client.lock();
            xenbus::create_device(&mut *client, &spec).map_err(failed)?;
            let dir = xenbus::backend_dir(self.own, "vif", domain, number);
            let ends = Backend::open(&mut *client, &dir).map_err(failed)?;
            ends.watch_peer(&mut *client, &dir).map_err(failed)?;
            let options = BackOptions {
                antispoof: vif.antispoof,
                addresses: vif.addresses().collect(),
                rate: vif.rate.map(|bytes| ((bytes / (1_000_000_000 / RATE_PERIOD)).max(1), RATE_PERIOD)),
                ..BackOptions::default()
            };
            let back = NetBack::new(&Xen, &mut *client, ends, options).map_err(failed)?;
            drop(client);
            let port = self.bridge.lock().add(back).map_err(|error| match error {
                Errno::EEXIST => format!("{name}: another interface has {mac_text}"),
                error => failed(error),
            })?;
            self.interfaces.lock().push(Interface { port, domain, dir, name });
        }
        self.store.touched();
        self.work.raise();
        Ok(())
    }

    /// Takes a guest's interfaces away.
    pub fn remove(&self, domain: DomainId) {
        let mut gone = Vec::new();
        self.interfaces.lock().retain_mut(|interface| {
            let stays = interface.domain != domain;
            if !stays {
                gone.push(interface.port);
            }
            stays
        });
        for port in gone {
            let removed = self.bridge.lock().remove(port);
            if let Some(vif) = removed {
                let mut client = self.client.lock();
                vif.ends().unwatch_peer(&mut *client, vif.ends().dir());
            }
        }
    }

    /// Serves for ever.
    pub async fn serve(self: Arc<Self>) {
        let (mut seen_store, mut seen_work) = (0, 0);
        loop {
            let (mut has_interrupted, mut has_changed) = (false, false);
            poll_fn(|cx| {
                has_changed |= self.store.changed().poll_changed(&mut seen_store, cx).is_ready();
                let mut ready = has_changed;
                ready |= self.work.poll_changed(&mut seen_work, cx).is_ready();
                if let Some(interrupt) = &self.interrupt {
                    has_interrupted |= events::poll_wait(interrupt.port(), cx).is_ready();
                }
                ready |= has_interrupted;
                if ready { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            if let Some(interrupt) = self.interrupt.as_ref().filter(|_| has_interrupted) {
                if let Some(uplink) = self.bridge.lock().uplink() {
                    uplink.acknowledge();
                }
                interrupt.end();
            }
            if has_changed {
                self.follow_store();
            }
            loop {
                let (progress, wants_store) = {
                    let mut bridge = self.bridge.lock();
                    (bridge.poll(BUDGET), bridge.wants_store())
                };
                if wants_store {
                    self.on_store(|_| true);
                }
                match progress {
                    Progress::Idle => break,
                    Progress::More => task::yield_now().await,
                    Progress::Wake(at) => {
                        let this = self.clone();
                        task::spawn(async move {
                            task::sleep_until(at.raw()).await;
                            this.work.raise();
                        });
                        break;
                    }
                }
            }
        }
    }

    /// Lets interfaces look at the store if their front ends changed something there.
    fn follow_store(&self) {
        let mut dirs: Vec<String> = Vec::new();
        while let Some(event) = self.client.lock().next_event() {
            dirs.push(event.token);
        }
        if !dirs.is_empty() {
            self.on_store(|dir| dirs.iter().any(|other| other == dir));
        }
    }

    fn on_store(&self, wanted: impl Fn(&str) -> bool) {
        let mut bridge = self.bridge.lock();
        for interface in self.interfaces.lock().iter().filter(|interface| wanted(&interface.dir)) {
            let Some(vif) = bridge.vif(interface.port) else { continue };
            let before: Vec<Port> = vif.ports().collect();
            vif.on_store(&mut *self.client.lock());
            for port in vif.ports().filter(|port| !before.contains(port)) {
                events::raise_on(port, "netback", self.work);
            }
        }
        drop(bridge);
        self.store.touched();
    }
}
