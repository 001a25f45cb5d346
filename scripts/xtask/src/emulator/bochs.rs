//! Bochs: VT-x with EPT in software. It boots from a CD; its disks are IDE; its serial port is a socket to this tool.

use super::{Boot, Config, Network, Started};
use crate::{process, say, setup, workspace};
use anyhow::{Context, Result, bail, ensure};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The processor, by Bochs's name.
pub const PROCESSOR: &str = "corei7_haswell_4770";

/// The configuration, with its blanks.
const TEMPLATE: &str = include_str!("../../../bochs/bochsrc.in");

/// Starts Bochs.
pub fn start(config: &Config, verbose: bool) -> Result<Started> {
    let Boot::Iso(iso) = &config.boot else { bail!("Bochs boots from an ISO by its BIOS only") };
    ensure!(config.disks.len() <= 3, "Bochs has room for three disks");
    let program = setup::bochs()?;
    let dir = workspace::products()?;
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no socket for Bochs's serial port")?;
    let port = listener.local_addr()?.port();
    let file = dir.join(format!("bochsrc-{port}"));
    let log = dir.join(format!("bochs-{port}.log"));
    let mut litter = vec![file.clone(), log.clone()];
    for disk in &config.disks {
        // A killed run leaves its lock behind, and then the disk cannot be opened.
        let lock = PathBuf::from(format!("{}.lock", disk.display()));
        let _ = std::fs::remove_file(&lock);
        litter.push(lock);
    }
    let slirp = dir.join(format!("slirp-{port}"));
    if let Some(network) = &config.network {
        write(&slirp, &forwards(network))?;
        litter.push(slirp.clone());
    }
    write(&file, &fill(config, iso, port, &log, &slirp))?;
    let mut command = Command::new(program);
    command.arg("-q").arg("-f").arg(&file);
    if verbose {
        say::step(process::line(&command));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = process::start(&mut command)?;
    let socket = accept(&listener, &mut process).with_context(|| {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        format!("Bochs did not start:\n{}", process::tail(&log, 8))
    })?;
    socket.set_nodelay(true)?;
    Ok(Started { process, output: Box::new(socket.try_clone()?), input: Box::new(socket), litter })
}

/// Waits until Bochs connects its serial port.
fn accept(listener: &TcpListener, process: &mut process::Owned) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match listener.accept() {
            Ok((socket, _)) => {
                socket.set_nonblocking(false)?;
                return Ok(socket);
            }
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return Err(error.into()),
            Err(_) => {}
        }
        if let Some(status) = process.try_wait()? {
            bail!("it ended with {status}");
        }
        ensure!(Instant::now() < deadline, "it did not connect within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// The file that describes the network; it must start like this.
fn forwards(network: &Network) -> String {
    let mut text = "# slirp config\n".to_owned();
    for forward in &network.forward {
        text += &format!("hostfwd = tcp:127.0.0.1:{}-:{}\n", forward.host, forward.guest);
    }
    text
}

/// The network card, on the network that a file describes.
fn card(slirp: &Path) -> String {
    format!("e1000: enabled=1, mac=52:54:00:12:34:56, ethmod=slirp, script=\"{}\"", slirp.display())
}

/// Fills the blanks of the configuration.
fn fill(config: &Config, iso: &Path, port: u16, log: &Path, slirp: &Path) -> String {
    let places = ["ata0-master", "ata0-slave", "ata1-slave"];
    let disks: Vec<_> = config
        .disks
        .iter()
        .zip(places)
        .map(|(disk, place)| format!("{place}: type=disk, path=\"{}\", mode=flat\n", disk.display()))
        .collect();
    let is_networked = config.network.is_some();
    TEMPLATE
        .replace("@MODEL@", if config.without_virtualization { "core2_penryn_t9600" } else { PROCESSOR })
        .replace("@CPUS@", &config.processors.to_string())
        .replace("@MEMORY@", &(config.memory >> 20).to_string())
        .replace("@CARD@", if is_networked { ", slot2=e1000" } else { "" })
        .replace("@NETWORK@", &if is_networked { card(slirp) } else { String::new() })
        // Who is at the other end waits by a real clock, which an idle machine must not run ahead of.
        .replace("@SYNC@", if is_networked { "slowdown" } else { "none" })
        .replace("@ISO@", &iso.display().to_string())
        .replace("@DISKS@", &disks.concat())
        .replace("@PORT@", &port.to_string())
        .replace("@LOG@", &log.display().to_string())
}
