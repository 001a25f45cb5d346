//! Cases about disks: what a guest writes through front end, ring, back end and driver is what the host finds in the
//! image, and the reverse; and nothing else in the image changes.

use super::live::{self, Lane, Machine, SVM, VMX};
use super::{Case, Context, Verdict};
use crate::bundle::{self, DomainSet};
use crate::machine::{End, Report};
use crate::setup::{Need, need};
use crate::{disk, process, run, workspace};
use anyhow::{Result, bail, ensure};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const MIB: usize = 1 << 20;

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |quick: bool, name: &str, lane: Lane, run: fn(&Context, &str, Lane) -> Result<Verdict>| {
        let full = format!("disk/{name}/{lane}");
        let name = format!("disk/{name}");
        cases.push(Case { quick, ..Case::new(full, move |context| run(context, &name, lane)) });
    };
    add(true, "random-write", SVM.at(2), random_write);
    add(true, "files", SVM.at(2), files);
    add(false, "queues", SVM.at(2), queues);
    add(false, "two-guests", SVM.at(4), two_guests);
    add(false, "byte-range", SVM, byte_range);
    add(false, "read-only", SVM, read_only);
    add(false, "beyond-the-end", SVM, beyond_the_end);
    add(false, "memory", SVM.at(2), memory);
    add(false, "above-4-gib", SVM, above_4_gib);
    add(false, "random-write", VMX, random_write);
    add(false, "files", VMX.at(2), files);
    add(false, "two-guests", VMX.at(2), two_guests);
    cases
}

/// A raw image for one case; it is removed with this value.
struct Image {
    file: PathBuf,
    before: Vec<u8>,
}

impl Image {
    /// Makes an image of some MiB with bytes that are all over the place and the same each time.
    fn new(context: &Context, name: &str, lane: Lane, mib: usize) -> Result<Image> {
        let file = context.file(&format!("{name}-{lane}.img").replace(['/', '@'], "-"))?;
        let before = noise(mib * MIB, mib as u64);
        std::fs::write(&file, &before)?;
        Ok(Image { file, before })
    }

    fn read(&self) -> Result<Vec<u8>> {
        let now = std::fs::read(&self.file)?;
        ensure!(
            now.len() == self.before.len(),
            "the image has {} bytes now, not {}",
            now.len(),
            self.before.len()
        );
        Ok(now)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Returns bytes without a pattern: the high bytes of a linear congruential sequence (Knuth's MMIX constants).
pub fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(count);
    while bytes.len() < count {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state >> 32).to_le_bytes()[..4]);
    }
    bytes.truncate(count);
    bytes
}

/// The default set with other disks and with commands for its guest.
fn set_with(disks: &[&str], commands: &str) -> Result<DomainSet> {
    let mut set = live::set("default.toml")?;
    set.guest()?.disk = disks.iter().map(|disk| (*disk).to_owned()).collect();
    run::add_commands(&mut set, commands)?;
    Ok(set)
}

/// Finds the SHA-256 values on a console, in their order.
fn hashes(console: &str) -> Vec<String> {
    let is_hash = |word: &&str| {
        word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    console.split_whitespace().filter(is_hash).map(str::to_owned).collect()
}

/// Judges a machine that should have ended well with these hashes on its console.
fn judge_hashes(report: &Report, expected: &[String]) -> Verdict {
    let found = hashes(&report.console);
    match live::judge(report, &[]) {
        Verdict::Passed(_) if found == expected => Verdict::passed(),
        Verdict::Passed(_) => {
            live::failed(report, format!("the guest's hashes are {found:?}, the host's are {expected:?}"))
        }
        other => other,
    }
}

/// Writes 64 MiB.
fn random_write(context: &Context, name: &str, lane: Lane) -> Result<Verdict> {
    written(context, name, lane, 64, 1)
}

/// Writes 8 MiB through four rings at once.
fn queues(context: &Context, name: &str, lane: Lane) -> Result<Verdict> {
    written(context, name, lane, 8, 4)
}

/// Writes random data into a larger disk and reads them again: the host finds the same, and the rest untouched.
fn written(context: &Context, name: &str, lane: Lane, mib: usize, queues: usize) -> Result<Verdict> {
    let image = Image::new(context, name, lane, mib + 2)?;
    let commands = format!(
        "lsblk; dd if=random of=xvda bs=64K count={} seek=16 seed=7; sync; sha256 xvda skip=1M count={mib}M",
        mib * 16
    );
    let mut set = set_with(&["machine0"], &commands)?;
    let sign = if queues > 1 {
        set.guest()?.cmdline.push_str(&format!(" blk-queues={queues}"));
        format!("{queues} queues of")
    } else {
        String::new()
    };
    let report =
        Machine::new(context, name, lane).disks(std::slice::from_ref(&image.file)).limit(600).boot(&set)?;
    let now = image.read()?;
    let (from, to) = (MIB, (mib + 1) * MIB);
    if report.end == End::PowerOff(0) {
        ensure!(report.console.contains(&sign), "the console never shows {sign:?}");
        ensure!(
            now[..from] == image.before[..from] && now[to..] == image.before[to..],
            "bytes around the written range have changed"
        );
        ensure!(now[from..to] != image.before[from..to], "nothing was written");
        ensure!(
            now[from..to].chunks(4096).all(|page| page.iter().any(|&byte| byte != page[0])),
            "a page of the random data is all alike"
        );
    }
    Ok(judge_hashes(&report, &[workspace::sha256(&now[from..to])]))
}

/// A file of the host is read by the guest; a file of the guest is read by mtools.
fn files(context: &Context, name: &str, lane: Lane) -> Result<Verdict> {
    need(&[Need::FatTools])?;
    let image = context.file(&format!("{name}-{lane}.img").replace(['/', '@'], "-"))?;
    disk::make(&image, 32 << 20)?;
    let big = noise(3 * MIB + 123, 5);
    {
        let volume = std::fs::OpenOptions::new().read(true).write(true).open(&image)?;
        let volume = fatfs::FileSystem::new(volume, fatfs::FsOptions::new())?;
        volume.root_dir().create_file("big.bin")?.write_all(&big)?;
    }
    let commands = "ls /; sha256 /big.bin; mkdir /made; write /made/note.txt written by the guest; \
                    append /made/note.txt and more; cp /big.bin /made/copy.bin; sync; umount /";
    let report = Machine::new(context, name, lane)
        .disks(std::slice::from_ref(&image))
        .boot(&set_with(&["machine0"], commands)?)?;
    let verdict = judge_hashes(&report, &[workspace::sha256(&big)]);
    if !matches!(verdict, Verdict::Passed(_)) {
        return Ok(verdict);
    }
    let note = mtype(&image, "/made/note.txt")?;
    if note != "written by the guest\nand more\n" {
        return Ok(live::failed(&report, format!("mtools reads {note:?} from the guest's file")));
    }
    let copy = context.file(&format!("copy-{lane}.bin"))?;
    mtools(
        Command::new("mcopy").arg("-n").arg("-o").arg("-i").arg(&image).arg("::/made/copy.bin").arg(&copy),
    )?;
    let same = std::fs::read(&copy)? == big;
    std::fs::remove_file(copy)?;
    mtools(Command::new("fsck.fat").arg("-n").arg(&image))?;
    std::fs::remove_file(image)?;
    Ok(if same {
        Verdict::passed()
    } else {
        Verdict::failed("mtools reads other bytes from the guest's copy")
    })
}

fn mtype(image: &Path, file: &str) -> Result<String> {
    mtools(Command::new("mtype").arg("-i").arg(image).arg(format!("::{file}")))
}

fn mtools(command: &mut Command) -> Result<String> {
    let done = process::collect(command.env("MTOOLS_SKIP_CHECK", "1"), Duration::from_secs(120))?;
    if !done.passed() {
        bail!("{} failed:\n{}", process::line(command), done.tail(10));
    }
    Ok(done.output)
}

/// Two guests write two disks at the same time.
fn two_guests(context: &Context, name: &str, lane: Lane) -> Result<Verdict> {
    let images = [
        Image::new(context, &format!("{name}-one"), lane, 17)?,
        Image::new(context, &format!("{name}-two"), lane, 18)?,
    ];
    let mut set = live::set("two-guests.toml")?;
    for (domain, seed) in [("one", 1), ("two", 2)] {
        let commands =
            format!("dd if=random of=xvda bs=64K count=256 seed={seed}; sync; sha256 xvda count=16M");
        live::command(&mut set, domain, &commands)?;
    }
    live::until_guests(&mut set)?;
    let disks: Vec<_> = images.iter().map(|image| image.file.clone()).collect();
    let report = Machine::new(context, name, lane).disks(&disks).limit(600).boot(&set)?;
    let mut expected = Vec::new();
    for image in &images {
        let now = image.read()?;
        if report.end == End::PowerOff(0) {
            ensure!(
                now[16 * MIB..] == image.before[16 * MIB..],
                "bytes behind the written range have changed"
            );
            ensure!(now[..16 * MIB] != image.before[..16 * MIB], "nothing was written");
        }
        expected.push(workspace::sha256(&now[..16 * MIB]));
    }
    ensure!(report.end != End::PowerOff(0) || expected[0] != expected[1], "both disks have the same data");
    // Which guest ends first is left open.
    if hashes(&report.console).first() == expected.last() {
        expected.reverse();
    }
    Ok(judge_hashes(&report, &expected))
}

/// A part of a disk is all that its guest reaches.
fn byte_range(context: &Context, name: &str, lane: Lane) -> Result<Verdict> {
    let image = Image::new(context, name, lane, 8)?;
    let commands = "lsblk; dd if=random of=xvda bs=64K count=48 seed=3; sync; sha256 xvda";
    let report = Machine::new(context, name, lane)
        .disks(std::slice::from_ref(&image.file))
        .boot(&set_with(&["machine0:2M+3M"], commands)?)?;
    let now = image.read()?;
    ensure!(
        now[..2 * MIB] == image.before[..2 * MIB] && now[5 * MIB..] == image.before[5 * MIB..],
        "the guest wrote outside of its range"
    );
    ensure!(
        report.end != End::PowerOff(0) || now[2 * MIB..5 * MIB] != image.before[2 * MIB..5 * MIB],
        "nothing was written"
    );
    Ok(judge_hashes(&report, &[workspace::sha256(&now[2 * MIB..5 * MIB])]))
}

/// A disk that may not be written is read, and stays as it is.
fn read_only(context: &Context, name: &str, lane: Lane) -> Result<Verdict> {
    let image = Image::new(context, name, lane, 4)?;
    let commands = "lsblk; sha256 xvda; dd if=zero of=xvda bs=4K count=1 && echo WRITTEN || echo REFUSED";
    let report = Machine::new(context, name, lane)
        .disks(std::slice::from_ref(&image.file))
        .boot(&set_with(&["machine0,ro"], commands)?)?;
    refused(&report, &image, &[workspace::sha256(&image.before)])
}

/// A request beyond the end of a disk fails, and the image does not grow.
fn beyond_the_end(context: &Context, name: &str, lane: Lane) -> Result<Verdict> {
    let image = Image::new(context, name, lane, 4)?;
    let commands = "dd if=zero of=xvda bs=4K count=1 seek=1024 && echo WRITTEN || echo REFUSED; sha256 xvda";
    let report = Machine::new(context, name, lane)
        .disks(std::slice::from_ref(&image.file))
        .boot(&set_with(&["machine0"], commands)?)?;
    refused(&report, &image, &[workspace::sha256(&image.before)])
}

/// Judges a machine whose guest was to be refused a write.
fn refused(report: &Report, image: &Image, expected: &[String]) -> Result<Verdict> {
    ensure!(image.read()? == image.before, "the image has changed");
    if !matches!(report.end, End::PowerOff(_)) {
        return Ok(live::failed(report, report.end.to_string()));
    }
    Ok(if hashes(&report.console) != expected {
        live::failed(report, "the guest does not read what the host wrote")
    } else if report.console.contains("WRITTEN") || !report.console.contains("REFUSED") {
        live::failed(report, "the guest was not refused")
    } else {
        Verdict::passed()
    })
}

/// A disk in the driver domain's memory keeps what is written to it, also one whose registers are emulated.
fn memory(context: &Context, name: &str, lane: Lane) -> Result<Verdict> {
    let image = Image::new(context, name, lane, 8)?;
    let commands = "dd if=xvda of=xvdb bs=64K; sync; sha256 xvdb; dd if=zero of=xvdb bs=64K count=128; sha256 xvdb; \
        dd if=xvda of=hda bs=4K count=2; sha256 hda";
    let mut set = set_with(&["machine0", "memory:8M", "memory:8K,emulated"], commands)?;
    bundle::append(&mut set.guest()?.cmdline, "ata");
    let report = Machine::new(context, name, lane).disks(std::slice::from_ref(&image.file)).boot(&set)?;
    let written = [&image.before[..], &vec![0; 8 * MIB], &image.before[..8 << 10]];
    Ok(judge_hashes(&report, &written.map(workspace::sha256)))
}

/// A guest whose memory goes on above the hole below 4 GiB. It takes what is up there first: rings and data are granted from
/// there, and what it writes and reads arrives.
fn above_4_gib(context: &Context, name: &str, lane: Lane) -> Result<Verdict> {
    const MACHINE: u64 = 3584 << 20;
    let available = std::fs::read_to_string("/proc/meminfo")?
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .unwrap_or(u64::MAX >> 10);
    if available << 10 < MACHINE + (1 << 30) {
        return Ok(Verdict::Skipped("this computer has less than 4.5 GiB to spare".into()));
    }
    let image = Image::new(context, name, lane, 5)?;
    let commands = "mem; dd if=random of=xvda bs=64K count=64 seed=4; sync; sha256 xvda; grants";
    let mut set = set_with(&["machine0"], commands)?;
    set.guest()?.memory = format!("{}M", 3072 + 64);
    let machine = Machine::new(context, name, lane).disks(std::slice::from_ref(&image.file)).memory(MACHINE);
    let report = machine.boot(&set)?;
    let now = image.read()?;
    ensure!(
        report.end != End::PowerOff(0)
            || (now[..4 * MIB] != image.before[..4 * MIB] && now[4 * MIB..] == image.before[4 * MIB..]),
        "not what should have changed has"
    );
    let verdict = match live::judge(&report, &["0x000100000000-0x000103ffffff  RAM"]) {
        Verdict::Passed(_) => judge_hashes(&report, &[workspace::sha256(&now)]),
        other => other,
    };
    if !matches!(verdict, Verdict::Passed(_)) {
        return Ok(verdict);
    }
    let frames = granted(&report.console);
    // The pages of the store's and the console's rings are where the hypervisor laid them.
    let low = frames.iter().filter(|frame| !(0x10_0000..0x10_4000).contains(*frame)).count();
    ensure!(frames.len() > 8 + low && low <= 2, "not granted from above 4 GiB: {frames:x?}");
    Ok(Verdict::Passed(format!("{} frames granted above 4 GiB", frames.len() - low)))
}

/// The numbers of the frames that a guest says it grants.
fn granted(console: &str) -> Vec<u64> {
    let number = |line: &str| {
        let word = line.split_once("  frame 0x")?.1.split_whitespace().next()?;
        u64::from_str_radix(word, 16).ok()
    };
    console.lines().filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_found_on_a_console() {
        let hash = workspace::sha256(b"");
        let console = format!("guest> sha256 xvda\r\n[guest] {hash}  xvda\r\nabc def {}\r\n", &hash[1..]);
        assert_eq!(hashes(&console), [hash]);
    }

    #[test]
    fn noise_repeats_and_has_no_zero_pages() {
        assert_eq!(noise(10_000, 3), noise(10_000, 3));
        assert_ne!(noise(10_000, 3), noise(10_000, 4));
        assert!(noise(65536, 1).chunks(4096).all(|page| page.iter().any(|&byte| byte != page[0])));
    }

    #[test]
    fn commands_are_in_the_guests_command_line() {
        let mut set = set_with(&["memory:1M"], "lsblk").unwrap();
        assert!(set.manifest().unwrap().contains("exec=lsblk"));
        assert_eq!(set.guest().unwrap().disk, ["memory:1M"]);
    }
}
