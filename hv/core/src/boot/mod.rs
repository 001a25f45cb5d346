//! What domains are started from: the boot bundle, kernels, and what a guest finds in its memory at its start.

pub mod acpi;
pub mod bundle;
pub mod elf;
pub mod layout;
pub mod start_of_day;

pub use bundle::{Bundle, BundleError};
pub use elf::{Kernel, KernelError};
pub use layout::{Layout, LayoutError, Placement};
