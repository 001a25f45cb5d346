//! The paravirtual console: two byte streams in one page (`io/console.h`).

mod back;
mod front;
mod lines;
#[cfg(test)]
mod tests;

pub use back::{ConsoleBack, Limit, Progress};
pub use front::ConsoleFront;
pub use lines::LineSplitter;
