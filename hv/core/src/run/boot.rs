//! The domains that start with the machine.

use crate::build::{self, BuildError};
use crate::hw::Platform;
use crate::system::System;
use core::fmt;
use pv_abi::manifest::Start;

/// Why the machine has nothing to run, in a sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BootError {
    /// A domain cannot be built.
    Build(BuildError),
    /// The manifest starts no domain at boot.
    NoDomain,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Build(error) => error.fmt(f),
            Self::NoDomain => f.write_str("the manifest has no domain with `start = boot`"),
        }
    }
}

/// Makes all domains that start at boot, and then lets them run.
pub fn boot<P: Platform>(system: &System<P>) -> Result<(), BootError> {
    if system.manifest().cmdline().split_whitespace().any(|word| word == "trace") {
        system.trace.set(true);
    }
    for function in system.pci.functions() {
        log::debug!(
            "PCI {}: {:04x}:{:04x} class {:06x}",
            function.address,
            function.vendor,
            function.device,
            function.class
        );
    }
    let mut domains = alloc::vec::Vec::new();
    for config in system.manifest().domains().filter(|config| config.start == Start::Boot) {
        domains.push(build::create(system, config.name, None).map_err(BootError::Build)?);
    }
    if domains.is_empty() {
        return Err(BootError::NoDomain);
    }
    for domain in &domains {
        if let Ok(change) = domain.life.unpause() {
            system.follow(domain, change);
        }
    }
    Ok(())
}
