//! `cargo xtask`: the one tool of the workspace. It builds, boots, tests and packs what the repository holds.
//!
//! Exit codes: 0 passed, 1 failed, 2 could not run. `run --exec` ends with the status of the guest instead.

mod bench;
mod build;
mod bundle;
mod cli;
mod disk;
mod docs;
mod emulator;
mod image;
mod linux;
mod machine;
mod peer;
mod process;
mod run;
mod say;
mod setup;
mod terminal;
mod test;
mod trace;
mod workspace;

use clap::Parser;
use std::process::ExitCode;

/// The exit code of a verb that did its work and found something wrong.
pub const FAILED: u8 = 1;
/// The exit code of a verb that could not do its work.
pub const COULD_NOT_RUN: u8 = 2;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let done = match cli.verb {
        cli::Verb::Setup(options) => setup::verb(&options),
        cli::Verb::Build(options) => build::verb(&options),
        cli::Verb::Run(options) => run::verb(&options),
        cli::Verb::Bench(options) => bench::verb(&options),
        cli::Verb::Test(options) => test::verb(&options),
        cli::Verb::Docs(options) => docs::verb(&options),
        cli::Verb::Peer(options) => peer::verb(&options),
        cli::Verb::Image(options) => image::verb(&options),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}
