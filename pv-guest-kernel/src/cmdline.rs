//! The command line: words, some of them `key=value`.

use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::start_info::HvmStartInfo;

use crate::mm::ptr;

/// Longest command line.
const MOST: usize = 4096;

static LINE: spin::Once<&'static str> = spin::Once::new();

/// Copies the command line; after the heap, before its page is reused.
pub fn init(info: &HvmStartInfo) {
    LINE.call_once(|| {
        if info.cmdline_paddr == 0 {
            return "";
        }
        let mut bytes = Vec::new();
        let start: *const u8 = ptr(info.cmdline_paddr);
        while bytes.len() < MOST {
            // SAFETY: the loader promises text ended by a zero byte, below 4 GiB.
            let byte = unsafe { start.add(bytes.len()).read() };
            if byte == 0 {
                break;
            }
            bytes.push(byte);
        }
        String::from_utf8_lossy(&bytes).into_owned().leak()
    });
}

/// The whole line.
pub fn line() -> &'static str {
    LINE.get().copied().unwrap_or("")
}

/// The value of the last word `key=value`.
pub fn value(key: &str) -> Option<&'static str> {
    line().split_ascii_whitespace().rev().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// Is there a word `word`?
pub fn flag(word: &str) -> bool {
    line().split_ascii_whitespace().any(|w| w == word)
}

/// Resolves `%XX`; a malformed escape stands for itself.
pub fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = bytes.get(i + 1..i + 3).and_then(|h| core::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) if bytes[i] == b'%' => {
                out.push(byte);
                i += 3;
            }
            _ => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
