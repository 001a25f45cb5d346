//! Debian's kernel for virtual machines, and the statically linked BusyBox: taken from their packages, not installed, and
//! kept in the user's cache.

use crate::setup::apt;
use crate::{process, say, workspace};
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The package that depends on the newest kernel.
const META: &str = "linux-image-cloud-amd64";
const BUSYBOX: &str = "busybox-static";
/// The keys of Debian's archive, where they are not among those that apt trusts anyway.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How long apt may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Which of Debian's kernels.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Suite {
    /// That of the Debian release of this computer
    Stable,
    /// The newer one in the release's backports
    Backports,
}

impl Suite {
    /// Its name in file names.
    pub fn name(self) -> &'static str {
        match self {
            Suite::Stable => "stable",
            Suite::Backports => "backports",
        }
    }
}

/// What was taken out of the packages.
pub struct Linux {
    root: PathBuf,
}

impl Linux {
    /// Returns the kernel of a suite, fetched if it is not in the cache.
    pub fn get(suite: Suite) -> Result<Linux> {
        let _alone = apt::alone();
        let cache = workspace::cache()?;
        let start = format!("linux-{}-", suite.name());
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&cache)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(&start) && path.join("bin/busybox").is_file() {
                found.push(path);
            }
        }
        found.sort();
        match found.pop() {
            Some(root) => Ok(Linux { root }),
            None => fetch(suite, &cache).context("Debian's kernel could not be fetched"),
        }
    }

    /// The kernel, as Debian packs it.
    pub fn image(&self) -> Result<PathBuf> {
        only(&self.root.join("boot"), |name| name.starts_with("vmlinuz-"))
    }

    /// The kernel's release, such as `6.1.0-56-cloud-amd64`.
    pub fn release(&self) -> Result<String> {
        let image = self.image()?;
        let name = image.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        Ok(name.trim_start_matches("vmlinuz-").to_owned())
    }

    /// A module as the kernel takes it, by its path below the drivers' folder.
    pub fn driver(&self, path: &str) -> Result<Vec<u8>> {
        let modules = only(&self.root.join("lib/modules"), |_| true)?;
        let file = modules.join("kernel/drivers").join(path);
        let packed = file.with_extension("ko.xz");
        if packed.is_file() {
            return super::payload::decompress(&std::fs::read(packed)?);
        }
        std::fs::read(&file).with_context(|| format!("the package has no module {path}"))
    }

    /// BusyBox.
    pub fn busybox(&self) -> Result<Vec<u8>> {
        Ok(std::fs::read(self.root.join("bin/busybox"))?)
    }
}

/// The only file in a folder that has such a name.
fn only(dir: &Path, is_it: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&is_it))
        .with_context(|| format!("{} has not what it should", dir.display()))
}

fn fetch(suite: Suite, cache: &Path) -> Result<Linux> {
    for program in ["apt-get", "apt-cache", "dpkg-deb"] {
        ensure!(workspace::program(program).is_some(), "{program}, a tool of Debian, is not installed");
    }
    let new = cache.join(format!("new-{}-{}", suite.name(), std::process::id()));
    let done = fetch_by(suite, cache, &new);
    let _ = std::fs::remove_dir_all(new);
    done
}

/// Fetches by way of the folder `new`, which is in the cache as what it becomes.
fn fetch_by(suite: Suite, cache: &Path, new: &Path) -> Result<Linux> {
    let apt = Apt::of(suite, new)?;
    let kernel = apt.kernel()?;
    say::step(format!("fetching {kernel} and {BUSYBOX} (once) into {}", cache.display()));
    apt.take(&kernel, new)?;
    apt.take(BUSYBOX, new)?;
    let release = kernel.trim_start_matches("linux-image-");
    let root = cache.join(format!("linux-{}-{release}", suite.name()));
    std::fs::rename(new.join("root"), &root).with_context(|| format!("cannot make {}", root.display()))?;
    Ok(Linux { root })
}

/// The way in which apt is asked.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    /// For the release the index of the computer is used; the backports have one of their own, in `dir`.
    fn of(suite: Suite, dir: &Path) -> Result<Apt> {
        let system = Apt { options: Vec::new() };
        if system.kernel().is_err() {
            apt::update()?;
        }
        if suite == Suite::Stable {
            return Ok(system);
        }
        let folder =
            |name: &str| Ok::<_, anyhow::Error>(workspace::made(dir.join(name))?.display().to_string());
        let list = dir.join("sources.list");
        workspace::made(dir.into())?;
        std::fs::write(&list, backports()?)?;
        let own = Apt {
            options: vec![
                format!("Dir::Etc::SourceList={}", list.display()),
                "Dir::Etc::SourceParts=-".into(),
                format!("Dir::State::Lists={}", folder("lists")?),
                format!("Dir::Cache={}", folder("cache")?),
            ],
        };
        own.ask("apt-get", &["-q", "update"], dir)?;
        Ok(own)
    }

    fn ask(&self, program: &str, words: &[&str], dir: &Path) -> Result<String> {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        let done = process::collect(command.args(words).env("LC_ALL", "C").current_dir(dir), LIMIT)?;
        ensure!(done.passed(), "{} did not end well:\n{}", process::line(&command), done.tail(5));
        Ok(done.output)
    }

    /// The package of the newest kernel.
    fn kernel(&self) -> Result<String> {
        let answer = self.ask("apt-cache", &["depends", META], Path::new("/"))?;
        let name = answer.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
        Ok(format!("linux-image-{}", name.with_context(|| format!("apt does not know {META}"))?.trim()))
    }

    /// Takes out what is in a package.
    fn take(&self, package: &str, dir: &Path) -> Result<()> {
        workspace::made(dir.join("root"))?;
        // BusyBox is the release's own in any case.
        let apt = if package == BUSYBOX { &Apt { options: Vec::new() } } else { self };
        apt.ask("apt-get", &["-q", "download", package], dir)?;
        let file = only(dir, |name| name.starts_with(&format!("{package}_")))?;
        self.ask_plain(Command::new("dpkg-deb").arg("-x").arg(&file).arg(dir.join("root")))
    }

    fn ask_plain(&self, command: &mut Command) -> Result<()> {
        let done = process::collect(command, LIMIT)?;
        ensure!(done.passed(), "{} did not end well:\n{}", process::line(command), done.tail(5));
        Ok(())
    }
}

/// The line that names the backports of this computer's release, beside the release itself.
fn backports() -> Result<String> {
    let system = Apt { options: Vec::new() };
    let words = ["indextargets", "--format", "$(REPO_URI) $(CODENAME) $(LABEL)", "Created-By: Packages"];
    let signed = if Path::new(KEYRING).is_file() { format!("[signed-by={KEYRING}] ") } else { String::new() };
    for line in system.ask("apt-get", &words, Path::new("/"))?.lines() {
        // The release itself is the one whose name has nothing behind it.
        if let [place, code, "Debian"] = line.split(' ').collect::<Vec<_>>()[..]
            && !code.contains('-')
        {
            return Ok(format!("deb {signed}{place} {code}-backports main\n"));
        }
    }
    bail!("apt's sources do not name Debian's archive, so its backports are not known")
}
