//! The readable description of a domain set, and the manifest it becomes.

use anyhow::{Context, Result, bail, ensure};
use pv_abi::manifest::{Disk, DiskSource, Manifest};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A domain set as a file under `scripts/domains/` describes it.
#[derive(Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields)]
pub struct DomainSet {
    #[serde(default)]
    hv: Hypervisor,
    /// The domains by name.
    #[serde(rename = "domain", default)]
    pub domains: BTreeMap<String, Domain>,
    #[serde(skip)]
    folder: PathBuf,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(deny_unknown_fields)]
struct Hypervisor {
    #[serde(default)]
    cmdline: String,
}

/// One domain of a set: the keys and their meaning are those of the manifest.
#[derive(Deserialize, Debug, Clone, Default)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    /// An image of the guest kernel's package, or a path with a `/`.
    pub kernel: String,
    /// A path to the initial RAM disk.
    pub initrd: Option<String>,
    /// The kernel's command line.
    #[serde(default)]
    pub cmdline: String,
    /// The size of its memory.
    pub memory: String,
    /// The number of its vCPUs.
    #[serde(default = "one")]
    pub vcpus: u32,
    /// Its permissions.
    #[serde(default)]
    pub roles: Vec<String>,
    /// The PCI functions it owns: `all`, or a list.
    pub pci: Option<String>,
    /// Who starts it, and when.
    #[serde(default = "auto")]
    pub start: String,
    weight: Option<u32>,
    cap: Option<u32>,
    cpus: Option<String>,
    /// Frames that its grant table may have.
    #[serde(rename = "grant-frames")]
    pub grant_frames: Option<u32>,
    /// Its disks.
    #[serde(default)]
    pub disk: Vec<String>,
    /// Its network interfaces.
    #[serde(default)]
    pub vif: Vec<String>,
}

impl Domain {
    /// A domain with one vCPU and nothing else, started by nobody.
    pub fn bare(kernel: &str, memory: String) -> Domain {
        Domain { kernel: kernel.into(), memory, vcpus: one(), start: "manual".into(), ..Domain::default() }
    }
}

fn one() -> u32 {
    1
}

fn auto() -> String {
    "auto".into()
}

impl DomainSet {
    /// Reads a domain set from its file.
    pub fn read(file: &Path) -> Result<DomainSet> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the domain set {}", file.display()))?;
        let mut set = DomainSet::parse(&text).with_context(|| format!("in {}", file.display()))?;
        let file = std::path::absolute(file)?;
        set.folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok(set)
    }

    /// Parses the text of a domain set.
    pub fn parse(text: &str) -> Result<DomainSet> {
        let set: DomainSet = toml::from_str(text)?;
        ensure!(!set.domains.is_empty(), "the set has no domain: write [domain.NAME]");
        for (name, domain) in &set.domains {
            let named = name.len() <= 31
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            ensure!(named, "{name} is no name for a domain: use a-z, 0-9 and -, at most 31 of them");
            for text in [&domain.cmdline, &domain.kernel, &domain.memory, &domain.start] {
                ensure!(!text.contains(['\n', '\r']), "a line break in the settings of {name}");
            }
        }
        Ok(set)
    }

    /// Whether a guest is likely to load x87 state: a kernel with a RAM disk, for it has programs to switch between, and the
    /// guest of ours that tests it.
    pub fn may_load_x87(&self) -> bool {
        self.domains.values().any(|domain| domain.initrd.is_some() || domain.kernel == "conf-fpu")
    }

    /// Returns the folder that paths of the set are relative to.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Appends words to the hypervisor's command line.
    pub fn add_to_hv(&mut self, words: &str) {
        append(&mut self.hv.cmdline, words);
    }

    /// Returns the first domain that is started by `dom0`: the guest that `run` is about.
    pub fn guest(&mut self) -> Result<&mut Domain> {
        self.domains
            .values_mut()
            .find(|domain| domain.start == "auto")
            .context("the domain set has no guest: start = \"auto\"")
    }

    /// Returns the domain that controls the others.
    pub fn control(&mut self) -> Result<&mut Domain> {
        self.domains
            .values_mut()
            .find(|domain| domain.roles.iter().any(|role| role == "control"))
            .context("no domain of the set has the role \"control\"")
    }

    /// Tells whether a machine with `count` disks has all that the set names.
    pub fn check_disks(&self, count: usize) -> Result<()> {
        for (name, domain) in &self.domains {
            for disk in &domain.disk {
                if let Some(Disk { source: DiskSource::MachineDisk(index), .. }) = Disk::parse(disk)
                    && index as usize >= count
                {
                    bail!("{name} wants {disk}, but the machine has {count} disk(s): give more by --disk");
                }
            }
        }
        Ok(())
    }

    /// Returns the files of the archive: their names there, and where they come from.
    pub fn files(&self) -> BTreeMap<String, &str> {
        let mut files = BTreeMap::new();
        for domain in self.domains.values() {
            for file in std::iter::once(&domain.kernel).chain(&domain.initrd) {
                files.insert(archived(file), file.as_str());
            }
        }
        files
    }

    /// Writes the manifest: the text that the hypervisor and the control domain read, tried with their own parser.
    pub fn manifest(&self) -> Result<String> {
        let mut text = String::from("xenolith 1\n");
        if !self.hv.cmdline.is_empty() {
            let _ = writeln!(text, "[hv]\ncmdline = {}", self.hv.cmdline);
        }
        for (name, domain) in &self.domains {
            let _ = writeln!(text, "[domain {name}]");
            let mut put = |key: &str, value: &str| {
                if !value.is_empty() {
                    let _ = writeln!(text, "{key} = {value}");
                }
            };
            put("kernel", &archived(&domain.kernel));
            put("initrd", &domain.initrd.as_deref().map(archived).unwrap_or_default());
            put("cmdline", &domain.cmdline);
            put("memory", &domain.memory);
            put("vcpus", &domain.vcpus.to_string());
            put("roles", &domain.roles.join(" "));
            put("pci", domain.pci.as_deref().unwrap_or_default());
            put("start", &domain.start);
            put("weight", &domain.weight.map(|weight| weight.to_string()).unwrap_or_default());
            put("cap", &domain.cap.map(|cap| cap.to_string()).unwrap_or_default());
            put("cpus", domain.cpus.as_deref().unwrap_or_default());
            put("grant-frames", &domain.grant_frames.map(|count| count.to_string()).unwrap_or_default());
            for disk in &domain.disk {
                put("disk", disk);
            }
            for vif in &domain.vif {
                put("vif", vif);
            }
        }
        match Manifest::parse(&text) {
            Ok(_) => Ok(text),
            Err(error) => {
                let line = text.lines().nth((error.line as usize).saturating_sub(1)).unwrap_or_default();
                bail!("{error} (`{line}`)")
            }
        }
    }
}

/// Returns the name in the archive of a kernel or RAM disk: unique for each path, a bare name for an image of ours.
fn archived(file: &str) -> String {
    file.trim_start_matches("./")
        .trim_start_matches('/')
        .replace(|c: char| c.is_whitespace() || c == '#', "_")
}

/// Appends words to a command line.
pub fn append(cmdline: &mut String, words: &str) {
    if !cmdline.is_empty() && !words.is_empty() {
        cmdline.push(' ');
    }
    cmdline.push_str(words);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str = r#"
        [hv]
        cmdline = "loglevel=debug"
        [domain.dom0]
        kernel = "pv-guest-kernel"
        cmdline = "role=dom0"
        memory = "64M"
        roles = ["control", "driver"]
        pci = "all"
        start = "boot"
        [domain.guest]
        kernel = "./my kernel"
        memory = "32M"
        disk = ["machine", "machine1:1M+64M,ro", "memory:16M"]
    "#;

    #[test]
    fn a_set_becomes_a_manifest() {
        let set = DomainSet::parse(SET).unwrap();
        assert_eq!(
            set.manifest().unwrap(),
            "xenolith 1\n[hv]\ncmdline = loglevel=debug\n\
             [domain dom0]\nkernel = pv-guest-kernel\ncmdline = role=dom0\nmemory = 64M\nvcpus = 1\nroles = control driver\npci = all\nstart = boot\n\
             [domain guest]\nkernel = my_kernel\nmemory = 32M\nvcpus = 1\nstart = auto\n\
             disk = machine\ndisk = machine1:1M+64M,ro\ndisk = memory:16M\n"
        );
        assert_eq!(
            set.files().into_iter().collect::<Vec<_>>(),
            [("my_kernel".to_string(), "./my kernel"), ("pv-guest-kernel".to_string(), "pv-guest-kernel")]
        );
    }

    #[test]
    fn a_disk_that_the_machine_lacks_is_refused() {
        let set = DomainSet::parse(SET).unwrap();
        assert!(set.check_disks(1).is_err());
        set.check_disks(2).unwrap();
    }

    #[test]
    fn what_the_hypervisor_would_refuse_is_refused_here() {
        let set = DomainSet::parse(&SET.replace("\"64M\"", "\"much\"")).unwrap();
        assert!(format!("{:#}", set.manifest().unwrap_err()).contains("much"));
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text| format!("{:#}", DomainSet::parse(text).unwrap_err());
        assert!(error("[domain.a]\nkernel = \"k\"\nmemory = \"1M\"\ncolour = 1").contains("colour"));
        assert!(error("[domain.A]\nkernel = \"k\"\nmemory = \"1M\"").contains("A is no name"));
        assert!(error("").contains("no domain"));
    }
}
