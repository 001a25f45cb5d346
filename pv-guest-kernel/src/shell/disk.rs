//! Commands about disks and bytes: `lsblk`, `dd`, `sha256`, `hexdump`.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use hadris_fs::OpenOptions;
use sha2::{Digest, Sha256};

use super::command::{Args, Command, Failure, Outcome, human};
use crate::block::{self, Buffer, Completion, Disk, SECTOR};
use crate::data::{Generator, Kind};
use crate::fs::{self, Fat};
use crate::xen::clock;
use crate::{command, println};

/// The table.
pub const COMMANDS: &[Command] = &[
    command!(lsblk, "lsblk", "lists the disks"),
    command!(ramdisk, "ramdisk NAME SIZE", "makes a disk in memory"),
    command!(
        dd,
        "dd if=SOURCE of=TARGET [bs=64K] [count=N] [skip=N] [seek=N] [seed=N] [depth=N] [nosync]",
        "copies blocks; a source is a disk, a path, zero, random or pattern; a target is a disk, a path or null"
    ),
    command!(
        sha256,
        "sha256 SOURCE [count=BYTES] [skip=BYTES]",
        "prints the SHA-256 of a disk, a path or part of it"
    ),
    command!(hexdump, "hexdump SOURCE [count=256] [skip=BYTES]", "shows bytes of a disk or a path"),
    command!(
        discard,
        "discard DISK START LENGTH",
        "tells a disk that a range, in bytes, is not needed any more"
    ),
];

async fn lsblk(args: Args) -> Outcome {
    args.at_most(0)?;
    println!("NAME          SIZE  BLOCK  FLAGS               SERVED BY");
    for disk in block::list() {
        let i = disk.info();
        let mut flags = Vec::new();
        for (name, set) in [("ro", i.read_only), ("flush", i.flush), ("discard", i.discard)] {
            if set {
                flags.push(name);
            }
        }
        println!(
            "{:<8} {:>9}  {:>5}  {:<18}  {}",
            i.name,
            human(i.sectors * SECTOR),
            i.block,
            flags.join(","),
            i.kind
        );
    }
    Ok(())
}

async fn ramdisk(args: Args) -> Outcome {
    args.at_most(2)?;
    let name = args.need(0, "NAME")?;
    let bytes = super::command::size(args.need(1, "SIZE")?).filter(|&n| n != 0);
    let bytes = bytes.ok_or_else(|| Failure::usage("SIZE is not a size"))?;
    if block::find(name).is_some() {
        return Err(Failure::because(format!("there is a disk {name:?} already")));
    }
    block::memory::create(name, bytes)?;
    Ok(())
}

async fn discard(args: Args) -> Outcome {
    args.at_most(3)?;
    let disk = find(args.need(0, "DISK")?)?;
    let number = |i, what| -> Result<u64, Failure> {
        let n = super::command::size(args.need(i, what)?).filter(|n| n % SECTOR == 0);
        n.ok_or_else(|| Failure::usage(format!("{what} is not a multiple of {SECTOR}")))
    };
    disk.discard(number(1, "START")? / SECTOR, number(2, "LENGTH")? / SECTOR).await?;
    Ok(())
}

fn find(name: &str) -> Result<Disk, Failure> {
    block::find(name).ok_or_else(|| Failure::because(format!("there is no disk {name:?}; try `lsblk`")))
}

/// Where bytes come from.
enum Source {
    Disk(Disk),
    File(Arc<Fat>, String),
    Made(Generator),
}

impl Source {
    fn open(name: &str, seed: u64) -> Result<Source, Failure> {
        match name {
            "zero" => return Ok(Source::Made(Generator::new(Kind::Zero, seed))),
            "random" => return Ok(Source::Made(Generator::new(Kind::Random, seed))),
            "pattern" => return Ok(Source::Made(Generator::new(Kind::Pattern, seed))),
            _ => {}
        }
        if let Some(disk) = block::find(name) {
            return Ok(Source::Disk(disk));
        }
        if !name.starts_with("/dev/") && !fs::mounts().is_empty() {
            let (volume, inner) = fs::resolve(name).map_err(Failure::Failed)?;
            return Ok(Source::File(volume, inner));
        }
        find(name).map(Source::Disk)
    }

    /// Length in bytes, if it has one.
    async fn length(&self) -> Result<Option<u64>, Failure> {
        Ok(match self {
            Source::Disk(disk) => Some(disk.info().sectors * SECTOR),
            Source::File(volume, path) => Some(volume.metadata(path).await.map_err(Failure::because)?.len()),
            Source::Made(_) => None,
        })
    }
}

/// A sequence of byte blocks read ahead: `depth` requests under way on a disk.
struct Reader {
    source: Source,
    at: u64,
    end: u64,
    block: usize,
    depth: usize,
    /// Place and length of each block to give out, and its request.
    ahead: VecDeque<(u64, Completion, usize)>,
    spare: Vec<Buffer>,
    next: u64,
}

impl Reader {
    fn new(source: Source, at: u64, end: u64, block: usize, depth: usize) -> Reader {
        Reader { source, at, end, block, depth, ahead: VecDeque::new(), spare: Vec::new(), next: at }
    }

    /// Puts the next block at the start of `to`, and says how many bytes; 0 at the end.
    async fn next(&mut self, to: &mut [u8]) -> Result<usize, Failure> {
        if self.at >= self.end {
            return Ok(0);
        }
        let n = (self.end - self.at).min(self.block as u64) as usize;
        match &mut self.source {
            Source::Made(generator) => {
                generator.fill(&mut to[..n]);
                self.at += n as u64;
                Ok(n)
            }
            Source::File(volume, path) => {
                let file =
                    volume.open(path.as_str(), OpenOptions::new().read()).await.map_err(Failure::because)?;
                let mut got = 0;
                while got < n {
                    let k = file
                        .read_at(self.at + got as u64, &mut to[got..n])
                        .await
                        .map_err(Failure::because)?;
                    if k == 0 {
                        break;
                    }
                    got += k;
                }
                file.close().await.map_err(Failure::because)?;
                self.at = if got == n { self.at + n as u64 } else { self.end };
                Ok(got)
            }
            Source::Disk(disk) => {
                let disk = disk.clone();
                let info = disk.info();
                let unit = u64::from(info.block);
                while self.next < self.end && self.ahead.len() < self.depth {
                    let want = (self.end - self.next).min(self.block as u64);
                    // Requests are whole blocks; what sticks out of the range is left out below.
                    let first = self.next / unit * unit;
                    let last = (self.next + want).next_multiple_of(unit).min(info.sectors * SECTOR);
                    let buffer = match self.spare.pop() {
                        Some(buffer) if buffer.len() as u64 == last - first => buffer,
                        _ => match disk.buffer((last - first) as usize) {
                            Ok(buffer) => buffer,
                            // Those under way will free some.
                            Err(_) if !self.ahead.is_empty() => break,
                            Err(e) => return Err(e.into()),
                        },
                    };
                    let request = disk.read(first / SECTOR, (last - first) / SECTOR, buffer);
                    self.ahead.push_back((self.next, request, want as usize));
                    self.next += want;
                }
                let Some((place, request, want)) = self.ahead.pop_front() else { return Ok(0) };
                let done = request.await;
                done.result?;
                let buffer = done.buffer.ok_or(block::Error::Gone)?;
                buffer.copy_out((place % unit) as usize, &mut to[..want]);
                self.spare.push(buffer);
                self.at = place + want as u64;
                Ok(want)
            }
        }
    }
}

/// Where bytes go.
enum Target {
    Null,
    Disk(Disk),
    File(hadris_fs::async_::File<hadris_fat::async_::FatFs<fs::FatDevice>>),
}

async fn dd(mut args: Args) -> Outcome {
    let input = args.take("if").ok_or_else(|| Failure::usage("if= is missing"))?;
    let output = args.take("of").ok_or_else(|| Failure::usage("of= is missing"))?;
    let block = args.take_size("bs")?.unwrap_or(64 << 10);
    let count = args.take_size("count")?;
    let skip = args.take_size("skip")?.unwrap_or(0);
    let seek = args.take_size("seek")?.unwrap_or(0);
    let seed = args.take_size("seed")?.unwrap_or(0);
    let depth = args.take_size("depth")?.unwrap_or(16).clamp(1, 256) as usize;
    let nosync = args.flag("nosync");
    args.at_most(0)?;
    if block == 0 || block > 16 << 20 {
        return Err(Failure::usage("bs must be from 1 to 16M"));
    }
    let bs = block as usize;
    let overflow = || Failure::usage("the numbers are too large");
    let source = Source::open(&input, seed)?;
    let start =
        if matches!(source, Source::Made(_)) { 0 } else { skip.checked_mul(block).ok_or_else(overflow)? };
    let wanted = match count {
        Some(n) => Some(n.checked_mul(block).ok_or_else(overflow)?),
        None => None,
    };
    let mut place = seek.checked_mul(block).ok_or_else(overflow)?;
    let mut end = match (source.length().await?, wanted) {
        (Some(length), Some(wanted)) => length.min(start.saturating_add(wanted)),
        (Some(length), None) => length,
        (None, Some(wanted)) => start.saturating_add(wanted),
        (None, None) => u64::MAX,
    };
    let target = match output.as_str() {
        "null" => Target::Null,
        path if block::find(path).is_none() && !path.starts_with("/dev/") && !fs::mounts().is_empty() => {
            let (volume, inner) = fs::resolve(path).map_err(Failure::Failed)?;
            let mut options = OpenOptions::new().write().create();
            if seek == 0 {
                options = options.truncate();
            }
            Target::File(volume.open(&inner, options).await.map_err(Failure::because)?)
        }
        name => Target::Disk(find(name)?),
    };
    if end == u64::MAX {
        match &target {
            Target::Disk(disk) => end = start + (disk.info().sectors * SECTOR).saturating_sub(place),
            _ => return Err(Failure::usage("an endless source needs count=")),
        }
    }
    if let (Source::Disk(d), true) = (&source, bs > source_most(&source)) {
        return Err(Failure::usage(format!("bs is more than one request of {} may carry", d.info().name)));
    }
    if let Target::Disk(disk) = &target {
        let unit = u64::from(disk.info().block);
        if !place.is_multiple_of(unit) || !block.is_multiple_of(unit) {
            return Err(Failure::usage(format!("bs must be a multiple of the disk's block of {unit} bytes")));
        }
        if block > disk.info().most as u64 {
            return Err(Failure::usage(format!(
                "bs is more than one request may carry ({})",
                disk.info().most
            )));
        }
    }
    let before = clock::now();
    let mut reader = Reader::new(source, start, end, bs, depth);
    let mut under_way: VecDeque<Completion> = VecDeque::new();
    let mut spare: Vec<Buffer> = Vec::new();
    let mut bytes = vec![0; bs];
    let mut total = 0u64;
    loop {
        let n = reader.next(&mut bytes).await?;
        if n == 0 {
            break;
        }
        match &target {
            Target::Null => {}
            Target::File(file) => {
                let mut rest = &bytes[..n];
                let mut at = place;
                while !rest.is_empty() {
                    let k = file.write_at(at, rest).await.map_err(Failure::because)?;
                    rest = &rest[k..];
                    at += k as u64;
                }
            }
            Target::Disk(disk) => {
                let whole = n.next_multiple_of(disk.info().block as usize);
                bytes[n..whole].fill(0);
                if under_way.len() >= depth
                    && let Some(first) = under_way.pop_front()
                {
                    let done = first.await;
                    done.result?;
                    spare.extend(done.buffer);
                }
                let mut buffer = match spare.pop() {
                    Some(buffer) if buffer.len() == whole => buffer,
                    _ => disk.buffer(whole)?,
                };
                buffer.copy_in(0, &bytes[..whole]);
                under_way.push_back(disk.write(place / SECTOR, whole as u64 / SECTOR, buffer));
            }
        }
        place += n as u64;
        total += n as u64;
    }
    for request in under_way {
        request.await.result?;
    }
    match target {
        Target::Disk(disk) if !nosync => disk.flush().await?,
        Target::File(file) => file.close().await.map_err(Failure::because)?,
        _ => {}
    }
    let nanos = (clock::now() - before).max(1);
    let rate = u128::from(total) * 1_000_000_000 / u128::from(nanos);
    println!("{total} bytes ({}) in {} ms, {} KiB/s", human(total), nanos / 1_000_000, rate / 1024);
    Ok(())
}

fn source_most(source: &Source) -> usize {
    match source {
        Source::Disk(disk) => disk.info().most,
        _ => usize::MAX,
    }
}

async fn part(args: &mut Args, default: Option<u64>) -> Result<(Source, u64, u64), Failure> {
    let count = args.take_size("count")?.or(default);
    let skip = args.take_size("skip")?.unwrap_or(0);
    let seed = args.take_size("seed")?.unwrap_or(0);
    args.at_most(1)?;
    let source = Source::open(args.need(0, "SOURCE")?, seed)?;
    let length = source.length().await?;
    let end = match (count, length) {
        (Some(n), Some(length)) => length.min(skip.saturating_add(n)),
        (None, Some(length)) => length,
        (Some(n), None) => skip.saturating_add(n),
        (None, None) => return Err(Failure::usage("an endless source needs count=")),
    };
    Ok((source, skip, end))
}

async fn sha256(mut args: Args) -> Outcome {
    let (source, start, end) = part(&mut args, None).await?;
    let block = (128usize << 10).min(source_most(&source).saturating_sub(8192).max(4096));
    let mut reader = Reader::new(source, start, end, block, 8);
    let mut hash = Sha256::new();
    let mut bytes = vec![0; block];
    loop {
        let n = reader.next(&mut bytes).await?;
        if n == 0 {
            break;
        }
        hash.update(&bytes[..n]);
        crate::task::yield_now().await;
    }
    let mut text = String::new();
    for byte in hash.finalize() {
        text.push_str(&format!("{byte:02x}"));
    }
    println!("{text}  {}", args.get(0).unwrap_or(""));
    Ok(())
}

async fn hexdump(mut args: Args) -> Outcome {
    let (source, start, end) = part(&mut args, Some(256)).await?;
    let mut reader = Reader::new(source, start, end, 4096, 2);
    let mut at = start;
    let mut bytes = vec![0; 4096];
    loop {
        let n = reader.next(&mut bytes).await?;
        if n == 0 {
            break;
        }
        for line in bytes[..n].chunks(16) {
            let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
            let text: String =
                line.iter().map(|&b| if (0x20..0x7f).contains(&b) { char::from(b) } else { '.' }).collect();
            println!("{at:08x}  {:<47}  {text}", hex.join(" "));
            at += line.len() as u64;
        }
    }
    Ok(())
}
