//! The initial RAM disk of a Linux guest: BusyBox, the paravirtual drivers, and a first program.

use super::Linux;
use crate::bundle::cpio::Archive;
use anyhow::Result;

const INIT: &str = include_str!("../../../guests/linux/init");
const DHCP: &str = include_str!("../../../guests/linux/udhcpc");
/// The drivers that Debian builds as modules, and their parameters.
const DRIVERS: [(&str, &str, &str); 2] = [
    ("xen-blkfront", "block/xen-blkfront.ko", "max_ring_page_order=2"),
    ("xen-netfront", "net/xen-netfront.ko", ""),
];

/// Makes the archive. With `commands`, a script for BusyBox's shell, the guest runs these instead of a shell; `files` are
/// added below the root.
pub fn initramfs(linux: &Linux, commands: Option<&str>, files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for folder in ["bin", "dev", "etc", "lib", "lib/modules", "mnt", "proc", "root", "sys", "tmp"] {
        archive.add_folder(folder)?;
    }
    archive.add_program("bin/busybox", &linux.busybox()?)?;
    archive.add_program("init", INIT.as_bytes())?;
    archive.add_program("etc/udhcpc", DHCP.as_bytes())?;
    for (name, path, parameters) in DRIVERS {
        archive.add(&format!("lib/modules/{name}.ko"), &linux.driver(path)?)?;
        archive.add(&format!("lib/modules/{name}.parameters"), parameters.as_bytes())?;
    }
    for (name, content) in files {
        archive.add(name, content)?;
    }
    if let Some(commands) = commands {
        archive.add("commands", commands.as_bytes())?;
    }
    archive.finish()
}
