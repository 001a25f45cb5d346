//! Cases about the boot: what cannot start is told in one sentence.

use super::live::{self, Lane, Machine, SVM, VMX};
use super::{Case, Context, Verdict};
use crate::bundle::DomainSet;
use crate::cli::Emulator;
use crate::emulator::{Boot, Config};
use crate::machine::{End, Report};
use crate::{bundle, image};
use anyhow::Result;
use std::path::PathBuf;

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::quick("boot/default/svm@2", |context| default(context, "boot/default", SVM.at(2))),
        Case::new("boot/iso-bios", |context| iso(context, "boot/iso-bios", Boot::Iso)),
        Case::new("boot/iso-uefi", |context| iso(context, "boot/iso-uefi", Boot::IsoUefi)),
        Case::new("boot/default/vmx@2", |context| default(context, "boot/default", VMX.at(2))),
    ];
    for (name, spoil, sign) in SPOILT {
        cases.push(Case::new(format!("boot/{name}"), move |context| spoilt(context, name, spoil, sign)));
    }
    cases.push(Case::new("boot/no-svm", no_svm));
    cases.push(Case::new("boot/no-vmx", no_vmx));
    cases.push(Case::new("boot/too-little-memory", too_little_memory));
    cases
}

/// A change to a good bundle; `None` for no bundle at all.
type Spoil = fn(Vec<u8>) -> Option<Vec<u8>>;

/// Bundles that cannot be booted, and a word of the sentence that says so.
const SPOILT: [(&str, Spoil, &str); 6] = [
    ("no-bundle", |_| None, "bundle"),
    ("empty-bundle", |_| Some(vec![0; 16]), "bundle"),
    (
        "truncated-bundle",
        |mut bytes| {
            bytes.truncate(bytes.len() / 2);
            Some(bytes)
        },
        "bundle",
    ),
    ("unsorted-bundle", |_| unsorted(), "manifest"),
    ("kernel-not-pvh", |_| with_kernel(b"\x7fELF\x02\x01\x01 this is no kernel"), "ELF"),
    ("kernel-absent", |_| bundle_of(&[("manifest", MANIFEST.as_bytes())]), "kernel"),
];

const MANIFEST: &str =
    "xenolith 1\n[domain dom0]\nkernel = kernel\nmemory = 16M\nroles = control\nstart = boot\n";

fn bundle_of(files: &[(&str, &[u8])]) -> Option<Vec<u8>> {
    bundle::archive(files).ok()
}

fn unsorted() -> Option<Vec<u8>> {
    bundle_of(&[("kernel", b"something"), ("manifest", MANIFEST.as_bytes())])
}

fn with_kernel(kernel: &[u8]) -> Option<Vec<u8>> {
    bundle_of(&[("manifest", MANIFEST.as_bytes()), ("kernel", kernel)])
}

/// The default set with commands for the guest.
pub fn with_commands(commands: &str) -> Result<DomainSet> {
    let mut set = live::set("default.toml")?;
    crate::run::add_commands(&mut set, commands)?;
    Ok(set)
}

fn default(context: &Context, name: &str, lane: Lane) -> Result<Verdict> {
    let disk = context.file(&format!("{}-{}.img", name.replace('/', "-"), lane.processors))?;
    crate::disk::make(&disk, 16 << 20)?;
    let report = Machine::new(context, name, lane)
        .disks(std::slice::from_ref(&disk))
        .boot(&with_commands("info; ls /; cat /numbers.txt")?)?;
    let _ = std::fs::remove_file(disk);
    Ok(live::judge(&report, &["thirteen"]))
}

/// Boots the ISO in QEMU, which shows that GRUB finds the hypervisor and hands it the bundle. UEFI firmware is known to
/// work only where the hypervisor is told of the machine by multiboot2 alone.
fn iso(context: &Context, name: &str, boot: fn(PathBuf) -> Boot) -> Result<Verdict> {
    let images = context.images()?;
    let set = with_commands("info")?;
    let bundle = images.bundle(&set, "test/iso.bundle")?;
    let iso = context.file(&format!("{}.iso", name.replace('/', "-")))?;
    image::make(&images.hypervisor(), Some(&bundle), "", &iso)?;
    let report = Machine::new(context, name, SVM.at(2)).start(boot(iso.clone()))?;
    let _ = std::fs::remove_file(iso);
    Ok(live::judge(&report, &[]))
}

fn spoilt(context: &Context, name: &str, spoil: Spoil, sign: &str) -> Result<Verdict> {
    let images = context.images()?;
    let set = live::set("default.toml")?;
    let bundle = spoil(bundle::write(&set, images)?);
    let file = context.file(&format!("{name}.bundle"))?;
    if let Some(bytes) = &bundle {
        std::fs::write(&file, bytes)?;
    }
    let boot = Boot::Direct {
        hypervisor: images.hypervisor(),
        bundle: bundle.map(|_| file.clone()),
        cmdline: String::new(),
    };
    let report = Machine::new(context, &format!("boot/{name}"), SVM).start(boot)?;
    let _ = std::fs::remove_file(file);
    Ok(refused(&report, sign))
}

/// Judges a machine that should have refused to start, in one sentence with `sign` in it.
fn refused(report: &Report, sign: &str) -> Verdict {
    match &report.end {
        End::Refused(sentence) if sentence.contains(sign) => Verdict::Passed(sentence.clone()),
        End::Refused(sentence) => {
            live::failed(report, format!("the sentence does not say {sign:?}: {sentence}"))
        }
        end => live::failed(report, format!("it did not refuse to start: {end}")),
    }
}

/// A configuration of QEMU that boots the default set directly.
fn direct(context: &Context, name: &str) -> Result<Config> {
    let images = context.images()?;
    let set = live::set("default.toml")?;
    let bundle = images.bundle(&set, &format!("test/{name}.bundle"))?;
    let boot = Boot::Direct { hypervisor: images.hypervisor(), bundle: Some(bundle), cmdline: String::new() };
    Ok(Config::bare(Emulator::Qemu, boot))
}

fn no_svm(context: &Context) -> Result<Verdict> {
    let config = Config { without_virtualization: true, ..direct(context, "no-svm")? };
    Ok(refused(&Machine::new(context, "boot/no-svm", SVM).run(&config, None)?, "AMD-V"))
}

fn no_vmx(context: &Context) -> Result<Verdict> {
    let iso = context.file("no-vmx.iso")?;
    let config = direct(context, "no-vmx")?;
    let Boot::Direct { hypervisor, bundle, .. } = &config.boot else { unreachable!("made above") };
    image::make(hypervisor, bundle.as_deref(), "", &iso)?;
    let config = Config {
        emulator: Emulator::Bochs,
        without_virtualization: true,
        boot: Boot::Iso(iso.clone()),
        ..config
    };
    Ok(refused(&Machine::new(context, "boot/no-vmx", VMX).run(&config, Some(iso))?, "EPT"))
}

fn too_little_memory(context: &Context) -> Result<Verdict> {
    let config = Config { memory: 64 << 20, ..direct(context, "too-little-memory")? };
    Ok(refused(&Machine::new(context, "boot/too-little-memory", SVM).run(&config, None)?, "memory"))
}
