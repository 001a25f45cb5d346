//! Debian's Linux as the guest whose requests are measured, here and on Xen: the same kernel, initial RAM disk and commands.
//!
//! BusyBox's `dd` makes the requests, past the page cache. Linux cannot read the counters of this hypervisor, so that there
//! are totals only, by the guest's clock, a nanosecond of which is an instruction where instructions are counted.

use super::figure::Lane;
use super::folder::Folder;
use super::suite::Job;
use crate::bundle::{self, DomainSet};
use crate::cli::Area;
use crate::linux::{self, Linux, Suite};
use crate::{run, workspace};
use anyhow::{Context, Result};
use std::path::PathBuf;

/// The scripts that measure, of the disk and of the network.
const SCRIPT: &str = include_str!("../../../guests/linux/bench");
const NET_SCRIPT: &str = include_str!("../../../guests/linux/bench-net");
/// The domain sets.
const SET: &str = "scripts/domains/linux.toml";
const NET_SET: &str = "scripts/domains/network.toml";
/// The disk, which the script reads and writes as a whole.
const DISK: &str = "memory:8M";
/// The guest's memory in MiB.
pub const MEMORY: u32 = 256;

/// What of the guest is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Measured {
    /// Requests of its disk.
    Disk,
    /// Packets and streams of its network.
    Network,
}

impl Measured {
    /// The area its figures are of.
    pub fn area(self) -> Area {
        match self {
            Measured::Disk => Area::Blk,
            Measured::Network => Area::Net,
        }
    }

    /// What the guest runs.
    fn commands(self, quick: bool) -> String {
        match self {
            Measured::Disk => format!("plan='{}'\n{SCRIPT}", plan(quick)),
            Measured::Network => {
                let (mib, pings) = if quick { (2, 64) } else { (16, 256) };
                format!("mib={mib} pings={pings}\n{NET_SCRIPT}")
            }
        }
    }
}

/// What the script measures: directions, bytes of a request, and how many programs make them at once.
fn plan(quick: bool) -> String {
    let sizes: &[u32] =
        if quick { &[4096, 65_536] } else { &[512, 4096, 16_384, 65_536, 262_144, 1_048_576] };
    let mut words = Vec::new();
    for direction in ["read", "write"] {
        for programs in [1, 8] {
            words.extend(sizes.iter().map(|size| format!("{direction},{size},{programs}")));
        }
    }
    words.join(" ")
}

/// The kernel, as Debian packs it, and the initial RAM disk with the script in it.
pub fn guest(what: Measured, quick: bool) -> Result<(PathBuf, Vec<u8>)> {
    let linux = Linux::get(Suite::Stable)?;
    Ok((linux.image()?, linux::initramfs(&linux, Some(&what.commands(quick)), &[])?))
}

/// Linux on this hypervisor, with a disk in the driver domain's memory, or with the driver domain on its network.
pub fn job(what: Measured, quick: bool, folder: &Folder) -> Result<Job> {
    let (image, initrd) = guest(what, quick)?;
    let (name, file, set) = match what {
        Measured::Disk => ("blk with Linux as the guest", "linux-blk.cpio", SET),
        Measured::Network => ("net with Linux as the guest", "linux-net.cpio", NET_SET),
    };
    let file = folder.file(file);
    std::fs::write(&file, initrd).with_context(|| format!("cannot write {}", file.display()))?;
    let mut set = DomainSet::read(&workspace::root().join(set))?;
    let guest = set.guest()?;
    guest.kernel = linux::loadable(&image)?.to_string_lossy().into_owned();
    guest.initrd = Some(file.to_string_lossy().into_owned());
    guest.cmdline = run::LINUX_WORDS.into();
    guest.memory = format!("{MEMORY}M");
    guest.vcpus = 1;
    // A domain with the role `control` is given the manifest instead of a RAM disk.
    guest.roles.clear();
    if what == Measured::Disk {
        guest.disk = vec![DISK.into()];
    }
    let control = set.control()?;
    bundle::append(&mut control.cmdline, run::UNTIL_GUESTS);
    let mut job = Job::bare(name, Lane::Counted, set).without("create=")?;
    job.disk = false;
    Ok(job)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_divides_into_every_plan() {
        for word in [true, false].map(plan).join(" ").split(' ') {
            let [_, size, programs] = word.split(',').collect::<Vec<_>>()[..] else { panic!("{word}") };
            let (size, programs): (u32, u32) = (size.parse().unwrap(), programs.parse().unwrap());
            assert_eq!((8 << 20) % (size * programs), 0, "{word}");
        }
        assert!(SCRIPT.contains(&format!("bytes={}\n", 8 << 20)));
    }
}
