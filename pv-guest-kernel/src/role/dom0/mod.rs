//! The driver domain's role: devices, XenStore, consoles, toolstack.
//!
//! Words on the command line: `until=guests` ends the machine when all guests have ended; `console=NAME` brings a
//! guest's console to the foreground; `create=NAME,…` makes guests of sections with `start = "manual"` before all
//! others, which `until=` does not wait for; `direct=DISK` reads a disk itself first and prints what that took
//! (`figures=raw`: in lines for a program); `figures=boot` tells when this kernel began; `trace=dump`
//! prints the hypervisor's trace before the machine ends; `ip=` (`10.0.0.254/24`, or
//! `dhcp`) gives this domain an address on its own bridge; `serve=iperf` waits there for clients of `iperf`; `exec=`
//! runs commands here and then ends the machine with their status.

mod commands;
mod consoles;
mod devices;
mod emulated;
mod local_disk;
mod network;
mod store;
mod switch;
mod toolstack;
mod trace;

use alloc::boxed::Box;
use alloc::sync::Arc;

use pv_abi::DomainId;
use pv_abi::control::POWER_OFF;
use pv_abi::manifest::Manifest;

use crate::xen::{hv, stub};
use crate::{bench, block, boot, cmdline, println, shell, task};
use consoles::Consoles;
use devices::Devices;
use network::Network;
use store::Service;
use toolstack::{Toolstack, Until};

static STORE: spin::Once<Arc<Service>> = spin::Once::new();

/// The manifest of the boot bundle, which the hypervisor passes as the first module.
fn manifest() -> Option<Manifest<'static>> {
    let text = core::str::from_utf8(boot::modules().next()?.bytes).ok()?;
    Manifest::parse(text).inspect_err(|error| log::error!("the manifest cannot be read: {error}")).ok()
}

/// Plays the role. Returns the exit status of `exec=`; without it the shell runs for ever.
pub async fn run() -> i32 {
    let own = crate::xen::identity().domain.unwrap_or(DomainId::DOM0);
    let consoles = Consoles::new();
    println!("xenolith: Ctrl-a 0 is this console, Ctrl-a 1 to 9 are the guests', Ctrl-a ? lists them");
    let store = Service::new(own);
    STORE.call_once(|| store.clone());
    crate::xen::store::provide(Box::new(store.client()), || {
        if let Some(store) = STORE.get() {
            store.touched();
        }
    });
    let devices = Devices::find(own, store.clone());
    let network = match Network::find(own, store.clone()) {
        Ok(network) => network,
        Err(error) => {
            log::error!("no bridge: {error}");
            return 1;
        }
    };
    let manifest = manifest();
    if manifest.is_none() {
        log::warn!("there is no manifest: no guest can be made");
    }
    let until = match cmdline::value("until") {
        Some("guests") => Until::Guests,
        _ => Until::Ever,
    };
    let toolstack =
        Toolstack::new(manifest, store.clone(), consoles.clone(), devices.clone(), network.clone(), until);
    commands::init(toolstack.clone());
    task::spawn(store.serve());
    task::spawn(consoles.clone().serve());
    task::spawn(devices.serve());
    task::spawn(network.serve());
    task::spawn(toolstack.clone().watch());
    if cmdline::value("serve") == Some("iperf") {
        task::spawn(shell::net::iperf::serve());
    }
    bench::boot::first_domain();
    if let Some(disk) = cmdline::value("direct").and_then(block::find) {
        bench::blk::direct(&disk).await;
    }
    for name in cmdline::value("create").into_iter().flat_map(|names| names.split(',')) {
        if let Err(why) = toolstack.create(name) {
            log::error!("{name} could not be started: {why}");
        }
    }
    toolstack.start_all();
    if let Some(info) = cmdline::value("console").and_then(|name| toolstack.find(name)) {
        consoles.bring(info.domid);
    }
    match cmdline::value("exec") {
        Some(commands) => {
            let status = shell::exec(&cmdline::percent_decode(commands)).await;
            crate::console::flush();
            let _ = stub::control_power(hv(), POWER_OFF, status.cast_unsigned());
            status
        }
        None => shell::interactive("dom0").await,
    }
}
