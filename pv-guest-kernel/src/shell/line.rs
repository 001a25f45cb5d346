//! The line editor: a state machine from bytes to lines, with history and completion of command names.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

const MOST_HISTORY: usize = 100;
const MOST_LINE: usize = 2000;

/// What a byte led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Go on.
    None,
    /// A line is complete.
    Line(String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Escape {
    No,
    Started,
    Sequence(u16),
}

/// The editor of one console.
pub struct Editor {
    prompt: String,
    line: Vec<char>,
    cursor: usize,
    history: Vec<String>,
    /// Index into the history while walking it, and the line that was being typed.
    place: Option<usize>,
    unfinished: Vec<char>,
    escape: Escape,
    /// Bytes of a character in UTF-8 that is not complete.
    partial: Vec<u8>,
    output: String,
    after_return: bool,
}

impl Editor {
    /// An empty one.
    pub fn new() -> Self {
        Editor {
            prompt: String::new(),
            line: Vec::new(),
            cursor: 0,
            history: Vec::new(),
            place: None,
            unfinished: Vec::new(),
            escape: Escape::No,
            partial: Vec::new(),
            output: String::new(),
            after_return: false,
        }
    }

    /// Begins a line.
    pub fn start(&mut self, prompt: &str) {
        self.prompt = prompt.into();
        self.line.clear();
        self.cursor = 0;
        self.place = None;
    }

    /// What the terminal must be sent since the last call.
    pub fn take_output(&mut self) -> String {
        core::mem::take(&mut self.output)
    }

    /// The whole line again.
    pub fn redraw(&mut self) -> String {
        let mut out = String::new();
        let text: String = self.line.iter().collect();
        let back = self.line.len() - self.cursor;
        let _ = write!(out, "\r{}{text}\x1b[K", self.prompt);
        if back != 0 {
            let _ = write!(out, "\x1b[{back}D");
        }
        out
    }

    fn show(&mut self) {
        let out = self.redraw();
        self.output.push_str(&out);
    }

    fn insert(&mut self, c: char) {
        if self.line.len() >= MOST_LINE {
            return;
        }
        self.line.insert(self.cursor, c);
        self.cursor += 1;
        if self.cursor == self.line.len() {
            self.output.push(c);
        } else {
            self.show();
        }
    }

    fn remove(&mut self, from: usize, to: usize) {
        self.line.drain(from..to);
        self.cursor = from;
        self.show();
    }

    fn word_start(&self) -> usize {
        let mut i = self.cursor;
        while i > 0 && self.line[i - 1] == ' ' {
            i -= 1;
        }
        while i > 0 && self.line[i - 1] != ' ' {
            i -= 1;
        }
        i
    }

    fn walk(&mut self, back: bool) {
        let next = match (self.place, back) {
            (None, true) => self.history.len().checked_sub(1),
            (None, false) => return,
            (Some(i), true) => Some(i.saturating_sub(1)),
            (Some(i), false) => Some(i + 1).filter(|&i| i < self.history.len()),
        };
        if self.place.is_none() {
            self.unfinished = self.line.clone();
        }
        self.line = match next {
            Some(i) => self.history[i].chars().collect(),
            None => core::mem::take(&mut self.unfinished),
        };
        self.place = next;
        self.cursor = self.line.len();
        self.show();
    }

    fn complete(&mut self, names: impl FnOnce() -> Vec<String>) {
        let start = self.word_start();
        // Only the first word of a command is a command's name.
        let before: String = self.line[..start].iter().collect();
        let before = before.trim_end();
        if !(before.is_empty() || before.ends_with([';', '&', '|'])) {
            return;
        }
        let typed: String = self.line[start..self.cursor].iter().collect();
        let fitting: Vec<String> = names().into_iter().filter(|n| n.starts_with(&typed)).collect();
        let Some(first) = fitting.first() else { return };
        let mut common = first.len();
        for name in &fitting {
            common = common.min(name.bytes().zip(first.bytes()).take_while(|(a, b)| a == b).count());
        }
        if common > typed.len() {
            for c in first[typed.len()..common].chars() {
                self.insert(c);
            }
            if fitting.len() == 1 {
                self.insert(' ');
            }
        } else if fitting.len() > 1 {
            let _ = write!(self.output, "\n{}\n", fitting.join("  "));
            self.show();
        } else {
            self.insert(' ');
        }
    }

    fn finish(&mut self) -> Event {
        self.output.push('\n');
        let text: String = self.line.iter().collect();
        if !text.trim().is_empty() && self.history.last() != Some(&text) {
            if self.history.len() == MOST_HISTORY {
                self.history.remove(0);
            }
            self.history.push(text.clone());
        }
        Event::Line(text)
    }

    fn key(&mut self, letter: u8, number: u16) {
        match (letter, number) {
            (b'A', _) => self.walk(true),
            (b'B', _) => self.walk(false),
            (b'C', _) if self.cursor < self.line.len() => {
                self.cursor += 1;
                self.show();
            }
            (b'D', _) if self.cursor > 0 => {
                self.cursor -= 1;
                self.show();
            }
            (b'H', _) | (b'~', 1 | 7) => {
                self.cursor = 0;
                self.show();
            }
            (b'F', _) | (b'~', 4 | 8) => {
                self.cursor = self.line.len();
                self.show();
            }
            (b'~', 3) if self.cursor < self.line.len() => self.remove(self.cursor, self.cursor + 1),
            _ => {}
        }
    }

    /// Takes one byte from the terminal; `names` gives the words to complete.
    pub fn feed(&mut self, byte: u8, names: impl FnOnce() -> Vec<String>) -> Event {
        match (self.escape, byte) {
            (Escape::No, 0x1b) => {
                self.escape = Escape::Started;
                return Event::None;
            }
            (Escape::Started, b'[' | b'O') => {
                self.escape = Escape::Sequence(0);
                return Event::None;
            }
            (Escape::Started, _) => {
                self.escape = Escape::No;
                return Event::None;
            }
            (Escape::Sequence(n), b'0'..=b'9') => {
                self.escape = Escape::Sequence(n.saturating_mul(10).saturating_add(u16::from(byte - b'0')));
                return Event::None;
            }
            (Escape::Sequence(_), b';') => {
                self.escape = Escape::Sequence(0);
                return Event::None;
            }
            (Escape::Sequence(n), _) => {
                self.escape = Escape::No;
                self.key(byte, n);
                return Event::None;
            }
            (Escape::No, _) => {}
        }
        let after_return = core::mem::replace(&mut self.after_return, byte == b'\r');
        match byte {
            b'\n' if after_return => {}
            b'\r' | b'\n' => return self.finish(),
            1 => self.key(b'H', 0),
            2 => self.key(b'D', 0),
            // Ctrl-C: give the line up.
            3 => {
                self.output.push_str("^C\n");
                self.line.clear();
                self.cursor = 0;
                self.place = None;
                self.show();
            }
            4 => self.key(b'~', 3),
            5 => self.key(b'F', 0),
            6 => self.key(b'C', 0),
            8 | 0x7f if self.cursor > 0 => self.remove(self.cursor - 1, self.cursor),
            9 => self.complete(names),
            11 => self.remove(self.cursor, self.line.len()),
            12 => {
                self.output.push_str("\x1b[2J\x1b[H");
                self.show();
            }
            14 => self.walk(false),
            16 => self.walk(true),
            21 => self.remove(0, self.cursor),
            23 => self.remove(self.word_start(), self.cursor),
            0x20..=0x7e => self.insert(char::from(byte)),
            0x80.. => {
                self.partial.push(byte);
                match core::str::from_utf8(&self.partial) {
                    Ok(text) => {
                        let c = text.chars().next();
                        self.partial.clear();
                        c.into_iter().for_each(|c| self.insert(c));
                    }
                    Err(e) if e.error_len().is_some() || self.partial.len() >= 4 => self.partial.clear(),
                    Err(_) => {}
                }
            }
            _ => {}
        }
        Event::None
    }
}
