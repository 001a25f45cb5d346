//! The sink of the `log` crate: the serial port, and a ring in memory that a panic leaves behind.

use core::fmt::Write;

use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Mutex;

use super::uart;

/// Bytes of log that are kept.
const KEPT: usize = 16 * 1024;

/// The last lines of the log, for those who look at memory afterwards: text that wraps around at
/// [`Kept::at`].
struct Kept {
    bytes: [u8; KEPT],
    at: usize,
}

static RING: Mutex<Kept> = Mutex::new(Kept { bytes: [0; KEPT], at: 0 });

impl Write for Kept {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            self.bytes[self.at % KEPT] = byte;
            self.at += 1;
        }
        Ok(())
    }
}

struct Sink;

static SINK: Sink = Sink;

impl Log for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let prefix = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info => "",
            Level::Debug => "debug: ",
            Level::Trace => "trace: ",
        };
        uart::write(format_args!("(hv) {prefix}{}\n", record.args()));
        // The ring never reports an error.
        let _ = writeln!(RING.lock(), "{prefix}{}", record.args());
    }

    fn flush(&self) {}
}

/// Makes this the sink. Level `info` until the command line says otherwise.
pub fn init() {
    if log::set_logger(&SINK).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Sets the level from `loglevel=` on a command line, where there is one that has a meaning.
pub fn set_level(cmdline: &str) {
    if let Some(word) = cmdline.split_whitespace().find_map(|word| word.strip_prefix("loglevel=")) {
        match word.parse() {
            Ok(level) => log::set_max_level(level),
            Err(_) => log::warn!("loglevel={word}: one of off, error, warn, info, debug, trace is meant"),
        }
    }
}
