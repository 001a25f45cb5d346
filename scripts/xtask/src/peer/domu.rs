//! The guest kernel as a guest of Xen below Debian's Linux, which serves its disk and its network.

use super::{packages, xen};
use crate::build::{GUEST_KERNEL, Images};
use crate::bundle::Archive;
use crate::machine::{Console, End, Report};
use crate::test::Verdict;
use crate::{process, run as run_verb, workspace};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What Linux runs first, its device scripts, and the guest's configuration.
const INIT: &str = include_str!("../../../peer/init");
const BLOCK: &str = include_str!("../../../peer/block");
const VIF: &str = include_str!("../../../peer/vif-bridge");
const GUEST: &str = include_str!("../../../peer/guest.cfg");
/// A second guest's, which answers the one that measures: it is made first.
const PARTNER: &str = include_str!("../../../peer/partner.cfg");
/// What it runs: it serves the domain that is made after it.
const ANSWER: &str = "bench partner 2";
/// The number of its domain.
pub const PARTNER_DOMAIN: u32 = 1;
/// What serves the streams of the guest's `bench net`.
const SERVE: &str = include_str!("../../../peer/serve");

/// The address of the Linux that serves a guest which measures: that of our driver domain in the network's domain set, so
/// that figures of both have the same name.
pub const SERVER: &str = "10.0.0.254";
/// The bridge's own MAC.
pub const SERVER_MAC: &str = "00:16:3e:00:00:fe";

/// What the guest is asked to do: `init` prints the checksums that it must see, and those it must have left.
const COMMANDS: &str = "lsblk; sha256 xvda; ip 10.17.0.2/24; ping 10.17.0.1 count=2; wget http://10.17.0.1/file; \
                        dd if=random of=xvda bs=64K count=64 seed=7; sha256 xvda";

/// How long the machine may take at least.
const LIMIT: Duration = Duration::from_secs(900);

/// In the order in which they can be loaded.
const MODULES: &[&str] = &[
    "llc",
    "stp",
    "bridge",
    "loop",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-privcmd",
    "xenfs",
    "xen-netback",
    "xen-blkback",
];

const PROGRAMS: &[&str] =
    &["xl", "xenstored", "xenconsoled", "xen-init-dom0", "xenstore-read", "xenstore-write"];

/// What the programs need, by the names they ask for.
const LIBRARIES: &[&str] = &[
    "libbz2.so.1.0",
    "libc.so.6",
    "libfdt.so.1",
    "libgcc_s.so.1",
    "liblzma.so.5",
    "liblzo2.so.2",
    "libm.so.6",
    "libnl-3.so.200",
    "libnl-route-3.so.200",
    "libuuid.so.1",
    "libxencall.so.1",
    "libxenctrl.so.4.17",
    "libxendevicemodel.so.1",
    "libxenevtchn.so.1",
    "libxenforeignmemory.so.1",
    "libxengnttab.so.1",
    "libxenguest.so.4.17",
    "libxenhypfs.so.1",
    "libxenlight.so.4.17",
    "libxenstore.so.4",
    "libxentoolcore.so.1",
    "libxentoollog.so.1",
    "libxlutil.so.4.17",
    "libyajl.so.2",
    "libz.so.1",
    "libzstd.so.1",
];

/// Boots Xen with Linux, has it start our guest, and judges what both say. Packages that cannot be had are a skip.
pub fn run(images: &Images, console: Console, verbose: bool) -> Result<Verdict> {
    let tools = match packages::hypervisor().and_then(|_| packages::tools()) {
        Ok(tools) => tools,
        Err(error) => return Ok(Verdict::Skipped(format!("{error:#}"))),
    };
    // Time follows instructions, so that no time-out of xl or of the guest depends on this computer.
    let machine = xen::Options { console, verbose, icount: true, ..Default::default() };
    let ramdisk = workspace::products()?.join(format!("peer-linux-{}.cpio", std::process::id()));
    let report = boot(&tools, &Guest::own(images, "xvda", COMMANDS), &TESTING, machine, &ramdisk)?;
    std::fs::write(
        workspace::made(workspace::products()?.join("test"))?.join("peer-xen-domu.log"),
        &report.console,
    )?;
    Ok(judge(&report))
}

/// How a guest measures.
pub struct Measuring {
    /// Whether time follows instructions, rather than the clock.
    pub counted: bool,
    /// Where Linux's initial RAM disk is made.
    pub ramdisk: PathBuf,
    /// After how long the machine has failed.
    pub limit: Duration,
    /// Whether the emulator's command line is printed.
    pub verbose: bool,
}

/// Boots the same with a guest that measures, on the plain processor. Nobody judges what it prints.
pub fn measure(guest: &Guest, how: &Measuring) -> Result<Report> {
    packages::hypervisor()?;
    let machine = xen::Options {
        plain: true,
        icount: how.counted,
        limit: how.limit,
        verbose: how.verbose,
        ..Default::default()
    };
    boot(&packages::tools()?, guest, &MEASURING, machine, &how.ramdisk)
}

/// What a guest is and does.
pub struct Guest {
    disk: String,
    kernel: PathBuf,
    ramdisk: Option<Vec<u8>>,
    words: String,
    /// In MiB.
    memory: u32,
    /// Whether there is another guest that answers it.
    partner: bool,
}

impl Guest {
    /// Our kernel, which runs commands; its disk, in Linux's memory, has a name that it has elsewhere.
    pub fn own(images: &Images, disk: &str, commands: &str) -> Guest {
        Guest {
            disk: disk.into(),
            kernel: images.guest(GUEST_KERNEL),
            ramdisk: None,
            words: format!("name=guest role=guest {}", run_verb::exec(commands)),
            memory: 64,
            partner: false,
        }
    }

    /// Adds the other guest.
    pub fn with_partner(self) -> Guest {
        Guest { partner: true, ..self }
    }

    /// Linux with its initial RAM disk.
    pub fn linux(kernel: PathBuf, ramdisk: Vec<u8>, memory: u32) -> Guest {
        let words = run_verb::LINUX_WORDS.into();
        Guest { disk: "xvda".into(), kernel, ramdisk: Some(ramdisk), words, memory, partner: false }
    }

    /// What `xl` is told of it. Our kernel leaves its status behind and is kept for that, Linux leaves nothing.
    fn config(&self) -> String {
        let (ramdisk, end) = match self.ramdisk {
            Some(_) => ("ramdisk = \"/guest.initrd\"", "destroy"),
            None => ("", "preserve"),
        };
        GUEST
            .replace("@RAMDISK@", ramdisk)
            .replace("@POWEROFF@", end)
            .replace("@WORDS@", &self.words)
            .replace("@DISK@", &self.disk)
            .replace("@MEMORY@", &self.memory.to_string())
    }
}

/// What differs between the Linux that tests a guest and the one that serves a guest which measures.
struct Service {
    /// Its address on the bridge.
    address: &'static str,
    /// How long it waits, in microseconds, before it looks again whether the guest has ended: to look takes instructions.
    pause: &'static str,
    /// What it runs for each TCP connection of the guest's `bench net`.
    serve: Option<&'static str>,
}

const TESTING: Service = Service { address: "10.17.0.1", pause: "300000", serve: None };
const MEASURING: Service = Service { address: SERVER, pause: "3000000", serve: Some(SERVE) };

fn boot(
    tools: &Path,
    guest: &Guest,
    service: &Service,
    machine: xen::Options,
    ramdisk: &Path,
) -> Result<Report> {
    std::fs::write(ramdisk, initial(tools, guest, service)?)?;
    let kernel = packages::file(&tools.join("boot"), "vmlinuz")?;
    let options = xen::Options {
        memory: (768 << 20) + (u64::from(guest.memory) << 20),
        // QEMU's IRET reads the stack as the supervisor even from ring 3, which SMAP then refuses to a PV kernel.
        xen: "smap=0 dom0_max_vcpus=1 guest_loglvl=warning".into(),
        limit: machine.limit.max(LIMIT),
        ..machine
    };
    let report = xen::boot(&[(&kernel, "console=hvc0 quiet"), (ramdisk, "")], "dom0_mem=384M", &options);
    std::fs::remove_file(ramdisk)?;
    report
}

/// Makes Linux's initial RAM disk.
fn initial(tools: &Path, guest: &Guest, service: &Service) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for folder in [
        "bin",
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "var",
        "var/log",
        "var/log/xen",
        "var/log/xen/console",
        "var/lib",
        "var/lib/xen",
        "var/lib/xenstored",
        "etc",
        "etc/xen",
        "etc/xen/scripts",
        "lib",
        "lib/x86_64-linux-gnu",
        "lib64",
        "modules",
        "www",
    ] {
        archive.folder(folder)?;
    }
    let root = tools.join("root");
    let read =
        |file: PathBuf| std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()));
    for program in PROGRAMS {
        let own = root.join("usr/lib/xen-4.17/bin").join(program);
        let file = if own.is_file() { own } else { root.join("usr/bin").join(program) };
        archive.program(&format!("bin/{program}"), &read(file)?)?;
    }
    archive.program("bin/busybox", &read(root.join("bin/busybox"))?)?;
    archive.program("lib64/ld-linux-x86-64.so.2", &read(packages::file(&root, "ld-linux-x86-64.so.2")?)?)?;
    for library in LIBRARIES {
        archive
            .program(&format!("lib/x86_64-linux-gnu/{library}"), &read(packages::file(&root, library)?)?)?;
    }
    for module in MODULES {
        let file = packages::file(&tools.join("lib"), &format!("{module}.ko"))?;
        archive.add(&format!("modules/{module}.ko"), &read(file)?)?;
    }
    let init = INIT
        .replace("@MODULES@", &MODULES.join(" "))
        .replace("@ADDRESS@", service.address)
        .replace("@MAC@", SERVER_MAC)
        .replace("@PAUSE@", service.pause);
    archive.program("init", init.as_bytes())?;
    if let Some(serve) = service.serve {
        archive.program("bin/serve", serve.as_bytes())?;
    }
    archive.program("etc/xen/scripts/block", BLOCK.as_bytes())?;
    archive.program("etc/xen/scripts/vif-bridge", VIF.as_bytes())?;
    archive.add("etc/xen/xl.conf", b"")?;
    archive.add("guest.cfg", guest.config().as_bytes())?;
    if guest.partner {
        archive.add("partner.cfg", PARTNER.replace("@WORDS@", &run_verb::exec(ANSWER)).as_bytes())?;
    }
    archive.add("guest", &read(guest.kernel.clone())?)?;
    if let Some(ramdisk) = &guest.ramdisk {
        archive.add("guest.initrd", ramdisk)?;
    }
    archive.finish()
}

/// Compares what Linux and the guest say of the same bytes.
fn judge(report: &Report) -> Verdict {
    let failed = |why: String| Verdict::Failed { why, end: process::tail(&report.console, 40) };
    let console = &report.console;
    // Linux switches the machine off, after which the emulator is gone.
    if !matches!(&report.end, End::Gone(status) if status.success()) && report.end != End::Halted {
        return failed(report.end.to_string());
    }
    let linux = |sign: &str| {
        let line = console.lines().find_map(|line| line.trim().strip_prefix(sign))?;
        line.split_whitespace().next().map(str::to_owned)
    };
    for (what, sign) in [
        ("the disk as Linux made it, read by the guest", "linux: disk before "),
        ("the file that the guest fetched from Linux", "linux: file "),
        ("the disk as the guest left it, read by Linux", "linux: disk after "),
    ] {
        let Some(sum) = linux(sign) else { return failed(format!("Linux does not say {sign:?}")) };
        let is_guests = console.lines().any(|line| !line.contains("linux: ") && line.contains(&sum));
        if sum.len() != 64 || !is_guests {
            return failed(format!("{what}: the checksums differ"));
        }
    }
    if linux("linux: disk before ") == linux("linux: disk after ") {
        return failed("the guest wrote nothing".into());
    }
    if !console.contains("2 of 2 answered") {
        return failed("the guest's ping was not answered".into());
    }
    match linux("linux: the guest ended with ").as_deref() {
        Some("0") => Verdict::Passed("disk read and written, ping, file fetched".into()),
        Some(other) => failed(format!("the guest's commands ended with {other}")),
        None => failed("the guest did not end".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What both say in a good run, with sums of the three contents.
    fn console(disk: &str, file: &str, left: &str, status: &str) -> Report {
        let [a, b, c] = ["a", "b", "c"].map(|digit| digit.repeat(64));
        let console = format!(
            "linux: disk before {a}  -\r\nlinux: file {b}  -\r\n{disk}  xvda\r\n2 of 2 answered; 1 / 2 / 3 us\r\n\
             {file}  http://10.17.0.1/file\r\n{left}  xvda\r\nlinux: the guest ended with {status}\r\n\
             linux: disk after {c}  -\r\n"
        );
        Report { end: End::Halted, console, took: Duration::ZERO }
    }

    #[test]
    fn both_must_say_the_same_of_the_same_bytes() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|digit| digit.repeat(64));
        let good = |report: &Report| matches!(judge(report), Verdict::Passed(_));
        assert!(good(&console(&a, &b, &c, "0")));
        assert!(!good(&console(&d, &b, &c, "0")), "the disk was read wrongly");
        assert!(!good(&console(&a, &d, &c, "0")), "the file came wrongly");
        assert!(!good(&console(&a, &b, &d, "0")), "the disk was written wrongly");
        assert!(!good(&console(&a, &b, &c, "1")), "a command failed");
        assert!(!good(&console(&a, &b, &c, "no status")), "the guest crashed");
        let mut deaf = console(&a, &b, &c, "0");
        deaf.console = deaf.console.replace("2 of 2", "1 of 2");
        assert!(!good(&deaf));
        let late = Report { end: End::TimedOut(Duration::ZERO), ..console(&a, &b, &c, "0") };
        assert!(!good(&late));
    }
}
