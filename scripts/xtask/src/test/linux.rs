//! Cases with Debian's own kernel as the guest: nothing in it was written for this hypervisor.
//!
//! A boot does many things, one after the other, and says of each what came out; the host compares. Where the packages
//! cannot be had the cases are skipped, with the reason.

use super::disk::noise;
use super::live::{self, Lane, Machine, SVM, VMX};
use super::{Case, Context, Verdict};
use crate::bundle::{self, DomainSet};
use crate::emulator::Network;
use crate::linux::{self, Linux, Suite};
use crate::machine::Report;
use crate::setup::{Need, need};
use crate::{process, run, workspace};
use anyhow::{Context as _, Result, ensure};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

const MIB: usize = 1 << 20;
/// Where `dd` writes in its disk, and how much, in MiB.
const SEEK: usize = 8;
/// How much of it the second boot looks at, in MiB.
const AGAIN: usize = 8;
/// How much behind that is discarded, and how much stays as it is behind it, in MiB each.
const TAIL: usize = 2;
/// The file that goes over the network, in MiB.
const SENT: usize = 16;
/// What the slower emulator's guest has on its command line: the kernel's self-tests of its ciphers take it seconds.
const NO_CIPHER_TESTS: &str = "cryptomgr.notests=1";
/// What a line of the kernel's log is about if it matters here.
const TOPICS: [&str; 12] =
    ["xen", "apic", "clock", "tsc", "timer", "blk", "xvd", "vif", "eth0", "grant", "evtchn", "acpi"];
/// Lines that the kernel has at this level on every hypervisor of this interface, and those of a slow computer.
///
/// It is waited for devices where the driver needs more than five seconds from its start: not for the back end, which is
/// connected within a tenth, but for the 8,448 pages of each disk that the driver takes, fills with zeroes and grants. That
/// is two seconds on a busy computer, and more on a slower one.
const USUAL: [&str; 10] = [
    "ACPI: No IOAPIC entries present",
    "ACPI: setting ELCR to",
    "amd_pstate: the _CPC object is not present",
    "spinlock event irq",
    "Grant table initialized",
    "hrtimer: interrupt took",
    "read-back delay",
    "Long readout interval, skipping watchdog check",
    "hogged CPU",
    "Waiting for devices to initialise",
];

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new(format!("linux/stable/{SVM}"), |context| everything(context, SVM, true)),
        Case::new(format!("linux/backports/{}", SVM.at(2)), four_vcpus),
        Case::new(format!("linux/stable/{VMX}"), |context| everything(context, VMX, false)),
    ]
}

/// Files of a case, removed with this value.
struct Files(Vec<PathBuf>);

impl Files {
    fn add(&mut self, context: &Context, name: &str, content: &[u8]) -> Result<PathBuf> {
        let file = context.file(name)?;
        std::fs::write(&file, content)?;
        self.0.push(file.clone());
        Ok(file)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for file in &self.0 {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Makes Linux the guest of its domain set, with some commands.
fn guest(
    context: &Context,
    files: &mut Files,
    linux: &Linux,
    name: &str,
    commands: &str,
) -> Result<DomainSet> {
    let mut set = live::set("linux.toml")?;
    let kernel = linux::loadable(&linux.image()?)?;
    let initrd =
        files.add(context, &format!("{name}.cpio"), &linux::initramfs(linux, Some(commands), &[])?)?;
    let guest = set.guest()?;
    guest.kernel = kernel.to_string_lossy().into_owned();
    guest.initrd = Some(initrd.to_string_lossy().into_owned());
    guest.cmdline = run::LINUX_WORDS.into();
    live::until_guests(&mut set)?;
    Ok(set)
}

/// What the kernel said at the level of warnings and above, as the commands print it with `LOG` before it.
fn warnings(report: &Report) -> Vec<&str> {
    let about = |line: &str| {
        let line = line.to_lowercase();
        TOPICS.iter().any(|topic| line.contains(topic))
    };
    report
        .console
        .lines()
        .filter_map(|line| line.split_once("LOG <"))
        .map(|(_, line)| line.trim_end())
        .filter(|line| about(line) && !USUAL.iter().any(|usual| line.contains(usual)))
        .collect()
}

/// Judges a machine that should have ended well and said all of this, with a clean log of the kernel.
fn judge(report: &Report, signs: &[&str]) -> Verdict {
    match live::judge(report, signs) {
        Verdict::Passed(_) => match warnings(report).first() {
            Some(line) => live::failed(report, format!("the kernel warned: {line}")),
            None => Verdict::Passed(format!("{:.0} s in the machine", report.took.as_secs_f64())),
        },
        other => other,
    }
}

/// What each boot tells of itself. From then on the kernel's log is not on the console, where it could break a line in two:
/// it is asked for.
const FACTS: &str = "dmesg -n 1
echo clocksource=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource) cpus=$(nproc)
echo upcalls=$(grep -c xen-percpu /proc/interrupts)
dmesg -r | grep -E '^<[0-4]>' | sed 's/^/LOG /'
";

/// A disk of noise, a disk with a file system, and the network, with two vCPUs. Where the emulator is `quick`, the guest
/// then reboots and finds what it wrote.
fn everything(context: &Context, lane: Lane, quick: bool) -> Result<Verdict> {
    let linux = match Linux::get(Suite::Stable) {
        Ok(linux) => linux,
        Err(error) => return Ok(Verdict::Skipped(format!("{error:#}"))),
    };
    need(&[Need::Ext4Tools])?;
    let name = format!("linux-stable-{lane}").replace('@', "-");
    let mut files = Files(Vec::new());
    let written = 64;
    let tail = SEEK + written;
    let before = noise((tail + 2 * TAIL) * MIB, 5);
    let raw = files.add(context, &format!("{name}.img"), &before)?;
    let note = noise(2 * MIB, 6);
    let ext4 = files.add(context, &format!("{name}.ext4"), &[])?;
    make_ext4(context, &mut files, &name, &ext4, &note)?;

    let exchange = Exchange::start()?;
    let network = exchange.commands();
    // The first sector tells the second boot from the first. IDE, the disk of the slower one, discards nothing.
    let end = if quick { "reboot -f" } else { "exit 0" };
    let discard = format!(
        "blkdiscard -o $(({tail} << 20)) -l $(({TAIL} << 20)) /dev/xvda
echo discarded: $(dd if=/dev/xvda bs=1M skip={tail} count={TAIL} 2>/dev/null | sha256sum)"
    );
    let discard = if quick { discard.as_str() } else { "" };
    let commands = format!(
        "{FACTS}
if [ \"$(dd if=/dev/xvda bs=5 count=1 2>/dev/null)\" = again ]; then
    echo second boot: $(dd if=/dev/xvda bs=1M skip={SEEK} count={AGAIN} 2>/dev/null | md5sum)
    exit 0
fi
set -e
dd if=/dev/urandom of=/dev/xvda bs=1M seek={SEEK} count={written} conv=fsync,notrunc 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
echo first boot: $(dd if=/dev/xvda bs=1M skip={SEEK} count={written} 2>/dev/null | md5sum)
{discard}
mount -t ext4 /dev/xvdb /mnt
echo note: $(sha256sum /mnt/note)
cp /mnt/note /mnt/copy
umount /mnt
{network}
dmesg -r | grep -E '^<[0-4]>' | sed 's/^/LOG /'
echo -n again | dd of=/dev/xvda conv=fsync,notrunc 2>/dev/null
{end}
"
    );
    let mut set = guest(context, &mut files, &linux, &name, &commands)?;
    let linux_guest = set.guest()?;
    linux_guest.disk = vec!["machine0".into(), "machine1".into()];
    linux_guest.vif = vec!["bridge".into()];
    if !quick {
        bundle::append(&mut linux_guest.cmdline, NO_CIPHER_TESTS);
    }
    add_neighbour(&mut set)?;
    let machine = Machine::new(context, &name, lane).disks(&[raw.clone(), ext4.clone()]).memory(640 << 20);
    let report = machine.network(Network::default()).limit(3000).boot(&set)?;
    let after = std::fs::read(&raw)?;
    let region = SEEK * MIB..tail * MIB;
    let hash = md5(context, &mut files, &name, &after[region.clone()])?;
    let mut signs = vec![
        "clocksource=xen cpus=2".to_owned(),
        "upcalls=10".into(),
        // A ring of four pages, as the driver's parameter asks for.
        "vbd/1/51712: connected, 2 queues of 128 slots".into(),
        "flush diskcache: enabled; persistent grants: enabled; indirect descriptors: enabled".into(),
        format!("first boot: {hash}"),
        format!("note: {}", workspace::sha256(&note)),
    ];
    if quick {
        let again = md5(context, &mut files, &name, &after[SEEK * MIB..(SEEK + AGAIN) * MIB])?;
        signs.extend([format!("second boot: {again}"), "reboots".into()]);
        if punches(context, &mut files, &name)? {
            signs.push(format!("discarded: {}", workspace::sha256(&vec![0; TAIL * MIB])));
        }
    }
    signs.extend(exchange.end(&report)?);
    let verdict = match judge(&report, &signs.iter().map(String::as_str).collect::<Vec<_>>()) {
        Verdict::Passed(note) => {
            Verdict::Passed(format!("{note}, {SENT} MiB from and to the host, and from the neighbour"))
        }
        other => return Ok(other),
    };
    ensure!(after.len() == before.len(), "the image has {} bytes now", after.len());
    ensure!(after[region.clone()] != before[region.clone()], "the guest wrote nothing");
    ensure!(
        &after[..5] == b"again" && after[512..SEEK * MIB] == before[512..SEEK * MIB],
        "the start changed"
    );
    let kept = if quick { region.end + TAIL * MIB } else { region.end };
    ensure!(after[kept..] == before[kept..], "what follows changed");
    let discarded = &after[region.end..kept];
    ensure!(
        discarded.iter().all(|byte| *byte == 0) || discarded == &before[region.end..kept],
        "what was discarded is neither gone nor as it was"
    );
    ensure!(copy_in(context, &mut files, &name, &ext4)? == note, "the copy in the file system differs");
    Ok(verdict)
}

/// The MD5 sum of some bytes: a guest in an emulator takes a quarter of the time for it that SHA-256 takes.
fn md5(context: &Context, files: &mut Files, name: &str, bytes: &[u8]) -> Result<String> {
    let file = files.add(context, &format!("{name}.region"), bytes)?;
    let done = process::collect(Command::new("md5sum").arg(file), TOOL)?;
    ensure!(done.passed(), "md5sum: {}", done.output);
    Ok(done.output.split_whitespace().next().context("md5sum says nothing")?.to_owned())
}

/// Whether the host's file system gives back a part of a file, which QEMU answers a discard with.
fn punches(context: &Context, files: &mut Files, name: &str) -> Result<bool> {
    let file = files.add(context, &format!("{name}.hole"), &[1; 8192])?;
    let mut command = Command::new("fallocate");
    Ok(process::collect(command.args(["-p", "-o", "0", "-l", "4096"]).arg(file), TOOL)?.passed())
}

/// The backports' kernel: a guest with four vCPUs on two processors.
fn four_vcpus(context: &Context) -> Result<Verdict> {
    let linux = match Linux::get(Suite::Backports) {
        Ok(linux) => linux,
        Err(error) => return Ok(Verdict::Skipped(format!("{error:#}"))),
    };
    let mut files = Files(Vec::new());
    let raw = files.add(context, "linux-backports.img", &noise(24 * MIB, 8))?;
    let commands = format!(
        "set -e
echo release=$(uname -r)
echo 1 >/proc/sys/vm/drop_caches
for k in 0 1 2 3; do dd if=/dev/urandom of=/dev/xvda bs=1M seek=$((k * 5)) count=5 conv=fsync,notrunc 2>/dev/null & done
wait
echo written: $(sha256sum /dev/xvda)
{FACTS}"
    );
    let mut set = guest(context, &mut files, &linux, "linux-backports", &commands)?;
    set.guest()?.vcpus = 4;
    let machine = Machine::new(context, "linux/backports", SVM.at(2)).disks(std::slice::from_ref(&raw));
    let report = machine.memory(640 << 20).limit(1800).boot(&set)?;
    let release = format!("release={}", linux.release()?);
    let hash = format!("written: {}", workspace::sha256(&std::fs::read(&raw)?));
    Ok(judge(&report, &["clocksource=xen cpus=4", "upcalls=20", &release, &hash]))
}

/// Makes a file system with one file.
fn make_ext4(context: &Context, files: &mut Files, name: &str, image: &Path, note: &[u8]) -> Result<()> {
    let folder = workspace::made(context.file(&format!("{name}.root"))?)?;
    files.add(context, &format!("{name}.root/note"), note)?;
    let mut command = Command::new("mkfs.ext4");
    let done = process::collect(command.args(["-q", "-F", "-d"]).args([&folder, image]).arg("16M"), TOOL)?;
    ensure!(done.passed(), "mkfs.ext4: {}", done.output);
    let _ = std::fs::remove_file(folder.join("note"));
    let _ = std::fs::remove_dir(folder);
    Ok(())
}

/// How long a tool of the host may take.
const TOOL: Duration = Duration::from_secs(120);

/// Checks the file system, and returns the file that the guest wrote there.
fn copy_in(context: &Context, files: &mut Files, name: &str, image: &Path) -> Result<Vec<u8>> {
    let checked = process::collect(Command::new("e2fsck").args(["-f", "-n"]).arg(image), TOOL)?;
    ensure!(checked.passed(), "e2fsck: {}", checked.output);
    let copy = files.add(context, &format!("{name}.copy"), &[])?;
    let request = format!("dump /copy {}", copy.display());
    process::collect(Command::new("debugfs").args(["-R", &request]).arg(image), TOOL)?;
    Ok(std::fs::read(copy)?)
}

/// A second guest, of ours, that serves a file of as many bytes on the bridge.
fn add_neighbour(set: &mut DomainSet) -> Result<()> {
    let mut other = live::set("default.toml")?.guest()?.clone();
    other.disk = vec!["memory:24M".into()];
    other.vif = vec!["bridge".into()];
    other.vcpus = 1;
    other.cmdline = "role=guest name=neighbour".into();
    set.domains.insert("neighbour".into(), other);
    set.control()?.memory = "128M".into();
    live::command(
        set,
        "neighbour",
        &format!(
            "ip 10.0.0.2/24; mkfs xvda && mount xvda && dd if=random of=/big.bin bs=64K count={} seed=9 && sha256 /big.bin && httpd requests=1",
            SENT * 16
        ),
    )
}

/// The host's part of the network: it gives the guest a file, and takes one.
struct Exchange {
    ports: [u16; 2],
    body: String,
    taken: JoinHandle<Result<Vec<u8>>>,
}

impl Exchange {
    fn start() -> Result<Exchange> {
        let body = noise(SENT * MIB, 7);
        let hash = workspace::sha256(&body);
        let [server, sink] = [(), ()].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let (server, sink) = (server?, sink?);
        let ports = [server.local_addr()?.port(), sink.local_addr()?.port()];
        std::thread::spawn(move || -> Result<()> {
            let (mut stream, _) = server.accept()?;
            let _ = stream.read(&mut [0; 4096])?;
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
            Ok(stream.write_all(&body)?)
        });
        let taken = std::thread::spawn(move || {
            let (mut stream, _) = sink.accept()?;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        Ok(Exchange { ports, body: hash, taken })
    }

    /// What the guest does. It fetches from the host and from its neighbour, and sends to the host: in large packets from
    /// the start, because Linux takes the emulator for a slow line (`tcp_tso_autosize`, net/ipv4/tcp_output.c), and an
    /// exit for every two segments makes it one.
    fn commands(&self) -> String {
        let [server, sink] = self.ports;
        format!(
            "until ip route | grep -q ^default; do udhcpc -i eth0 -t 60 -T 3 -n -q -s /etc/udhcpc >/dev/null 2>&1 || sleep 1; done
wget -q -O /tmp/file http://10.0.2.2:{server}/file
echo fetched: $(sha256sum /tmp/file)
echo 32 >/proc/sys/net/ipv4/tcp_min_tso_segs
nc 10.0.2.2 {sink} </tmp/file
ip addr add 10.0.0.1/24 dev eth0
until wget -q -O /tmp/file http://10.0.0.2/big.bin; do sleep 1; done
echo neighbour: $(sha256sum /tmp/file)"
        )
    }

    /// Checks what the guest sent; returns what it must have said.
    fn end(self, report: &Report) -> Result<Vec<String>> {
        if !report.console.contains("neighbour: ") {
            // The guest did not get so far: nothing is waited for.
            return Ok(vec!["neighbour: ".into()]);
        }
        let taken = self.taken.join().map_err(|_| anyhow::anyhow!("the taking thread panicked"))??;
        ensure!(workspace::sha256(&taken) == self.body, "{} other bytes came from the guest", taken.len());
        let served = report.console.lines().filter(|line| line.starts_with("[neighbour]"));
        let hash = served.flat_map(str::split_whitespace).find(|word| word.len() == 64);
        let hash = hash.context("the neighbour told no hash")?;
        Ok(vec![format!("fetched: {}", self.body), format!("neighbour: {hash}")])
    }
}
