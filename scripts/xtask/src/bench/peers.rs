//! What is measured beside this system's figures, to compare them with: the machines with Xen, and the ones of ours that have
//! Xen's circumstances.

use super::figure::{Figure, Lane, OWN};
use super::folder::Folder;
use super::linux::{self, Measured};
use super::machines::Machines;
use super::suite::{self, Job};
use super::targets::MEMORY_DISK;
use super::{has, is_wanted};
use crate::cli::{self, Area, Emulator};
use crate::peer::domu::{self, Guest};
use anyhow::Result;

/// This system on VT-x, beside its figures on AMD-V.
pub const OWN_VTX: &str = "xenolith on VT-x";
/// Xen, whose first domain is our guest.
pub const XEN: &str = "xen";
/// The same on VT-x.
pub const XEN_VTX: &str = "xen on VT-x";
/// Xen with Linux as its first domain, below which is the guest.
pub const XEN_LINUX: &str = "xen and linux";

/// Whether a system is another than this.
pub fn is_peer(system: &str) -> bool {
    ![OWN, OWN_VTX].contains(&system)
}

/// With which of this system's figures those of a peer are compared.
pub fn counterpart(peer: &str) -> &'static str {
    if peer == XEN_VTX { OWN_VTX } else { OWN }
}

/// What a guest on Xen does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// Single services, as the first domain.
    Services,
    /// Services between two guests.
    Pair,
    /// Requests of a disk that Linux serves.
    Disk,
    /// Packets on a network that Linux serves.
    Network,
    /// As Linux.
    Linux(Measured),
}

/// Services between two guests, by name.
const PAIR: [&str; 3] = ["event-ping-pong", "vcpu-switch-twice", "grant-map-unmap"];

/// A machine with Xen.
struct Machine {
    name: &'static str,
    what: What,
    emulator: Emulator,
    lane: Lane,
}

impl Machine {
    const fn new(name: &'static str, what: What, emulator: Emulator, lane: Lane) -> Machine {
        Machine { name, what, emulator, lane }
    }

    fn area(&self) -> Area {
        match self.what {
            What::Services | What::Pair => Area::Micro,
            What::Disk => Area::Blk,
            What::Network => Area::Net,
            What::Linux(what) => what.area(),
        }
    }
}

const MACHINES: [Machine; 9] = [
    Machine::new("micro on Xen", What::Services, Emulator::Qemu, Lane::Counted),
    Machine::new("micro on Xen on VT-x", What::Services, Emulator::Bochs, Lane::Counted),
    Machine::new("micro on Xen between two guests", What::Pair, Emulator::Qemu, Lane::Counted),
    Machine::new("blk on Xen with Linux", What::Disk, Emulator::Qemu, Lane::Counted),
    Machine::new("blk on Xen with Linux by the clock", What::Disk, Emulator::Qemu, Lane::Wall),
    Machine::new("net on Xen with Linux", What::Network, Emulator::Qemu, Lane::Counted),
    Machine::new("net on Xen with Linux by the clock", What::Network, Emulator::Qemu, Lane::Wall),
    Machine::new(
        "blk on Xen with Linux as the guest",
        What::Linux(Measured::Disk),
        Emulator::Qemu,
        Lane::Counted,
    ),
    Machine::new(
        "net on Xen with Linux as the guest",
        What::Linux(Measured::Network),
        Emulator::Qemu,
        Lane::Counted,
    ),
];

/// Our machines that are measured only to be compared with those of Xen.
pub fn own(options: &cli::Bench, emulator: Emulator) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    if options.peer.is_none() || emulator != Emulator::Qemu {
        return Ok(jobs);
    }
    if has(options, Area::Micro) {
        let mut job =
            Job::new("micro on VT-x", Lane::Counted, &suite::services(options.quick))?.without_device()?;
        (job.emulator, job.system) = (Some(Emulator::Bochs), OWN_VTX);
        jobs.push(job);
    }
    if has(options, Area::Blk) {
        let commands = suite::requests_below_linux(options.quick);
        let job = Job::new("blk by the clock on one processor", Lane::Wall, &commands)?;
        jobs.push(job.without_device()?.without("create=")?.alone());
    }
    if has(options, Area::Net) {
        jobs.push(suite::packets_by_the_clock(options.quick)?.alone());
    }
    Ok(jobs)
}

/// Our machines with Linux as the guest. They are counted only.
pub fn linux_jobs(options: &cli::Bench, folder: &Folder) -> Result<Vec<Job>> {
    [Measured::Disk, Measured::Network]
        .into_iter()
        .filter(|what| has(options, what.area()))
        .map(|what| linux::job(what, options.quick, folder))
        .collect()
}

/// Measures on Xen what is asked for; `note` takes what comes of each machine.
pub fn measure(machines: &Machines, options: &cli::Bench, mut note: impl FnMut(&str, Result<Vec<Figure>>)) {
    let of_linux = |what: What| matches!(what, What::Linux(_));
    let suits = |machine: &&Machine| {
        // Beside figures of VT-x there is nothing of AMD-V, and nothing by the clock.
        let emulator = match machines.emulator {
            Emulator::Qemu => true,
            Emulator::Bochs => machine.emulator == Emulator::Bochs,
        };
        emulator
            && has(options, machine.area())
            && is_wanted(options, machine.name)
            && (options.guest.is_some() || !of_linux(machine.what))
    };
    for machine in MACHINES.iter().filter(suits) {
        note(machine.name, on_xen(machines, machine, options.quick));
    }
}

fn on_xen(machines: &Machines, machine: &Machine, quick: bool) -> Result<Vec<Figure>> {
    let guest = match machine.what {
        What::Services => {
            let is_beside = machine.emulator != machines.emulator;
            let system = if is_beside { XEN_VTX } else { XEN };
            return machines.services_on_xen(machine.name, machine.emulator, system, quick);
        }
        What::Pair => {
            let commands = format!("{} partner={}", suite::services(quick), domu::PARTNER_DOMAIN);
            let guest = Guest::own(&machines.images, MEMORY_DISK, &commands).with_partner();
            let mut figures = machines.below_linux(machine.name, machine.lane, &guest, XEN_LINUX)?;
            // What needs no other domain is measured without Linux.
            figures.retain(|figure| PAIR.contains(&figure.name.as_str()));
            return Ok(figures);
        }
        What::Disk => Guest::own(&machines.images, MEMORY_DISK, &suite::requests_below_linux(quick)),
        What::Network => {
            let commands = suite::packets_below_linux(quick, domu::SERVER, domu::SERVER_MAC);
            Guest::own(&machines.images, MEMORY_DISK, &commands)
        }
        What::Linux(what) => {
            let (kernel, ramdisk) = linux::guest(what, quick)?;
            Guest::linux(kernel, ramdisk, linux::MEMORY)
        }
    };
    machines.below_linux(machine.name, machine.lane, &guest, XEN_LINUX)
}
