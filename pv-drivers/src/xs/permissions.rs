//! Who may do what with a node.

use alloc::format;
use alloc::string::String;
use core::str::FromStr;

use pv_abi::errno::Errno;
use pv_abi::ids::DomainId;

/// What a domain may do.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Rights {
    /// It may read value, children and permissions.
    pub read: bool,
    /// It may change the value and make or remove children.
    pub write: bool,
}

impl Rights {
    /// Nothing (`n`).
    pub const NONE: Self = Self { read: false, write: false };
    /// Reading (`r`).
    pub const READ: Self = Self { read: true, write: false };
    /// Writing (`w`).
    pub const WRITE: Self = Self { read: false, write: true };
    /// Both (`b`).
    pub const BOTH: Self = Self { read: true, write: true };
}

/// One entry of a node's list. In the first, the domain is the owner, who may do everything, and the rights are those
/// of every domain that the list does not name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permission {
    /// Whom it is about.
    pub domain: DomainId,
    /// What it allows.
    pub rights: Rights,
}

impl Permission {
    /// An entry.
    #[must_use]
    pub const fn new(domain: DomainId, rights: Rights) -> Self {
        Self { domain, rights }
    }

    /// The entry as it stands on the wire.
    #[must_use]
    pub fn text(self) -> String {
        let letter = match self.rights {
            Rights { read: false, write: false } => 'n',
            Rights { read: true, write: false } => 'r',
            Rights { read: false, write: true } => 'w',
            Rights { read: true, write: true } => 'b',
        };
        format!("{letter}{}", self.domain.raw())
    }
}

impl FromStr for Permission {
    type Err = Errno;

    fn from_str(text: &str) -> Result<Self, Errno> {
        let mut chars = text.chars();
        let rights = match chars.next() {
            Some('n') => Rights::NONE,
            Some('r') => Rights::READ,
            Some('w') => Rights::WRITE,
            Some('b') => Rights::BOTH,
            _ => return Err(Errno::EINVAL),
        };
        let digits = chars.as_str();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Errno::EINVAL);
        }
        let domain = digits.parse().map_err(|_| Errno::EINVAL)?;
        Ok(Self::new(DomainId::new(domain), rights))
    }
}

/// What `domain` may do with a node that has this list.
#[must_use]
pub(super) fn rights_of(permissions: &[Permission], domain: DomainId) -> Rights {
    let Some((first, rest)) = permissions.split_first() else { return Rights::NONE };
    if first.domain == domain {
        return Rights::BOTH;
    }
    rest.iter().find(|entry| entry.domain == domain).map_or(first.rights, |entry| entry.rights)
}
