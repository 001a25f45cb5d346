//! Cases about guests that go wrong: each is reported, and the others go on.

use super::live::{self, Lane, Machine, SVM, VMX};
use super::{Case, Context, Verdict};
use crate::bundle::{Domain, DomainSet};
use crate::machine::{End, Report};
use anyhow::{Context as _, Result};

/// Ways to go wrong, and a word of the report.
const WAYS: [(&str, &str); 4] =
    [("panic", "panic"), ("fault", "fault"), ("triple", "triple fault"), ("stack", "fault")];

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for lane in [SVM, SVM.at(2), VMX.at(2)] {
        cases.push(Case::new(format!("isolation/warden/{lane}"), move |context| warden(context, lane)));
    }
    for lane in [SVM, VMX] {
        cases.push(Case::new(format!("isolation/shares/{lane}"), move |context| shares(context, lane)));
    }
    cases.push(Case::new(format!("isolation/refused/{}", SVM.at(2)), refused));
    for lane in [SVM.at(2), VMX.at(2)] {
        for (way, sign) in WAYS {
            cases.push(Case::new(format!("isolation/{way}/{lane}"), move |context| {
                crash(context, way, sign, lane)
            }));
        }
    }
    cases
}

/// A control domain creates, stops and destroys a domain that spins with interrupts masked, and ends the machine itself.
fn warden(context: &Context, lane: Lane) -> Result<Verdict> {
    let report = Machine::new(context, "isolation/warden", lane).boot(&live::set("warden.toml")?)?;
    Ok(live::judge(&report, &["SUCCESS: warden"]))
}

/// Two busy domains get what their weights and caps say, and one that wakes gets the CPU from them. Time is counted in
/// instructions on both lanes, so that the figures are the same each time.
fn shares(context: &Context, lane: Lane) -> Result<Verdict> {
    let report =
        Machine::new(context, "isolation/shares", lane).counted().boot(&live::set("referee.toml")?)?;
    Ok(live::judge(&report, &["SUCCESS: referee"]))
}

/// Two guests, one of which ends in a bad way; the other one begins its work only after that.
fn two_guests(way: &str) -> Result<DomainSet> {
    let mut set = live::set("two-guests.toml")?;
    for domain in set.domains.values_mut() {
        if !domain.disk.is_empty() {
            domain.disk = vec!["memory:1M".into()];
        }
    }
    live::command(&mut set, "one", &format!("crash {way}"))?;
    live::command(
        &mut set,
        "two",
        "sleep 2; dd if=random of=xvda bs=64K count=16; sync; echo the other goes on",
    )?;
    live::until_guests(&mut set)?;
    Ok(set)
}

/// Judges such a machine: its status tells of the bad end, its console has all signs, and the other guest ended well.
fn judge(report: &Report, signs: &[&str]) -> Verdict {
    let console = report.console.to_lowercase();
    match report.end {
        End::PowerOff(0) => live::failed(report, "the bad end does not show in the machine's status"),
        End::PowerOff(_) if !console.contains("the other goes on") => {
            live::failed(report, "the other guest did not end its work")
        }
        End::PowerOff(_) => match signs.iter().find(|sign| !console.contains(**sign)) {
            Some(sign) => live::failed(report, format!("the console does not say {sign:?}")),
            None => Verdict::passed(),
        },
        _ => live::failed(report, report.end.to_string()),
    }
}

fn crash(context: &Context, way: &str, sign: &str, lane: Lane) -> Result<Verdict> {
    let report = Machine::new(context, &format!("isolation/{way}"), lane).boot(&two_guests(way)?)?;
    Ok(judge(&report, &[sign]))
}

/// Guests that cannot be made, each for a reason of its own, and one that wants to be suspended.
fn refused(context: &Context) -> Result<Verdict> {
    let lane = SVM.at(2);
    let kernel = std::fs::read(context.images()?.guest("victim-spin"))?;
    // An ELF note: the lengths of its name and its content, its type (XEN_ELFNOTE_PHYS32_ENTRY), its name, its content.
    let note = kernel
        .windows(16)
        .position(|bytes| bytes.starts_with(&[4, 0, 0, 0]) && bytes.ends_with(b"\x12\0\0\0Xen\0"))
        .context("the guest has no note")?;
    let (mut noteless, mut odd) = (kernel.clone(), kernel);
    noteless[note + 8] = 0x77;
    odd[note + 16..note + 20].copy_from_slice(&0xffff_0000_u32.to_le_bytes());
    let mut set = two_guests("suspend")?;
    let mut files = Vec::new();
    for (name, content) in [("noteless", noteless), ("odd", odd), ("large", vec![0; 20 << 20])] {
        let file = context.file(&format!("refused.{name}"))?;
        std::fs::write(&file, content)?;
        let path = file.to_string_lossy().into_owned();
        let mut guest = Domain::bare("victim-spin", "16M".into());
        guest.start = "auto".into();
        match name {
            "large" => guest.initrd = Some(path),
            _ => guest.kernel = path,
        }
        set.domains.insert(name.into(), guest);
        files.push(file);
    }
    let report = Machine::new(context, "isolation/refused", lane).boot(&set)?;
    for file in files {
        std::fs::remove_file(file)?;
    }
    Ok(judge(
        &report,
        &[
            "of the domain `noteless` is not a pvh kernel: it has no elf note xen_elfnote_phys32_entry",
            "of the domain `odd` has its entry point 0xffff0000 outside of what is loaded",
            "the domain `large` has too little memory: kernel, modules and start information need",
            "asked to be suspended, which is not supported: it is off",
        ],
    ))
}
