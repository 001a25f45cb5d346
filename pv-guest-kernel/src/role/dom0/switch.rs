//! The console switch: many consoles on one terminal.
//!
//! One console is in the foreground: its bytes pass as they are, and what is typed goes to it. Of the others whole
//! lines are shown, each behind the console's name in brackets. `Ctrl-a` and a digit brings a console to the foreground.
//! Number 0 is this domain's own.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::DomainId;

/// What introduces a command of the switch.
const ESCAPE: u8 = 0x01;
/// A line in the background that is longer is shown in pieces.
const LONGEST: usize = 2048;

/// What a typed byte means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Typed {
    /// Nothing yet, or a command of the switch.
    Nothing,
    /// It is for this domain.
    Own(u8),
    /// It is for a guest.
    Guest(DomainId, u8),
}

struct Console {
    name: String,
    /// The begun line, while in the background.
    line: Vec<u8>,
}

/// The switch. Domain 0's console always exists.
pub struct Switch {
    consoles: BTreeMap<u16, Console>,
    foreground: DomainId,
    escape: bool,
    at_line_start: bool,
    own: DomainId,
}

impl Switch {
    /// A switch with this domain's console in the foreground.
    pub fn new(own: DomainId) -> Self {
        let mut switch =
            Self { consoles: BTreeMap::new(), foreground: own, escape: false, at_line_start: true, own };
        switch.add(own, "dom0");
        switch
    }

    /// Adds a console.
    pub fn add(&mut self, domain: DomainId, name: &str) {
        self.consoles.insert(domain.raw(), Console { name: name.into(), line: Vec::new() });
    }

    /// Removes a console after showing what it left of a line. If it was in the foreground, our own takes its place.
    pub fn remove(&mut self, domain: DomainId, show: &mut dyn FnMut(&[u8])) {
        self.flush(domain, show);
        self.consoles.remove(&domain.raw());
        if self.foreground == domain {
            self.bring(self.own, show);
        }
    }

    /// Brings a console to the foreground, if there is such a one.
    pub fn bring(&mut self, domain: DomainId, show: &mut dyn FnMut(&[u8])) {
        if domain == self.foreground || !self.consoles.contains_key(&domain.raw()) {
            return;
        }
        self.end_line(show);
        self.foreground = domain;
        let Some(console) = self.consoles.get_mut(&domain.raw()) else { return };
        let begun = core::mem::take(&mut console.line);
        show(format!("-- console of {} ({domain}) --\r\n", console.name).as_bytes());
        self.pass(&begun, show);
    }

    /// Shows output of a console, as its place demands.
    pub fn output(&mut self, domain: DomainId, bytes: &[u8], show: &mut dyn FnMut(&[u8])) {
        if domain == self.foreground {
            return self.pass(bytes, show);
        }
        for &byte in bytes {
            let Some(console) = self.consoles.get_mut(&domain.raw()) else { return };
            if byte == b'\n' || console.line.len() >= LONGEST {
                self.flush_always(domain, show);
            }
            if !matches!(byte, b'\n' | b'\r')
                && let Some(console) = self.consoles.get_mut(&domain.raw())
            {
                console.line.push(byte);
            }
        }
    }

    /// Takes a typed byte.
    pub fn typed(&mut self, byte: u8, show: &mut dyn FnMut(&[u8])) -> Typed {
        if core::mem::take(&mut self.escape) {
            match byte {
                ESCAPE => {}
                b'0'..=b'9' => {
                    let domain = self.consoles.keys().nth(usize::from(byte - b'0')).copied();
                    if let Some(domain) = domain {
                        self.bring(DomainId::new(domain), show);
                    }
                    return Typed::Nothing;
                }
                _ => {
                    self.help(show);
                    return Typed::Nothing;
                }
            }
        } else if byte == ESCAPE {
            self.escape = true;
            return Typed::Nothing;
        }
        if self.foreground == self.own { Typed::Own(byte) } else { Typed::Guest(self.foreground, byte) }
    }

    /// Lists the consoles and the keys.
    pub fn help(&mut self, show: &mut dyn FnMut(&[u8])) {
        self.end_line(show);
        show(b"-- consoles: Ctrl-a and a digit brings one to the foreground, Ctrl-a Ctrl-a types a Ctrl-a --\r\n");
        for (digit, (domain, console)) in self.consoles.iter().enumerate().take(10) {
            let mark = if DomainId::new(*domain) == self.foreground { '*' } else { ' ' };
            show(format!("--  {mark} Ctrl-a {digit}  {} (d{domain})\r\n", console.name).as_bytes());
        }
    }

    fn end_line(&mut self, show: &mut dyn FnMut(&[u8])) {
        if !self.at_line_start {
            show(b"\r\n");
            self.at_line_start = true;
        }
    }

    fn pass(&mut self, bytes: &[u8], show: &mut dyn FnMut(&[u8])) {
        let Some(&last) = bytes.last() else { return };
        let mut text = Vec::with_capacity(bytes.len() + 16);
        let mut before = if self.at_line_start { b'\r' } else { 0 };
        for &byte in bytes {
            if byte == b'\n' && before != b'\r' {
                text.push(b'\r');
            }
            text.push(byte);
            before = byte;
        }
        self.at_line_start = last == b'\n';
        show(&text);
    }

    fn flush(&mut self, domain: DomainId, show: &mut dyn FnMut(&[u8])) {
        if self.consoles.get(&domain.raw()).is_some_and(|console| !console.line.is_empty()) {
            self.flush_always(domain, show);
        }
    }

    fn flush_always(&mut self, domain: DomainId, show: &mut dyn FnMut(&[u8])) {
        let Some(console) = self.consoles.get_mut(&domain.raw()) else { return };
        let mut text = format!("[{}] ", console.name).into_bytes();
        text.append(&mut console.line);
        text.extend_from_slice(b"\r\n");
        self.end_line(show);
        show(&text);
    }
}
