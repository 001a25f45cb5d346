//! Debian's GRUB, a 32-bit PVH kernel that nobody here wrote: its own drivers for our console, XenStore and disks.

use super::live::{self, Machine, SVM};
use super::{Case, Context, Verdict, tool};
use crate::linux::{self, Linux, Suite};
use crate::setup::{Need, need};
use crate::{disk, workspace};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// The image in Debian's `grub-xen-bin`.
const KERNEL: &str = "/usr/lib/grub-xen/grub-i386-xen_pvh.bin";

/// What it finds on the disk, and does.
const SCRIPT: &str = "cat /boot/grub/marker\nsha256sum /noise.bin\nhalt\n";
const MARKER: &str = "these words came through the ring";

/// What it starts Linux with: the kernel as Debian packs it, and an initial RAM disk of ours.
const START: &str = "linux /vmlinuz console=hvc0\ninitrd /initrd\nboot\n";

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = ["svm", "vmx"]
        .map(|cpu| Case::new(format!("run/grub/{cpu}"), move |context| grub(context, cpu)))
        .into();
    cases.push(Case::new("run/grub/linux", starts_linux));
    cases
}

/// A disk image with what GRUB looks for; removed with this value.
struct Image(PathBuf);

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Makes the image; also returns what the SHA-256 of its large file is.
fn image(context: &Context, cpu: &str) -> Result<(Image, String)> {
    let image = Image(context.file(&format!("grub-{cpu}.img"))?);
    let noise = super::disk::noise(1 << 20, 5);
    let files = [
        ("boot/grub/grub.cfg", SCRIPT.as_bytes()),
        ("boot/grub/marker", MARKER.as_bytes()),
        ("noise.bin", &noise),
    ];
    disk::make_with(&image.0, 16 << 20, files)?;
    Ok((image, workspace::sha256(&noise)))
}

fn grub(context: &Context, cpu: &str) -> Result<Verdict> {
    need(&[Need::Grub])?;
    let (image, hash) = image(context, cpu)?;
    let disk = image.0.to_string_lossy();
    tool::boots(context, cpu, Path::new(KERNEL), &["--disk", &disk], 900, &[MARKER, &hash])
}

/// GRUB loads Linux and its RAM disk from the paravirtual disk and starts it; Linux then drives that disk itself.
fn starts_linux(context: &Context) -> Result<Verdict> {
    let linux = match Linux::get(Suite::Stable) {
        Ok(linux) => linux,
        Err(error) => return Ok(Verdict::Skipped(format!("{error:#}"))),
    };
    need(&[Need::Grub])?;
    let image = Image(context.file("grub-linux.img")?);
    let commands = "echo started by $(cat /sys/hypervisor/type), cpus=$(nproc)\nsha256sum /dev/xvda\n";
    let initrd = linux::initramfs(&linux, Some(commands), &[])?;
    let kernel = std::fs::read(linux.image()?)?;
    let files = [("boot/grub/grub.cfg", START.as_bytes()), ("vmlinuz", &kernel), ("initrd", &initrd)];
    disk::make_with(&image.0, 64 << 20, files)?;
    let hash = workspace::sha256(&std::fs::read(&image.0)?);
    let mut set = live::set("linux.toml")?;
    let guest = set.guest()?;
    guest.kernel = KERNEL.into();
    guest.initrd = None;
    guest.cmdline.clear();
    guest.disk = vec!["machine0,ro".into()];
    live::until_guests(&mut set)?;
    let machine = Machine::new(context, "run/grub/linux", SVM).disks(std::slice::from_ref(&image.0));
    let report = machine.limit(1800).boot(&set)?;
    Ok(live::judge(&report, &["started by xen, cpus=2", &hash]))
}
