//! Proves that the crate's layouts and numbers are those of the public headers.
//!
//! `base.rs` and `io.rs` name, for every structure, field and constant of the crate, the C expression it stands for.
//! From these lists a C program is made, compiled against `/usr/include/xen` and run; each value it prints is compared
//! with Rust's. `cover.rs` reads the crate's sources and fails when something public is in no list, so that nothing can
//! be added without proof; `own.rs` lists what has no counterpart, with the reason.
//!
//! To add an entry: a line in `structs!` (`path = "C type" { field, field as "C member" }`) or in `consts!`
//! (`path = "C expression"`).

mod base;
mod cover;
mod entry;
mod ia32;
mod io;
mod own;

use entry::{Const, Struct};
use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const HEADERS: &[&str] = &[
    "xen.h",
    "event_channel.h",
    "grant_table.h",
    "memory.h",
    "sched.h",
    "vcpu.h",
    "version.h",
    "features.h",
    "physdev.h",
    "elfnote.h",
    "errno.h",
    "hvm/hvm_op.h",
    "hvm/ioreq.h",
    "hvm/hvm_vcpu.h",
    "hvm/params.h",
    "arch-x86/xen.h",
    "arch-x86/cpuid.h",
    "arch-x86/hvm/start_info.h",
    "io/ring.h",
    "io/blkif.h",
    "io/netif.h",
    "io/console.h",
    "io/xenbus.h",
    "io/xs_wire.h",
];

fn structures() -> Vec<Struct> {
    base::structures().into_iter().chain(io::structures()).collect()
}

fn constants() -> Vec<Const> {
    base::constants().into_iter().chain(io::constants()).collect()
}

/// A C program that prints every value under a key.
fn program() -> String {
    let mut text =
        String::from("#include <errno.h>\n#include <stdint.h>\n#include <stddef.h>\n#include <stdio.h>\n");
    for header in HEADERS {
        writeln!(text, "#include <xen/{header}>").unwrap();
    }
    // The ring macros define types; the console and XenStore rings are plain structures.
    text.push_str("DEFINE_RING_TYPES(probe, struct blkif_request, struct blkif_response);\n");
    text.push_str("#define SHOW(key, value) printf(\"%s %llu\\n\", key, (unsigned long long)(value))\n");
    text.push_str("int main(void) {\n");
    for item in structures() {
        let (path, c) = (item.path, item.c);
        writeln!(text, "  SHOW(\"{path} size\", sizeof({c}));").unwrap();
        writeln!(text, "  SHOW(\"{path} align\", _Alignof({c}));").unwrap();
        for field in item.fields {
            let (name, member) = (field.name, field.c);
            writeln!(text, "  SHOW(\"{path}.{name} offset\", offsetof({c}, {member}));").unwrap();
            writeln!(text, "  SHOW(\"{path}.{name} size\", sizeof((({c} *)0)->{member}));").unwrap();
        }
    }
    for item in constants() {
        writeln!(text, "  SHOW(\"{}\", {});", item.path, item.c).unwrap();
    }
    text.push_str("  return 0;\n}\n");
    text
}

/// Compiles and runs the program; its output by key.
fn run(text: &str) -> HashMap<String, u64> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (source, binary) = (folder.join("abi_probe.c"), folder.join("abi_probe"));
    std::fs::write(&source, text).unwrap();
    assert!(
        Path::new("/usr/include/xen/xen.h").exists(),
        "the public headers are missing: install Debian's package libxen-dev"
    );
    let compiled = Command::new("cc")
        .args(["-std=gnu11", "-w", "-D__XEN_TOOLS__", "-D__XEN_INTERFACE_VERSION__=0x00040e00", "-o"])
        .args([&binary, &source])
        .output()
        .expect("a C compiler is missing: install gcc");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let output = Command::new(&binary).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| {
            let (key, value) = line.rsplit_once(' ').unwrap();
            (key.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn layouts_and_numbers_are_those_of_the_headers() {
    let theirs = run(&program());
    let mut wrong = Vec::new();
    let mut checked = 0;
    let mut compare = |key: String, ours: u64| {
        checked += 1;
        match theirs.get(&key) {
            Some(value) if *value == ours => {}
            other => wrong.push(format!("{key}: here {ours:#x}, in the headers {other:#x?}")),
        }
    };
    for item in structures() {
        compare(format!("{} size", item.path), item.size as u64);
        compare(format!("{} align", item.path), item.align as u64);
        for field in item.fields {
            compare(format!("{}.{} offset", item.path, field.name), field.offset as u64);
            compare(format!("{}.{} size", item.path, field.name), field.size as u64);
        }
    }
    for item in constants() {
        compare(item.path.clone(), item.value);
    }
    assert!(wrong.is_empty(), "{} of {checked} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(checked > 900, "only {checked} values compared");
}

#[test]
fn everything_public_is_compared_or_has_a_reason_not_to_be() {
    let all = |mut own: Vec<Struct>| {
        own.extend(ia32::structures());
        own
    };
    let constants: Vec<Const> = constants().into_iter().chain(ia32::constants()).collect();
    let missing = cover::missing(&all(structures()), &constants);
    assert!(missing.is_empty(), "in no list:\n{}", missing.join("\n"));
}

#[test]
fn every_reason_is_still_needed() {
    let stale = cover::stale_reasons();
    assert!(stale.is_empty(), "own.rs names what is not there: {stale:?}");
}
