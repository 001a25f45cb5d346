//! Making guests, watching over them, and taking them apart.
//!
//! A guest is described by a section of the boot bundle's manifest, which the hypervisor knows too: it builds the
//! domain, and this module gives it its store, console and devices, and lets it run.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use pv_abi::control::{Created, DomainInfo, POWER_OFF, state};
use pv_abi::manifest::{Manifest, Start};
use pv_abi::sched::reason;
use pv_abi::{DomainId, Errno, Virq};
use pv_drivers::xenbus::{self, DomainSpec};
use pv_drivers::xs::{Store, TransactionId, path};
use spin::Mutex;

use super::consoles::Consoles;
use super::devices::Devices;
use super::network::Network;
use super::store::Service;
use crate::xen::{events, hv, stub};

/// Status of a guest that crashed.
const CRASHED: i32 = 1;
/// Reboots of one guest without a person asking, before it stays off.
const MOST_REBOOTS: u32 = 16;

struct Guest {
    name: String,
    /// Counts for the end of the machine.
    counts: bool,
    reboots: u32,
}

/// What happens when all guests that count have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Nothing.
    Ever,
    /// The machine ends with the worst of their statuses.
    Guests,
}

/// The toolstack.
pub struct Toolstack {
    manifest: Option<Manifest<'static>>,
    store: Arc<Service>,
    consoles: Arc<Consoles>,
    devices: Arc<Devices>,
    network: Arc<Network>,
    guests: Mutex<BTreeMap<u16, Guest>>,
    until: Until,
    worst: Mutex<i32>,
}

/// The domain with the lowest number from `first` on.
pub fn info(first: u16) -> Option<DomainInfo> {
    let mut info = DomainInfo::default();
    stub::control_info(hv(), DomainId::new(first), &mut info).ok()?;
    Some(info)
}

/// All domains, in the order of their numbers.
pub fn domains() -> Vec<DomainInfo> {
    let mut all = Vec::new();
    let mut first = 0;
    while let Some(info) = info(first) {
        first = info.domid.raw() + 1;
        all.push(info);
    }
    all
}

impl Toolstack {
    /// A toolstack for the guests of this manifest.
    pub fn new(
        manifest: Option<Manifest<'static>>,
        store: Arc<Service>,
        consoles: Arc<Consoles>,
        devices: Arc<Devices>,
        network: Arc<Network>,
        until: Until,
    ) -> Arc<Self> {
        Arc::new(Self {
            manifest,
            store,
            consoles,
            devices,
            network,
            guests: Mutex::new(BTreeMap::new()),
            until,
            worst: Mutex::new(0),
        })
    }

    /// The console service.
    pub fn consoles(&self) -> &Arc<Consoles> {
        &self.consoles
    }

    /// The back ends.
    pub fn devices(&self) -> &Arc<Devices> {
        &self.devices
    }

    /// The bridge.
    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    /// The names of the sections from which a guest can be made.
    pub fn sections(&self) -> Vec<&'static str> {
        let domains = self.manifest.iter().flat_map(|manifest| manifest.domains());
        domains.filter(|config| config.start != Start::Boot).map(|config| config.name).collect()
    }

    /// The domain of this name or number.
    pub fn find(&self, text: &str) -> Option<DomainInfo> {
        let number = text.strip_prefix('d').unwrap_or(text).parse::<u16>().ok();
        domains().into_iter().find(|info| info.name() == text || Some(info.domid.raw()) == number)
    }

    /// Makes and starts every guest that the manifest starts by itself; returns how many.
    pub fn start_all(&self) -> usize {
        let Some(manifest) = &self.manifest else { return 0 };
        let wanted: Vec<_> = manifest.domains().filter(|c| c.start == Start::Auto).map(|c| c.name).collect();
        let mut failed = 0;
        for name in &wanted {
            if let Err(why) = self.create(name) {
                log::error!("{name} could not be started: {why}");
                failed += 1;
            }
        }
        if failed > 0 {
            self.note_status(CRASHED);
        }
        self.end_if_done();
        wanted.len() - failed
    }

    /// Makes and starts a guest.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn create(&self, name: &str) -> Result<DomainId, String> {
        self.create_counted(name, 0)
    }

    fn create_counted(&self, name: &str, reboots: u32) -> Result<DomainId, String> {
        let config = self
            .manifest
            .as_ref()
            .and_then(|manifest| manifest.domain(name))
            .ok_or_else(|| format!("the bundle has no section \"{name}\""))?;
        let mut created = Created::default();
        stub::control_create(hv(), name.as_bytes(), &mut created).map_err(|error| match error {
            Errno::ENOMEM => format!(
                "its {} MiB of memory are more than there is, or less than it needs (see the hypervisor's log)",
                config.memory >> 20
            ),
            Errno::ENOEXEC => {
                "its kernel is not one that starts by the PVH entry (see the hypervisor's log)".to_string()
            }
            Errno::EEXIST => "it runs already".to_string(),
            error => error.to_string(),
        })?;
        let domain = created.domid;
        let prepared = self.prepare(domain, name, &created).and_then(|()| {
            self.devices.create(domain, &config)?;
            self.network.create(domain, &config)?;
            stub::control_unpause(hv(), domain).map_err(|e| format!("unpause: {e}"))
        });
        if let Err(why) = prepared {
            self.take_apart(domain);
            return Err(why);
        }
        let counts = config.start == Start::Auto;
        self.guests.lock().insert(domain.raw(), Guest { name: name.into(), counts, reboots });
        log::info!("{domain} ({name}) is started");
        // The guest may have ended before it was in the list.
        self.look_after();
        Ok(domain)
    }

    fn prepare(&self, domain: DomainId, name: &str, created: &Created) -> Result<(), String> {
        let info = info(domain.raw()).ok_or("it is gone again")?;
        let mut client = self.store.client();
        let spec = DomainSpec { domain, name, memory_kib: info.max_pages * 4, vcpus: info.vcpus };
        xenbus::create_domain(&mut client, &spec).map_err(|e| format!("its directory in the store: {e}"))?;
        self.store.introduce(domain, created.store_port).map_err(|e| format!("its store ring: {e}"))?;
        self.consoles
            .attach(domain, name, created.console_port)
            .map_err(|e| format!("its console ring: {e}"))?;
        self.store.touched();
        Ok(())
    }

    /// Ends a guest at once.
    ///
    /// # Errors
    /// What the hypervisor says.
    pub fn destroy(&self, domain: DomainId) -> Result<(), Errno> {
        if domain == DomainId::DOM0 {
            return Err(Errno::EINVAL);
        }
        let guest = self.guests.lock().remove(&domain.raw());
        stub::control_destroy(hv(), domain)?;
        self.take_apart(domain);
        if guest.is_some_and(|guest| guest.counts) {
            self.note_status(CRASHED);
            self.end_if_done();
        }
        Ok(())
    }

    /// Asks a guest to end itself, through its store.
    ///
    /// # Errors
    /// What the store says.
    pub fn ask(&self, domain: DomainId, what: &str) -> Result<(), Errno> {
        let node = format!("{}/control/shutdown", path::domain_home(domain));
        self.store.client().write(TransactionId::NONE, &node, what.as_bytes())?;
        self.store.touched();
        Ok(())
    }

    fn take_apart(&self, domain: DomainId) {
        self.devices.remove(domain);
        self.network.remove(domain);
        self.consoles.detach(domain);
        self.store.release(domain);
        let mut client = self.store.client();
        let _ = xenbus::remove_domain(&mut client, domain);
        let _ = client.remove(TransactionId::NONE, &format!("backend/vbd/{}", domain.raw()));
        let _ = client.remove(TransactionId::NONE, &format!("backend/vif/{}", domain.raw()));
        drop(client);
        self.store.touched();
        let _ = stub::control_destroy(hv(), domain);
    }

    fn note_status(&self, status: i32) {
        let mut worst = self.worst.lock();
        if status != 0 && *worst == 0 {
            *worst = status;
        }
    }

    fn end_if_done(&self) {
        let left = self.guests.lock().values().filter(|guest| guest.counts).count();
        if self.until == Until::Guests && left == 0 {
            let status = *self.worst.lock();
            if crate::cmdline::value("trace") == Some("dump") {
                super::trace::dump();
            }
            crate::console::flush();
            let _ = stub::control_power(hv(), POWER_OFF, status as u32);
        }
    }

    /// Takes apart the guests that have ended, and starts again those that asked for it.
    fn look_after(&self) {
        let numbers: Vec<u16> = self.guests.lock().keys().copied().collect();
        for number in numbers {
            let info = info(number).filter(|info| info.domid.raw() == number);
            let over = match &info {
                None => Some(reason::CRASH),
                Some(info) => {
                    (info.state != state::CREATED && info.state != state::ALIVE).then_some(info.reason)
                }
            };
            if let Some(why) = over {
                self.ended(DomainId::new(number), why);
            }
        }
    }

    fn ended(&self, domain: DomainId, why: u32) {
        let Some(guest) = self.guests.lock().remove(&domain.raw()) else { return };
        let status = self.exit_status(domain, why);
        let name = &guest.name;
        match why {
            reason::POWEROFF => log::info!("{domain} ({name}) is off, status {status}"),
            reason::REBOOT => log::info!("{domain} ({name}) reboots"),
            reason::SUSPEND => {
                log::info!("{domain} ({name}) asked to be suspended, which is not supported: it is off")
            }
            reason::WATCHDOG => log::error!("{domain} ({name}) was ended by its watchdog, status {status}"),
            _ => log::error!("{domain} ({name}) crashed, status {status}"),
        }
        self.take_apart(domain);
        if why == reason::REBOOT && guest.reboots < MOST_REBOOTS {
            match self.create_counted(name, guest.reboots + 1) {
                Ok(_) => return,
                Err(why) => log::error!("{name} could not be started again: {why}"),
            }
        }
        if guest.counts {
            self.note_status(status);
            self.end_if_done();
        }
    }

    /// What a guest said of its end in `data/exit-status`.
    fn exit_status(&self, domain: DomainId, why: u32) -> i32 {
        let node = format!("{}/data/exit-status", path::domain_home(domain));
        let text = self.store.client().read(TransactionId::NONE, &node).ok();
        let said = text.and_then(|text| core::str::from_utf8(&text).ok()?.trim().parse().ok());
        match (said, why) {
            (_, reason::POWEROFF | reason::REBOOT) => said.unwrap_or(0),
            (Some(status), _) if status != 0 => status,
            _ => CRASHED,
        }
    }

    /// Watches over the guests for ever.
    pub async fn watch(self: Arc<Self>) {
        let port = match events::bind_virq(Virq::DOM_EXC, 0) {
            Ok(port) => port,
            Err(error) => return log::error!("ends of guests will not be noticed: VIRQ_DOM_EXC: {error}"),
        };
        events::listen(port, "dom-exc");
        // What ended before the port was bound did not make it fire.
        self.look_after();
        loop {
            events::wait(port).await;
            // The store may hold the guest's last words still.
            crate::task::yield_now().await;
            self.look_after();
        }
    }
}
