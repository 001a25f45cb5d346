//! Cutting a guest's output into lines for a log.

use alloc::string::String;

/// Cuts bytes into lines and takes out what could make a terminal do something.
pub struct LineSplitter {
    line: String,
    max: usize,
    escape: Escape,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    /// After the escape character.
    Started,
    /// Inside a control sequence, until its final letter.
    Sequence,
}

impl LineSplitter {
    /// Lines are cut at `max` characters.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { line: String::new(), max: max.max(1), escape: Escape::None }
    }

    /// Takes bytes, and gives every line that is complete to `line`.
    pub fn push(&mut self, bytes: &[u8], line: &mut dyn FnMut(&str)) {
        for &byte in bytes {
            match (self.escape, byte) {
                (Escape::None, b'\n') => self.finish(line),
                (_, 0x1b) => self.escape = Escape::Started,
                (Escape::Started, b'[') => self.escape = Escape::Sequence,
                (Escape::Started, _) => self.escape = Escape::None,
                (Escape::Sequence, 0x40..=0x7e) => self.escape = Escape::None,
                (Escape::Sequence, _) | (Escape::None, b'\r') => {}
                (Escape::None, b'\t' | b' '..=b'~') => self.add(char::from(byte), line),
                (Escape::None, _) => self.add('?', line),
            }
        }
    }

    /// Gives the unfinished line to `line`, if there is one.
    pub fn flush(&mut self, line: &mut dyn FnMut(&str)) {
        if !self.line.is_empty() {
            self.finish(line);
        }
    }

    fn add(&mut self, character: char, line: &mut dyn FnMut(&str)) {
        if self.line.len() >= self.max {
            self.finish(line);
        }
        self.line.push(character);
    }

    fn finish(&mut self, line: &mut dyn FnMut(&str)) {
        line(&self.line);
        self.line.clear();
    }
}
