//! An application guest: its disks, and a shell or the commands of `exec=`.

use alloc::string::String;

use crate::{block, cmdline, fs, println, shell, task};

/// Runs the guest.
pub async fn run() -> i32 {
    block::front::connect_all().await;
    if cmdline::flag("ata") {
        block::trapped::find();
    }
    crate::net::front::connect().await;
    mount_first().await;
    if cmdline::value("serve") == Some("iperf") {
        task::spawn(shell::net::iperf::serve());
    }
    if let Some(commands) = cmdline::value("exec") {
        let status = shell::exec(&cmdline::percent_decode(commands)).await;
        fs::sync_all().await;
        return status;
    }
    println!("\nType `help` for the commands.");
    shell::interactive(&super::name()).await
}

/// Mounts the first FAT volume there is at `/`. A machine without one is none the worse.
async fn mount_first() {
    let mut why = String::new();
    for disk in block::list() {
        match fs::mount(&disk, "/", false).await {
            Ok(()) => return log::info!("{} is mounted at /", disk.info().name),
            Err(e) => why = e,
        }
    }
    if !why.is_empty() {
        log::debug!("nothing is mounted at /: {why}");
    }
}
