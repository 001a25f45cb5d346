//! The machine on which the tests of this crate run: memory, a scripted back end, devices that are lists.

mod format;
mod images;
mod machine;
mod memory;
mod scripted;
mod system;

pub use format::PlainFormat;
pub use images::{Load, cpio, elf64, small_kernel};
pub use machine::{PciSpace, Record, Route, TestMachine};
pub use memory::VecMemory;
pub use scripted::{Script, Scripted, ScriptedVcpu, Scripts, Step};
pub use system::{section, system, system_with};
