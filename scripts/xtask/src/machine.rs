//! A machine from its start to its end: its console, its status, its time-out.

use crate::emulator::{Config, Started};
use crate::terminal::{self, Quit, Raw};
use crate::trace;
use anyhow::Result;
use std::io::{Read, Write};
use std::process::ExitStatus;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How the hypervisor's last line begins; the machine's status follows.
const POWER_OFF: &str = "(hv) power off, status ";
/// How the hypervisor says that it cannot start.
const REFUSED: &str = "(hv) cannot start: ";
/// What the hypervisor says before it resets the machine.
const RESET: &str = "(hv) reset";
/// How the hypervisor begins its epitaph.
const PANIC: &str = "(hv) panic";
/// What real Xen says when its first domain has ended; it would then halt for ever.
const XEN_ENDED: &str = "(XEN) Hardware Dom0 halted";
/// What real Xen says when it, or its first domain, is broken.
const XEN_BROKEN: [&str; 2] = ["(XEN) Hardware Dom0 crashed", "(XEN) Panic on CPU"];
/// How long an emulator may take to end after the last line, and a broken hypervisor to finish its epitaph.
const LINGER: Duration = Duration::from_secs(5);

/// Who sees the console and has the keyboard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Console {
    /// The user, keyboard included.
    Interactive,
    /// The user may read it.
    Shown,
    /// Nobody: it is only collected.
    Hidden,
}

/// How a machine ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// The hypervisor switched it off with this status.
    PowerOff(u32),
    /// A domain that may do so asked for a reset.
    Reset,
    /// The hypervisor could not start and said why.
    Refused(String),
    /// The first domain of real Xen has ended.
    Halted,
    /// The hypervisor found itself broken.
    Panic(String),
    /// The emulator ended without a word of the hypervisor.
    Gone(ExitStatus),
    /// The time was over.
    TimedOut(Duration),
    /// The user ended it.
    Quit,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::PowerOff(status) => write!(f, "power off, status {status}"),
            End::Reset => f.write_str("reset"),
            End::Refused(line) => write!(f, "the hypervisor could not start: {line}"),
            End::Halted => f.write_str("Xen's first domain has ended"),
            End::Panic(line) => write!(f, "the hypervisor stopped: {line}"),
            End::Gone(status) => write!(f, "the emulator ended without a power-off ({status})"),
            End::TimedOut(limit) => write!(f, "no end within {} s", limit.as_secs()),
            End::Quit => f.write_str("ended by the user"),
        }
    }
}

/// What is left of a machine.
pub struct Report {
    /// How it ended.
    pub end: End,
    /// All that its serial port sent.
    pub console: String,
    /// How long it ran.
    pub took: Duration,
}

enum Event {
    Output(Vec<u8>),
    Closed,
    Quit,
}

impl From<Quit> for Event {
    fn from(Quit: Quit) -> Event {
        Event::Quit
    }
}

/// Runs a machine to its end.
pub fn run(config: &Config, console: Console, limit: Option<Duration>, verbose: bool) -> Result<Report> {
    let begin = Instant::now();
    let Started { mut process, output, input, litter } = config.start(verbose)?;
    let (send, events) = mpsc::channel();
    read_output(output, send.clone());
    let raw = (console == Console::Interactive).then(Raw::enter);
    // The input is held open until the end: some emulators take its end for a hang-up.
    let _input = if console == Console::Interactive {
        terminal::forward_keys(input, send);
        None
    } else {
        Some(input)
    };
    let mut watch = Watch::new(console != Console::Hidden);
    let mut deadline = limit.map(|limit| begin + limit);
    let end = loop {
        let wait = deadline
            .map_or(Duration::from_secs(3600), |deadline| deadline.saturating_duration_since(Instant::now()));
        match events.recv_timeout(wait) {
            Ok(Event::Output(bytes)) => {
                if watch.take(&bytes) {
                    // Xen says so as the very last thing, and its machine stays.
                    let linger = if watch.end == Some(End::Halted) { Duration::ZERO } else { LINGER };
                    deadline = Some(Instant::now() + linger);
                }
            }
            Ok(Event::Quit) => break watch.end.take().unwrap_or(End::Quit),
            Err(RecvTimeoutError::Timeout) if deadline.is_none() => {}
            Err(RecvTimeoutError::Timeout) => {
                break watch.end.take().unwrap_or(End::TimedOut(limit.unwrap_or_default()));
            }
            Ok(Event::Closed) | Err(RecvTimeoutError::Disconnected) => {
                let status = process.wait_until(Some(Instant::now() + LINGER))?;
                break match (watch.end.take(), status) {
                    (Some(end), _) => end,
                    (None, Some(status)) => End::Gone(status),
                    (None, None) => End::TimedOut(begin.elapsed()),
                };
            }
        }
    };
    process.kill();
    drop(raw);
    for file in litter {
        let _ = std::fs::remove_file(file);
    }
    Ok(Report { end, console: String::from_utf8_lossy(&watch.console).into_owned(), took: begin.elapsed() })
}

fn read_output(mut output: Box<dyn Read + Send>, events: mpsc::Sender<Event>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut buffer) {
            if events.send(Event::Output(buffer[..count].to_vec())).is_err() {
                return;
            }
        }
        let _ = events.send(Event::Closed);
    });
}

/// Keeps the lines of the trace from the user: they are for a file.
#[derive(Default)]
struct Filter {
    /// The line so far, while it may yet be one of the trace; nothing once it is known to be another.
    held: Option<Vec<u8>>,
    /// In the middle of a line.
    inside: bool,
}

impl Filter {
    /// What of these bytes is to be shown.
    fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut shown = Vec::new();
        for &byte in bytes {
            if !self.inside {
                self.inside = true;
                self.held = Some(Vec::new());
            }
            match &mut self.held {
                Some(held) => {
                    held.push(byte);
                    let compared = held.len().min(trace::PREFIX.len());
                    if held[..compared] != trace::PREFIX.as_bytes()[..compared] {
                        shown.append(held);
                        self.held = None;
                    }
                }
                None => shown.push(byte),
            }
            if byte == b'\n' {
                self.inside = false;
            }
        }
        shown
    }
}

/// Reads the console along, for the lines that tell of the end.
struct Watch {
    shown: bool,
    filter: Filter,
    console: Vec<u8>,
    line: usize,
    end: Option<End>,
}

impl Watch {
    fn new(shown: bool) -> Watch {
        Watch { shown, filter: Filter::default(), console: Vec::new(), line: 0, end: None }
    }

    /// Takes output in; returns whether the machine's end has just become known.
    fn take(&mut self, bytes: &[u8]) -> bool {
        if self.shown {
            let text = self.filter.pass(bytes);
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(&text).and_then(|()| out.flush());
        }
        self.console.extend_from_slice(bytes);
        let mut news = false;
        while let Some(length) = self.console[self.line..].iter().position(|&byte| byte == b'\n') {
            let line = String::from_utf8_lossy(&self.console[self.line..self.line + length]).into_owned();
            self.line += length + 1;
            if let Some(end) = judge(&line) {
                // A power-off after a refusal or a panic is only their consequence.
                news |= self.end.is_none();
                self.end.get_or_insert(end);
            }
        }
        news
    }
}

/// Tells what a line of the console says of the machine's end.
fn judge(line: &str) -> Option<End> {
    // A guest must not end the machine by printing such a line: its lines have a prefix, or come behind a prompt.
    let line = line.trim_matches('\r');
    if let Some(status) = line.strip_prefix(POWER_OFF) {
        return status.trim().parse().ok().map(End::PowerOff);
    }
    if let Some(why) = line.strip_prefix(REFUSED) {
        return Some(End::Refused(why.to_owned()));
    }
    if line == RESET {
        return Some(End::Reset);
    }
    if line.starts_with(XEN_ENDED) {
        return Some(End::Halted);
    }
    let is_broken = line.starts_with(PANIC) || XEN_BROKEN.iter().any(|sign| line.starts_with(sign));
    is_broken.then(|| End::Panic(line.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_trace_are_not_shown() {
        let mut filter = Filter::default();
        let shown: Vec<u8> = [&b"a (trace) b\r\n(tra"[..], b"ce) 1 2\r\n(hv) x\n(t", b"x\n\n$ "]
            .iter()
            .flat_map(|bytes| filter.pass(bytes))
            .collect();
        assert_eq!(String::from_utf8_lossy(&shown), "a (trace) b\r\n(hv) x\n(tx\n\n$ ");
    }

    #[test]
    fn the_last_line_gives_the_status() {
        let mut watch = Watch::new(false);
        assert!(!watch.take(b"(hv) hello\r\n(hv) power off, sta"));
        assert!(watch.take(b"tus 7\r\n"));
        assert_eq!(watch.end, Some(End::PowerOff(7)));
    }

    #[test]
    fn a_guest_that_imitates_the_line_is_not_believed() {
        let mut watch = Watch::new(false);
        assert!(!watch.take(b"[guest] (hv) power off, status 0\n(hv) power off, status none\n"));
        assert_eq!(watch.end, None);
    }

    #[test]
    fn the_cause_counts_and_not_its_consequence() {
        let mut watch = Watch::new(false);
        watch.take(b"(hv) cannot start: no bundle\r\n(hv) power off, status 2\r\n");
        assert_eq!(watch.end, Some(End::Refused("no bundle".into())));
    }
}
