//! The user's terminal while a machine has it.

use nix::sys::termios::{self, SetArg, Termios};
use std::io::{IsTerminal, Read, Write};
use std::sync::mpsc::Sender;

/// The key that begins a command: Ctrl-a.
const ESCAPE: u8 = 1;

/// A terminal in raw mode, until this value is dropped.
pub struct Raw {
    before: Option<Termios>,
}

impl Raw {
    /// Puts the terminal into raw mode if standard input is one.
    pub fn enter() -> Raw {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Raw { before: None };
        }
        let before = termios::tcgetattr(&stdin).ok();
        if let Some(mut mode) = before.clone() {
            termios::cfmakeraw(&mut mode);
            // Output keeps its line ends: what the tool itself prints has bare line feeds.
            mode.output_flags.insert(termios::OutputFlags::OPOST | termios::OutputFlags::ONLCR);
            let _ = termios::tcsetattr(&stdin, SetArg::TCSANOW, &mode);
        }
        Raw { before }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, before);
        }
    }
}

/// Copies the keyboard to a machine until Ctrl-a x, which `quit` is told.
pub fn forward_keys<Event: From<Quit> + Send + 'static>(
    mut machine: Box<dyn Write + Send>,
    quit: Sender<Event>,
) {
    std::thread::spawn(move || {
        let mut keys = Keys::default();
        let mut buffer = [0; 256];
        let mut stdin = std::io::stdin().lock();
        while let Ok(count @ 1..) = stdin.read(&mut buffer) {
            let (bytes, is_quit) = keys.filter(&buffer[..count]);
            if machine.write_all(&bytes).and_then(|()| machine.flush()).is_err() {
                return;
            }
            if is_quit {
                let _ = quit.send(Quit.into());
                return;
            }
        }
        // At the end of the input the machine's line stays open: it may have more to say.
        std::mem::forget(machine);
    });
}

/// The user wants the machine to end.
pub struct Quit;

/// Finds Ctrl-a x in what is typed. All other commands belong to the machine's own console switch.
#[derive(Default)]
struct Keys {
    after_escape: bool,
}

impl Keys {
    fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        for &key in typed {
            match (self.after_escape, key) {
                (true, b'x' | b'X') => return (bytes, true),
                (true, _) => {
                    bytes.extend([ESCAPE, key]);
                    self.after_escape = false;
                }
                (false, ESCAPE) => self.after_escape = true,
                (false, _) => bytes.push(key),
            }
        }
        (bytes, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ctrl_a_x_is_the_tools_own() {
        let mut keys = Keys::default();
        assert_eq!(keys.filter(b"ls\x01"), (b"ls".to_vec(), false));
        assert_eq!(keys.filter(b"1x"), (b"\x011x".to_vec(), false));
        assert_eq!(keys.filter(b"\x01\x01"), (b"\x01\x01".to_vec(), false));
        assert_eq!(keys.filter(b"a\x01xb"), (b"a".to_vec(), true));
    }
}
