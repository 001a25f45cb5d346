//! Cases with a guest that has nothing of ours in it: C against Xen's public headers, booted as a user would boot it.

use super::{Case, Context, Verdict, tool};
use crate::process;
use crate::setup::{Need, need};
use crate::workspace;
use anyhow::{Result, ensure};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    ["svm", "vmx"]
        .map(|cpu| Case {
            quick: cpu == "svm",
            ..Case::new(format!("run/kernel/{cpu}"), move |context| hello(context, cpu))
        })
        .into()
}

/// Compiles the guest.
fn build(context: &Context, cpu: &str) -> Result<PathBuf> {
    need(&[Need::Compiler, Need::XenHeaders])?;
    let sources = workspace::root().join("scripts/guests/hello");
    let file = context.file(&format!("hello-{cpu}.elf"))?;
    let mut gcc = Command::new("gcc");
    gcc.args([
        "-Wall",
        "-Wextra",
        "-Werror",
        "-O2",
        "-ffreestanding",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-fno-pic",
    ]);
    gcc.args(["-mno-red-zone", "-mgeneral-regs-only", "-fno-stack-protector", "-fcf-protection=none"]);
    gcc.args(["-Wl,--build-id=none", "-Wl,-T,link.ld", "-o"])
        .arg(&file)
        .args(["entry.S", "hello.c"])
        .current_dir(sources);
    let done = process::collect(&mut gcc, Duration::from_secs(300))?;
    ensure!(done.passed(), "the guest does not compile:\n{}", done.tail(20));
    Ok(file)
}

fn hello(context: &Context, cpu: &str) -> Result<Verdict> {
    let file = build(context, cpu)?;
    let sign = "hello from a kernel of one's own: interface 4.17, started as PVH, command line: some words";
    let verdict = tool::boots(context, cpu, &file, &["--cmdline", "some words"], 600, &[sign])?;
    std::fs::remove_file(file)?;
    Ok(verdict)
}
