//! Intel VT-x: virtual-machine extensions with extended page tables (Intel SDM volume 3, chapters 24 to 31).

pub mod bitmaps;
pub mod capability;
pub mod controls;
pub mod ept;
pub mod failure;
pub mod field;
pub mod reason;

#[cfg(target_os = "none")]
mod backend;
#[cfg(target_os = "none")]
mod debug;
#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod exits;
#[cfg(target_os = "none")]
mod host;
#[cfg(target_os = "none")]
mod instr;
#[cfg(target_os = "none")]
mod msrs;
#[cfg(target_os = "none")]
mod registers;
#[cfg(target_os = "none")]
mod reset;
#[cfg(target_os = "none")]
mod segment;
#[cfg(target_os = "none")]
mod structure;
#[cfg(target_os = "none")]
mod vcpu;

#[cfg(target_os = "none")]
pub use backend::Vmx;
