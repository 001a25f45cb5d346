//! The emulators that can be the machine, and the choice between them.

pub mod bochs;
mod kvm;
pub mod qemu;

use crate::cli::{Accel, Cpu, Emulator};
use crate::{cli, process, say};
use anyhow::{Result, bail, ensure};
use std::io::{Read, Write};
use std::path::PathBuf;

/// The machine to emulate.
#[derive(Clone, Debug)]
pub struct Config {
    /// The emulator.
    pub emulator: Emulator,
    /// Whether QEMU runs on KVM.
    pub kvm: bool,
    /// The number of processors.
    pub processors: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// The raw images that are its disks.
    pub disks: Vec<PathBuf>,
    /// Whether virtual time follows executed instructions.
    pub icount: bool,
    /// Whether processors take turns instead of running in parallel, where the emulator has a choice: see [`qemu`].
    pub in_turn: bool,
    /// The machine's network, if it has one.
    pub network: Option<Network>,
    /// Whether the processor's virtualization is hidden, to see what the hypervisor says.
    pub without_virtualization: bool,
    /// Whether the processor is the plain one of the figures that other systems are compared by (QEMU).
    pub plain: bool,
    /// What the machine starts from.
    pub boot: Boot,
}

/// A network of the emulator's own: the machine sees a router with a DHCP server, and the host through it.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// Ports of this computer, on the loopback interface only, that lead to the machine.
    pub forward: Vec<Forward>,
    /// The machine's network card; Bochs has the second kind only.
    pub card: Card,
}

/// A kind of network card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Card {
    /// virtio
    #[default]
    Virtio,
    /// Intel 82540EM
    E1000,
}

/// A forwarded TCP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The port of this computer.
    pub host: u16,
    /// The port of the first guest that asked for an address.
    pub guest: u16,
}

impl std::str::FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
        let (host, guest) = text.split_once(':').ok_or("two ports with a colon between, such as 8080:80")?;
        match (port(host), port(guest)) {
            (Some(host), Some(guest)) => Ok(Self { host, guest }),
            _ => Err("a port is a number from 1 to 65535".into()),
        }
    }
}

/// What a machine starts from.
#[derive(Clone, Debug)]
pub enum Boot {
    /// The hypervisor by its PVH entry, with the bundle as its module.
    Direct {
        /// The hypervisor's image.
        hypervisor: PathBuf,
        /// The boot bundle, if one is given at all.
        bundle: Option<PathBuf>,
        /// Words for the hypervisor's command line.
        cmdline: String,
    },
    /// A CD image, booted by the machine's BIOS.
    Iso(PathBuf),
    /// A CD image, booted by UEFI firmware.
    IsoUefi(PathBuf),
}

/// A machine that has been started.
pub struct Started {
    /// The emulator's process.
    pub process: process::Owned,
    /// What the machine's serial port sends.
    pub output: Box<dyn Read + Send>,
    /// What the machine's serial port receives.
    pub input: Box<dyn Write + Send>,
    /// Files to remove when the machine is gone.
    pub litter: Vec<PathBuf>,
}

/// The emulator and accelerator of a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The emulator.
    pub emulator: Emulator,
    /// Whether QEMU runs on KVM.
    pub kvm: bool,
}

/// Chooses the emulator and the accelerator, and says why where the user left it open.
pub fn choose(options: &cli::Machine) -> Result<Choice> {
    let forced = options.accel == Accel::Kvm;
    let wanted = options.accel != Accel::Tcg && options.emulator != Some(Emulator::Bochs) && !options.icount;
    ensure!(!forced || wanted, "--accel kvm goes neither with --emulator bochs nor with --icount");
    let nested = if wanted { kvm::nested(options.cpu) } else { Err(String::new()) };
    let choice = match (&nested, options.emulator, options.cpu) {
        (Err(why), ..) if forced => bail!("KVM cannot be used: {why}"),
        (Ok(()), ..) => Choice { emulator: Emulator::Qemu, kvm: true },
        (_, Some(Emulator::Qemu), Some(Cpu::Vmx)) => {
            bail!("QEMU's software emulation has no VT-x: use --emulator bochs")
        }
        (_, Some(Emulator::Bochs), Some(Cpu::Svm)) => {
            bail!("the Bochs lane is VT-x: use --emulator qemu for AMD-V")
        }
        (_, Some(emulator), _) => Choice { emulator, kvm: false },
        (_, None, Some(Cpu::Vmx)) => Choice { emulator: Emulator::Bochs, kvm: false },
        (_, None, _) => Choice { emulator: Emulator::Qemu, kvm: false },
    };
    match &nested {
        Ok(()) => say::step("using KVM with nested virtualization"),
        Err(why) if wanted => say::step(format!("using software emulation, not KVM: {why}")),
        Err(_) => {}
    }
    ensure!(
        !(options.icount && choice.emulator == Emulator::Bochs),
        "--icount is QEMU's: runs of one processor repeat exactly on Bochs anyway"
    );
    Ok(choice)
}

impl Config {
    /// A machine with one processor, 512 MiB and nothing else, in software.
    pub fn bare(emulator: Emulator, boot: Boot) -> Config {
        Config {
            emulator,
            kvm: false,
            processors: 1,
            memory: 512 << 20,
            disks: Vec::new(),
            icount: false,
            in_turn: false,
            network: None,
            without_virtualization: false,
            plain: false,
            boot,
        }
    }

    /// Builds the machine of a command line.
    pub fn new(options: &cli::Machine, choice: Choice, disks: Vec<PathBuf>, boot: Boot) -> Result<Config> {
        ensure!(
            options.nic != Some(Card::Virtio) || choice.emulator == Emulator::Qemu,
            "Bochs has no virtio: its network card is an e1000"
        );
        ensure!(
            !options.icount || options.smp.unwrap_or(1) == 1,
            "--icount is for one processor: leave --smp out"
        );
        Ok(Config {
            kvm: choice.kvm,
            processors: options.smp.unwrap_or(if options.icount { 1 } else { 2 }),
            memory: options.mem,
            disks,
            icount: options.icount,
            network: options.network(),
            ..Config::bare(choice.emulator, boot)
        })
    }

    /// Starts the machine.
    pub fn start(&self, verbose: bool) -> Result<Started> {
        match self.emulator {
            Emulator::Qemu => qemu::start(self, verbose),
            Emulator::Bochs => bochs::start(self, verbose),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn choose_for(words: &[&str]) -> Result<Choice> {
        let words = ["xtask", "run", "--accel", "tcg"].iter().chain(words);
        match cli::Cli::parse_from(words).verb {
            cli::Verb::Run(run) => choose(&run.machine),
            _ => unreachable!("the verb is run"),
        }
    }

    #[test]
    fn the_processor_decides_the_emulator() {
        assert_eq!(choose_for(&[]).unwrap().emulator, Emulator::Qemu);
        assert_eq!(choose_for(&["--cpu", "svm"]).unwrap().emulator, Emulator::Qemu);
        assert_eq!(choose_for(&["--cpu", "vmx"]).unwrap().emulator, Emulator::Bochs);
        assert_eq!(choose_for(&["--emulator", "bochs"]).unwrap().emulator, Emulator::Bochs);
    }

    #[test]
    fn what_no_emulator_offers_is_refused() {
        assert!(choose_for(&["--cpu", "vmx", "--emulator", "qemu"]).is_err());
        assert!(choose_for(&["--cpu", "svm", "--emulator", "bochs"]).is_err());
        assert!(choose_for(&["--cpu", "vmx", "--icount"]).is_err());
    }
}
