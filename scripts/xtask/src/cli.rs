//! The command line.

use crate::emulator::{Card, Forward, Network};
use crate::linux::Suite;
use crate::workspace::size;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Builds, boots, tests and packs Xenolith.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about, max_term_width = 110)]
#[command(after_help = "Exit codes: 0 passed, 1 failed, 2 could not run.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What the tool can do.
#[derive(Subcommand)]
pub enum Verb {
    /// Installs what building and running need
    Setup(Setup),
    /// Builds the hypervisor, the guest kernel and the boot bundle
    Build(Build),
    /// Boots a domain set in an emulator, with a shell on the guest's console
    Run(Run),
    /// Checks everything: form, lints, host tests, both kinds of processor in their emulators
    Test(Test),
    /// Measures what services and I/O cost, counted in instructions, and prints it as a table
    Bench(Bench),
    /// Makes an ISO that boots on real machines, from BIOS and from UEFI
    Image(Image),
    /// Boots our guest kernel on another hypervisor, and compares
    Peer(Peer),
    /// Writes the parts of the book that are made from the code
    Docs(Docs),
}

/// Options of `setup`.
#[derive(Args, Default)]
pub struct Setup {
    /// Also what the VT-x lane needs (Bochs, built once from Debian's source package: about two minutes)
    #[arg(long)]
    pub bochs: bool,
    /// Only says what is missing, and installs nothing
    #[arg(long)]
    pub check: bool,
}

/// Options of `build`.
#[derive(Args)]
pub struct Build {
    /// The domain set that goes into the boot bundle
    #[arg(long, value_name = "FILE")]
    pub domains: Option<PathBuf>,
}

/// The emulators that can be the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Emulator {
    /// QEMU: AMD-V in software, or KVM
    Qemu,
    /// Bochs: VT-x in software
    Bochs,
}

/// The processor's virtualization.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Cpu {
    /// AMD-V
    Svm,
    /// Intel VT-x
    Vmx,
}

/// How QEMU executes instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Accel {
    /// KVM where it offers nested virtualization, else TCG
    Auto,
    /// Software emulation
    Tcg,
    /// The machine's own virtualization, nested
    Kvm,
}

/// The machine that `run` boots on.
#[derive(Args, Clone)]
pub struct Machine {
    /// The emulator [default: qemu, or bochs with --cpu vmx where KVM cannot nest]
    #[arg(long, value_enum)]
    pub emulator: Option<Emulator>,
    /// The processor's virtualization [default: what the emulator offers]
    #[arg(long, value_enum)]
    pub cpu: Option<Cpu>,
    /// How QEMU executes instructions
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
    /// Number of processors [default: 2, or 1 with --icount]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub smp: Option<u32>,
    /// The machine's memory
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "512M")]
    pub mem: u64,
    /// A disk of the machine, raw; may be repeated [default: a small image of the tool's own]
    #[arg(long, value_name = "FILE")]
    pub disk: Vec<PathBuf>,
    /// Ends the machine after so many seconds, as a failure
    #[arg(long, value_name = "S")]
    pub timeout: Option<u64>,
    /// Lets virtual time follow executed instructions: figures repeat exactly (QEMU, one processor)
    #[arg(long)]
    pub icount: bool,
    /// Gives the machine a network card on a network of the emulator's own, and the guest an interface
    #[arg(long)]
    pub net: bool,
    /// The kind of network card [default: virtio, or e1000 on Bochs]; implies --net
    #[arg(long, value_enum)]
    pub nic: Option<Card>,
    /// Forwards a TCP port of this computer (loopback only) to a port of the guest; may be repeated; implies --net
    #[arg(long, value_name = "HOST:GUEST")]
    pub forward: Vec<Forward>,
    /// Prints the commands that are run
    #[arg(long, short)]
    pub verbose: bool,
}

impl Machine {
    /// The network that the options ask for.
    pub fn network(&self) -> Option<Network> {
        (self.net || self.nic.is_some() || !self.forward.is_empty())
            .then(|| Network { forward: self.forward.clone(), card: self.nic.unwrap_or_default() })
    }
}

/// Options of `run`.
#[derive(Args)]
#[command(group(clap::ArgGroup::new("kernels").args(["kernel", "linux"])))]
pub struct Run {
    /// Guest shell commands, separated by `;`: runs them without a keyboard and ends with their status
    #[arg(long, value_name = "COMMANDS")]
    pub exec: Option<String>,
    /// The kernel of the guest: any kernel with a PVH entry, or a compressed image of Linux [default: pv-guest-kernel]
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Debian's Linux as the guest, with BusyBox as its programs (fetched once, by apt)
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "stable")]
    pub linux: Option<Suite>,
    /// The initial RAM disk of the guest
    #[arg(long, value_name = "FILE", requires = "kernels")]
    pub initrd: Option<PathBuf>,
    /// The command line of the guest
    #[arg(long, value_name = "STRING")]
    pub cmdline: Option<String>,
    /// The number of the guest's virtual CPUs [default: the domain set's]
    #[arg(long, value_name = "N")]
    pub vcpus: Option<u32>,
    /// The guest's memory [default: the domain set's]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub guest_mem: Option<u64>,
    /// The domain set [default: scripts/domains/default.toml, or linux.toml for Linux]
    #[arg(long, value_name = "FILE")]
    pub domains: Option<PathBuf>,
    /// Writes the latest exits, hypercalls, events and switches of every CPU as a file for Perfetto
    #[arg(long, value_name = "FILE", requires = "exec")]
    pub trace: Option<PathBuf>,
    /// Words for the hypervisor's command line, behind those of the domain set
    #[arg(long, value_name = "STRING")]
    pub hv_cmdline: Option<String>,
    /// The machine.
    #[command(flatten)]
    pub machine: Machine,
}

/// Options of `test`.
#[derive(Args)]
pub struct Test {
    /// Only tests with one of these in their names
    pub filter: Vec<String>,
    /// Only the inner loop: what needs seconds, and one kind of processor
    #[arg(long)]
    pub quick: bool,
    /// Only the tests that boot a machine in Bochs, or all but these
    #[arg(long)]
    pub emulator: Option<Emulator>,
    /// So many at a time of those that keep only one processor busy [default: this computer's processors]
    #[arg(long, short, value_name = "N", value_parser = jobs)]
    pub jobs: Option<usize>,
    /// Only lists the tests
    #[arg(long)]
    pub list: bool,
    /// Prints the emulators' command lines
    #[arg(long, short)]
    pub verbose: bool,
}

fn jobs(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| (1..=64).contains(count)).ok_or_else(|| "a number from 1 to 64".into())
}

/// What `bench` measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Area {
    /// Single services: hypercall, exit, event, grant, switch
    Micro,
    /// Requests of disks
    Blk,
    /// Packets and streams
    Net,
    /// From reset to a guest's shell
    Boot,
    /// How costs grow with the number of guests, ports, grants, and with memory
    Scale,
    /// All of it
    All,
}

/// Options of `bench`.
#[derive(Args)]
pub struct Bench {
    /// What to measure [default: all]
    #[arg(value_enum)]
    pub areas: Vec<Area>,
    /// Only a part of it, in a few minutes
    #[arg(long)]
    pub quick: bool,
    /// Only the machines whose names, as they are told when they start, have this in them
    #[arg(long, value_name = "WORDS")]
    pub only: Option<String>,
    /// Writes all figures as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Writes a page with tables and plots, which needs no other file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Writes tables in Markdown: between the marks of a file that has them, else as the whole file; may be repeated
    #[arg(long, value_name = "FILE")]
    pub markdown: Vec<PathBuf>,
    /// The emulator: Bochs for VT-x
    #[arg(long, value_enum)]
    pub emulator: Option<Emulator>,
    /// Measures services (also on VT-x), and disk and network that Linux serves, on another hypervisor too, with the same guest
    #[arg(long, value_enum)]
    pub peer: Option<Hypervisor>,
    /// With `blk` and `net`: measures requests and packets of another guest too, on every hypervisor
    #[arg(long, value_enum)]
    pub guest: Option<Guest>,
    /// How often counted figures are taken; runs that differ are a failure
    #[arg(long, value_name = "N", default_value_t = crate::bench::REPEAT, value_parser = repetitions)]
    pub repeat: usize,
    /// Prints the emulators' command lines
    #[arg(long, short)]
    pub verbose: bool,
}

fn repetitions(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| (1..=100).contains(count)).ok_or_else(|| "a number from 1 to 100".into())
}

/// The other hypervisors that guests of ours are tried on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Hypervisor {
    /// Debian's Xen 4.17
    Xen,
}

/// The other guests whose requests are measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Guest {
    /// Debian's Linux, downloaded into the cache
    Linux,
}

/// What `peer` does there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Part {
    /// Every conformance guest as the first domain, beside the same guest here
    Selftests,
    /// The guest kernel below a Linux that serves its disk and its network
    Domu,
}

/// Options of `peer`.
#[derive(Args)]
pub struct Peer {
    /// The other hypervisor
    pub hypervisor: Hypervisor,
    /// Only this part
    pub part: Option<Part>,
    /// Shell commands, separated by `;`: the guest kernel runs them as the first domain, and nothing else is done
    #[arg(long, value_name = "COMMANDS", conflicts_with = "part")]
    pub exec: Option<String>,
    /// A kernel to boot as the first domain, instead of all else
    #[arg(long, value_name = "FILE", conflicts_with_all = ["part", "exec"])]
    pub kernel: Option<PathBuf>,
    /// The command line of that kernel
    #[arg(long, value_name = "STRING", requires = "kernel")]
    pub cmdline: Option<String>,
    /// Lets virtual time follow executed instructions, with --exec or --kernel
    #[arg(long)]
    pub icount: bool,
    /// Writes the table into the book
    #[arg(long)]
    pub docs: bool,
    /// Prints the emulators' command lines
    #[arg(long, short)]
    pub verbose: bool,
}

/// Options of `docs`.
#[derive(Args)]
pub struct Docs {
    /// Writes nothing, and ends with 1 if something would change
    #[arg(long)]
    pub check: bool,
}

/// Options of `image`.
#[derive(Args)]
pub struct Image {
    /// The domain set [default: scripts/domains/default.toml]
    #[arg(long, value_name = "FILE")]
    pub domains: Option<PathBuf>,
    /// Where the ISO goes [default: target/xenolith/xenolith.iso]
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
