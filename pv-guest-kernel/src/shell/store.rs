//! XenStore from the shell.

use super::command::Command;

/// The table.
pub const COMMANDS: &[Command] = &[];
