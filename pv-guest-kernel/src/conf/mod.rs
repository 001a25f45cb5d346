//! What the test domains in `bin/` have in common: checks, and the verdict on the console and as exit status.
//!
//! `SUCCESS` is status 0, `FAILURE` (a check failed) 1, `ERROR` (the test could not be done) 2, `SKIP` (this machine lacks
//! what is tested) 3.

pub mod events;

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt::{Debug, Display};

use crate::println;
use crate::xen::clock;

/// A test at work.
#[derive(Debug, Default)]
pub struct Test {
    checks: u32,
    failures: u32,
}

/// How a test ended before its end.
#[derive(Debug)]
pub enum Stop {
    /// This machine lacks what is tested.
    Skip(String),
    /// The test could not be done.
    Error(String),
}

/// A test's result.
pub type Outcome = Result<(), Stop>;

/// Stops a test that this machine cannot run.
pub fn skip(why: impl Display) -> Stop {
    Stop::Skip(why.to_string())
}

/// Stops a test that cannot go on.
pub fn error(what: &str, why: impl Debug) -> Stop {
    Stop::Error(format!("{what}: {why:?}"))
}

impl Test {
    /// One check: `good` or not.
    pub fn check(&mut self, what: &str, good: bool) {
        self.checks += 1;
        if !good {
            self.failures += 1;
            println!("failed: {what}");
        }
    }

    /// One check: `got` is `want`.
    pub fn equal<T: PartialEq<U> + Debug, U: Debug>(&mut self, what: &str, got: T, want: U) {
        self.checks += 1;
        if got != want {
            self.failures += 1;
            println!("failed: {what}: got {got:?}, want {want:?}");
        }
    }

    /// Prints the verdict; the exit status.
    pub fn verdict(&self, name: &str, outcome: Outcome) -> i32 {
        match outcome {
            Err(Stop::Skip(why)) => {
                println!("SKIP: {why}");
                3
            }
            Err(Stop::Error(why)) => {
                println!("ERROR: {name}: {why}");
                2
            }
            Ok(()) if self.failures != 0 => {
                println!("FAILURE: {name}: {} of {} checks failed", self.failures, self.checks);
                1
            }
            Ok(()) if self.checks == 0 => {
                println!("ERROR: {name}: nothing was checked");
                2
            }
            Ok(()) => {
                println!("SUCCESS: {name}: {} checks", self.checks);
                0
            }
        }
    }
}

/// Makes a test domain of an `async fn(&mut Test) -> Outcome`, and optionally its start options.
#[macro_export]
macro_rules! conformance {
    ($function:path) => {
        $crate::conformance!($function, $crate::Options::DEFAULT);
    };
    ($function:path, $options:expr) => {
        extern crate alloc;
        $crate::main!(conformance_main, $options);

        async fn conformance_main() -> i32 {
            let mut test = $crate::conf::Test::default();
            let outcome = $function(&mut test).await;
            test.verdict(env!("CARGO_BIN_NAME"), outcome)
        }
    };
}

/// Waits until `done`, with patience: whether it came.
///
/// What never comes is given up after a minute of the clock and [`ROUNDS`] looks. Both, for the clock of a guest jumps where
/// its machine was long without a processor, and the hypervisor's clock source wrapped meanwhile.
pub fn wait_for(done: impl Fn() -> bool) -> bool {
    let start = clock::now();
    let mut rounds = 0u64;
    while !done() {
        if rounds > ROUNDS && clock::now() - start > 60_000_000_000 {
            return false;
        }
        rounds += 1;
        core::hint::spin_loop();
    }
    true
}

/// As many looks, at least, before [`wait_for`] gives up: several seconds of an emulated processor.
const ROUNDS: u64 = 100_000_000;

/// A raw hypercall, for numbers and arguments that no stub would pass.
pub fn raw(number: u64, args: [u64; 5]) -> Result<u64, pv_abi::Errno> {
    use pv_abi::transport::Transport;
    pv_abi::Errno::from_return(crate::xen::hv().call(number, &args))
}
