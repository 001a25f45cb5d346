//! What a domain is for: `role=` on the command line.

pub mod dom0;
pub mod guest;

use alloc::string::String;

use crate::cmdline;

/// The name for the prompt: `name=`, or the role.
pub fn name() -> String {
    cmdline::value("name").or(cmdline::value("role")).unwrap_or("guest").into()
}

/// Plays the role. Returns the exit status.
pub async fn run() -> i32 {
    match cmdline::value("role").unwrap_or("guest") {
        "dom0" => dom0::run().await,
        "guest" => guest::run().await,
        other => {
            log::error!("role={other}: no such role; this kernel plays `guest` and `dom0`");
            2
        }
    }
}
