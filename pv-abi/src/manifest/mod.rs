//! The boot bundle's manifest: which domains there are and what they get.
//!
//! A readable text, parsed in place without allocation by everyone who needs it: the tool that makes the bundle, the
//! hypervisor that builds the first domains from it, and the control domain that creates the others.
//!
//! ```text
//! xenolith 1
//! [hv]
//! cmdline = loglevel=info
//! [domain dom0]
//! kernel = pv-guest-kernel        # name of a file in the archive
//! initrd = NAME                   # optional
//! cmdline = role=dom0
//! memory = 64M
//! vcpus = 1
//! roles = control driver store
//! pci = all                       # or a list: 00:03.0 0000:00:04.0
//! start = boot                    # boot: by the hypervisor; auto: by the control domain at its start; manual
//! weight = 256
//! cap = 0
//! cpus = 0-3                      # or a list: 0,2-3
//! disk = machine0:1M+64M          # repeated, in the order of the guest's device names; see [`disk`]
//! vif = bridge,mac=02:00:00:00:00:01,rate=10M,mtu=9000,antispoof,ip=10.0.0.2
//! ```
//!
//! A `#` at the start of a line or after a space begins a comment. An unknown key is an error, as is a key given twice
//! that is not `disk` or `vif`. [`Manifest::parse`] checks everything once; afterwards nothing can fail.

pub mod disk;
mod value;
pub mod vif;

use crate::control::{NAME_MAX, Roles};
use core::fmt;
pub use disk::{Disk, DiskSource};
pub use value::{CpuSet, PciAddress, PciList, parse_size};
pub use vif::Vif;

/// Version of the format.
pub const VERSION: u32 = 1;

/// Most vCPUs of a domain.
pub const VCPUS_MAX: u32 = 64;

/// What is wrong with a manifest, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error<'a> {
    /// The line, counted from 1.
    pub line: u32,
    /// What is wrong with it.
    pub kind: ErrorKind<'a>,
}

/// What can be wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind<'a> {
    /// The first line does not say `xenolith 1`.
    Version,
    /// Neither a section nor `key = value`.
    Syntax,
    /// A section of an unknown kind.
    UnknownSection(&'a str),
    /// A name that is empty, too long, or not of `a-z 0-9 -`.
    BadName(&'a str),
    /// A section that was there before.
    Again(&'a str),
    /// A key that the section does not have.
    UnknownKey(&'a str),
    /// A key that was given before.
    KeyAgain(&'a str),
    /// A key before the first section.
    NoSection(&'a str),
    /// A value that the key cannot have.
    BadValue(&'a str, &'a str),
    /// The domain that begins here lacks a key.
    Missing(&'a str),
}

impl fmt::Display for Error<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "manifest, line {}: ", self.line)?;
        match self.kind {
            ErrorKind::Version => write!(f, "expected `xenolith {VERSION}`"),
            ErrorKind::Syntax => f.write_str("expected `[section]` or `key = value`"),
            ErrorKind::UnknownSection(name) => write!(f, "unknown section `{name}`"),
            ErrorKind::BadName(name) => {
                write!(f, "`{name}` is no name: 1 to {NAME_MAX} of a-z, 0-9 and `-`")
            }
            ErrorKind::Again(name) => write!(f, "section `{name}` again"),
            ErrorKind::UnknownKey(key) => write!(f, "unknown key `{key}`"),
            ErrorKind::KeyAgain(key) => write!(f, "key `{key}` again"),
            ErrorKind::NoSection(key) => write!(f, "key `{key}` before the first section"),
            ErrorKind::BadValue(key, value) => write!(f, "`{key}` cannot be `{value}`"),
            ErrorKind::Missing(key) => write!(f, "the domain has no `{key}`"),
        }
    }
}

impl core::error::Error for Error<'_> {}

/// Who starts a domain, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// The hypervisor, at boot.
    Boot,
    /// The control domain, at its own start.
    #[default]
    Auto,
    /// Nobody, until told.
    Manual,
}

/// A manifest that is known to be right.
#[derive(Clone, Copy, Debug)]
pub struct Manifest<'a> {
    text: &'a str,
    cmdline: &'a str,
}

/// Frames of a grant table where nothing else is said, as on Xen: 32,768 entries.
pub const GRANT_FRAMES: u32 = 64;
/// Most that can be said.
pub const GRANT_FRAMES_MAX: u32 = 256;

/// One domain's section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainConfig<'a> {
    /// Its name.
    pub name: &'a str,
    /// File of the archive that is its kernel.
    pub kernel: &'a str,
    /// File of the archive that is its initial ramdisk.
    pub initrd: Option<&'a str>,
    /// Its command line.
    pub cmdline: &'a str,
    /// Its memory in bytes, a multiple of the page size.
    pub memory: u64,
    /// Number of its vCPUs.
    pub vcpus: u32,
    /// Its permissions.
    pub roles: Roles,
    /// The PCI functions that it gets.
    pub pci: PciList<'a>,
    /// Who starts it.
    pub start: Start,
    /// Its relative share of the CPUs.
    pub weight: u32,
    /// Most it may use, in percent of one CPU; 0 for no limit.
    pub cap: u32,
    /// The CPUs on which it may run.
    pub cpus: CpuSet,
    /// Frames that its grant table may have. Those beyond [`GRANT_FRAMES`] cost it memory.
    pub grant_frames: u32,
    body: Lines<'a>,
}

impl<'a> Manifest<'a> {
    /// Reads and checks a manifest.
    pub fn parse(text: &'a str) -> Result<Self, Error<'a>> {
        let mut lines = Lines::new(text);
        let first = lines.next();
        let line = first.map_or(1, |line| line.number);
        let version = first.and_then(|line| line.text.strip_prefix("xenolith")).map(str::trim);
        if version.and_then(|version| version.parse().ok()) != Some(VERSION) {
            return Err(Error { line, kind: ErrorKind::Version });
        }
        let mut manifest = Self { text, cmdline: "" };
        let mut hv_seen = false;
        while let Some(line) = lines.next() {
            let error = |kind| Error { line: line.number, kind };
            match line.section() {
                None => {
                    let (key, _) = line.pair().ok_or(error(ErrorKind::Syntax))?;
                    return Err(error(ErrorKind::NoSection(key)));
                }
                Some("hv") if hv_seen => return Err(error(ErrorKind::Again("hv"))),
                Some("hv") => {
                    hv_seen = true;
                    manifest.cmdline = parse_hv(lines.body())?;
                }
                Some(section) => {
                    let domain = parse_domain(section, line.number, lines.body())?;
                    if manifest.sections_before(line.number).any(|earlier| earlier == domain.name) {
                        return Err(error(ErrorKind::Again(domain.name)));
                    }
                }
            }
            lines = lines.after_body();
        }
        Ok(manifest)
    }

    /// The hypervisor's command line.
    pub fn cmdline(&self) -> &'a str {
        self.cmdline
    }

    /// The text that was parsed.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The domains, in the order of the manifest.
    pub fn domains(&self) -> impl Iterator<Item = DomainConfig<'a>> + Clone + use<'a> {
        let mut lines = Lines::new(self.text);
        core::iter::from_fn(move || {
            loop {
                let line = lines.next()?;
                let Some(section) = line.section() else { continue };
                if let Ok(domain) = parse_domain(section, line.number, lines.body()) {
                    return Some(domain);
                }
            }
        })
    }

    /// The domain of that name.
    pub fn domain(&self, name: &str) -> Option<DomainConfig<'a>> {
        self.domains().find(|domain| domain.name == name)
    }

    /// Names of the domains' sections above a line.
    fn sections_before(&self, number: u32) -> impl Iterator<Item = &'a str> + use<'a> {
        Lines::new(self.text)
            .take_while(move |line| line.number < number)
            .filter_map(|line| line.section()?.strip_prefix("domain"))
            .map(str::trim)
    }
}

impl<'a> DomainConfig<'a> {
    /// Its disks, in order.
    pub fn disks(&self) -> impl Iterator<Item = Disk> + Clone + use<'a> {
        self.values("disk").filter_map(Disk::parse)
    }

    /// Its network interfaces, in order.
    pub fn vifs(&self) -> impl Iterator<Item = Vif> + Clone + use<'a> {
        self.values("vif").filter_map(Vif::parse)
    }

    fn values(&self, wanted: &'static str) -> impl Iterator<Item = &'a str> + Clone + use<'a> {
        self.body
            .filter_map(|line| line.pair())
            .filter(move |(key, _)| *key == wanted)
            .map(|(_, value)| value)
    }
}

fn parse_hv(body: Lines<'_>) -> Result<&str, Error<'_>> {
    let mut cmdline = None;
    for line in body {
        let error = |kind| Error { line: line.number, kind };
        match line.pair().ok_or(error(ErrorKind::Syntax))? {
            ("cmdline", _) if cmdline.is_some() => return Err(error(ErrorKind::KeyAgain("cmdline"))),
            ("cmdline", value) => cmdline = Some(value),
            (key, _) => return Err(error(ErrorKind::UnknownKey(key))),
        }
    }
    Ok(cmdline.unwrap_or(""))
}

fn parse_domain<'a>(section: &'a str, number: u32, body: Lines<'a>) -> Result<DomainConfig<'a>, Error<'a>> {
    let at = |kind| Error { line: number, kind };
    let name = match section.strip_prefix("domain") {
        Some(name) if name.starts_with([' ', '\t']) || name.is_empty() => name.trim(),
        _ => return Err(at(ErrorKind::UnknownSection(section))),
    };
    if !is_name(name) {
        return Err(at(ErrorKind::BadName(name)));
    }
    let mut domain = DomainConfig {
        name,
        kernel: "",
        initrd: None,
        cmdline: "",
        memory: 0,
        vcpus: 1,
        roles: Roles::empty(),
        pci: PciList::NONE,
        start: Start::default(),
        weight: 256,
        cap: 0,
        cpus: CpuSet::ALL,
        grant_frames: GRANT_FRAMES,
        body,
    };
    let mut seen = 0u32;
    for line in body {
        let error = |kind| Error { line: line.number, kind };
        let (key, value) = line.pair().ok_or(error(ErrorKind::Syntax))?;
        let index = KEYS.iter().position(|known| *known == key).ok_or(error(ErrorKind::UnknownKey(key)))?;
        if seen & (1 << index) != 0 && !REPEATED.contains(&key) {
            return Err(error(ErrorKind::KeyAgain(key)));
        }
        seen |= 1 << index;
        set(&mut domain, key, value).ok_or(error(ErrorKind::BadValue(key, value)))?;
    }
    if domain.kernel.is_empty() {
        return Err(at(ErrorKind::Missing("kernel")));
    }
    if domain.memory == 0 {
        return Err(at(ErrorKind::Missing("memory")));
    }
    Ok(domain)
}

/// The keys of a domain.
const KEYS: &[&str] = &[
    "kernel",
    "initrd",
    "cmdline",
    "memory",
    "vcpus",
    "roles",
    "pci",
    "start",
    "weight",
    "cap",
    "cpus",
    "grant-frames",
    "disk",
    "vif",
];
/// Those that may be repeated.
const REPEATED: &[&str] = &["disk", "vif"];

/// Takes one value; `None` when the key cannot have it.
fn set<'a>(domain: &mut DomainConfig<'a>, key: &str, value: &'a str) -> Option<()> {
    match key {
        "kernel" => domain.kernel = file(value)?,
        "initrd" => domain.initrd = Some(file(value)?),
        "cmdline" => domain.cmdline = value,
        "memory" => domain.memory = parse_size(value).filter(|size| *size > 0 && size % 4096 == 0)?,
        "vcpus" => domain.vcpus = value.parse().ok().filter(|count| (1..=VCPUS_MAX).contains(count))?,
        "roles" => domain.roles = roles(value)?,
        "pci" => domain.pci = PciList::parse(value)?,
        "start" => {
            domain.start = match value {
                "boot" => Start::Boot,
                "auto" => Start::Auto,
                "manual" => Start::Manual,
                _ => return None,
            }
        }
        "weight" => domain.weight = value.parse().ok().filter(|weight| (1..=65535).contains(weight))?,
        "cap" => domain.cap = value.parse().ok()?,
        "cpus" => domain.cpus = CpuSet::parse(value)?,
        "grant-frames" => {
            domain.grant_frames =
                value.parse().ok().filter(|count| (1..=GRANT_FRAMES_MAX).contains(count))?;
        }
        "disk" => Disk::parse(value).map(|_| ())?,
        "vif" => Vif::parse(value).map(|_| ())?,
        _ => return None,
    }
    Some(())
}

/// A file's name in the archive.
fn file(value: &str) -> Option<&str> {
    (!value.is_empty() && !value.contains(char::is_whitespace)).then_some(value)
}

fn roles(value: &str) -> Option<Roles> {
    value.split_whitespace().try_fold(Roles::empty(), |roles, word| {
        Some(
            roles
                | match word {
                    "control" => Roles::CONTROL,
                    "driver" => Roles::DRIVER,
                    "store" => Roles::STORE,
                    _ => return None,
                },
        )
    })
}

/// Whether a text can be a domain's name.
pub fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// A line that is neither empty nor a comment.
#[derive(Clone, Copy)]
struct Line<'a> {
    number: u32,
    text: &'a str,
}

impl<'a> Line<'a> {
    fn section(&self) -> Option<&'a str> {
        Some(self.text.strip_prefix('[')?.strip_suffix(']')?.trim())
    }

    fn pair(&self) -> Option<(&'a str, &'a str)> {
        let (key, value) = self.text.split_once('=')?;
        let key = key.trim();
        (!key.is_empty() && !key.contains(char::is_whitespace)).then_some((key, value.trim()))
    }
}

/// The lines of a text that mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lines<'a> {
    rest: &'a str,
    number: u32,
}

impl<'a> Lines<'a> {
    const fn new(text: &'a str) -> Self {
        Self { rest: text, number: 0 }
    }

    /// The lines up to the next section.
    fn body(self) -> Self {
        let mut ahead = self;
        loop {
            let before = ahead;
            match ahead.next() {
                Some(line) if line.section().is_some() => {
                    let length = self.rest.len() - before.rest.len();
                    return Self { rest: self.rest.get(..length).unwrap_or(""), number: self.number };
                }
                Some(_) => {}
                None => return self,
            }
        }
    }

    /// The lines from the next section on.
    fn after_body(self) -> Self {
        let mut ahead = self;
        loop {
            let before = ahead;
            match ahead.next() {
                Some(line) if line.section().is_some() => return before,
                Some(_) => {}
                None => return ahead,
            }
        }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        while !self.rest.is_empty() {
            let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
            self.rest = rest;
            self.number += 1;
            let text = without_comment(line).trim();
            if !text.is_empty() {
                return Some(Line { number: self.number, text });
            }
        }
        None
    }
}

/// Cuts a comment off.
fn without_comment(line: &str) -> &str {
    let mut before = ' ';
    for (index, character) in line.char_indices() {
        if character == '#' && before.is_whitespace() {
            return line.get(..index).unwrap_or(line);
        }
        before = character;
    }
    line
}

#[cfg(test)]
mod tests;
