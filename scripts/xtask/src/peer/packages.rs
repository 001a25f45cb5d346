//! Debian's packages of Xen and of the Linux that serves its guests, unpacked into the cache.
//!
//! A folder of the cache is complete or absent: it is filled under another name and renamed at the end.

use crate::setup::apt;
use crate::{process, say, workspace};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The package of the hypervisor.
const HYPERVISOR: &str = "xen-hypervisor-4.17-amd64";

/// What the Linux domain's initial RAM disk is made of, but for the kernel.
const TOOLS: &[&str] = &[
    "busybox-static",
    "libbz2-1.0",
    "libc6",
    "libfdt1",
    "libgcc-s1",
    "liblzma5",
    "liblzo2-2",
    "libnl-3-200",
    "libnl-route-3-200",
    "libuuid1",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenhypfs1",
    "libxenmisc4.17",
    "libxenstore4",
    "libxentoolcore1",
    "libxentoollog1",
    "libyajl2",
    "libzstd1",
    "xen-utils-4.17",
    "xenstore-utils",
    "zlib1g",
];

/// The files of the kernel's package that are used; the rest is ten times as much.
const OF_KERNEL: &[&str] = &[
    "./boot/vmlinuz*",
    "*/drivers/xen/*",
    "*/drivers/block/loop.ko",
    "*/drivers/block/xen-blkback/*",
    "*/drivers/net/xen-netback/*",
    "*/net/802/stp.ko",
    "*/net/bridge/bridge.ko",
    "*/net/llc/llc.ko",
];

/// As long as a slow mirror may take.
const PATIENCE: Duration = Duration::from_secs(900);

/// The hypervisor.
pub struct Hypervisor {
    /// Its image, which QEMU boots by `-kernel`.
    pub image: PathBuf,
    /// Its package, with the version.
    pub version: String,
}

/// Returns Xen, downloaded first if need be.
pub fn hypervisor() -> Result<Hypervisor> {
    let folder = folder("xen-4.17", |folder| {
        download(&[HYPERVISOR], folder)?;
        unpack(folder, folder)?;
        let packed = file(&folder.join("boot"), "xen-4.17-amd64.gz")?;
        let out = folder.join("xen");
        let mut gunzip = Command::new("sh");
        gunzip.args(["-c", "gzip -dc \"$1\" >\"$2\"", "sh"]).arg(packed).arg(out);
        passed(&mut gunzip)
    })?;
    let package = debs(&folder)?.into_iter().next().unwrap_or_default();
    let version = package.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Hypervisor { image: folder.join("xen"), version })
}

/// Returns the folder with the Linux kernel, its modules, and the tools below `root`, downloaded first if need be.
pub fn tools() -> Result<PathBuf> {
    folder("xen-4.17-linux", |folder| {
        let kernel = kernel()?;
        let names: Vec<&str> = TOOLS.iter().copied().chain([kernel.as_str()]).collect();
        say::step("downloading a Linux kernel and Xen's tools (80 MB)");
        download(&names, folder)?;
        for deb in debs(folder)? {
            let is_kernel =
                deb.file_name().is_some_and(|name| name.to_string_lossy().starts_with("linux-image"));
            if is_kernel {
                let mut tar = Command::new("sh");
                tar.args(["-c", "deb=$1; dir=$2; shift 2; dpkg-deb --fsys-tarfile \"$deb\" | tar -xf - -C \"$dir\" --wildcards \"$@\"", "sh"]);
                passed(tar.arg(&deb).arg(folder).args(OF_KERNEL))?;
            } else {
                unpack_one(&deb, &folder.join("root"))?;
            }
            std::fs::remove_file(deb)?;
        }
        Ok(())
    })
}

/// Finds the kernel that Debian's `linux-image-amd64` stands for.
fn kernel() -> Result<String> {
    let done = process::collect(Command::new("apt-cache").args(["depends", "linux-image-amd64"]), PATIENCE)?;
    let name = done.output.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(name.context("apt knows no linux-image-amd64")?.to_owned())
}

/// Returns a folder of the cache; `fill` makes it if it is not there.
fn folder(name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let _alone = apt::alone();
    let cache = workspace::cache()?;
    let folder = cache.join(name);
    if !folder.exists() {
        // Two tools at once must not fill the same folder.
        let part = workspace::made(cache.join(format!("{name}.{}.part", std::process::id())))?;
        if let Err(error) = fill(&part) {
            let _ = std::fs::remove_dir_all(&part);
            return Err(error);
        }
        if std::fs::rename(&part, &folder).is_err() {
            ensure!(folder.exists(), "cannot make the folder {}", folder.display());
            std::fs::remove_dir_all(&part)?;
        }
    }
    Ok(folder)
}

/// Downloads packages, with a fresh index if the one at hand does not know them.
fn download(names: &[&str], to: &Path) -> Result<()> {
    if workspace::program("apt-get").is_none() || workspace::program("dpkg-deb").is_none() {
        bail!("there is no apt-get to download {} with", names.join(" "));
    }
    let get = || {
        let mut apt = Command::new("apt-get");
        process::collect(apt.args(["-q", "download"]).args(names).current_dir(to), PATIENCE)
    };
    let mut done = get()?;
    if !done.passed() && nix::unistd::geteuid().is_root() {
        process::collect(Command::new("apt-get").args(["-q", "update"]), PATIENCE)?;
        done = get()?;
    }
    ensure!(done.passed(), "packages cannot be downloaded:\n{}", done.tail(6));
    Ok(())
}

fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn unpack(folder: &Path, to: &Path) -> Result<()> {
    debs(folder)?.iter().try_for_each(|deb| unpack_one(deb, to))
}

fn unpack_one(deb: &Path, to: &Path) -> Result<()> {
    passed(Command::new("dpkg-deb").arg("-x").arg(deb).arg(to))
}

fn passed(command: &mut Command) -> Result<()> {
    let done = process::collect(command, PATIENCE)?;
    ensure!(done.passed(), "{} failed:\n{}", process::line(command), done.tail(6));
    Ok(())
}

/// Finds a file below a folder by the beginning of its name; links are followed.
pub fn file(folder: &Path, name: &str) -> Result<PathBuf> {
    find(folder, name)?.with_context(|| format!("there is no {name} in {}", folder.display()))
}

fn find(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            folders.push(path);
        } else if path.is_file()
            && path.file_name().is_some_and(|own| own.to_string_lossy().starts_with(name))
        {
            return Ok(Some(path));
        }
    }
    folders.sort();
    for folder in folders {
        if let Some(path) = find(&folder, name)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
