//! The guest's functions against the dispatcher, without a VM: what a stub packs is what a handler gets.

mod emulation;
mod events;
mod fuzz;
mod grants;
mod limits;
mod misc;
mod narrow;
mod pointers;
mod world;

use world::{Guest, World};

/// Two ordinary guests, and one with all roles.
const MANIFEST: &str = "\
[hv]
cmdline = loglevel=debug
[domain dom0]
kernel = kernel
memory = 12M
roles = control driver store
start = boot
[domain a]
kernel = kernel
memory = 12M
vcpus = 2
[domain b]
kernel = kernel
memory = 12M
[domain c]
kernel = kernel
memory = 12M
start = manual
";
