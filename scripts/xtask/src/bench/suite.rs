//! What is measured: machines to boot, and what their guests run.

use super::figure::{Lane, OWN};
use super::host::Server;
use super::targets::{DRIVER_DOMAIN, MEMORY_DISK};
use crate::bundle::{self, DomainSet};
use crate::cli::{Area, Emulator};
use crate::emulator::{Card, Network};
use crate::run;
use anyhow::{Context, Result};
use std::path::PathBuf;

/// One machine to boot, whose guest prints figures.
pub struct Job {
    /// What it is called in messages.
    pub name: String,
    /// How its ticks count.
    pub lane: Lane,
    /// The domains.
    pub set: DomainSet,
    /// The number of processors.
    pub processors: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Whether it has the scratch disk.
    pub disk: bool,
    /// The machine's network.
    pub network: Option<Network>,
    /// The emulator, if not the one that everything is measured in.
    pub emulator: Option<Emulator>,
    /// What its figures say they were taken on.
    pub system: &'static str,
    /// This computer's end of the guest's streams.
    pub host: Option<Server>,
    /// By the clock: whether the processor is the plain one, alone, as Xen's is.
    pub alone: bool,
}

/// The domain set that most of it runs in.
const SET: &str = "scripts/domains/benchmark.toml";
/// The one in which packets are measured.
const NETWORK: &str = "scripts/domains/network.toml";

impl Job {
    /// A guest of the benchmark's set that runs `commands`.
    pub fn new(name: &str, lane: Lane, commands: &str) -> Result<Job> {
        let mut set = DomainSet::read(&crate::workspace::root().join(SET))?;
        set.guest()?.cmdline = "role=guest name=guest".into();
        Self::of(set, name, lane, commands)
    }

    /// The guest of a set that runs `commands`.
    fn of(mut set: DomainSet, name: &str, lane: Lane, commands: &str) -> Result<Job> {
        run::add_commands(&mut set, commands)?;
        Ok(Job::bare(name, lane, set))
    }

    /// A machine with a domain set as it is.
    pub fn bare(name: &str, lane: Lane, set: DomainSet) -> Job {
        let processors = if lane == Lane::Wall { 2 } else { 1 };
        Job {
            name: name.into(),
            lane,
            set,
            processors,
            memory: 512 << 20,
            disk: true,
            network: None,
            emulator: None,
            system: OWN,
            host: None,
            alone: false,
        }
    }

    /// By the clock, on the one plain processor that Xen has.
    pub fn alone(mut self) -> Job {
        (self.alone, self.processors) = (true, 1);
        self
    }

    /// Gives the guest the emulated disk too, that paravirtual ones are compared with.
    fn with_emulated_disk(mut self) -> Result<Job> {
        let guest = self.set.guest()?;
        guest.disk.push("memory:1M,emulated".into());
        bundle::append(&mut guest.cmdline, "ata");
        Ok(self)
    }

    /// Adds words to the command line of dom0.
    pub fn control(mut self, words: &str) -> Result<Job> {
        bundle::append(&mut self.set.control()?.cmdline, words);
        Ok(self)
    }

    /// Leaves the machine's disk and the driver domain's own reads of it out: no device's time is in the way.
    pub fn without_device(mut self) -> Result<Job> {
        self.disk = false;
        for disk in &mut self.set.guest()?.disk {
            if disk.starts_with("machine") {
                *disk = "memory:1M".into();
            }
        }
        self.without("direct=")
    }

    /// Takes a word off the command line of dom0.
    pub fn without(mut self, word: &str) -> Result<Job> {
        let control = self.set.control()?;
        let kept: Vec<&str> = control.cmdline.split(' ').filter(|other| !other.starts_with(word)).collect();
        control.cmdline = kept.join(" ");
        Ok(self)
    }
}

/// The machine's disk, as the guest names it.
const DEVICE: &str = "xvda";

/// What is measured by the clock.
fn by_the_clock(quick: bool) -> String {
    let (sizes, depths) = if quick { ("4K,64K", "1,32") } else { ("512,4K,64K,1M", "1,4,32,128") };
    let sweep = |disk: &str| {
        format!("bench blk {disk} load=read-seq,read-rand bs={sizes} depth={depths} n=1024 most=32M raw")
    };
    let emulated = "bench blk hda load=read-seq bs=4K depth=1 n=16 raw";
    ["bench micro n=200 raw", &sweep(DEVICE), &sweep(MEMORY_DISK), emulated].join("; ")
}

/// Requests to the emulated disk, which takes more than a thousand exits for 4 KiB.
const EMULATED_COMMANDS: &str = "bench blk hda load=read-seq,write-seq bs=4K depth=1 n=8 write raw";

/// Sizes and depths of a sweep.
struct Sweep {
    sizes: &'static str,
    depths: &'static str,
    loads: &'static str,
}

/// The commands that put requests on a disk.
fn disk_commands(disk: &str, quick: bool, n: u32) -> String {
    let quick_sweeps = [
        Sweep { sizes: "4K", depths: "1,32", loads: "read-seq,read-rand,write-rand" },
        Sweep { sizes: "128K", depths: "8", loads: "read-seq" },
    ];
    let full_sweeps = [
        Sweep {
            sizes: "512,4K,16K,64K,128K,256K,1M",
            depths: "1,4,8,32,128,256",
            loads: "read-seq,read-rand,write-seq,write-rand,mixed-rand",
        },
        Sweep { sizes: "4K", depths: "1,32", loads: "write-flush" },
    ];
    let sweeps = if quick { &quick_sweeps } else { &full_sweeps };
    let mut commands = Vec::new();
    for Sweep { sizes, depths, loads } in sweeps {
        commands
            .push(format!("bench blk {disk} load={loads} bs={sizes} depth={depths} n={n} most=8M write raw"));
    }
    commands.join("; ")
}

/// What [`Area::All`] stands for.
const AREAS: [Area; 5] = [Area::Micro, Area::Blk, Area::Net, Area::Boot, Area::Scale];

/// The commands that put requests on a disk of a few MiB that Linux serves.
pub fn requests_below_linux(quick: bool) -> String {
    disk_commands(MEMORY_DISK, true, if quick { 64 } else { 256 })
}

/// The commands that put packets and streams on the network that Linux serves, to its own address and MAC.
pub fn packets_below_linux(quick: bool, to: &str, mac: &str) -> String {
    let (n, bytes) = packets(quick);
    format!("ip 10.0.0.2/24 && bench net {to} mac={mac} n={n} bytes={bytes} raw")
}

/// How many packets, and bytes of a stream: so many that connecting is a hundredth of it at most.
fn packets(quick: bool) -> (u32, &'static str) {
    if quick { (512, "32M") } else { (4096, "64M") }
}

/// Packets and streams by the clock, to the driver domain as below Linux.
pub fn packets_by_the_clock(quick: bool) -> Result<Job> {
    let set = DomainSet::read(&crate::workspace::root().join(NETWORK))?;
    let (n, bytes) = packets(quick);
    let commands = format!("bench net {DRIVER_DOMAIN} n={n} bytes={bytes} raw");
    let mut job = Job::of(set, "net by the clock on one processor", Lane::Wall, &commands)?;
    job.disk = false;
    Ok(job)
}

/// The commands that measure single services.
pub fn services(quick: bool) -> String {
    format!("bench micro n={} raw", if quick { 200 } else { 1000 })
}

/// The host's address and MAC, as the emulator's network has them.
const HOST: &str = "10.0.2.2 mac=52:55:0a:00:02:02";

/// The set of the network's figures with an address on the emulator's network.
fn on_the_hosts_network(mut set: DomainSet) -> Result<DomainSet> {
    let guest = set.guest()?;
    guest.cmdline = guest.cmdline.replace("ip=10.0.0.2/24", "ip=10.0.2.15/24");
    Ok(set)
}

/// A guest's way to a program on the host, by the clock: when the host answers is not counted.
fn to_host_by_the_clock(set: DomainSet, quick: bool) -> Result<Job> {
    let server = Server::start()?;
    let (n, bytes) = if quick { (512, "8M") } else { (4096, "32M") };
    let commands = format!("bench net {HOST} port={} n={n} bytes={bytes} raw", server.port());
    let mut job = Job::of(on_the_hosts_network(set)?, "net to the host by the clock", Lane::Wall, &commands)?;
    job.network = Some(Network::default());
    job.host = Some(server);
    Ok(job)
}

/// A guest's way to the host: the router of the emulator's network, which answers at once where the card is one that sends
/// while its register is written.
fn to_host(set: DomainSet, n: u32) -> Result<Job> {
    let set = on_the_hosts_network(set)?;
    // The card holds back what it receives for a second after it was started.
    let commands = format!("sleep 3 && bench net {HOST} load=ping,packets n={n} raw");
    let mut job = Job::of(set, "net to the host", Lane::Counted, &commands)?;
    job.network = Some(Network { card: Card::E1000, ..Network::default() });
    Ok(job)
}

/// The jobs of an area.
pub fn jobs(area: Area, quick: bool, emulator: Emulator) -> Result<Vec<Job>> {
    let mut chosen = match area {
        Area::Micro => {
            vec![Job::new("micro", Lane::Counted, &services(quick))?.without_device()?]
        }
        Area::Blk => {
            let commands = format!("{}; {EMULATED_COMMANDS}", disk_commands(MEMORY_DISK, quick, 256));
            let counted = Job::new("blk", Lane::Counted, &commands)?.with_emulated_disk()?;
            let mut some = Vec::new();
            for queues in if quick { &[4][..] } else { &[2, 3, 4] } {
                let name = format!("blk with {queues} queues");
                let mut job = Job::new(&name, Lane::Counted, &disk_commands(MEMORY_DISK, quick, 256))?;
                bundle::append(&mut job.set.guest()?.cmdline, &format!("blk-queues={queues}"));
                some.push(job.without_device()?);
            }
            let device = Job::new("blk of a device", Lane::Device, &disk_commands(DEVICE, quick, 256))?;
            let wall =
                Job::new("blk by the clock", Lane::Wall, &by_the_clock(quick))?.with_emulated_disk()?;
            some.insert(0, counted.without_device()?);
            some.extend([device.control("figures=raw")?, wall.control("figures=raw")?]);
            some
        }
        Area::Net => {
            let set = DomainSet::read(&crate::workspace::root().join(NETWORK))?;
            let (n, bytes) = packets(quick);
            // First the driver domain, then another guest.
            let commands =
                [DRIVER_DOMAIN, "10.0.0.1"].map(|to| format!("bench net {to} n={n} bytes={bytes} raw"));
            let mut all = Vec::new();
            for queues in if quick { &[1][..] } else { &[1, 2, 3, 4] } {
                let mut job = Job::of(set.clone(), "net", Lane::Counted, &commands.join(" && "))?;
                if *queues > 1 {
                    job.name = format!("net with {queues} queues");
                    bundle::append(&mut job.set.guest()?.cmdline, &format!("net-queues={queues}"));
                }
                all.push(job);
            }
            all.push(to_host(set.clone(), n)?);
            let clock = format!("bench net 10.0.0.1 n={n} bytes={bytes} raw");
            all.push(Job::of(set.clone(), "net by the clock", Lane::Wall, &clock)?);
            all.push(to_host_by_the_clock(set, quick)?);
            all.iter_mut().for_each(|job| job.disk = false);
            all
        }
        Area::Boot => {
            let job = Job::new("boot", Lane::Counted, "bench boot raw")?.without_device()?;
            vec![job.without("create=")?.control("figures=boot")?]
        }
        Area::Scale => super::scale::jobs(quick)?,
        Area::All => {
            let all: Result<Vec<Vec<Job>>> = AREAS.iter().map(|area| jobs(*area, quick, emulator)).collect();
            all?.into_iter().flatten().collect()
        }
    };
    if emulator == Emulator::Bochs {
        // Bochs counts in any case, and its clock is that count; but who is on its network does not count.
        chosen.retain(|job| job.lane != Lane::Wall && job.network.is_none());
    }
    Ok(chosen)
}

/// Makes the disk that requests go to: empty, so that no file system is found on it, and a hole, so that it costs nothing.
pub fn scratch_disk(file: PathBuf) -> Result<PathBuf> {
    let disk = std::fs::File::create(&file).with_context(|| format!("cannot make {}", file.display()))?;
    disk.set_len(64 << 20)?;
    Ok(file)
}
