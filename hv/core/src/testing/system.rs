//! A whole system for tests.

use super::{TestMachine, cpio, small_kernel};
use crate::boot::Bundle;
use crate::hw::{HostPhys, PAGE_BYTES, Platform};
use crate::mem::{FrameTable, RamRange};
use crate::system::System;
use pv_abi::manifest::Manifest;
use std::boxed::Box;
use std::string::String;
use std::vec::Vec;

/// Makes a system of a machine whose whole memory is free, with a bundle of this manifest (what follows its first
/// line) and two kernels: `kernel`, which can be moved, and `fixed`, which cannot.
pub fn system(machine: TestMachine, manifest: &str) -> System<TestMachine> {
    system_with(machine, manifest, &[("kernel", &small_kernel(true)), ("fixed", &small_kernel(false))])
}

/// The same with these files. The bundle stays for ever, as on a real machine.
pub fn system_with(machine: TestMachine, manifest: &str, files: &[(&str, &[u8])]) -> System<TestMachine> {
    let text = std::format!("xenolith 1\n{manifest}");
    let manifest = [("manifest", text.as_bytes())];
    let files: Vec<_> = manifest.into_iter().chain(files.iter().copied()).collect();
    let archive: &'static [u8] = Box::leak(cpio(&files).into_boxed_slice());
    let bundle = Bundle::parse(archive).unwrap();
    let manifest = Manifest::parse(bundle.manifest()).unwrap();
    let bytes = machine.memory().end().raw() * PAGE_BYTES;
    let ranges = [RamRange { start: HostPhys::new(0x10_0000), bytes: bytes - 0x10_0000 }];
    let frames = FrameTable::new(machine.memory(), &ranges).unwrap();
    System::new(machine, frames, bundle, manifest)
}

/// A section of a manifest: a domain with this name, memory and further lines.
pub fn section(name: &str, memory: &str, more: &str) -> String {
    std::format!("[domain {name}]\nkernel = kernel\nmemory = {memory}\n{more}\n")
}
