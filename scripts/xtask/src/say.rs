//! What the tool tells its user: one line a step, on standard error, so that a machine's console has standard output for itself.

use std::io::Write;

/// Prints a step that begins, or a fact worth knowing.
pub fn step(text: impl AsRef<str>) {
    let mut out = std::io::stderr().lock();
    let _ = writeln!(out, "xtask: {}", text.as_ref());
}

/// Prints a warning.
pub fn warn(text: impl AsRef<str>) {
    step(format!("warning: {}", text.as_ref()));
}
