//! Cases about this tool as its user meets it.

use super::{Case, Context, Verdict};
use crate::process::{self, Finished};
use anyhow::{Result, ensure};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::quick("tool/help", |_| help()),
        Case::quick("tool/refusals", refusals),
        Case::new("tool/list", |_| list()),
        Case::new("tool/any-folder", any_folder),
    ]
}

/// Runs this very program with some words.
pub fn xtask(words: &[&str], limit: Duration) -> Result<Finished> {
    process::collect(Command::new(std::env::current_exe()?).args(words), limit)
}

const SOON: Duration = Duration::from_secs(120);

fn help() -> Result<Verdict> {
    let all = xtask(&["--help"], SOON)?;
    ensure!(all.passed(), "--help ended with {:?}", all.code);
    for verb in ["setup", "build", "run", "test", "image", "docs", "bench", "peer"] {
        ensure!(all.output.contains(verb), "--help does not name {verb}");
        let own = xtask(&[verb, "--help"], SOON)?;
        ensure!(
            own.passed() && own.output.contains("Usage: cargo xtask"),
            "{verb} --help ended with {:?}",
            own.code
        );
    }
    Ok(Verdict::passed())
}

/// What cannot be done ends with 2, and says why.
fn refusals(context: &Context) -> Result<Verdict> {
    let cases: [(&[&str], &str); 8] = [
        (&["frobnicate"], "frobnicate"),
        (&["run", "--emulator", "simics"], "simics"),
        (&["run", "--cpu", "vmx", "--emulator", "qemu", "--accel", "tcg"], "no VT-x"),
        (&["run", "--cpu", "vmx", "--icount", "--accel", "tcg"], "icount"),
        (&["run", "--mem", "lots"], "lots"),
        (&["run", "--disk", "/nonexistent/disk"], "/nonexistent/disk"),
        (&["run", "--initrd", "/dev/null"], "--kernel"),
        (&["test", "no-such-test-anywhere"], "no-such-test-anywhere"),
    ];
    // A Linux image with a payload of no known kind.
    let image = context.file("unknown.bzimage")?;
    let mut bytes = vec![0; 2048];
    bytes[0x1f1] = 1;
    bytes[0x1fe..0x208].copy_from_slice(b"\x55\xaa\xeb\x66HdrS\x0f\x02");
    bytes[0x24c] = 16;
    std::fs::write(&image, bytes)?;
    let name = image.to_string_lossy();
    let unknown: (&[&str], &str) = (&["run", "--kernel", &name], "compression is unknown");
    for (words, sign) in cases.into_iter().chain([unknown]) {
        let done = xtask(words, SOON)?;
        ensure!(
            done.code == Some(2),
            "`{}` ended with {:?}, not with 2:\n{}",
            words.join(" "),
            done.code,
            done.output
        );
        ensure!(done.output.contains(sign), "`{}` does not say {sign}:\n{}", words.join(" "), done.output);
    }
    std::fs::remove_file(&image)?;
    Ok(Verdict::passed())
}

fn list() -> Result<Verdict> {
    let done = xtask(&["test", "--list", "tool/"], SOON)?;
    ensure!(
        done.passed() && done.output.contains("tool/list") && !done.output.contains("format"),
        "--list shows\n{}",
        done.output
    );
    Ok(Verdict::passed())
}

/// The tool finds its repository from any folder.
fn any_folder(_: &Context) -> Result<Verdict> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["test", "lines/hv"]).current_dir("/");
    let done = process::collect(&mut command, SOON)?;
    ensure!(done.output.contains("ok lines/hv"), "from / it says\n{}", done.output);
    Ok(Verdict::passed())
}

/// Boots a kernel as a user would, with `run --kernel` and `more` words: it must end with 0 within `seconds`, and its
/// console show every sign. The images are built before, so that the time is the machine's alone; a machine without a disk
/// among its words gets one of its own.
pub fn boots(
    context: &Context,
    cpu: &str,
    kernel: &Path,
    more: &[&str],
    seconds: u64,
    signs: &[&str],
) -> Result<Verdict> {
    context.images()?;
    let (kernel, limit) = (kernel.to_string_lossy(), seconds.to_string());
    let mut words = vec!["run", "--accel", "tcg", "--cpu", cpu, "--kernel", &kernel, "--timeout", &limit];
    words.extend(more);
    let file = Path::new(kernel.as_ref()).file_name().unwrap_or_default().to_string_lossy();
    let disk = context.file(&format!("{file}-{cpu}.disk"))?;
    std::fs::write(&disk, vec![0; 1 << 20])?;
    let name = disk.to_string_lossy();
    if !more.contains(&"--disk") {
        words.extend(["--disk", &name]);
    }
    let done = xtask(&words, Duration::from_secs(seconds + 360))?;
    std::fs::remove_file(&disk)?;
    Ok(match (done.code, signs.iter().find(|sign| !done.output.contains(**sign))) {
        (Some(0), None) => Verdict::passed(),
        (code, sign) => Verdict::Failed {
            why: format!("it ended with {code:?}; missing on its console: {sign:?}"),
            end: done.tail(30),
        },
    })
}
