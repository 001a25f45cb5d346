//! Commands about files.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;

use hadris_fs::OpenOptions;

use super::command::{Args, Command, Failure, Outcome};
use crate::{block, command, console, fs, print, println};

/// The table.
pub const COMMANDS: &[Command] = &[
    command!(
        mount,
        "mount [ro] [DISK [POINT]]",
        "lists what is mounted, or mounts a disk's FAT volume (at / if not told)"
    ),
    command!(mkfs, "mkfs DISK [LABEL]", "makes an empty FAT volume; everything on the disk is lost"),
    command!(umount, "umount [POINT]", "unmounts a volume"),
    command!(ls, "ls [PATH]", "lists a directory"),
    command!(cat, "cat PATH...", "prints files"),
    command!(
        write,
        "write PATH [WORD...]",
        "writes its words as a line into a file, in place of what was there"
    ),
    command!(append, "append PATH [WORD...]", "adds its words as a line to a file"),
    command!(cp, "cp FROM TO", "copies a file"),
    command!(mv, "mv FROM TO", "renames a file or directory"),
    command!(rm, "rm PATH...", "removes files and empty directories"),
    command!(mkdir, "mkdir PATH...", "makes directories"),
    command!(sync, "sync", "makes everything written durable, on volumes and disks"),
];

const CHUNK: usize = 64 << 10;

fn on<T, E: core::fmt::Display>(path: &str, result: Result<T, E>) -> Result<T, Failure> {
    result.map_err(|e| Failure::because(format!("{path}: {e}")))
}

async fn mount(mut args: Args) -> Outcome {
    let read_only = args.flag("ro");
    args.at_most(2)?;
    let Some(name) = args.get(0) else {
        for m in fs::mounts() {
            println!("{:<8} on {}", m.disk, m.point);
        }
        return Ok(());
    };
    let disk = block::find(name)
        .ok_or_else(|| Failure::because(format!("there is no disk {name:?}; try `lsblk`")))?;
    fs::mount(&disk, args.get(1).unwrap_or("/"), read_only).await.map_err(Failure::Failed)
}

async fn mkfs(args: Args) -> Outcome {
    args.at_most(2)?;
    let name = args.need(0, "DISK")?;
    let disk = block::find(name)
        .ok_or_else(|| Failure::because(format!("there is no disk {name:?}; try `lsblk`")))?;
    if fs::mounts().iter().any(|m| m.disk == disk.info().name) {
        return Err(Failure::because(format!("{name} is mounted")));
    }
    let mut options = hadris_fat::FatOptions::new();
    if let Some(label) = args.get(1) {
        let label = hadris_fat::VolumeLabel::new(label);
        options = options.with_label(label.map_err(|e| Failure::because(format!("LABEL: {e}")))?);
    }
    let mut device = fs::FatDevice::new(disk.clone(), false);
    on(name, hadris_fat::async_::format(&mut device, &options).await)?;
    disk.flush().await?;
    Ok(())
}

async fn umount(args: Args) -> Outcome {
    args.at_most(1)?;
    fs::unmount(args.get(0).unwrap_or("/")).await.map_err(Failure::Failed)
}

async fn ls(args: Args) -> Outcome {
    args.at_most(1)?;
    let path = args.get(0).unwrap_or("/");
    let (volume, inner) = fs::resolve(path).map_err(Failure::Failed)?;
    let meta = on(path, volume.metadata(&inner).await)?;
    if !meta.file_type().is_dir() {
        println!("{:>12}  {path}", meta.len());
        return Ok(());
    }
    let mut entries = on(path, volume.read_dir(&inner).await)?;
    while let Some(entry) = entries.next_entry().await {
        let entry = on(path, entry)?;
        let name = String::from_utf8_lossy(entry.name().as_bytes()).into_owned();
        if name == "." || name == ".." {
            continue;
        }
        let time = match entry.metadata().modified() {
            Some(t) => {
                let (d, c) = t.to_civil();
                format!("{:04}-{:02}-{:02} {:02}:{:02}", d.year(), d.month(), d.day(), c.hour(), c.minute())
            }
            None => "".to_string(),
        };
        if entry.file_type().is_dir() {
            println!("{:>12}  {time:16}  {name}/", "");
        } else {
            println!("{:>12}  {time:16}  {name}", entry.metadata().len());
        }
    }
    Ok(())
}

async fn cat(args: Args) -> Outcome {
    args.need(0, "PATH")?;
    for path in args.all() {
        let (volume, inner) = fs::resolve(path).map_err(Failure::Failed)?;
        let mut file = on(path, volume.open(&inner, OpenOptions::new().read()).await)?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = on(path, file.read(&mut buffer).await)?;
            if n == 0 {
                break;
            }
            console::write(&buffer[..n]);
        }
        on(path, file.close().await)?;
    }
    Ok(())
}

async fn put(args: &Args, options: OpenOptions) -> Outcome {
    let path = args.need(0, "PATH")?;
    let (volume, inner) = fs::resolve(path).map_err(Failure::Failed)?;
    let text = format!("{}\n", args.all()[1..].join(" "));
    let mut file = on(path, volume.open(&inner, options).await)?;
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let n = on(path, file.write(rest).await)?;
        rest = &rest[n..];
    }
    on(path, file.close().await)
}

async fn write(args: Args) -> Outcome {
    put(&args, OpenOptions::new().write().create().truncate()).await
}

async fn append(args: Args) -> Outcome {
    put(&args, OpenOptions::new().write().create().append()).await
}

async fn cp(args: Args) -> Outcome {
    args.at_most(2)?;
    let (from, to) = (args.need(0, "FROM")?, args.need(1, "TO")?);
    let (from_volume, from_inner) = fs::resolve(from).map_err(Failure::Failed)?;
    let (to_volume, mut to_inner) = fs::resolve(to).map_err(Failure::Failed)?;
    if let Ok(meta) = to_volume.metadata(&to_inner).await
        && meta.file_type().is_dir()
    {
        let name = from_inner.rsplit('/').next().unwrap_or("");
        to_inner = fs::clean(&format!("{to_inner}/{name}"));
    }
    if alloc::sync::Arc::ptr_eq(&from_volume, &to_volume) && from_inner == to_inner {
        return Err(Failure::because(format!("{from} and {to} are the same file")));
    }
    let mut input = on(from, from_volume.open(&from_inner, OpenOptions::new().read()).await)?;
    let options = OpenOptions::new().write().create().truncate();
    let mut output = on(to, to_volume.open(&to_inner, options).await)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = on(from, input.read(&mut buffer).await)?;
        if n == 0 {
            break;
        }
        let mut rest = &buffer[..n];
        while !rest.is_empty() {
            let n = on(to, output.write(rest).await)?;
            rest = &rest[n..];
        }
    }
    on(from, input.close().await)?;
    on(to, output.close().await)
}

async fn mv(args: Args) -> Outcome {
    args.at_most(2)?;
    let (from, to) = (args.need(0, "FROM")?, args.need(1, "TO")?);
    let (volume, from_inner) = fs::resolve(from).map_err(Failure::Failed)?;
    let (other, to_inner) = fs::resolve(to).map_err(Failure::Failed)?;
    if !alloc::sync::Arc::ptr_eq(&volume, &other) {
        return Err(Failure::because("the two are on different volumes; use `cp` and `rm`"));
    }
    on(from, volume.rename(&from_inner, &to_inner).await)
}

async fn rm(args: Args) -> Outcome {
    args.need(0, "PATH")?;
    for path in args.all() {
        let (volume, inner) = fs::resolve(path).map_err(Failure::Failed)?;
        if on(path, volume.metadata(&inner).await)?.file_type().is_dir() {
            on(path, volume.remove_dir(&inner).await)?;
        } else {
            on(path, volume.remove_file(&inner).await)?;
        }
    }
    Ok(())
}

async fn mkdir(args: Args) -> Outcome {
    args.need(0, "PATH")?;
    for path in args.all() {
        let (volume, inner) = fs::resolve(path).map_err(Failure::Failed)?;
        on(path, volume.create_dir(&inner).await)?;
    }
    Ok(())
}

async fn sync(args: Args) -> Outcome {
    args.at_most(0)?;
    let mut good = fs::sync_all().await;
    for disk in block::list() {
        if let Err(e) = disk.flush().await {
            print!("{}: {e}\n", disk.info().name);
            good = false;
        }
    }
    if good { Ok(()) } else { Err(Failure::because("not everything could be made durable")) }
}
