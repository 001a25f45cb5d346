//! Programs and files from the distribution.

use crate::{process, say, workspace};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Something that a verb needs from the distribution.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// The emulator of the AMD-V lane.
    Qemu,
    /// A C compiler, for the ABI probe.
    Compiler,
    /// Xen's public headers, which the ABI probe compiles against.
    XenHeaders,
    /// Tools that read and check FAT images on the host.
    FatTools,
    /// Tools that make ext4 images on the host.
    Ext4Tools,
    /// What `grub-mkrescue` needs for an ISO that boots from BIOS and from UEFI.
    Iso,
    /// A boot loader that is a 32-bit PVH guest.
    Grub,
    /// UEFI firmware for QEMU.
    Ovmf,
    /// What the build of Bochs needs.
    BochsBuild,
    /// The firmware that Bochs boots with.
    BochsFirmware,
}

/// A Debian package and how to see that it is there.
struct Package {
    name: &'static str,
    sign: Sign,
}

enum Sign {
    Program(&'static str),
    File(&'static str),
}

impl Need {
    fn packages(self) -> &'static [Package] {
        use Sign::{File, Program};
        macro_rules! packages {
            ($($name:literal: $sign:expr),* $(,)?) => { &[$(Package { name: $name, sign: $sign }),*] };
        }
        match self {
            Need::Qemu => packages!["qemu-system-x86": Program("qemu-system-x86_64")],
            Need::Compiler => packages!["gcc": Program("gcc"), "libc6-dev": File("/usr/include/stdio.h")],
            Need::XenHeaders => packages!["libxen-dev": File("/usr/include/xen/xen.h")],
            Need::FatTools => packages!["mtools": Program("mcopy"), "dosfstools": Program("fsck.fat")],
            Need::Ext4Tools => packages!["e2fsprogs": Program("mkfs.ext4")],
            Need::Iso => packages![
                "grub-common": Program("grub-mkrescue"),
                "grub-pc-bin": File("/usr/lib/grub/i386-pc/multiboot2.mod"),
                "grub-efi-amd64-bin": File("/usr/lib/grub/x86_64-efi/multiboot2.mod"),
                "xorriso": Program("xorriso"),
                "mtools": Program("mformat"),
            ],
            Need::Grub => packages!["grub-xen-bin": File("/usr/lib/grub-xen/grub-i386-xen_pvh.bin")],
            Need::Ovmf => packages!["ovmf": File("/usr/share/ovmf/OVMF.fd")],
            Need::BochsBuild => packages![
                "g++": Program("g++"), "make": Program("make"), "patch": Program("patch"), "xz-utils": Program("xz"),
            ],
            Need::BochsFirmware => packages![
                "bochsbios": File("/usr/share/bochs/BIOS-bochs-latest"),
                "vgabios": File("/usr/share/vgabios/vgabios.stdvga.bin"),
            ],
        }
    }
}

/// Returns the packages that are missing for some needs, each once.
pub fn missing(needs: &[Need]) -> Vec<&'static str> {
    let mut names: Vec<_> = needs
        .iter()
        .flat_map(|need| need.packages())
        .filter(|package| match package.sign {
            Sign::Program(program) => workspace::program(program).is_none(),
            Sign::File(file) => !Path::new(file).exists(),
        })
        .map(|package| package.name)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Whether apt can be run: as root, or by sudo without a password (`true`).
fn privilege() -> Option<bool> {
    if nix::unistd::geteuid().is_root() {
        return Some(false);
    }
    let mut sudo = Command::new("sudo");
    let may = process::collect(sudo.args(["-n", "true"]), std::time::Duration::from_secs(10));
    may.is_ok_and(|done| done.passed()).then_some(true)
}

/// Waits until nobody else installs or downloads: apt refuses a second one.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes sure that some needs are met: installs what is missing where apt can do so, and names it elsewhere.
pub fn need(needs: &[Need]) -> Result<()> {
    let _alone = alone();
    let names = missing(needs);
    if names.is_empty() {
        return Ok(());
    }
    let list = names.join(" ");
    if workspace::program("apt-get").is_none() {
        bail!("please install what Debian packages as: {list}");
    }
    let Some(by_sudo) = privilege() else { bail!("please run: sudo apt-get install {list}") };
    install(&names, by_sudo).with_context(|| format!("please run: sudo apt-get install {list}"))
}

/// Fetches apt's index.
pub fn update() -> Result<()> {
    let Some(by_sudo) = privilege() else { bail!("please run: sudo apt-get update") };
    apt(&["update"], by_sudo).context("please run: sudo apt-get update")
}

fn apt(words: &[&str], by_sudo: bool) -> Result<()> {
    let mut command = Command::new(if by_sudo { "sudo" } else { "apt-get" });
    if by_sudo {
        command.args(["-n", "apt-get"]);
    }
    command.args(["-q", "-y"]).args(words).env("DEBIAN_FRONTEND", "noninteractive");
    say::step(process::line(&command));
    process::show(&mut command)
}

/// Installs packages by apt, with a fresh index if the one at hand does not know them.
pub fn install(names: &[&str], by_sudo: bool) -> Result<()> {
    let install: Vec<_> =
        ["install", "--no-install-recommends"].into_iter().chain(names.iter().copied()).collect();
    // The index may be absent or stale, and then knows other versions than the mirror has.
    apt(&install, by_sudo).or_else(|_| apt(&["update"], by_sudo).and_then(|()| apt(&install, by_sudo)))
}
