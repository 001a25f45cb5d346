//! AMD-V: secure virtual machines with nested paging (AMD64 manual volume 2, chapter 15).

pub mod decode;
pub mod event;
#[cfg(target_os = "none")]
mod fetch;
pub mod maps;
pub mod npt;
#[cfg(target_os = "none")]
mod registers;
#[cfg(target_os = "none")]
mod reset;
#[cfg(target_os = "none")]
mod run;
#[cfg(target_os = "none")]
mod vcpu;
pub mod vmcb;
#[cfg(target_os = "none")]
mod windows;

#[cfg(target_os = "none")]
mod backend;
#[cfg(target_os = "none")]
pub use backend::{Capabilities, Svm};
#[cfg(target_os = "none")]
use backend::{GUEST_MSRS, NO_PORTS};
#[cfg(target_os = "none")]
pub use vcpu::SvmVcpu;
