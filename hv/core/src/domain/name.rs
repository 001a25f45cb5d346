//! The name of a domain.

use core::fmt;

/// The longest name in bytes.
const MAX: usize = 31;

/// A domain's name: 1 to 31 bytes out of `a-z`, `0-9` and `-`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DomainName {
    bytes: [u8; MAX],
    len: u8,
}

impl DomainName {
    /// Checks and makes a name.
    pub fn new(name: &str) -> Option<Self> {
        let allowed = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if name.is_empty() || !name.as_bytes().iter().all(allowed) {
            return None;
        }
        let mut bytes = [0; MAX];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(Self { bytes, len: u8::try_from(name.len()).ok()? })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
