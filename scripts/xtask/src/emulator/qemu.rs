//! QEMU: AMD-V with nested paging in software, or KVM.
//!
//! In software each processor has a thread of its own, but for one flaw (seen in QEMU 7.2, target/i386/tcg): loading x87
//! state with a bit set in the header of XSAVE's area, or by FXRSTOR, on any processor changes `hflags2` of the first one without
//! a lock (`cpu_clear_ignne`). A VMRUN or #VMEXIT there at the same moment may lose its switch to or from nested paging, and
//! a domain dies, or the hypervisor does; a lost STGI lets it sleep for ever. The hypervisor and our guests
//! load no such state; where another kernel is likely to, or a guest tests just that, processors
//! [take turns](Config::in_turn) in one thread. A guest that spins then waits longer for the others, so that is not done for
//! every foreign kernel. On the [plain](PLAIN_CPU) processor, which has FXRSTOR alone, they always do.

use super::{Boot, Card, Config, Started};
use crate::setup::{Need, need};
use crate::{process, say};
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

/// AMD-V as TCG has it, and the features the hypervisor and its guests use. `invtsc` must be forced: TCG's counter
/// is invariant, though it does not say so. CMPXCHG16B is hidden: QEMU (seen in 7.2) computes its flags from those of an
/// earlier instruction, with a pointer's bits among them, which Linux 6.12 then has in RFLAGS after an interrupt.
const TCG_CPU: &str = "qemu64,-cx16,+svm,+npt,+rdtscp,+xsave,+xsaveopt,+pdpe1gb,+smep,+smap,+fsgsbase,+rdrand,+avx,+avx2,+aes,+movbe,+bmi1,+bmi2,+abm,+umip,+ssse3,+sse4.1,+sse4.2,+popcnt,+invtsc,x-force-features=on";

/// The least that the hypervisor starts on, with an invariant counter: the processor on which other systems were measured.
pub const PLAIN_CPU: &str = "qemu64,+svm,+npt,+invtsc,x-force-features=on";

/// The port of the device that ends QEMU with a status.
const DEBUG_EXIT: &str = "isa-debug-exit,iobase=0xf4,iosize=0x04";

/// Starts QEMU.
pub fn start(config: &Config, verbose: bool) -> Result<Started> {
    let mut needs = vec![Need::Qemu];
    if matches!(config.boot, Boot::IsoUefi(_)) {
        needs.push(Need::Ovmf);
    }
    need(&needs)?;
    let mut command = command(config);
    if verbose {
        say::step(process::line(&command));
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = process::start(&mut command)?;
    let output = process.child().stdout.take().context("QEMU has no output")?;
    let input = process.child().stdin.take().context("QEMU has no input")?;
    let complaints = process.child().stderr.take().context("QEMU has no error output")?;
    std::thread::spawn(move || pass_complaints(complaints));
    Ok(Started { process, output: Box::new(output), input: Box::new(input), litter: Vec::new() })
}

/// Shows what QEMU complains of, but for the one warning that is expected.
fn pass_complaints(from: impl Read) {
    for line in BufReader::new(from).lines().map_while(std::result::Result::ok) {
        if !line.contains("CPUID.80000007H:EDX.invtsc") {
            say::step(line);
        }
    }
}

/// Writes QEMU's command line.
fn command(config: &Config) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"]);
    command.args(["-machine", "q35"]);
    if config.kvm {
        command.args(["-accel", "kvm", "-cpu", "host"]);
    } else {
        let hidden = if config.without_virtualization { ",-svm,-npt" } else { "" };
        let one_thread = config.icount || config.in_turn || config.plain;
        command.args(["-accel", if one_thread { "tcg,thread=single" } else { "tcg,thread=multi" }]);
        let cpu = if config.plain { PLAIN_CPU } else { TCG_CPU };
        command.args(["-cpu", &format!("{cpu}{hidden}")]);
    }
    command.args(["-smp", &config.processors.to_string(), "-m", &format!("{}M", config.memory >> 20)]);
    if config.icount {
        command.args(["-icount", "shift=0,sleep=off", "-rtc", "base=2026-01-01,clock=vm"]);
    }
    command.args([
        "-chardev",
        "stdio,id=console,signal=off",
        "-serial",
        "chardev:console",
        "-device",
        DEBUG_EXIT,
    ]);
    match &config.boot {
        Boot::Direct { hypervisor, bundle, cmdline } => {
            command.arg("-kernel").arg(hypervisor);
            if let Some(bundle) = bundle {
                command.arg("-initrd").arg(bundle);
            }
            if !cmdline.is_empty() {
                command.args(["-append", cmdline]);
            }
        }
        Boot::Iso(file) => {
            command.arg("-cdrom").arg(file).args(["-boot", "d"]);
        }
        Boot::IsoUefi(file) => {
            command.args(["-bios", "/usr/share/ovmf/OVMF.fd", "-cdrom"]).arg(file).args(["-boot", "d"]);
        }
    }
    for (index, disk) in config.disks.iter().enumerate() {
        command.arg("-blockdev").arg(blockdev(index, disk));
        command.args([
            "-device",
            &format!("virtio-blk-pci,drive=disk{index},disable-legacy=on,serial=xenolith{index}"),
        ]);
    }
    if let Some(network) = &config.network {
        let mut user = "user,id=net".to_owned();
        for forward in &network.forward {
            user += &format!(",hostfwd=tcp:127.0.0.1:{}-:{}", forward.host, forward.guest);
        }
        let card = match network.card {
            Card::Virtio => "virtio-net-pci,netdev=net,disable-legacy=on",
            Card::E1000 => "e1000,netdev=net",
        };
        command.args(["-netdev", &user, "-device", card]);
    }
    command
}

/// Describes a raw file as QEMU's disk; a comma in its name is doubled (qemu(1), "-blockdev").
fn blockdev(index: usize, disk: &Path) -> OsString {
    let name = disk.to_string_lossy().replace(',', ",,");
    let read_only = std::fs::metadata(disk).is_ok_and(|data| data.permissions().readonly());
    let access = if read_only { ",read-only=on" } else { "" };
    format!("driver=raw,node-name=disk{index},discard=unmap{access},file.driver=file,file.filename={name},cache.direct=off,cache.no-flush=off").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Emulator;

    fn config() -> Config {
        let boot = Boot::Direct {
            hypervisor: "hv".into(),
            bundle: Some("bundle".into()),
            cmdline: "loglevel=info".into(),
        };
        Config { processors: 2, disks: vec!["a,b.img".into()], ..Config::bare(Emulator::Qemu, boot) }
    }

    #[test]
    fn the_accelerator_is_the_only_difference_of_kvm() {
        let words = |config: &Config| process::line(&command(config));
        let tcg = words(&config());
        let kvm = words(&Config { kvm: true, ..config() });
        assert_eq!(
            kvm.replace("-accel kvm -cpu host", ""),
            tcg.replace(&format!("-accel tcg,thread=multi -cpu {TCG_CPU}"), "")
        );
    }

    #[test]
    fn processors_take_turns_where_that_is_asked_for() {
        let line = |in_turn, plain| process::line(&command(&Config { in_turn, plain, ..config() }));
        assert!(line(false, false).contains("thread=multi"));
        assert!(line(true, false).contains("thread=single"));
        assert!(line(false, true).contains("thread=single"), "it has FXRSTOR alone");
    }

    #[test]
    fn the_bundle_and_the_disks_are_on_the_command_line() {
        let line = process::line(&command(&config()));
        assert!(line.contains("-kernel hv -initrd bundle -append loglevel=info"), "{line}");
        assert!(line.contains("filename=a,,b.img"), "{line}");
    }
}
