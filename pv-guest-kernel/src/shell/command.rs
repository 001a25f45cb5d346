//! What a command is, and how it reads its words.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;
use core::future::Future;
use core::pin::Pin;

/// How a command ended, when not well.
#[derive(Debug)]
pub enum Failure {
    /// Used wrongly: status 2 and the usage line.
    Usage(String),
    /// It did not work: status 1.
    Failed(String),
    /// It has said why itself.
    Status(i32),
    /// Ctrl-C: status 130.
    Interrupted,
}

impl Failure {
    /// It did not work, because of this.
    pub fn because(why: impl Display) -> Failure {
        Failure::Failed(why.to_string())
    }

    /// It was used wrongly.
    pub fn usage(why: impl Display) -> Failure {
        Failure::Usage(why.to_string())
    }
}

impl From<pv_abi::Errno> for Failure {
    fn from(e: pv_abi::Errno) -> Self {
        Failure::because(e)
    }
}

impl From<crate::block::Error> for Failure {
    fn from(e: crate::block::Error) -> Self {
        Failure::because(e)
    }
}

/// A command's result.
pub type Outcome = Result<(), Failure>;
/// A command at work.
pub type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A row of a command table.
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// Name and arguments.
    pub usage: &'static str,
    /// What it does.
    pub about: &'static str,
    /// The function.
    pub run: fn(Args) -> Running,
}

/// Makes a row of a command table from an `async fn(Args) -> Outcome`.
#[macro_export]
macro_rules! command {
    ($function:path, $usage:literal, $about:literal) => {
        $crate::shell::command::Command {
            name: $crate::shell::command::first_word($usage),
            usage: $usage,
            about: $about,
            run: |args| ::alloc::boxed::Box::pin($function(args)),
        }
    };
}

/// The first word of a usage line.
pub const fn first_word(usage: &'static str) -> &'static str {
    let bytes = usage.as_bytes();
    let mut n = 0;
    while n < bytes.len() && bytes[n] != b' ' {
        n += 1;
    }
    usage.split_at(n).0
}

/// A command's words behind its name.
#[derive(Debug)]
pub struct Args {
    words: Vec<String>,
}

impl Args {
    /// From all words of a command.
    pub fn new(mut words: Vec<String>) -> Args {
        words.remove(0);
        Args { words }
    }

    /// All words.
    pub fn all(&self) -> &[String] {
        &self.words
    }

    /// Word number `i`.
    pub fn get(&self, i: usize) -> Option<&str> {
        self.words.get(i).map(String::as_str)
    }

    /// Word number `i`, which must be there.
    pub fn need(&self, i: usize, what: &str) -> Result<&str, Failure> {
        self.get(i).ok_or_else(|| Failure::usage(format!("{what} is missing")))
    }

    /// Refuses more than `most` words.
    pub fn at_most(&self, most: usize) -> Outcome {
        match self.words.get(most) {
            None => Ok(()),
            Some(word) => Err(Failure::usage(format!("do not know what to do with {word:?}"))),
        }
    }

    /// Takes the word `flag` out, if it is there.
    pub fn flag(&mut self, flag: &str) -> bool {
        let before = self.words.len();
        self.words.retain(|w| w != flag);
        self.words.len() != before
    }

    /// Takes `key=value` out.
    pub fn take(&mut self, key: &str) -> Option<String> {
        let i = self.words.iter().position(|w| w.strip_prefix(key).is_some_and(|r| r.starts_with('=')))?;
        Some(self.words.remove(i)[key.len() + 1..].to_string())
    }

    /// Takes `key=SIZE` out.
    pub fn take_size(&mut self, key: &str) -> Result<Option<u64>, Failure> {
        match self.take(key) {
            None => Ok(None),
            Some(text) => match size(&text) {
                Some(n) => Ok(Some(n)),
                None => Err(Failure::usage(format!("{key}={text}: not a number"))),
            },
        }
    }
}

/// A number with an optional factor: 512, 0x200, 4K, 64M, 1G.
pub fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let n = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    n.checked_mul(1 << shift)
}

/// Bytes in a form that a person reads.
pub fn human(bytes: u64) -> String {
    match bytes {
        b if b >= 10 << 30 => format!("{} GiB", b >> 30),
        b if b >= 10 << 20 => format!("{} MiB", b >> 20),
        b if b >= 10 << 10 => format!("{} KiB", b >> 10),
        b => format!("{b} B"),
    }
}
