//! The machine's console, as `console_io` gives it to domains.
//!
//! A domain with the control role has the console for itself: what it writes goes out as it is, and what is typed goes
//! to it. What others write is collected to lines, and each line is marked with the domain's number. Lock rule: both
//! objects are leaves.

use crate::hw::Platform;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use pv_abi::ids::DomainId;

/// The longest line: more is broken.
const LINE: usize = 120;
/// How many typed bytes wait at most.
const TYPED: usize = 4096;

/// What a domain without the control role writes, up to the end of the line.
#[derive(Debug, Default)]
pub struct GuestConsole {
    line: Vec<u8>,
}

impl GuestConsole {
    /// Takes what the domain writes, and puts complete lines on the console, marked like `(d3) `.
    pub fn write<P: Platform>(&mut self, platform: &P, domain: DomainId, bytes: &[u8]) {
        for byte in bytes {
            match *byte {
                b'\n' => self.flush(platform, domain),
                byte => {
                    // Neither an escape sequence nor anything else of a domain reaches the user's terminal.
                    let shown = matches!(byte, b'\t' | b' '..=b'~');
                    if shown || byte >= 0x80 {
                        self.line.push(byte);
                    }
                    if self.line.len() == LINE {
                        self.flush(platform, domain);
                    }
                }
            }
        }
    }

    /// Puts an incomplete line on the console: the domain is at its end.
    pub fn finish<P: Platform>(&mut self, platform: &P, domain: DomainId) {
        if !self.line.is_empty() {
            self.flush(platform, domain);
        }
    }

    fn flush<P: Platform>(&mut self, platform: &P, domain: DomainId) {
        let mut out = alloc::format!("({domain}) ").into_bytes();
        out.extend_from_slice(&self.line);
        out.push(b'\n');
        platform.console_write(&out);
        self.line.clear();
    }
}

/// What was typed and not read yet.
#[derive(Debug, Default)]
pub struct TypedInput {
    bytes: VecDeque<u8>,
}

impl TypedInput {
    /// Takes what the console has received; whether anything waits now. What does not fit is lost.
    pub fn fetch<P: Platform>(&mut self, platform: &P) -> bool {
        let mut buffer = [0; 64];
        loop {
            let count = platform.console_read(&mut buffer);
            if count == 0 {
                return !self.bytes.is_empty();
            }
            let room = TYPED - self.bytes.len().min(TYPED);
            self.bytes.extend(buffer.iter().take(count.min(room)));
        }
    }

    /// Hands over what was typed; returns how many bytes.
    pub fn read(&mut self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.bytes.len());
        into.iter_mut().zip(self.bytes.drain(..count)).for_each(|(to, from)| *to = from);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestMachine;

    const D3: DomainId = DomainId::new(3);

    #[test]
    fn lines_are_collected_and_marked() {
        let machine = TestMachine::new(1);
        let mut console = GuestConsole::default();
        console.write(&machine, D3, b"hel");
        assert_eq!(machine.console(), "");
        console.write(&machine, D3, b"lo\r\nwor");
        assert_eq!(machine.console(), "(d3) hello\n");
        console.finish(&machine, D3);
        console.finish(&machine, D3);
        assert_eq!(machine.console(), "(d3) hello\n(d3) wor\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let machine = TestMachine::new(1);
        GuestConsole::default().write(&machine, D3, b"\x1b[2Jred\x07\n");
        assert_eq!(machine.console(), "(d3) [2Jred\n");
    }

    #[test]
    fn long_lines_are_broken() {
        let machine = TestMachine::new(1);
        GuestConsole::default().write(&machine, D3, &[b'x'; 2 * LINE + 1]);
        let line = std::format!("(d3) {}\n", "x".repeat(LINE));
        assert_eq!(machine.console(), std::format!("{line}{line}"));
    }

    #[test]
    fn typed_bytes_wait_in_order_and_the_rest_is_lost() {
        let machine = TestMachine::new(1);
        let mut input = TypedInput::default();
        assert!(!input.fetch(&machine));
        machine.type_in(b"abc");
        assert!(input.fetch(&machine));
        let mut into = [0; 2];
        assert_eq!((input.read(&mut into), &into), (2, b"ab"));
        machine.type_in(&[b'z'; TYPED + 10]);
        assert!(input.fetch(&machine));
        let mut all = std::vec![0; 2 * TYPED];
        assert_eq!(input.read(&mut all), TYPED);
        assert_eq!(&all[..2], b"cz");
        assert_eq!(input.read(&mut all), 0);
    }
}
