//! `cargo xtask run`: a domain set in an emulator.

use crate::build::{Images, default_domains, linux_domains};
use crate::bundle::{self, Domain, DomainSet};
use crate::cli::{self, Emulator};
use crate::emulator::{self, Boot, Config};
use crate::linux::{self, Linux, Suite};
use crate::machine::{self, Console, End};
use crate::{disk, image, say, trace, workspace};
use anyhow::{Context, Result, ensure};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What stays as it is in a word of a command line.
const ENCODED: AsciiSet =
    NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'/').remove(b',').remove(b':');

/// The command line of Debian's Linux.
pub const LINUX_WORDS: &str = "console=hvc0";

/// What gives the keyboard to the guest of Linux's domain set.
const LINUX_CONSOLE: &str = "console=guest";

/// What tells the control domain to end the machine once the guests have ended.
pub const UNTIL_GUESTS: &str = "until=guests";

/// Runs `cargo xtask run`.
pub fn verb(options: &cli::Run) -> Result<u8> {
    let choice = emulator::choose(&options.machine)?;
    let disks = disks(&options.machine.disk)?;
    // What the options ask for is tried before anything takes long.
    let set = domain_set(options, disks.len())?;
    let images = Images::build()?;
    // Named by the process: several may run at a time.
    let name = format!("run-{}", std::process::id());
    let bundle = images.bundle(&set, &format!("{name}.bundle"))?;
    let boot = boot(&images, &bundle, choice.emulator, &name)?;
    let litter = Litter(match &boot {
        Boot::Iso(iso) => vec![bundle, iso.clone()],
        _ => vec![bundle],
    });
    let mut config = Config::new(&options.machine, choice, disks, boot)?;
    config.in_turn = set.may_load_x87();
    let console = if options.exec.is_some() { Console::Shown } else { Console::Interactive };
    if console == Console::Interactive {
        say::step("Ctrl-a x ends the machine, Ctrl-a ? lists the console's other keys");
    }
    let report = machine::run(
        &config,
        console,
        options.machine.timeout.map(Duration::from_secs),
        options.machine.verbose,
    )?;
    drop(litter);
    say::step(format!("{} (after {:.1} s)", report.end, report.took.as_secs_f64()));
    if let Some(file) = &options.trace {
        let count = trace::write(&report.console, file)?;
        say::step(format!("{count} records of the trace are in {}", file.display()));
    }
    Ok(match report.end {
        End::PowerOff(status) => u8::try_from(status).unwrap_or(u8::MAX),
        End::Quit | End::Reset => 0,
        _ => crate::FAILED,
    })
}

/// Files of a run, removed with this value.
struct Litter(Vec<PathBuf>);

impl Drop for Litter {
    fn drop(&mut self) {
        for file in &self.0 {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Returns what the machine starts from: QEMU takes the hypervisor directly, Bochs needs an ISO.
pub fn boot(images: &Images, bundle: &Path, emulator: Emulator, name: &str) -> Result<Boot> {
    Ok(match emulator {
        Emulator::Qemu => Boot::Direct {
            hypervisor: images.hypervisor(),
            bundle: Some(bundle.into()),
            cmdline: String::new(),
        },
        Emulator::Bochs => {
            let iso = workspace::products()?.join(format!("{name}.iso"));
            image::make(&images.hypervisor(), Some(bundle), "", &iso)?;
            Boot::Iso(iso)
        }
    })
}

/// Returns the disks of the machine: the user's, or the tool's own.
fn disks(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    if named.is_empty() {
        return Ok(vec![disk::own()?]);
    }
    named
        .iter()
        .map(|file| {
            let data =
                std::fs::metadata(file).with_context(|| format!("cannot use the disk {}", file.display()))?;
            ensure!(!data.is_file() || data.len() >= 512, "the disk {} is empty", file.display());
            Ok(std::path::absolute(file)?)
        })
        .collect()
}

/// Returns the domain set with the changes that the options ask for.
pub fn domain_set(options: &cli::Run, disks: usize) -> Result<DomainSet> {
    let is_linux = options.linux.is_some() || options.kernel.as_deref().is_some_and(linux::is_image);
    let default = || if is_linux { linux_domains() } else { default_domains() };
    let mut set = DomainSet::read(&options.domains.clone().unwrap_or_else(default))?;
    if let Some(words) = &options.hv_cmdline {
        set.add_to_hv(words);
    }
    if options.trace.is_some() {
        set.add_to_hv(trace::HV_WORD);
        bundle::append(&mut set.control()?.cmdline, trace::DOM0_WORD);
    }
    set.check_disks(disks)?;
    if let Some(kernel) = &options.kernel {
        let guest = set.guest()?;
        guest.kernel = path(&linux::loadable(kernel)?)?;
        guest.initrd = options.initrd.as_deref().map(path).transpose()?;
        guest.cmdline.clear();
    }
    if let Some(suite) = options.linux {
        debian(set.guest()?, suite, options)?;
    }
    let guest = set.guest()?;
    if let Some(vcpus) = options.vcpus {
        guest.vcpus = vcpus;
    }
    if let Some(bytes) = options.guest_mem {
        guest.memory = format!("{}K", bytes >> 10);
    }
    if let Some(words) = &options.cmdline {
        bundle::append(&mut set.guest()?.cmdline, words);
    }
    if options.machine.network().is_some() && set.domains.values().all(|domain| domain.vif.is_empty()) {
        set.guest()?.vif.push("bridge".into());
    }
    if let Some(commands) = options.exec.as_ref().filter(|_| options.linux.is_none()) {
        add_commands(&mut set, commands)?;
    } else if options.kernel.is_some() || options.linux.is_some() {
        bundle::append(&mut set.control()?.cmdline, UNTIL_GUESTS);
    }
    if options.linux.is_some() && options.exec.is_none() {
        bundle::append(&mut set.control()?.cmdline, LINUX_CONSOLE);
    }
    Ok(set)
}

/// Makes Debian's Linux the guest's kernel.
fn debian(guest: &mut Domain, suite: Suite, options: &cli::Run) -> Result<()> {
    let linux = Linux::get(suite)?;
    guest.kernel = path(&linux::loadable(&linux.image()?)?)?;
    guest.initrd = Some(match &options.initrd {
        Some(file) => path(file)?,
        None => {
            let file = workspace::products()?.join("linux.cpio");
            std::fs::write(&file, linux::initramfs(&linux, options.exec.as_deref(), &[])?)?;
            path(&file)?
        }
    });
    guest.cmdline = LINUX_WORDS.into();
    Ok(())
}

/// Lets the guest run shell commands, and the machine end when it has.
pub fn add_commands(set: &mut DomainSet, commands: &str) -> Result<()> {
    bundle::append(&mut set.guest()?.cmdline, &exec(commands));
    bundle::append(&mut set.control()?.cmdline, UNTIL_GUESTS);
    Ok(())
}

/// Returns the word of a command line that runs shell commands.
pub fn exec(commands: &str) -> String {
    format!("exec={}", utf8_percent_encode(commands, &ENCODED))
}

/// Returns a file's absolute path as a domain set writes it.
fn path(file: &Path) -> Result<String> {
    let file = std::path::absolute(file)?;
    ensure!(file.is_file(), "there is no file {}", file.display());
    Ok(file.to_str().with_context(|| format!("{} is no text", file.display()))?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn manifest(words: &[&str]) -> String {
        let words = ["xtask", "run"].iter().chain(words);
        match cli::Cli::parse_from(words).verb {
            cli::Verb::Run(run) => domain_set(&run, 1).unwrap().manifest().unwrap(),
            _ => unreachable!("the verb is run"),
        }
    }

    #[test]
    fn commands_become_one_word_of_the_guests_command_line() {
        let text = manifest(&["--exec", "echo 50% # x; cat a/b"]);
        assert!(text.contains("exec=echo%2050%25%20%23%20x%3B%20cat%20a/b"), "{text}");
        assert!(text.contains("until=guests"), "{text}");
        assert!(!manifest(&[]).contains("until="));
    }

    #[test]
    fn a_kernel_of_ones_own_replaces_the_guests() {
        let own = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let text = manifest(&["--kernel", own, "--cmdline", "console=hvc0"]);
        assert!(text.contains(&format!("kernel = {}", own.trim_start_matches('/'))), "{text}");
        assert!(text.contains("cmdline = console=hvc0\n"), "{text}");
    }
}
