//! Why a domain cannot be built.

use crate::boot::{KernelError, LayoutError};
use crate::domain::SLOTS;
use crate::pci::AssignError;
use alloc::string::{String, ToString};
use core::fmt;
use pv_abi::errno::Errno;

/// Why a domain cannot be built. Shown, it is a sentence that a user can act upon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BuildError {
    domain: String,
    cause: Cause,
}

/// What is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the sentences below say it
pub enum Cause {
    NotInManifest,
    Exists,
    TooManyDomains,
    NoFile(String),
    Kernel(String, KernelError),
    Layout(LayoutError),
    TooLittleMemory { wanted: u64, free: u64 },
    NotContiguous { wanted: u64, free: u64 },
    Pci(AssignError),
    NoHeap,
    NoVcpu,
    Internal(Errno),
}

impl Cause {
    /// The error of a domain of this name.
    pub fn of(self, domain: &str) -> BuildError {
        BuildError { domain: domain.to_string(), cause: self }
    }
}

impl From<Errno> for Cause {
    fn from(errno: Errno) -> Self {
        Self::Internal(errno)
    }
}

impl From<LayoutError> for Cause {
    fn from(error: LayoutError) -> Self {
        Self::Layout(error)
    }
}

impl From<AssignError> for Cause {
    fn from(error: AssignError) -> Self {
        Self::Pci(error)
    }
}

impl BuildError {
    /// What is wrong.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// What the control call returns for it.
    pub fn errno(&self) -> Errno {
        match &self.cause {
            Cause::NotInManifest | Cause::NoFile(_) => Errno::ENOENT,
            Cause::Exists => Errno::EEXIST,
            Cause::TooManyDomains => Errno::ENFILE,
            Cause::Kernel(..) => Errno::ENOEXEC,
            Cause::Layout(LayoutError::TooLarge) => Errno::E2BIG,
            Cause::Layout(_)
            | Cause::TooLittleMemory { .. }
            | Cause::NotContiguous { .. }
            | Cause::NoHeap
            | Cause::NoVcpu => Errno::ENOMEM,
            Cause::Pci(AssignError::Taken(..)) => Errno::EBUSY,
            Cause::Pci(AssignError::NoSuchFunction(_)) => Errno::ENODEV,
            Cause::Pci(_) => Errno::EINVAL,
            Cause::Internal(errno) => *errno,
        }
    }
}

/// A number of bytes in a unit that suits it.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 16 << 20 { write!(f, "{} MiB", self.0 >> 20) } else { write!(f, "{} KiB", self.0 >> 10) }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.domain;
        match &self.cause {
            Cause::NotInManifest => write!(f, "the manifest has no domain `{name}`"),
            Cause::Exists => write!(f, "the domain `{name}` exists already"),
            Cause::TooManyDomains => {
                write!(f, "the domain `{name}` cannot be made: there are {SLOTS} domains already")
            }
            Cause::NoFile(file) => {
                write!(f, "the domain `{name}` wants the file `{file}`, which the boot bundle has not")
            }
            Cause::Kernel(file, error) => write!(f, "the kernel `{file}` of the domain `{name}` {error}"),
            Cause::Layout(error) => write!(f, "the domain `{name}` {error}"),
            Cause::TooLittleMemory { wanted, free } => write!(
                f,
                "there is too little memory for the domain `{name}`: it wants {}, {} are free",
                Size(*wanted),
                Size(*free)
            ),
            Cause::NotContiguous { wanted, free } => write!(
                f,
                "there is no free memory of {} in one piece below 4 GiB, which the domain `{name}` needs for its \
                 devices; {} are free in all",
                Size(*wanted),
                Size(*free)
            ),
            Cause::Pci(error) => write!(f, "the domain `{name}` {error}"),
            Cause::NoHeap => write!(
                f,
                "the hypervisor has too little memory of its own left for the domain `{name}`: end others first, or give \
                 the machine more memory"
            ),
            Cause::NoVcpu => write!(f, "there is no memory for the virtual CPUs of the domain `{name}`"),
            Cause::Internal(errno) => write!(f, "the domain `{name}` cannot be made: {errno}"),
        }
    }
}
