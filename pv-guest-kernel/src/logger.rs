//! The `log` crate's output: one line each on the console, with time, level and module.

use log::{LevelFilter, Log, Metadata, Record};

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = if crate::arch::cpu::ready() { crate::xen::clock::now() } else { 0 };
        let target = record.target().rsplit("::").next().unwrap_or("");
        crate::println!(
            "[{:5}.{:06}] {:5} {target}: {}",
            now / 1_000_000_000,
            now / 1000 % 1_000_000,
            record.level(),
            record.args()
        );
    }

    fn flush(&self) {}
}

static LOGGER: Logger = Logger;

/// Sets the level from the command line's `log=`.
pub fn init(level: Option<&str>) {
    let level = level.and_then(|l| l.parse().ok()).unwrap_or(LevelFilter::Info);
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(level);
}
