//! An application guest: its disks, and a shell or the commands of `exec=`.

use crate::{cmdline, println, shell};

/// Runs the guest.
pub async fn run() -> i32 {
    if let Some(commands) = cmdline::value("exec") {
        return shell::exec(&cmdline::percent_decode(commands)).await;
    }
    println!("\nType `help` for the commands.");
    shell::interactive(&super::name()).await
}
