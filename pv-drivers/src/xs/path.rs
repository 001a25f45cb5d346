//! Rules for node names.

use alloc::format;
use alloc::string::String;

use pv_abi::errno::Errno;
use pv_abi::ids::DomainId;
use pv_abi::io::xs_wire::{ABS_PATH_MAX, REL_PATH_MAX};

/// How deep the tree may be. The wire format has no limit of its own; this one bounds recursion.
pub const DEPTH_MAX: usize = 32;

/// The directory of a domain, against which its relative paths are resolved.
#[must_use]
pub fn domain_home(domain: DomainId) -> String {
    format!("/local/domain/{}", domain.raw())
}

/// Whether a path is absolute, well-formed, and not too long.
#[must_use]
pub fn is_valid_absolute(path: &str) -> bool {
    if path == "/" {
        return true;
    }
    let Some(rest) = path.strip_prefix('/') else { return false };
    path.len() <= ABS_PATH_MAX
        && rest.split('/').count() <= DEPTH_MAX
        && rest.split('/').all(|name| !name.is_empty())
        && rest.bytes().all(|byte| byte == b'/' || is_name_byte(byte))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'@')
}

/// Makes a client's path absolute.
///
/// # Errors
/// `EINVAL` for a path that is malformed or too long.
pub fn absolute(domain: DomainId, path: &str) -> Result<String, Errno> {
    let full = if path.starts_with('/') {
        String::from(path)
    } else {
        if path.is_empty() || path.len() > REL_PATH_MAX {
            return Err(Errno::EINVAL);
        }
        format!("{}/{path}", domain_home(domain))
    };
    if is_valid_absolute(&full) { Ok(full) } else { Err(Errno::EINVAL) }
}

/// The parent of an absolute path, `None` for the root.
#[must_use]
pub fn parent(path: &str) -> Option<&str> {
    match path.rsplit_once('/')? {
        ("", "") => None,
        ("", _) => Some("/"),
        (parent, _) => Some(parent),
    }
}

/// The names that lead from the root to a node.
pub fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}

/// How many steps `path` lies below `of`; zero for the same node, `None` if it lies elsewhere.
#[must_use]
pub fn depth_below(path: &str, of: &str) -> Option<usize> {
    if path == of {
        return Some(0);
    }
    let rest = if of == "/" { path.strip_prefix('/')? } else { path.strip_prefix(of)?.strip_prefix('/')? };
    Some(rest.split('/').count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["/", "/a", "/local/domain/1/device/vbd/51712", "/tool/@x_y-z"] {
            assert!(is_valid_absolute(good), "{good}");
        }
        for bad in ["", "a", "//", "/a/", "/a//b", "/a b", "/a\0", "/ü"] {
            assert!(!is_valid_absolute(bad), "{bad}");
        }
        assert!(!is_valid_absolute(&"/a".repeat(DEPTH_MAX + 1)));
        assert!(!is_valid_absolute(&format!("/{}", "a".repeat(ABS_PATH_MAX))));
    }

    #[test]
    fn relative_paths_lie_in_the_domain() {
        assert_eq!(absolute(DomainId::new(3), "data/x").unwrap(), "/local/domain/3/data/x");
        assert_eq!(absolute(DomainId::new(3), ""), Err(Errno::EINVAL));
        assert_eq!(absolute(DomainId::new(3), "../4"), Err(Errno::EINVAL));
    }

    #[test]
    fn below_is_by_whole_names() {
        assert_eq!(depth_below("/a/b", "/a"), Some(1));
        assert_eq!(depth_below("/a/b", "/"), Some(2));
        assert_eq!(depth_below("/ab", "/a"), None);
        assert_eq!(depth_below("/a", "/a"), Some(0));
        assert_eq!(depth_below("/", "/"), Some(0));
        assert_eq!(parent("/a/b"), Some("/a"));
        assert_eq!(parent("/a"), Some("/"));
        assert_eq!(parent("/"), None);
    }
}
