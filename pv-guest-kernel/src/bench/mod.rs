//! Benchmarks.

use crate::shell::command::Command;

/// The table.
pub const COMMANDS: &[Command] = &[];
