//! The processor: entry, descriptor tables, traps, per-CPU data, and the few instructions that Rust has no words for.

pub mod apic;
pub mod cpu;
pub mod entry;
pub mod gdt;
pub mod instr;
pub mod probe;
pub mod stack;
pub mod trap;
