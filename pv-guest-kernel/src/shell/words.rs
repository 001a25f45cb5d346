//! From a line to commands: words, quotes, `;`, `&&`, `||`, `#` comments.

use alloc::string::String;
use alloc::vec::Vec;

/// How a command hangs on the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// `;`
    Always,
    /// `&&`
    IfOk,
    /// `||`
    IfNot,
}

/// One command of a line.
#[derive(Debug)]
pub struct Part {
    /// When it runs.
    pub join: Join,
    /// Its words, at least one.
    pub words: Vec<String>,
}

/// Takes a line apart. Quotes keep blanks and separators together; a backslash takes the next character as it is.
pub fn parse(text: &str) -> Result<Vec<Part>, &'static str> {
    let mut parts = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut join = Join::Always;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let separator = match c {
            ';' | '\n' => Some(Join::Always),
            '&' if chars.peek() == Some(&'&') => {
                chars.next();
                Some(Join::IfOk)
            }
            '|' if chars.peek() == Some(&'|') => {
                chars.next();
                Some(Join::IfNot)
            }
            '#' if word.is_none() => {
                for c in chars.by_ref() {
                    if c == '\n' {
                        break;
                    }
                }
                Some(Join::Always)
            }
            _ => None,
        };
        if let Some(next) = separator {
            words.extend(word.take());
            if words.is_empty() {
                if next != Join::Always {
                    return Err("a command is missing before && or ||");
                }
            } else {
                parts.push(Part { join, words: core::mem::take(&mut words) });
                join = next;
            }
            continue;
        }
        match c {
            ' ' | '\t' | '\r' => words.extend(word.take()),
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err("a quote is not closed"),
                        Some(q) if q == c => break,
                        Some('\\') if c == '"' => word.extend(chars.next()),
                        Some(other) => word.push(other),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    if words.is_empty() {
        if join != Join::Always {
            return Err("a command is missing after && or ||");
        }
    } else {
        parts.push(Part { join, words });
    }
    Ok(parts)
}
